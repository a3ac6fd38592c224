"""A spec on the llvm backend against the reference backend in float64: results and all derivatives.

Both get the same numbers, and NaN wherever a ragged batch has padding. Where they disagree, the oracle itself is asked
how far its results move with rounding errors (`rounding`): a random network may be so ill-conditioned, or sit so close
to a tie of `maximum`, that no two right evaluations agree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

import rnnc
from tests.fuzz.faults import Fault, Tally, acceptance
from tests.fuzz.rounding import rounded
from tests.fuzz.source import Source

Array = NDArray[Any]
Arrays = dict[str, Array]

TOLERANCE = {"float32": 1e-4, "float64": 1e-11}
"""Of the largest number of an array, or of 1 if that is smaller: below it no second look is needed."""

SLACK = 100
"""How many times as far as the oracle with rounding errors a result may be off."""

MODES = ("forward", "vjp", "jvp", "hvp")


@dataclass(frozen=True)
class Data:
    """Sizes and numbers of a call. rows: None is an unbatched call. lengths: None, or one number per row."""

    steps: int
    rows: int | None
    lengths: tuple[int, ...] | None
    initial: bool
    seed: int


def draw_data(source: Source) -> Data:
    """Sizes, small ones mostly."""
    steps = source.pick((1, 2, 3, 4, 5, 7, 12))
    rows = source.pick((1, 2, 3, 4, 5, 7, 8, 9, 13, 17, 0, None))
    lengths = None
    if source.chance(45):
        lengths = tuple(source.between(0, steps) for _ in range(1 if rows is None else rows))
    return Data(steps, rows, lengths, source.chance(60), source.below(1000))


def draw_modes(source: Source) -> tuple[str, ...]:
    """All modes nearly always; a shrunk case has the one that fails."""
    number = source.below(200)
    return MODES[number : number + 1] or MODES


# ------------------------------------------------------------------------------------------ the arrays of a call


class Point:
    """Every array that the four functions read, in the dtype of a spec."""

    def __init__(self, spec: rnnc.Spec, data: Data) -> None:
        self.spec, self.data = spec, data
        rng = np.random.default_rng(data.seed)

        def normal(shape: tuple[int, ...], size: float = 1.0) -> Array:
            return (size * rng.standard_normal(shape)).astype(str(spec.dtype))

        bound = 1 / np.sqrt(spec.hidden_size)
        shapes = spec.parameter_shapes()
        x_shape, output_shape = self._timed(spec.input_size), self._timed(spec.output_size)
        states = [self._state(width) for width in spec.states.values()]
        self.params = {name: normal(shape, bound) for name, shape in shapes.items()}
        self.x = self._padded(normal(x_shape))
        self.state = self._bare(*(normal(shape, 0.5) for shape in states)) if data.initial else None
        self.seeds = self._padded(normal(output_shape)), self._bare(*(normal(shape) for shape in states))
        along = {name: normal(shape, bound) for name, shape in shapes.items()}
        self.along = along, self._padded(normal(x_shape)), self._bare(*(normal(shape) for shape in states))
        self.seeds_along = self._padded(normal(output_shape)), self._bare(*(normal(shape) for shape in states))

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments of a call."""
        lengths = self.data.lengths
        if lengths is None:
            return {}
        return {"lengths": lengths[0] if self.data.rows is None else np.array(lengths, np.int64)}

    def cast(self, dtype: str) -> Point:
        """The same numbers in another dtype."""
        copy = object.__new__(Point)
        copy.spec, copy.data = replace(self.spec, dtype=dtype), self.data
        for name in ("params", "x", "state", "seeds", "along", "seeds_along"):
            setattr(copy, name, _mapped(getattr(self, name), lambda array: array.astype(dtype)))
        return copy

    def bytes(self) -> bytes:
        """The contents of all arrays."""
        parts: list[bytes] = []
        for name in ("params", "x", "state", "seeds", "along", "seeds_along"):
            _mapped(getattr(self, name), lambda array: parts.append(array.tobytes()))
        return b"".join(parts)

    def _timed(self, width: int) -> tuple[int, ...]:
        steps, rows = self.data.steps, self.data.rows
        if rows is None:
            return steps, width
        return (rows, steps, width) if self.spec.batch_first else (steps, rows, width)

    def _state(self, width: int) -> tuple[int, ...]:
        slabs = self.spec.num_layers * self.spec.num_directions
        return (slabs, width) if self.data.rows is None else (slabs, self.data.rows, width)

    @staticmethod
    def _bare(*states: Array) -> Any:
        return states if len(states) > 1 else states[0]

    def _padded(self, array: Array) -> Array:
        """NaN past the end of each row."""
        if self.data.lengths is not None and array.size:
            past = np.arange(self.data.steps)[:, None] >= np.array(self.data.lengths)
            past = past[:, 0] if self.data.rows is None else past.T if self.spec.batch_first else past
            array[past] = np.nan
        return array


def _mapped(value: Any, change: Callable[[Array], Any]) -> Any:
    if isinstance(value, Mapping):
        return {name: change(array) for name, array in value.items()}
    if isinstance(value, tuple):
        return tuple(_mapped(item, change) for item in value)
    return None if value is None else change(value)


# ------------------------------------------------------------------------------------------ the functions

Function = Callable[[Point], Arrays]


def compiled(mode: str, spec: rnnc.Spec, **options: Any) -> Function:
    """A mode of a spec, from the arrays of a call to its results by name."""
    if mode == "forward":
        program = rnnc.compile(spec, **options)
        return lambda at: flat(program.bind(at.params)(at.x, at.state, **at.options))
    f = getattr(rnnc, mode)(spec, **options)

    def vjp(at: Point) -> Arrays:
        result, pullback = f(at.params, at.x, at.state, **at.options)
        return flat(result, "primal") | flat(pullback(*at.seeds), "gradient")

    def jvp(at: Point) -> Arrays:
        result, tangent = f((at.params, at.x, at.state), at.along, **at.options)
        return flat(result, "primal") | flat(tangent, "tangent")

    def hvp(at: Point) -> Arrays:
        gradients, changes = f((at.params, at.x, at.state), at.seeds, at.along, at.seeds_along, **at.options)
        return flat(gradients, "gradient") | flat(changes, "change")

    return {"vjp": vjp, "jvp": jvp, "hvp": hvp}[mode]


def flat(value: Any, name: str = "result") -> Arrays:
    if isinstance(value, Mapping):
        return {f"{name}[{key}]": array for key, array in value.items()}
    if isinstance(value, tuple):
        return {key: array for n, item in enumerate(value) for key, array in flat(item, f"{name}[{n}]").items()}
    return {name: value}


# ------------------------------------------------------------------------------------------ the comparison


def check_agreement(
    spec: rnnc.Spec,
    calls: tuple[Data, ...],
    tally: Tally,
    modes: tuple[str, ...] = MODES,
    threads: int | None = 1,
    oracle: rnnc.Spec | None = None,
) -> None:
    """Raises Fault if the backends disagree, or if an argument changed. oracle: the spec of the right results."""
    double = replace(spec if oracle is None else oracle, dtype="float64")
    for mode in modes:
        with acceptance(f"{mode} compile", tally):
            found_by = compiled(mode, spec, threads=threads)
            right_by = compiled(mode, double, backend="reference")
        for data in calls:
            point = Point(spec, data)
            before = point.bytes()
            with acceptance(mode, tally), np.errstate(all="ignore"):
                found = found_by(point)
                again = found_by(point)
            if point.bytes() != before:
                raise Fault("changed", mode, "an argument was written to")
            _check_arrays(mode, spec, data, found, again, _renaming(right_by, double), tally)


def _renaming(function: Function, double: rnnc.Spec) -> Function:
    """The function of a spec in float64, for points of a spec of other names or another dtype."""
    return lambda at: function(_renamed(at, double))


def _renamed(point: Point, double: rnnc.Spec) -> Point:
    """The point in float64, with the parameters of a spec of other names."""
    point = point.cast("float64")
    point.params = dict(zip(double.parameter_shapes(), point.params.values(), strict=True))
    tangents = dict(zip(double.parameter_shapes(), point.along[0].values(), strict=True))
    point.along = tangents, *point.along[1:]
    return point


def _check_arrays(
    mode: str, spec: rnnc.Spec, data: Data, found: Arrays, again: Arrays, right: Function, tally: Tally
) -> None:
    with np.errstate(all="ignore"):
        expected = right(Point(spec, data))
    if len(found) != len(expected):
        raise Fault("wrong", mode, f"results {list(found)}, expected {list(expected)}")
    dtype = np.dtype(spec.dtype)
    moved: list[list[Array]] = []
    for number, (name, wanted) in enumerate(zip(found, expected.values(), strict=True)):
        array = found[name]
        if array.dtype != dtype or array.shape != wanted.shape:
            raise Fault("wrong", mode, f"{name} is {array.dtype} {array.shape}, expected {dtype} {wanted.shape}")
        if array.tobytes() != again[name].tobytes():
            raise Fault("wrong", f"{mode} twice", f"{name} differs between two calls alike")
        worst = error(array, wanted)
        if worst <= TOLERANCE[str(dtype)]:
            continue
        if not moved:
            moved = [_moved(right, Point(spec, data), seed) for seed in range(3)]
        if not worst <= SLACK * max(error(other[number], wanted) for other in moved):
            raise Fault("wrong", mode, f"{name} is {worst:.3g} off, relative to its largest number, for {data}")
        tally["ill-conditioned"] += 1


def _moved(right: Function, point: Point, seed: int) -> list[Array]:
    """The right results with the rounding errors of the point's dtype."""
    with rounded(float(np.finfo(point.x.dtype).eps), seed):
        return list(right(point).values())


def error(found: Array, expected: Array) -> float:
    """The largest difference, relative to the largest number expected or to 1; NaN and infinities must be equal."""
    if not expected.size:
        return 0.0
    with np.errstate(all="ignore"):
        wide = found.astype(np.float64)
        odd = ~np.isfinite(expected)
        if odd.any() or not np.isfinite(wide).all():
            same = np.array_equal(np.isnan(wide), np.isnan(expected))
            if not same or not np.array_equal(wide[np.isinf(expected)], expected[np.isinf(expected)]):
                return np.inf
            wide, expected = np.where(odd, 0, wide), np.where(odd, 0, expected)
        return float(np.max(np.abs(wide - expected))) / max(float(np.max(np.abs(expected))), 1.0)
