"""A compiled part of a file: a `rnnc.Network`, and how tensors of the file go into it and come out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.graph import Graph
from rnnc.network import Network
from rnnc.networks.names import state_shapes
from rnnc.onnx.building import Building
from rnnc.onnx.frames import Frames
from rnnc.onnx.ops.sliding import SLIDING
from rnnc.onnx.ops.table import MISFITS, Given, Left
from rnnc.onnx.parts import op_of
from rnnc.onnx.places import Rows, into_rows, out_of_rows, reversed_rows
from rnnc.onnx.sizes import Dim, Size, static
from rnnc.onnx.values import Filled, Known, Scanned, Step, Tensor
from rnnc.specs import Spec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__ = ["CannotCompile", "Segment", "built"]


class CannotCompile(Exception):
    """A step that cannot be in this network. later: a network behind it may hold it."""

    def __init__(self, step: Step, why: str, later: bool) -> None:
        super().__init__(why)
        self.step, self.why, self.later = step, why, later


def built(steps: Sequence[Step], outputs: Sequence[Tensor], opset: int, frames: Frames | None = None) -> Building:
    """The steps as a graph, in which each output is placed. Raises CannotCompile.

    frames: the chain of convolutions that these steps are, if they are one.
    """
    building = Building(_rows(steps) if frames is None else Rows(None, _rows(steps).batch), _dtype(steps))
    building.frames = frames
    for step in steps:
        lower = op_of(step).lower
        assert lower is not None
        try:
            _check_ends(building, step)
            lower(building, step, Given(step.node, step.inputs, opset, lambda tensor: None))
        except Left as why:
            raise CannotCompile(step, str(why), why.later) from None
        except MISFITS as error:
            raise CannotCompile(step, f"its inputs do not fit: {error}", later=False) from error
    for tensor in outputs:
        if building.lengths is not None and tensor.name not in building.zeroed:
            step = next(step for step in steps if tensor in step.made)
            raise CannotCompile(step, "what it gives behind the end of a row is not 0", later=True)
    return building


def _check_ends(building: Building, step: Step) -> None:
    """Raises Left if a step reads last states of a ragged batch: rows without steps are set to zero outside."""
    placed = [building.placed[tensor.name] for tensor in step.tensors if tensor.name in building.made]
    if building.lengths is not None and not all(value.timed for value in placed):
        raise Left("it reads the last state of a ragged batch", later=True)


def _rows(steps: Sequence[Step]) -> Rows:
    """T and B, and the numbers of steps behind operators that change T."""
    rows = _first_rows(steps)
    if rows.time is None:
        return rows
    slides = [(s.tensors[0].shape[2], s.made[0].shape[2]) for s in steps if s.node.op in SLIDING and _is_along(s)]
    time, others = rows.time, list[Dim]()
    for before, after in reversed(slides):
        if Rows(after, None).is_time(time) and not Rows(before, None).is_time(time):
            others.append(time)
            time = before
    for before, after in slides:
        known = Rows(time, None, tuple(others))
        if known.is_time(before) and not known.is_time(after):
            others.append(after)
    return Rows(time, rows.batch, tuple(others))


def _is_along(step: Step) -> bool:
    """Whether a step slides over one axis, which is longer than 1."""
    shapes = [tensor.shape for tensor in (*step.tensors[:1], *step.made[:1])]
    return len(shapes) == 2 and all(len(shape) == 3 and static(shape[2]) != 1 for shape in shapes)


def _first_rows(steps: Sequence[Step]) -> Rows:
    """T and B: of the first recurrent node, or else of the first sizes that are not known."""
    for step in steps:
        if step.node.op in ("RNN", "GRU", "LSTM", "DynamicQuantizeLSTM"):
            x = step.inputs[0]
            assert x is not None
            time, batch = x.shape[1::-1] if step.node.attributes.get("layout") == 1 else x.shape[:2]
            return Rows(_longer(time), _longer(batch))
        if step.scanned is not None:
            return _rows_of_scan(step.scanned)
    sizes = [size for step in steps for tensor in step.tensors for size in tensor.shape if isinstance(size, Size)]
    unknown = list(dict.fromkeys(size for size in sizes if not size.known))
    if unknown:
        return Rows(unknown[1] if len(unknown) > 1 else None, unknown[0])
    slides = [step for step in steps if step.node.op in SLIDING and len(step.tensors[0].shape) == 3]
    timed = [step for step in slides if step.node.op != "Conv"]  # over time or not at all
    for step in (*timed, *slides):
        batch, _, time = step.tensors[0].shape
        return Rows(_longer(time) if timed else None, _longer(batch))
    return Rows(None, None)


def _rows_of_scan(scanned: Scanned) -> Rows:
    """T is what is scanned, B the first size in the body that is not known, or else its first axis."""
    inner = [size for tensor in (*scanned.xs, *scanned.states) for size in tensor.shape]
    unknown = [size for size in inner if isinstance(size, Size) and not size.known]
    first: list[Dim] = [tensor.shape[0] for tensor in scanned.xs if len(tensor.shape) > 1]
    sizes: tuple[Dim, Dim] = scanned.read[0].shape[scanned.axes[0]], (*unknown, *first, 1)[0]
    return Rows(_longer(sizes[0]), _longer(sizes[1]))


def _longer(size: Dim) -> Dim | None:
    """The size of an axis, if it is not 1."""
    return None if static(size) == 1 else size


def _dtype(steps: Sequence[Step]) -> str:
    return next(tensor.dtype for step in steps for tensor in step.made)


class Segment:
    """A network with its ways in and out. Values of the file go by their names, in the file's layouts."""

    def __init__(self, building: Building, outputs: Sequence[Tensor], options: Mapping[str, Any]) -> None:
        self.building = building
        shown, ends = _ends_apart(building, outputs)
        named = {building.name_of(f"{tensor.name}_out"): tensor for tensor in shown}
        graph = Graph(
            {name: placed.axes.width for name, (_, placed) in building.inputs.items()}
            | {name: width for name, (_, width, _) in building.framed.items()},
            building.entries,
            {name: building.placed[tensor.name].name for name, tensor in named.items()},
            dtype=building.dtype,
        )
        self.network: Network = graph.compile(building.params, **options)
        self._ins = [
            _In(name, tensor.name, into_rows(placed.axes, placed.order, "TB"), placed.axes.of("T"), placed.axes.of("B"))
            for name, (tensor, placed) in building.inputs.items()
        ]
        self._ins += [_In(name, x.name, way, None, 0) for name, (x, _, way) in building.framed.items()]
        self._steps = 1 if building.frames is None else building.frames.steps
        self.outs = [
            _Out(name, tensor.name, self._way_out(tensor), self._is_reversed(tensor)) for name, tensor in named.items()
        ]
        self.ends = [_End(keys, tensor.name, self._way_out(tensor)) for tensor, keys in ends.items()]
        self._single = len(named) == 1
        self._zeros = {key: width for key, (_, _, width) in state_shapes(graph).items()}
        self._quick = building.lengths is None and graph.causal and graph.even
        self._plain = building.lengths is None and not building.feeds and not self.ends

    def _way_out(self, tensor: Tensor) -> Any:
        placed = self.building.placed[tensor.name]
        way = out_of_rows(placed.axes, placed.order, "TB" if placed.timed else "B")
        frames = self.building.frames
        if frames is not None and placed.timed:
            every, count = frames.every[tensor.name], int(tensor.shape[2])
            return lambda array: way(array[::every][:count])
        return (lambda array: way(array[::-1])) if placed.flipped and self.building.lengths is None else way

    def _is_reversed(self, tensor: Tensor) -> bool:
        """Whether a tensor holds the steps of a ragged batch in the other order."""
        return self.building.lengths is not None and self.building.placed[tensor.name].flipped

    def run(self, values: dict[str, Array]) -> None:
        """Reads what it reads from the values, by the file's names, and adds what it gives."""
        steps, batch = self._sizes(values)
        given = {part.name: part.convert(values[part.tensor], (steps, batch)) for part in self._ins}
        lengths = None if self.building.lengths is None else values[self.building.lengths.name]
        made: Any
        if not steps:
            made = self._nothing(batch)
        else:
            x = given if len(given) > 1 else next(iter(given.values()))
            made = self._call(x, self._state(values, batch), lengths)
        for part in self.outs:
            array = made[part.name]
            if part.reversed and lengths is not None:
                array = reversed_rows(array, lengths)
            values[part.tensor] = part.convert(array)
        for end in self.ends:
            array = made[end.keys[0]] if len(end.keys) == 1 else np.concatenate([made[key] for key in end.keys], -1)
            values[end.tensor] = end.convert(array)
        if lengths is not None:
            self._clear(values, lengths)

    def _call(self, x: Any, state: dict[str, Array] | None, lengths: Array | None) -> dict[str, Array]:
        """Outputs and last states, by the fastest kind of call."""
        last: dict[str, Array] = {}
        output: Any
        if self._plain:
            output = self.network(x)
        elif self._quick:
            output, last = self.network.advance(x, state)
        else:
            output, last = self.network.run(x, state, lengths)
        return last | ({self.outs[0].name: output} if self._single else output)

    def _sizes(self, values: Mapping[str, Array]) -> tuple[int, int]:
        steps, batch = self._steps, 1
        for part in self._ins:
            shape = values[part.tensor].shape
            steps = shape[part.time] if part.time is not None else steps
            batch = shape[part.batch] if part.batch is not None else batch
        return steps, batch

    def _nothing(self, batch: int) -> dict[str, Array]:
        """The results for sequences without steps."""
        graph = self.network.model.graph()
        shapes = {name: graph.kinds[source] for name, source in graph.outputs.items()}
        made = {
            name: np.zeros((0, batch, kind.width) if kind.timed else (batch, kind.width), graph.dtype)
            for name, kind in shapes.items()
        }
        return made | {key: np.zeros((batch, width), graph.dtype) for key, width in self._zeros.items()}

    def _state(self, values: Mapping[str, Array], batch: int) -> dict[str, Array] | None:
        """The initial states of a call; None if the file gives none."""
        feeds = self.building.feeds
        if not feeds:
            return None
        found: dict[str, Array] = {}
        for feed in feeds:
            array = values[feed.value.name] if isinstance(feed.value, Tensor) else _array(feed.value, batch)
            if feed.way is not None:
                found[feed.keys[0]] = feed.way(array, (batch,))
            for number, key in enumerate(feed.keys if feed.way is None else ()):
                found[key] = array[number] if feed.batch_axis else array[:, number]
        for key, width in self._zeros.items() if len(found) < len(self._zeros) else ():
            if key not in found:
                found[key] = np.zeros((batch, width), self.building.dtype)
        return found

    def _clear(self, values: dict[str, Array], lengths: Array) -> None:
        """Zeros as the last states of rows without steps, as ONNX Runtime gives them."""
        empty = np.flatnonzero(np.asarray(lengths) == 0)
        names = [part.tensor for part in self.outs] + [end.tensor for end in self.ends]
        for name in names if len(empty) else ():
            placed = self.building.placed[name]
            axis = placed.axes.of("B")
            if not placed.timed:
                array = values[name] = values[name].copy()
                array[(slice(None),) * (axis or 0) + (empty if axis is not None else slice(None),)] = 0


@dataclass(frozen=True)
class _In:
    """An input. time, batch: axes of the tensor."""

    name: str
    tensor: str
    convert: Any
    time: int | None
    batch: int | None


@dataclass(frozen=True)
class _Out:
    """An output of the graph. reversed: whether the file has the steps of each row in the other order."""

    name: str
    tensor: str
    convert: Any
    reversed: bool


@dataclass(frozen=True)
class _End:
    """A last state, which a call returns beside its outputs. keys: of each direction."""

    keys: tuple[str, ...]
    tensor: str
    convert: Any


def _ends_apart(building: Building, outputs: Sequence[Tensor]) -> tuple[list[Tensor], dict[Tensor, tuple[str, ...]]]:
    """Tensors that the graph must give, and those that its state gives anyway, with the names of these.

    A graph gives at least one.
    """
    shown: list[Tensor] = []
    ends: dict[Tensor, tuple[str, ...]] = {}
    for tensor in outputs:
        layer, _, state = building.placed[tensor.name].name.rpartition(".")
        spec = building.entries[layer][0] if layer else None
        if isinstance(spec, Spec) and not isinstance(building.entries[layer][-1], dict):
            ends[tensor] = tuple(f"{layer}.{state}_l0{way.suffix}" for way in spec.ways)
        else:
            shown.append(tensor)
    if not shown:
        first = next(iter(ends))
        shown = [first]
        del ends[first]
    return shown, ends


def _array(value: Known | Filled, batch: int) -> Array:
    """A constant initial state's numbers."""
    if isinstance(value, Known):
        return value.array
    return np.full([batch if isinstance(size, Size) else size for size in value.shape], value.number)
