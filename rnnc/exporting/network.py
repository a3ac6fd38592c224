"""What is exported of a bound model: its computation, its arrays, and what they are called in C."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from rnnc.backends.call_forms import BATCH, STEPS, CallArray, CallGroup, PlainCall
from rnnc.backends.llvm.portable.interface import VERSION, CInterface, Port, PortableNetwork
from rnnc.backends.tables import stored_arrays
from rnnc.checking import checks
from rnnc.computations import forward
from rnnc.ir.errors import ArgumentError, ArgumentTypeError
from rnnc.model import Model
from rnnc.network import Network
from rnnc.networks.names import state_shapes
from rnnc.networks.quick import fits_in_frames
from rnnc.networks.timing import WHOLE, Form
from rnnc.plain_calls import NOTHING, plain_call, plain_network_call, plain_piece

if TYPE_CHECKING:
    from rnnc.backends.arrays import Array
    from rnnc.backends.products import ProductFormat
    from rnnc.ir.computation import Computation
    from rnnc.onnx.network import OnnxNetwork
    from rnnc.torch.network import TorchNetwork

    Exportable: TypeAlias = Model | Network | OnnxNetwork | TorchNetwork

STREAM, WHOLE_SEQUENCES = KINDS = "stream", "whole"

MOST_CHARACTERS = 400
"""Of the description of a network in its header."""

_RESERVED = frozenset(
    "auto break case char const continue default do double else enum extern float for goto if inline int long register "
    "restrict return short signed sizeof static struct switch typedef union unsigned void volatile while bool true "
    "false class new delete this try catch throw template namespace using operator private public protected virtual "
    "friend state states scratch frames rows steps batch lengths weights".split()
)
"""Words of C and C++ that name no parameter, and the names of other parameters."""


@dataclass(frozen=True)
class _Parts:
    """What a model gives. call: (inputs, initial states) -> (outputs, final states).

    outputs, inputs, states: what these arrays are called. positions: the steps of the outputs in a frame.
    """

    computation: Computation
    product: ProductFormat
    call: PlainCall
    parameters: Mapping[str, Array]
    text: str
    dtype: str
    batch_first: bool
    outputs: Sequence[str] = ("output",)
    inputs: Sequence[str] = ("x",)
    states: Sequence[str] | None = None
    frame: int = 1
    positions: int = 1
    latency: int = 0
    columns: Mapping[str, tuple[int, int]] = field(default_factory=dict)


def portable(model: Exportable, name: str, *, weights: str, kind: str | None) -> PortableNetwork:
    """A bound model as code generators take it. kind: "stream" or "whole"; None: a stream if it can be one.

    Raises ArgumentError for a model that cannot be exported so, ArgumentTypeError for something else than a model.
    """
    bound = bound_model(model)
    if bound.backend != "llvm":
        raise ArgumentError(f"model: expected one of backend 'llvm', got {bound.backend!r}; compile it for that")
    streams = not bound.spec.reads_ahead if isinstance(bound, Model) else bound.model.graph().streams
    if kind == STREAM and not streams:
        raise ArgumentError("kind: this network reads a sequence to its end, so it is no stream; export it as 'whole'")
    kind = kind or (STREAM if streams else WHOLE_SEQUENCES)
    parts = _of_model(bound, kind) if isinstance(bound, Model) else _of_network(bound, kind)
    return _made(name, kind, weights, parts)


def bound_model(model: Exportable) -> Model | Network:
    """The model or network itself, of one that was read from another program, too. Raises ArgumentTypeError."""
    found = model if isinstance(model, (Model, Network)) else getattr(model, "network", None)
    if not isinstance(found, (Model, Network)):
        raise ArgumentTypeError(
            f"model: expected a compiled model or network with its parameters, got {checks.came(model)}; "
            "rnnc.compile(spec, params) makes one"
        )
    return found


def _of_model(model: Model, kind: str) -> _Parts:
    spec = model.spec
    call, states = (plain_piece(spec), None) if kind == STREAM else (plain_call(spec), list(spec.states))
    product = model._options.product
    return _Parts(
        forward(spec), product, call, model._params, repr(spec), str(spec.dtype), spec.batch_first, states=states
    )


def _of_network(network: Network, kind: str) -> _Parts:
    graph, streamed = network.model.graph(), kind == STREAM
    if not graph.even and not fits_in_frames(graph, pieces=streamed):
        raise ArgumentError(
            "model: layers that make one step of several are exported in a network with one input of vectors and "
            f"outputs of one kind{'' if streamed else ', whose sequences are full frames'}; kind='stream' may do"
        )
    form = Form(streamed=True) if streamed and any(graph.timing(True).delays.values()) else WHOLE
    states = state_shapes(network.model, streamed=streamed)
    call = plain_network_call(graph, states, network._tables, stateful=streamed)
    if not streamed:
        call = PlainCall((call.arguments[0], NOTHING), (call.results[0], NOTHING))
    text = repr(network.model)
    return _Parts(
        forward(network.model, form),
        network._options.product,
        call,
        network._fixed,
        text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}...",
        str(graph.dtype),
        graph.batch_first,
        ("output",) if graph.columns else tuple(graph.outputs),
        tuple(graph.inputs),
        frame=graph.frame,
        positions=max(graph.timing(False).positions(s) if graph.kinds[s].timed else 1 for s in graph.outputs.values()),
        latency=graph.latency if streamed else 0,
        columns=graph.columns or {},
    )


def _made(name: str, kind: str, weights: str, parts: _Parts) -> PortableNetwork:
    inputs, initial, outputs, final = (g.arrays for g in (*parts.call.arguments, *parts.call.results))
    batch_first = parts.batch_first and kind != STREAM
    if kind == STREAM:
        inputs, outputs = (tuple(map(_steps_first, arrays)) for arrays in (inputs, outputs))
    used: set[str] = set()
    columns = tuple((key, *ends) for key, ends in parts.columns.items())
    states = parts.states or [array.key for array in initial]
    digest = _digest(parts, kind)
    interface = CInterface(
        name,
        kind,
        parts.dtype,
        _ports(inputs, parts.inputs, parts.dtype, parts.frame, used),
        _ports(outputs, parts.outputs, parts.dtype, parts.positions, used, columns),
        _ports(initial, states, parts.dtype, 0, used),
        parts.frame,
        parts.latency,
        batch_first,
        weights,
        digest,
        description=parts.text,
    )
    groups = [CallGroup("tuple", tuple(arrays)) for arrays in (inputs, initial, outputs, final)]
    call = PlainCall((groups[0], groups[1]), (groups[2], groups[3]))
    return PortableNetwork(interface, parts.computation, parts.product, call, parts.parameters)


def _steps_first(array: CallArray) -> CallArray:
    """Several steps of one row, and several rows of one step, lie the same way whichever axis comes first."""
    if STEPS not in array.shape:
        return array
    return array._replace(shape=(STEPS, BATCH, *array.shape[2:]))


def _ports(
    arrays: Sequence[CallArray],
    labels: Sequence[str],
    dtype: str,
    steps: int,
    used: set[str],
    columns: tuple[tuple[str, int, int], ...] = (),
) -> tuple[Port, ...]:
    """steps: those of a frame. used: the names in C so far."""
    found = []
    for array, label in zip(arrays, labels, strict=True):
        rows = min((len(table) for _, table in array.tables), default=0)
        slabs = array.shape[0] if isinstance(array.shape[0], int) else 1
        width = 1 if rows else int(array.shape[-1]) * slabs
        own_steps = steps if STEPS in array.shape else 0
        name = _identifier(label, used)
        found.append(Port(name, label, "int64" if rows else dtype, width, own_steps, columns, rows, slabs))
    return tuple(found)


def _identifier(label: str, used: set[str]) -> str:
    """A name in C, unlike those that are used, which it is added to."""
    plain = re.sub(r"\W", "_", label, flags=re.ASCII).strip("_") or "value"
    name = plain = f"v_{plain}" if plain[0].isdigit() else plain
    number = 2
    while name in used or name in _RESERVED:
        name, number = f"{plain}_{number}", number + 1
    used.add(name)
    return name


def _digest(parts: _Parts, kind: str) -> str:
    """What tells a model with its weights from others."""
    found = hashlib.sha256(f"{VERSION} {kind} {parts.product} {parts.text}".encode())
    tables = {
        f"{rows} {number}": stored
        for array in parts.call.arguments[0].arrays
        for rows, table in array.tables
        for number, stored in enumerate(stored_arrays(table))
    }
    for arrays in (parts.parameters, tables):
        for key in sorted(arrays):
            array = np.ascontiguousarray(arrays[key])
            found.update(f"{key} {array.shape} {array.dtype}".encode() + array.tobytes())
    return found.hexdigest()[:16]
