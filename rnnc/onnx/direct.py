"""Direct calls: from the arrays of a file straight into machine code and back, without a step in Python.

A plan has one if it is a single network around which nothing is left but views: the inputs' axes in another notation,
and states that lie in arrays as slabs (`rnnc.onnx.slabs`). A direct call checks what the code does not check itself,
and declines what is not plain. `Plan.run` takes all calls that are declined, and says what is wrong with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.backends.call_forms import BATCH, STEPS, CallArray, CallGroup, PlainCall
from rnnc.networks.names import state_shapes
from rnnc.onnx.places import Axes, Placed, out_of_rows
from rnnc.onnx.segment import Segment
from rnnc.onnx.slabs import as_slabs, followed, slabs_of
from rnnc.onnx.trace import Traced
from rnnc.onnx.values import Step, Tensor
from rnnc.plain_calls import plain_network_call

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__ = ["DirectCall", "Promises", "direct_call"]

DirectCall = Callable[[Mapping[str, Any]], "dict[str, Array] | None"]
"""The file's inputs by name -> its outputs by name; None: the call is not plain."""

Place = tuple[str, int]
"""An input, and the number of one of its axes."""

JOINED = ""
"""The key of the array whose columns are several outputs (`rnnc.Graph.columns`); no output has this name."""


@dataclass(frozen=True)
class Promises:
    """What a plan takes for granted of the inputs.

    fits: for each input, whether an array certainly has the file's dtype and sizes. values: the numbers of inputs.
    sizes: those of axes. equal: axes that have one size.
    """

    fits: Mapping[str, Callable[[object], bool]]
    values: Mapping[str, Array] = field(default_factory=dict)
    sizes: Mapping[Place, int] = field(default_factory=dict)
    equal: Sequence[tuple[Place, Place]] = ()


@dataclass(frozen=True)
class Taken:
    """An input that the code takes, or a part of one.

    sizes: what the code checks of each axis: that it has this size, or is STEPS or BATCH; None: nothing.
    way: an index that makes (T, B, N) of it; None: the code takes it as it is.
    """

    name: str
    array: CallArray
    sizes: tuple[int | str | None, ...]
    way: tuple[Any, ...] | None = None


@dataclass(frozen=True)
class Shown:
    """An output. key: of the array that holds it.

    index, way: what makes the file's array of it, one after the other; None: nothing is to be done.
    """

    name: str
    array: CallArray
    key: str
    index: tuple[Any, ...] | None = None
    way: Callable[[Array], Array] | None = None


class _NotDirect(Exception):
    """The plan has no direct call."""


def direct_call(traced: Traced, segment: Segment, moving: Sequence[Step], promises: Promises) -> DirectCall | None:
    """The direct call of a plan of one network and of steps that only move, if there is one."""
    try:
        return _made(_Parts(traced, segment, moving), promises)
    except _NotDirect:
        return None


class _Parts:
    """What a direct call takes and gives. Raises _NotDirect."""

    def __init__(self, traced: Traced, segment: Segment, moving: Sequence[Step]) -> None:
        self.traced, self.segment = traced, segment
        self.building = building = segment.building
        self.graph = graph = segment.network.model.graph()
        if building.lengths is not None or building.frames is not None or not graph.even:
            raise _NotDirect
        self.states = state_shapes(graph)
        self.call = plain_network_call(graph, self.states, {}, stateful=True)
        known = {name: slabs for name, tensor in traced.inputs.items() if (slabs := slabs_of(tensor)) is not None}
        for end in segment.ends:
            known |= self._last_states(end.tensor, end.keys)
        found = followed(moving, known, traced.opset)
        if found is None:
            raise _NotDirect
        self.slabs = found

    def _last_states(self, name: str, keys: Sequence[str]) -> dict[str, Any]:
        """The slabs that last states are, if they are (directions, B, H), or of one direction (B, H)."""
        axes = self.building.placed[name].axes
        if len(axes.roles) < 2:  # a single row of one direction, as (H,)
            return {}
        *lead, rows, _ = axes.roles
        directions = axes.size(0) if lead else 1
        if len(lead) > 1 or "B" in lead or rows not in "B1" or len(keys) != directions:
            return {}
        return {name: as_slabs(keys, len(lead))}

    # ---- inputs

    def taken(self) -> list[Taken]:
        """The arguments of the code, in order."""
        return [*self._vectors(), *self._states()]

    def _vectors(self) -> Iterator[Taken]:
        """The values of each step: inputs, or slabs of them."""
        arrays = {array.key: array for array in self.call.arguments[0].arrays}
        for name, (tensor, placed) in self.building.inputs.items():
            if (placed.axes.of("T") is None) != (self.building.rows.time is None):
                raise _NotDirect
            sizes, way = _into_rows(placed.axes)
            if tensor.name in self.traced.inputs:
                yield Taken(tensor.name, arrays[name], sizes, way)
            else:
                yield self._slab(tensor, arrays[name])

    def _slab(self, tensor: Tensor, array: CallArray) -> Taken:
        """A value of a step, (B, H), that is a slab of an input."""
        slabs = self.slabs.get(tensor.name)
        if slabs is None or slabs.shape != (1, 1) or not isinstance(slabs[0, 0], tuple):
            raise _NotDirect
        source, number = slabs[0, 0]
        *lead, _, width = self.traced.inputs[source].shape
        way = (slice(number, number + 1) if lead else None, slice(None), slice(None))
        return Taken(source, array, (*([None] * len(lead)), BATCH, int(width)), way)

    def _states(self) -> Iterator[Taken]:
        """Inputs whose slabs are initial states."""
        for source, names in self._initial().items():
            *lead, _, width = self.traced.inputs[source].shape
            sizes: tuple[int | str, ...] = (*map(int, lead), BATCH, int(width))
            listed = tuple(names.get(number, "") for number in range(int(lead[0]) if lead else 1))
            yield Taken(source, CallArray(sizes, listed), sizes)

    def _initial(self) -> dict[str, dict[int, str]]:
        """For each input with initial states: the name of the state that each of its slabs is."""
        found: dict[str, dict[int, str]] = {}
        for feed in self.building.feeds:
            slabs = self.slabs.get(feed.value.name) if isinstance(feed.value, Tensor) else None
            if slabs is None or slabs.shape != (len(feed.keys), 1, 1) or feed.batch_axis != 1 or feed.way is not None:
                raise _NotDirect
            for key, slab in zip(feed.keys, slabs.ravel(), strict=True):
                if not isinstance(slab, tuple) or slab[1] in found.setdefault(slab[0], {}):
                    raise _NotDirect
                found[slab[0]][slab[1]] = self.states[key][0]
        return found

    # ---- outputs

    def results(self) -> list[Shown]:
        """The file's outputs, in order."""
        arrays = {array.key: array for array in self.call.results[0].arrays}
        outs = {part.tensor: part for part in self.segment.outs}
        found = []
        for name, value in self.traced.outputs.items():
            part = outs.pop(value.name, None) if isinstance(value, Tensor) else None
            if part is not None:
                columns = self.graph.columns
                key, array = (name, arrays[part.name]) if columns is None else (JOINED, arrays[JOINED])
                placed, taken = self.building.placed[part.tensor], None if columns is None else columns[part.name]
                found.append(Shown(name, array, key, *_out_of_rows(placed, taken)))
            else:
                found.append(self._ends(name, value))
        finals = [final for result in found for final in result.array.names if result.key != JOINED]
        if outs or len(set(finals)) < len(finals):
            raise _NotDirect
        return found

    def _ends(self, name: str, value: object) -> Shown:
        """An output whose slabs are last states."""
        slabs = self.slabs.get(value.name) if isinstance(value, Tensor) else None
        if slabs is None or not all(isinstance(key, str) for key in slabs.ravel()) or slabs.ndim > 3:
            raise _NotDirect
        keys = list(slabs.ravel())
        shape = (*slabs.shape[:-2], BATCH, self.states[keys[0]][2])
        return Shown(name, CallArray(shape, tuple(self.states[key][1] for key in keys)), name)


def _into_rows(axes: Axes) -> tuple[tuple[int | str | None, ...], tuple[Any, ...] | None]:
    """What the code checks of the axes of a tensor, and the index that makes (T, B, N) of it."""
    sizes: list[int | str | None] = []
    index: list[Any] = []
    at = 0
    for role in axes.roles:
        if role == "1":
            sizes.append(None)
            index.append(0)
            continue
        place = "TBC".index(role)
        if place < at:
            raise _NotDirect
        index += [None] * (place - at) + [slice(None)]
        sizes.append((STEPS, BATCH, axes.width)[place])
        at = place + 1
    index += [None] * (3 - at)
    return tuple(sizes), None if index == [slice(None)] * 3 else tuple(index)


def _out_of_rows(
    placed: Placed, columns: tuple[int, int] | None
) -> tuple[tuple[Any, ...] | None, Callable[[Array], Array] | None]:
    """What makes a tensor of (T, B, N) or (B, N): an index, and what is done then. columns: those that it is."""
    if placed.flipped:
        raise _NotDirect
    axes, lead = placed.axes, "TB" if placed.timed else "B"
    kept = tuple(role for role in lead if role in axes.roles)
    index: list[Any] = [slice(None) if role in kept else 0 for role in lead]
    if columns is not None:
        index.append(slice(*columns))
    same = axes.roles[:-1] == kept and axes.roles[-1:] in (("C",), ("1",))
    way = None if same else out_of_rows(axes, placed.order, kept)
    return None if columns is None and 0 not in index else tuple(index), way


# ---- the call


def _made(parts: _Parts, promises: Promises) -> DirectCall:
    taken, results = parts.taken(), parts.results()
    for first, second in promises.equal:
        if not _alike(taken, first, second):
            raise _NotDirect
    arguments = tuple(CallGroup("bare", (each.array,)) for each in taken)
    given = {each.key: each.array for each in results}
    group = CallGroup("dict", tuple(array._replace(key=key) for key, array in given.items()))
    code = parts.segment.network.direct(PlainCall(arguments, (group,)))
    if code is None:
        raise _NotDirect
    return _function(code, taken, results, promises)


def _alike(taken: Sequence[Taken], first: Place, second: Place) -> bool:
    """Whether the code checks that two axes have one size."""
    sizes = {each.name: each.sizes for each in taken}
    one, other = (sizes.get(name, {axis: None})[axis] for name, axis in (first, second))
    return one is not None and one == other


def _function(
    code: Callable[..., Any], taken: Sequence[Taken], results: Sequence[Shown], promises: Promises
) -> DirectCall:
    count, given = len(promises.fits), [(each.name, each.way) for each in taken]
    known = {(each.name, axis) for each in taken for axis, size in enumerate(each.sizes) if isinstance(size, int)}
    sizes = [(*place, size) for place, size in promises.sizes.items() if place not in known]
    shown = _shown(results)
    values = [(name, array, array.tobytes()) for name, array in promises.values.items()]
    checked = {each.name for each in taken} | set(promises.values)
    others = [(name, fits) for name, fits in promises.fits.items() if name not in checked]

    def call(inputs: Mapping[str, Any]) -> dict[str, Array] | None:
        if type(inputs) is not dict or len(inputs) != count:
            return None
        try:
            for name, array, numbers in values:
                value = inputs[name]
                if type(value) is not np.ndarray or value.dtype != array.dtype or value.shape != array.shape:
                    return None
                if value.tobytes() != numbers:
                    return None
            for name, fits in others:
                if not fits(inputs[name]):
                    return None
            arrays = [inputs[name] if way is None else inputs[name][way] for name, way in given]
            for name, axis, size in sizes:
                if inputs[name].shape[axis] != size:
                    return None
            found: dict[str, Array] | None = code(*arrays)
        except (AttributeError, IndexError, KeyError, TypeError, MemoryError):
            return None
        return found if found is None or shown is None else shown(found)

    return call


def _shown(results: Sequence[Shown]) -> Callable[[dict[str, Array]], dict[str, Array]] | None:
    """From the arrays that the code gives to the file's; None if they are the same."""
    if not any(result.way or result.index for result in results):
        return None
    ways = [(result.name, result.key, result.index, result.way) for result in results]

    def shown(found: dict[str, Array]) -> dict[str, Array]:
        made = {}
        for name, key, index, way in ways:
            array = found[key]
            if index is not None:
                array = array[index]
            made[name] = array if way is None else way(array)
        return made

    return shown
