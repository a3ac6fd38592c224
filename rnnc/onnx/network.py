"""OnnxNetwork: a model file, compiled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.checking import checks
from rnnc.checking.arguments import explained
from rnnc.compiled import CompileOptions
from rnnc.ir.errors import ArgumentError, ArgumentTypeError, DtypeError, OnnxError, ShapeError
from rnnc.onnx.direct import DirectCall, Promises
from rnnc.onnx.directions import with_joined_directions
from rnnc.onnx.file import File, ValueType
from rnnc.onnx.plan import Plan
from rnnc.onnx.reading import read
from rnnc.onnx.recent import Recent
from rnnc.onnx.rolling import with_rolled_steps
from rnnc.onnx.sizes import NeedsNumber, NeedsValue
from rnnc.onnx.trace import Facts, traced

if TYPE_CHECKING:
    from os import PathLike

    from numpy.typing import NDArray
    from onnx import ModelProto

    from rnnc.network import Network
    from rnnc.streams import PieceArrays

    Array = NDArray[Any]

__all__ = ["OnnxNetwork", "from_onnx"]

FALLBACKS = ("error", "onnxruntime")

MOST_PLANS = 32
"""The most compiled forms of a graph that are kept, if it is compiled for each size or number that comes."""


@explained
def from_onnx(
    model: str | PathLike[str] | bytes | ModelProto,
    outputs: Sequence[str] | None = None,
    fallback: str = "error",
    *,
    backend: str = "llvm",
    threads: int | None = None,
    weights: str | None = None,
    activations: str | None = None,
) -> OnnxNetwork:
    """A model file as a compiled network.

    model: a path, the bytes of a file, or an onnx.ModelProto. Nothing in it is executed.
    outputs: names of the file's outputs that are wanted; default: all. Nodes that others need are left out.
    fallback: what becomes of nodes that rnnc cannot compile: "error" names them all; "onnxruntime" leaves them to ONNX
        Runtime, which must be installed.
    backend, threads, weights, activations: as in `rnnc.compile`. Integers of a quantized file stay these integers with
        weights "int8", whose sums they are multiplied in.
    Raises OnnxError for a file that is no ONNX model, damaged, or holds what cannot be compiled.
    """
    file = read(model)
    return OnnxNetwork(
        file,
        _outputs(file, outputs),
        checks.choice("fallback", fallback, FALLBACKS),
        CompileOptions.of(backend, threads, None, weights, activations).arguments,
    )


def _outputs(file: File, outputs: object) -> tuple[str, ...]:
    known = file.body.outputs
    if outputs is None:
        return tuple(known)
    if isinstance(outputs, str) or not isinstance(outputs, Sequence):
        raise ArgumentTypeError(f"outputs: expected a list of names, got {checks.came(outputs)}")
    for name in outputs:
        if name not in known:
            listed = ", ".join(map(repr, known))
            raise ArgumentError(f"outputs: {checks.shown(name)} is no output of {file.source}; it has {listed}")
    if not outputs:
        raise ArgumentError("outputs: expected at least one name")
    return tuple(dict.fromkeys(outputs))


class OnnxNetwork:
    """What `rnnc.from_onnx` returns: takes and gives the file's own inputs and outputs, as ONNX Runtime would.

    A graph that depends on the size of an axis, or on the numbers in an input (a branch is taken by them), is compiled
    once for each of those, when they first come; the `MOST_PLANS` used last are kept. Call it from one thread at a time
    while that happens.
    """

    def __init__(self, file: File, outputs: tuple[str, ...], fallback: str, options: Mapping[str, Any]) -> None:
        """See `from_onnx`."""
        self._file = file
        self._wanted = outputs
        self._fallback = fallback
        self._options = options
        self._symbols: dict[str, tuple[str, int]] = {}  # axis whose number counts -> input, axis
        self._values: list[str] = []  # inputs whose numbers count
        self._plans: Recent[Any, Plan] = Recent(MOST_PLANS)
        self._direct: DirectCall | None = None  # of the plan that was used last
        self._places = _axes_of(file)
        self._checks = {name: _Check.of(kind) for name, kind in file.body.inputs.items()}
        names = [size for kind in self.inputs.values() for size in kind.shape or () if isinstance(size, str) and size]
        self._shared = len(names) > len(set(names))
        try:
            self._plans.put((), self._planned(Facts()))
        except NeedsNumber as needed:
            self._ask(needed.symbol)
        except NeedsValue as needed:
            self._values.append(needed.name)

    @property
    def inputs(self) -> dict[str, ValueType]:
        """Name -> dtype and shape of each input, as the file says."""
        return dict(self._file.body.inputs)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what `run` gives."""
        return self._wanted

    def __repr__(self) -> str:
        ins = ", ".join(self.inputs)
        return f"OnnxNetwork({self._file.source!r}, inputs=({ins}), outputs=({', '.join(self._wanted)}))"

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        """The file's outputs for these inputs, name -> array, in the layouts and dtypes of the file.

        inputs: every input of the file by its name. Raises ArgumentTypeError, DtypeError, ShapeError or ArgumentError.
        """
        direct = self._direct
        found = None if direct is None else direct(inputs)
        if found is not None:
            return found
        given = self._checked(inputs)
        plan = self._plan(given)
        self._direct = plan.direct
        found = None if plan.direct is None else plan.direct(given)
        return plan.run(given) if found is None else found

    def explain(self) -> str:
        """What became of each node: compiled, folded, or left, and why."""
        lines = [repr(self)]
        if self._symbols or self._values:
            counts = [f"the size of axis {axis} of {name!r}" for name, axis in self._symbols.values()]
            counts += [f"the numbers in {name!r}" for name in self._values]
            kept = f"{len(self._plans)} kept, at most {self._plans.most}"
            lines.append(f"compiled for each value of: {', '.join(counts)} ({kept})")
        for key, plan in self._plans.items():
            lines.append(f"for {key}:" if key else "for all sizes:")
            lines += _explained(plan)
        if not len(self._plans):
            lines.append("nothing is compiled yet: the first run does it")
        return "\n".join(lines)

    # ---- the call form of rnnc's networks

    @property
    def network(self) -> Network:
        """The compiled network, for a file that is a single one. Raises ArgumentError for others."""
        plans = [plan for _, plan in self._plans.items()]
        if len(plans) != 1 or len(plans[0].segments) != 1:
            what = "it is compiled at its first run" if not plans else f"it became {len(plans[0].segments)} networks"
            raise ArgumentError(f"{self._file.source}: expected one network for all calls, but {what}; use run")
        return plans[0].segments[0].network

    def __call__(self, x: Any, *, lengths: Any = None) -> Any:
        """The compiled network itself, whose values are (T, B, N): see `rnnc.Network`."""
        return self.network(x, lengths=lengths)

    def advance(self, x: Any, state: Any = None, *, lengths: Any = None) -> Any:
        """The next piece of sequences through the compiled network: see `rnnc.Network.advance`."""
        return self.network.advance(x, state, lengths=lengths)

    def pieces(self) -> PieceArrays:
        """The arrays of pieces of streams: see `rnnc.Network.pieces`."""
        return self.network.pieces()

    # ---- plans

    def _plan(self, given: Mapping[str, Array]) -> Plan:
        """The plan for these inputs, made if there is none yet."""
        while True:
            key = self._key(given)
            plan = self._plans.get(key)
            if plan is not None and self._fits(plan, given):
                return plan
            facts = Facts({symbol: given[name].shape[axis] for symbol, (name, axis) in self._symbols.items()})
            facts.values = {name: given[name] for name in self._values}
            try:
                self._plans.put(key, self._planned(facts))
            except NeedsNumber as needed:
                self._ask(needed.symbol)
            except NeedsValue as needed:
                self._values.append(needed.name)

    def _key(self, given: Mapping[str, Array]) -> Any:
        if not self._symbols and not self._values:
            return ()
        sizes = tuple((symbol, given[name].shape[axis]) for symbol, (name, axis) in self._symbols.items())
        return sizes + tuple((name, given[name].tobytes(), given[name].shape) for name in self._values)

    def _ask(self, symbol: str) -> None:
        if symbol not in self._places:
            what = f"it depends on the size of {symbol!r}, which only a node that is left gives"
            raise OnnxError(f"{self._file.source}: {what}")
        self._symbols[symbol] = self._places[symbol]
        self._plans.clear()

    def _planned(self, facts: Facts) -> Plan:
        graph = with_joined_directions(traced(self._file, self._wanted, facts))
        rolled = with_rolled_steps(graph)
        foreign = None
        if self._fallback == "onnxruntime":
            from rnnc.onnx.foreign import foreign_of

            foreign = foreign_of(self._file, self._options["threads"])
        aliases = tuple((a, facts.root(a)) for a in facts.aliases if a not in facts.numbers)
        rest = self._options, foreign, aliases, self._places, self._promises(facts, aliases)
        if rolled is not graph:
            try:
                return Plan(rolled, *rest)
            except OnnxError as error:  # the steps stay as the file has them, and explain() says why
                scans = [step.node for step in rolled.steps if step not in graph.steps and step.scanned is not None]
                notes = [(node, f"not rolled, its steps are compiled one by one: {error}") for node in scans]
                graph = replace(graph, notes=[*graph.notes, *notes])
        return Plan(graph, *rest)

    def _promises(self, facts: Facts, aliases: Sequence[tuple[str, str]]) -> Promises:
        """What a plan for these facts takes for granted of the inputs."""
        sizes = {place: facts.numbers[symbol] for symbol, place in self._symbols.items()}
        equal = [(self._places[one], self._places[other]) for one, other in aliases]
        for name, kind in self.inputs.items():
            for axis, size in enumerate(kind.shape or ()):
                if isinstance(size, int):
                    sizes[name, axis] = size
                elif size and self._places[size] != (name, axis):
                    equal.append((self._places[size], (name, axis)))
        fits = {name: check.fits for name, check in self._checks.items()}
        return Promises(fits, dict(facts.values), sizes, equal)

    def _fits(self, plan: Plan, given: Mapping[str, Array]) -> bool:
        """Whether axes that were taken for equal are equal here. If not, their numbers count from now on."""
        for one, other in plan.aliases:
            if self._size(one, given) != self._size(other, given):
                self._ask(one)
                self._ask(other)
                return False
        return True

    def _size(self, symbol: str, given: Mapping[str, Array]) -> int:
        name, axis = self._places[symbol]
        return int(given[name].shape[axis])

    # ---- inputs

    def _checked(self, inputs: object) -> dict[str, Array]:
        wanted = self._file.body.inputs
        if not isinstance(inputs, Mapping) or inputs.keys() != wanted.keys():
            came = f"the names {', '.join(map(repr, inputs))}" if isinstance(inputs, Mapping) else checks.came(inputs)
            raise ArgumentTypeError(f"inputs: expected a dict of {', '.join(map(repr, wanted))}, got {came}")
        found = {
            name: value if check.fits(value := inputs[name]) else _as_input(name, value, wanted[name])
            for name, check in self._checks.items()
        }
        if self._shared:
            self._check_names(found)
        return found

    def _check_names(self, given: Mapping[str, Array]) -> None:
        """Axes that the file gives one name have one size."""
        sizes: dict[str, tuple[int, str]] = {}
        for name, kind in self._file.body.inputs.items():
            for axis, size in enumerate(kind.shape or ()):
                if isinstance(size, str) and size:
                    came = given[name].shape[axis]
                    first = sizes.setdefault(size, (came, name))
                    if first[0] != came:
                        raise ShapeError(f"{name!r}: axis {axis} is {size!r}, {first[0]} in {first[1]!r}, got {came}")


@dataclass(frozen=True)
class _Check:
    """A quick check of an input's dtype and sizes. sizes: None for an axis of any size."""

    dtype: np.dtype[Any]
    sizes: tuple[int | None, ...]

    @classmethod
    def of(cls, kind: ValueType) -> _Check:
        sizes = tuple(size if isinstance(size, int) else None for size in kind.shape or ())
        return cls(np.dtype(kind.dtype or "V"), sizes)

    def fits(self, value: object) -> bool:
        """True if an array passes. If False, `_as_input` decides, and says what is wrong."""
        if type(value) is not np.ndarray or value.dtype != self.dtype or value.ndim != len(self.sizes):
            return False
        return all(size is None or size == came for size, came in zip(self.sizes, value.shape, strict=True))


def _as_input(name: str, value: object, kind: ValueType) -> Array:
    try:
        array = np.asarray(value)
    except Exception as error:  # an object with __array__ may raise anything
        raise ArgumentTypeError(f"{name!r}: expected an array of {kind.dtype}, got {checks.came(value)}") from error
    if array.dtype.name != kind.dtype:
        raise DtypeError(f"{name!r}: expected {kind.dtype}, got {array.dtype}; convert it with .astype({kind.dtype!r})")
    assert kind.shape is not None
    fits = array.ndim == len(kind.shape) and all(
        not isinstance(size, int) or size == came for size, came in zip(kind.shape, array.shape, strict=True)
    )
    if not fits:
        wanted = ", ".join(str(size) or "any" for size in kind.shape)
        raise ShapeError(f"{name!r}: expected shape ({wanted}), got {array.shape}")
    return array


def _axes_of(file: File) -> dict[str, tuple[str, int]]:
    """Name of an axis -> an input and the number of the axis in it."""
    found: dict[str, tuple[str, int]] = {}
    for name, kind in file.body.inputs.items():
        for axis, size in enumerate(kind.shape or ()):
            found.setdefault(size if isinstance(size, str) and size else f"{name}.{axis}", (name, axis))
    return found


def _explained(plan: Plan) -> list[str]:
    rows = [(step.node.label, note) for step, note in plan.notes.items()]
    rows += [(node.label, note) for node, note in plan.traced.notes]
    way = "goes through NumPy" if plan.direct is None else "enters machine code directly"
    return [f"  a plain call of run {way}", *(f"  {label}: {note}" for label, note in rows)]
