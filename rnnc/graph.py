"""Graph: a whole network as layers by name, each of which says what it reads.

net = rnnc.Graph(
    inputs={"x": 42},
    layers={
        "dense": (rnnc.Linear(42, 24), "x"),
        "act": (rnnc.Activation("tanh"), "dense"),
        "vad": (rnnc.GRU(24, 24), "act"),
        "all": (rnnc.Concat(), "act", "vad", "x"),
        "gains": (rnnc.Linear(90, 22), "all"),
    },
    outputs=("gains", "vad"),
)
gains, vad = net.compile(net.init(seed=0))(x).values()
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from rnnc.backends.fresh import enough_memory
from rnnc.cells import Shape
from rnnc.checking import checks
from rnnc.checking.arguments import explained
from rnnc.checking.networks import (
    NUMBERS,
    Entry,
    Kind,
    Static,
    agreed,
    check_ties,
    in_order,
    kind_of,
    own_parameters,
    read_entries,
    read_inputs,
    read_outputs,
    unknown,
)
from rnnc.ir import names
from rnnc.ir.errors import ArgumentError, ArgumentTypeError
from rnnc.layered import Layered
from rnnc.layers import Embedding, Layer, layer_from_dict, recurrent, starts_of
from rnnc.networks.timing import Timing, runs_backward
from rnnc.references import check_trusted

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

    Array = NDArray[Any]

__all__ = ["NUMBERS", "Graph", "Static"]

MOST_STEPS = 1024
"""The longest frame of a network."""


@dataclass(frozen=True, init=False, repr=False)
class Graph(Layered):
    """Layers by name. Parameters are named "layer.parameter", as in the state_dict of a module with these attributes.

    inputs: name -> width of a value per step, or "numbers" for integers that `Embedding` layers read, or
        `rnnc.Static(width)` for one vector per sequence.
    layers: name -> (layer, *names of what it reads), in any order. What is read is an input, a layer, or "layer.state",
        the last values of a recurrent layer's state, all layers and directions side by side, (B, L * D * N). In place
        of a layer, the name of another one stands for that layer with its parameters. A dict at the end of the tuple
        names the values that the states of a recurrent layer start at, {"h": "encoder.h"}, and parameters of other
        layers that stand in the place of its own, {"weight": "table.weight"}.
    outputs: the name of a layer, several, or {name in the results: layer}.
    dtype, batch_first: as in `rnnc.LSTM`; default: those of the recurrent layers, which agree.

    Values are per step, (T, B, N), or per sequence, (B, N), as readouts (`rnnc.Last`, `Mean`, ...) give them. One per
    sequence is read beside values per step as if it were there at every step.
    Raises ArgumentError, ArgumentTypeError or ShapeError, with the name of the layer.
    """

    inputs: dict[str, int]
    entries: dict[str, Entry]
    outputs: dict[str, str]
    dtype: str
    batch_first: bool
    static: frozenset[str]

    @explained
    def __init__(
        self,
        inputs: Mapping[str, int | str | Static],
        layers: Mapping[str, tuple[Any, ...]],
        outputs: str | Iterable[str] | Mapping[str, str],
        *,
        dtype: DTypeLike | None = None,
        batch_first: bool | None = None,
    ) -> None:
        entries = read_entries(layers)
        widths, static = read_inputs(inputs, entries)
        self._set("inputs", widths)
        self._set("static", static)
        self._set("entries", in_order(self.inputs, entries))
        check_ties(self.entries)
        self._set("outputs", read_outputs(outputs))
        self._set("dtype", agreed(self.entries, "dtype", None if dtype is None else checks.dtype("dtype", dtype)))
        given = None if batch_first is None else checks.flag("batch_first", batch_first)
        self._set("batch_first", bool(agreed(self.entries, "batch_first", given)))
        if self.frame > MOST_STEPS:
            what = f"the strides of the layers make frames of {self.frame} steps, which are unrolled"
            raise ArgumentError(f"layers: {what}; expected at most {MOST_STEPS}")
        for name, source in self.outputs.items():
            if source not in self.kinds:
                raise ArgumentError(f"outputs: {unknown(source, self.kinds)}")
            if not self.kinds[source].width:
                raise ArgumentError(f"outputs: {name!r} is an input of integers")

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return f"Graph(inputs={self.inputs}, layers={list(self.entries)}, outputs={list(self.outputs)})"

    def __hash__(self) -> int:
        parts = (self.inputs, self.entries, self.outputs)
        return hash((self.static, *(tuple(part.items()) for part in parts)))

    def graph(self) -> Graph:
        """The network as a graph: itself."""
        return self

    # ---- what the layers say

    @cached_property
    def kinds(self) -> dict[str, Kind]:
        """What every input, layer and "layer.state" is."""
        found = {name: Kind(width, name not in self.static) for name, width in self.inputs.items()}
        for name, entry in self.entries.items():
            found[name] = kind_of(name, entry, found)
            if spec := recurrent(entry.layer):
                slabs = spec.num_layers * spec.num_directions
                found |= {f"{name}.{state}": Kind(slabs * width, False) for state, width in spec.states.items()}
        return found

    def widths(self, name: str) -> tuple[int, ...]:
        """The widths of what a layer reads."""
        return tuple(self.kinds[source].width for source in self.entries[name].inputs)

    def timing(self, streamed: bool) -> Timing:
        """The frames and delays of its values; streamed: where later steps are waited for."""
        return self._streamed if streamed else self._whole

    @cached_property
    def _whole(self) -> Timing:
        return Timing(self, False)

    @cached_property
    def _streamed(self) -> Timing:
        return Timing(self, True)

    @property
    def even(self) -> bool:
        """Whether all values per step have as many steps as the inputs, and no layer looks at where a row ends."""
        layers = (entry.layer for entry in self.entries.values() if isinstance(entry.layer, Layer))
        return not any(kind.paces for kind in self.kinds.values()) and not any(la.sees_padding for la in layers)

    @property
    def streams(self) -> bool:
        """Whether sequences may come in pieces, perhaps with a latency: no step waits for the end.

        A value per sequence is known at the end alone, so a step that reads one waits for it.
        """
        if self.static and any(self.timing(True).delays.values()):
            return False  # behind the end of a stream, its features are not given
        return not any(runs_backward(entry) or self._waits(entry) for entry in self.entries.values())

    @property
    def causal(self) -> bool:
        """Whether sequences may come in pieces without a latency: no step reads a later one."""
        return self.streams and not any(self.timing(True).delays.values())

    @property
    def frame(self) -> int:
        """The fewest steps of the inputs for which all values have a whole number of steps."""
        return self.timing(True).frame

    @property
    def latency(self) -> int:
        """By how many steps of the inputs a stream's outputs are late, because layers wait for later steps."""
        return self.timing(True).latency if self.streams else 0

    @explained
    def output_lengths(self, lengths: Any) -> Any:
        """How many steps outputs have for so many steps of the inputs: PyTorch's and ONNX's formulas.

        lengths: one integer, or an array of them. Returns the same of the output; of several outputs, a dict of those
        that are per step. Raises ArgumentError or ArgumentTypeError.
        """
        given = np.asarray(lengths)
        if given.dtype.kind not in "iu" or (given.size and int(given.min()) < 0):
            raise ArgumentError(f"lengths: expected integers >= 0, got {checks.shown(lengths)}")
        found = {name: self.kinds[source] for name, source in self.outputs.items()}
        steps = {name: kind.steps(given.astype(np.int64)) for name, kind in found.items() if kind.timed}
        if not steps:
            raise ArgumentError("lengths: the network has no output per step")
        steps = {name: int(n) if given.ndim == 0 else n for name, n in steps.items()}
        return next(iter(steps.values())) if len(self.outputs) == 1 else steps

    def _waits(self, entry: Entry) -> bool:
        """Whether a layer reads a value at each step, or starts from one, that is known at the end alone."""
        timed = any(self.kinds[source].timed for source in entry.inputs)
        late = [source for source in entry.inputs if not self.kinds[source].timed and source not in self.known]
        return (timed and bool(late)) or any(source not in self.known for _, source in entry.states)

    @cached_property
    def known(self) -> frozenset[str]:
        """The values per sequence that are known from the start: made of inputs per sequence alone."""
        found = set(self.static)
        for name, entry in self.entries.items():
            if not self.kinds[name].timed and found.issuperset(entry.inputs):
                found.add(name)
        return frozenset(found)

    def starts_early(self, name: str) -> bool:
        """Whether states of a recurrent layer start at values that are known from the start, and no zeros."""
        entry = self.entries[name]
        early = bool(entry.states) and all(source in self.known for _, source in entry.states)
        return early or bool(starts_of(entry.layer))

    @cached_property
    def x_names(self) -> dict[str, str]:
        """Input -> its name in the lowered graph."""
        if len(self.inputs) == 1:
            return {name: names.X for name in self.inputs}
        return {name: names.part(names.X, name) for name in self.inputs}

    @cached_property
    def output_names(self) -> dict[str, str]:
        """Output -> its name in the lowered graph."""
        if len(self.outputs) == 1:
            return {name: names.OUTPUT for name in self.outputs}
        return {name: names.part(names.OUTPUT, name) for name in self.outputs}

    @cached_property
    def columns(self) -> dict[str, tuple[int, int]] | None:
        """Where each output lies where all are columns of one array; None for a single one, or for both kinds.

        A call then has one output, as that of a `Sequential`, and the user gets views of it.
        """
        kinds = [self.kinds[source] for source in self.outputs.values()]
        if len(kinds) == 1 or len({(kind.timed, kind.paces) for kind in kinds}) > 1:
            return None
        edges = list(accumulate((kind.width for kind in kinds), initial=0))
        return dict(zip(self.outputs, pairwise(edges), strict=True))

    @cached_property
    def tables(self) -> dict[str, tuple[str, str]]:
        """For each `Embedding`, by its name: the input it reads, and the name of its rows in the lowered graph."""
        found = {}
        for name, entry in self.entries.items():
            if isinstance(entry.layer, Embedding):
                (source,) = entry.inputs
                alone = sum(source in other.inputs for other in self.entries.values()) == 1
                x = self.x_names[source]
                found[name] = source, x if alone else names.part(x, name)
        return found

    def table_of(self, name: str) -> str:
        """The parameter that an `Embedding` looks rows up in, by its layer's name."""
        return self.entries[name].parameter("weight")

    @cached_property
    def read_whole(self) -> frozenset[str]:
        """The parameters that layers read as arrays; of the others, which are tables alone, rows are looked up."""
        entries = [entry for entry in self.entries.values() if not isinstance(entry.layer, Embedding)]
        return frozenset(entry.parameter(base) for entry in entries for base in entry.layer.parameter_shapes())

    # ---- parameters

    @cached_property
    def tied_parameters(self) -> dict[str, str]:
        """What layers would call parameters that are another's -> the name of the parameter."""
        every = (
            (names.in_layer(name, base), entry.parameter(base))
            for name, entry in self.entries.items()
            for base in entry.layer.parameter_shapes()
        )
        return {own: parameter for own, parameter in every if own != parameter}

    def parameter_shapes(self) -> dict[str, Shape]:
        """Name -> shape of every parameter: "dense.weight", "vad.weight_ih_l0", ..."""
        return own_parameters(self.entries)

    def init(self, seed: int | np.random.Generator = 0) -> dict[str, Array]:
        """New parameters, each layer's from its own distribution. The same seed gives the same."""
        rng = seed
        if not isinstance(rng, np.random.Generator):
            rng = np.random.default_rng(checks.integer("seed", rng, 0, 2**128))
        found: dict[str, Array] = {}
        for name, entry in self.entries.items():
            if entry.shares != name:
                continue
            with enough_memory(f"the parameters of layer {name}, {entry.layer!r}"):
                tied, made = dict(entry.ties), entry.layer.init(rng).items()
                own = {entry.parameter(base): array for base, array in made if base not in tied}
                found |= {full: array.astype(self.dtype) for full, array in own.items()}
        return found

    # ---- plain data

    def to_dict(self) -> dict[str, Any]:
        """The network as plain data."""
        return {
            "type": "Graph",
            "inputs": {name: self._input_data(name, width) for name, width in self.inputs.items()},
            "layers": {name: _entry_data(name, entry) for name, entry in self.entries.items()},
            "outputs": dict(self.outputs),
            "dtype": self.dtype,
            "batch_first": self.batch_first,
        }

    def _input_data(self, name: str, width: int) -> Any:
        return {"static": width} if name in self.static else width or NUMBERS

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, trusted: Collection[str] = ()) -> Self:
        """The network of `to_dict`. trusted: see `rnnc.Spec.from_dict`."""
        if not isinstance(data, Mapping) or data.get("type") != "Graph":
            raise ArgumentTypeError(f"data: expected a dict such as Graph.to_dict() gives, got {checks.came(data)}")
        known = {"inputs", "layers", "outputs", "dtype", "batch_first"}
        for name in set(data) - known - {"type"}:
            raise ArgumentError(f"{checks.shown(name)} is not an argument of Graph")
        missing = [name for name in ("inputs", "layers", "outputs") if not isinstance(data.get(name), Mapping)]
        if missing:
            raise ArgumentTypeError(f"{missing[0]}: expected a mapping, got {checks.came(data.get(missing[0]))}")
        trusted = check_trusted(trusted)
        layers = {name: _entry_of(name, entry, trusted) for name, entry in data["layers"].items()}
        options = {name: data.get(name) for name in ("dtype", "batch_first")}
        inputs = {name: _input_of(width) for name, width in data["inputs"].items()}
        return cls(inputs, layers, data["outputs"], **options)


# ---- plain data


def _input_of(width: object) -> Any:
    return Static(width["static"]) if isinstance(width, Mapping) and set(width) == {"static"} else width


def _entry_data(name: str, entry: Entry) -> dict[str, Any]:
    layer = entry.layer.to_dict() if entry.shares == name else entry.shares
    data = {"layer": layer, "inputs": list(entry.inputs)}
    further = {"states": dict(entry.states), "ties": dict(entry.ties) if entry.shares == name else {}}
    return data | {key: value for key, value in further.items() if value}


def _entry_of(name: str, data: object, trusted: Collection[str]) -> tuple[Any, ...]:
    needed, known = {"layer", "inputs"}, {"layer", "inputs", "states", "ties"}
    fits = isinstance(data, Mapping) and needed <= set(data) <= known
    if not fits or not isinstance(data, Mapping) or not isinstance(data["inputs"], (list, tuple)):
        expected = "expected layer, inputs and perhaps states and ties"
        raise ArgumentTypeError(f"layer {checks.shown(name)}: {expected}, got {checks.came(data)}")
    layer = data["layer"] if isinstance(data["layer"], str) else layer_from_dict(data["layer"], trusted)
    further = [data.get(key, {}) for key in ("states", "ties")]
    for key, value in zip(("states", "ties"), further, strict=True):
        if not isinstance(value, Mapping):
            raise ArgumentTypeError(f"layer {checks.shown(name)}: {key}: expected a mapping, got {checks.came(value)}")
    both = {**further[0], **further[1]}
    return (layer, *data["inputs"], *([both] if both else []))
