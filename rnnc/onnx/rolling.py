"""A recurrence that an exporter wrote out step by step, as one Scan again.

PyTorch exports a loop over an LSTMCell as one group of nodes per step, all with the same weights:

    Gather(x, 0) -> Gemm, Gemm, Add, Split, Sigmoid, ... -> h0        Scan over x of: Gemm, Gemm, Add, Split, ...
    Gather(x, 1) -> Gemm, Gemm, Add, Split, ... (reads h0) -> h1  ->
    Gather(x, 2) -> ...

No name of a cell is known here. The nodes behind the read of position t, in the order of the file, are the group of
step t. The groups must be the same but for the step: equal operators, attributes and constants, and inputs from the
same places of the same group or of the one before, whose values are the states. Anything else stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rnnc.onnx.file import Node
from rnnc.onnx.ops.table import Given
from rnnc.onnx.parts import op_of
from rnnc.onnx.sizes import Dim, Size, static
from rnnc.onnx.trace import Traced, needed
from rnnc.onnx.values import Filled, Known, Scanned, Step, Tensor, Value

__all__ = ["with_rolled_steps"]

FEWEST_STEPS = 3
"""Groups from which on rolling pays."""

Place = tuple[int, int]
"""A node in its group, and which of its outputs."""


def with_rolled_steps(traced: Traced) -> Traced:
    """The same graph with each recurrence that is written out as a Scan; the graph itself if there is none."""
    for sequence in _sequences(traced):
        groups = _groups(traced.steps, sequence)
        if groups is not None and (states := _states(groups, sequence)) is not None:
            return with_rolled_steps(_rolled(traced, sequence, groups, states))
    return traced


# ---- sequences, and the nodes behind each position


@dataclass(frozen=True, eq=False)
class _Sequence:
    """A tensor all of whose positions along an axis are read one by one. reads: the Gather of each."""

    x: Tensor
    axis: int
    reads: tuple[Step, ...]


def _sequences(traced: Traced) -> list[_Sequence]:
    found: dict[tuple[Tensor, int], dict[int, Step]] = {}
    for step in traced.steps:
        if step.node.op == "Gather" and not step.node.domain and not step.why:
            x, index = step.inputs[:2]
            if isinstance(x, Tensor) and isinstance(index, Known) and not index.shape:
                axis = Given(step.node, step.inputs, traced.opset, lambda t: None).attributes.integer("axis", 0)
                axis, size = axis % len(x.shape), static(x.shape[axis])
                if size is not None:
                    found.setdefault((x, axis), {}).setdefault(int(index.array) % size, step)
    return [
        _Sequence(x, axis, tuple(reads[t] for t in range(len(reads))))
        for (x, axis), reads in found.items()
        if len(reads) == static(x.shape[axis]) and len(reads) >= FEWEST_STEPS
    ]


def _groups(steps: Sequence[Step], sequence: _Sequence) -> list[list[Step]] | None:
    """The nodes of each step; None if there are not as many behind each position.

    Exporters read a position where its step begins: what comes before the next one is read is its group. Behind the
    last step comes what reads the whole; of that, nodes which do the same with a value of each step are in its group.
    """
    order = {read: time for time, read in enumerate(sequence.reads)}
    groups: list[list[Step]] = []
    for step in steps:
        if step in order:
            if order[step] != len(groups):
                return None
            groups.append([])
        elif groups:
            groups[-1].append(step)
    size = len(groups[1])
    rest, groups[-1] = groups[-1][size:], groups[-1][:size]
    if not size or any(len(group) != size for group in groups):
        return None
    _extend(groups, rest)
    return groups


def _extend(groups: list[list[Step]], rest: Sequence[Step]) -> None:
    """Adds nodes that read one value of each step, such as the Unsqueeze of each before a Concat of all."""
    place = 0
    while place < len(groups[0]):
        for family in zip(*(group[place].outputs for group in groups), strict=False):
            readers = [[step for step in rest if step.tensors == (tensor,)] for tensor in family]
            if all(len(found) == 1 for found in readers):
                for group, (reader,) in zip(groups, readers, strict=True):
                    group.append(reader)
        place += 1


# ---- whether the groups are the same but for the step


def _states(groups: Sequence[Sequence[Step]], sequence: _Sequence) -> dict[Place, Value] | None:
    """The place of each state in a group -> its initial value, if the groups are the same but for the step."""
    places = [{t: (k, n) for k, step in enumerate(group) for n, t in enumerate(step.outputs) if t} for group in groups]
    states: dict[Place, Value] = {}
    for time in range(2, len(groups)):
        for one, other in zip(groups[1], groups[time], strict=True):
            if not _alike(one, other):
                return None
            for a, b in zip(one.inputs, other.inputs, strict=True):
                origin = _origin(a, 1, places, sequence)
                if origin is None or origin != _origin(b, time, places, sequence):
                    return None
    for one, other in zip(groups[1], groups[0], strict=True):
        if not _alike(one, other) or not _starts(one, other, places, sequence, states):
            return None
    return states or None


def _alike(one: Step, other: Step) -> bool:
    """Whether two nodes have the same operator, attributes, constants and shapes."""
    a, b = one.node, other.node
    plain = not (one.why or other.why or one.scanned or other.scanned or one.captured or other.captured)
    same = (a.op, a.domain, len(a.inputs), len(a.outputs)) == (b.op, b.domain, len(b.inputs), len(b.outputs))
    return plain and same and _same_attributes(a, b)


def _same_attributes(a: Node, b: Node) -> bool:
    return a.attributes.keys() == b.attributes.keys() and all(
        np.array_equal(x, y) if isinstance(x, np.ndarray) and isinstance(y, np.ndarray) else bool(x is y or x == y)
        for x, y in ((a.attributes[name], b.attributes[name]) for name in a.attributes)
    )


Origin = tuple[object, ...]


def _origin(
    value: Value | None, time: int, places: Sequence[Mapping[Tensor, Place]], sequence: _Sequence
) -> Origin | None:
    """Where a node of group `time` gets an input from, in words that are equal for all groups; None: elsewhere."""
    if not isinstance(value, Tensor):
        return "constant", _ConstantKey(value)
    if value is sequence.reads[time].made[0]:
        return ("x",)
    for back in (0, 1):
        if value in places[time - back]:
            return "group", back, places[time - back][value]
    return None


class _ConstantKey:
    """Compares constants by their numbers."""

    def __init__(self, value: Value | None) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _ConstantKey):
            return False
        a, b = self.value, other.value
        if isinstance(a, Known) and isinstance(b, Known):
            return a is b or (a.dtype == b.dtype and np.array_equal(a.array, b.array))
        if isinstance(a, Filled) and isinstance(b, Filled):
            return bool(a.number == b.number) and _same_shapes(a.shape, b.shape)
        return a is b

    __hash__ = None  # type: ignore[assignment]


def _starts(
    one: Step, other: Step, places: Sequence[Mapping[Tensor, Place]], sequence: _Sequence, states: dict[Place, Value]
) -> bool:
    """Whether a node of the first group differs from that of the second in initial states alone, which are noted."""
    for a, b in zip(one.inputs, other.inputs, strict=True):
        origin = _origin(a, 1, places, sequence)
        if origin is not None and origin[:2] == ("group", 1):
            assert isinstance(a, Tensor)
            place = places[0][a]
            inside = isinstance(b, Tensor) and (b in places[0] or any(b is read.made[0] for read in sequence.reads))
            if b is None or inside or b.dtype != a.dtype or not _same_shapes(b.shape, a.shape):
                return False
            if _ConstantKey(states.setdefault(place, b)) != _ConstantKey(b):
                return False
        elif origin is None or (isinstance(b, Tensor) and b not in places[0] and b is not sequence.reads[0].made[0]):
            return False
        elif origin != _origin(b, 0, places[:1], sequence):
            return False
    return True


def _same_shapes(a: Sequence[Dim], b: Sequence[Dim]) -> bool:
    def same(x: Dim, y: Dim) -> bool:
        if static(x) is not None or static(y) is not None:
            return static(x) == static(y)
        return isinstance(x, Size) and isinstance(y, Size) and x.terms == y.terms

    return len(a) == len(b) and all(map(same, a, b))


# ---- the Scan in their place


def _rolled(
    traced: Traced, sequence: _Sequence, groups: Sequence[Sequence[Step]], starts: Mapping[Place, Value]
) -> Traced:
    """The graph with one Scan in the place of the groups."""
    inside = {step for group in groups for step in group}
    first = traced.steps.index(sequence.reads[0])
    before = list(traced.steps[:first])
    behind = [step for step in traced.steps[first:] if step not in inside]
    others = [*before, *behind]
    scan = _Scan(traced, sequence, groups, starts)
    scan.give(others, {value for value in traced.outputs.values() if isinstance(value, Tensor)})
    step = scan.step()
    tail = _with_shapes([step, *scan.picks, *(s for s in behind if s not in scan.joins)], traced.opset)
    made = {tensor.name: tensor for s in tail for tensor in s.made}
    outputs = {n: made.get(v.name, v) if isinstance(v, Tensor) else v for n, v in traced.outputs.items()}
    notes = [(s.node, f"compiled: a step of {step.node.label}") for group in groups for s in group]
    whole = (*sequence.reads, *scan.joins)
    notes += [(s.node, f"folded: {step.node.label} reads and gives whole sequences") for s in whole]
    kept = needed([*before, *tail], outputs.values())
    return replace(traced, steps=kept, outputs=outputs, notes=[*traced.notes, *notes])


class _Scan:
    """The Scan of some groups. Its body is the second one.

    joins: each Concat of the values of all steps, which the Scan gives. picks: what reads single steps of a result.
    """

    def __init__(
        self, traced: Traced, sequence: _Sequence, groups: Sequence[Sequence[Step]], starts: Mapping[Place, Value]
    ) -> None:
        self.opset, self.sequence, self.groups, self.starts = traced.opset, sequence, groups, starts
        self.joins: list[Step] = []
        self.picks: list[Step] = []
        self.body = list(groups[1])
        self.ends: dict[Place, Tensor] = {}
        self.results: list[tuple[Tensor, Tensor, int]] = []  # of the body, of all steps, its axis of time

    @property
    def steps(self) -> Dim:
        return self.sequence.x.shape[self.sequence.axis]

    def give(self, others: Sequence[Step], outputs: set[Tensor]) -> None:
        """Notes what others read of the groups."""
        for number, step in enumerate(self.groups[1]):
            for place in ((number, n) for n, output in enumerate(step.outputs) if output is not None):
                made = [group[number].outputs[place[1]] for group in self.groups]
                self._family(place, [tensor for tensor in made if tensor is not None], others, outputs)

    def _family(self, place: Place, family: Sequence[Tensor], others: Sequence[Step], outputs: set[Tensor]) -> None:
        """The same value of all steps."""
        for step in others:
            axis = _joined_axis(step, family)
            if axis is not None:
                self.joins.append(step)
                self._join(step.made[0], family[1], axis)
        used = {tensor for step in others if step not in self.joins for tensor in step.tensors} | outputs
        times = [time for time, tensor in enumerate(family) if tensor in used]
        if times and times[-1] == len(family) - 1 and place in self.starts:
            self.ends[place] = family[times.pop()]
        if times:
            whole = Tensor(f"{family[1].name} of all steps", family[1].dtype, (self.steps, *family[1].shape))
            self.results.append((family[1], whole, 0))
            self.picks += [_picked(whole, time, family[time]) for time in times]

    def _join(self, joined: Tensor, one: Tensor, axis: int) -> None:
        """What a Concat gives is a result of the Scan, whose body drops the axis of size 1."""
        shape = one.shape[:axis] + one.shape[axis + 1 :]
        squeezed = Tensor(f"{one.name} squeezed", one.dtype, shape)
        node = Node(squeezed.name, "Squeeze", "", (one.name,), (squeezed.name,), {"axes": (axis,)})
        self.body.append(Step(node, (one,), (squeezed,)))
        dims = (*shape[:axis], self.steps, *shape[axis:])
        self.results.append((squeezed, Tensor(joined.name, joined.dtype, dims), axis))

    def step(self) -> Step:
        """The Scan itself."""
        first, last = self.groups[0][0].node.name, self.groups[-1][-1].node.name
        places = list(self.starts)
        states, nexts = ([_at(self.groups[time], place) for place in places] for time in (0, 1))
        outputs = (*(self.ends.get(place) for place in places), *(whole for _, whole, _ in self.results))
        starts = [self.starts[place] for place in places]
        names = [f"{first}: state {number}" for number in range(len(starts))]
        names = [v.name if isinstance(v, Tensor) else n for v, n in zip(starts, names, strict=True)]
        node = Node(
            f"{first} to {last}",
            "Scan",
            "",
            (*names, self.sequence.x.name),
            tuple("" if output is None else output.name for output in outputs),
        )
        scanned = Scanned(
            steps=tuple(self.body),
            states=tuple(states),
            xs=(self.sequence.reads[1].made[0],),
            nexts=tuple(nexts),
            outputs=tuple(one for one, _, _ in self.results),
            read=(self.sequence.x,),
            axes=(self.sequence.axis,),
            out_axes=tuple(axis for _, _, axis in self.results),
            backward=False,
            turned=(False,) * len(self.results),
            opset=self.opset,
        )
        return Step(node, (*starts, self.sequence.x), outputs, scanned=scanned)


def _at(group: Sequence[Step], place: Place) -> Tensor:
    tensor = group[place[0]].outputs[place[1]]
    assert tensor is not None
    return tensor


def _joined_axis(step: Step, family: Sequence[Tensor]) -> int | None:
    """The axis along which a Concat puts all steps side by side."""
    if step.node.op != "Concat" or step.node.domain or step.why or list(step.inputs) != list(family):
        return None
    axis, rank = step.node.attributes.get("axis", 0), len(family[0].shape)
    if not isinstance(axis, int) or not -rank <= axis < rank:
        return None
    return axis % rank if all(static(tensor.shape[axis]) == 1 for tensor in family) else None


def _picked(whole: Tensor, time: int, tensor: Tensor) -> Step:
    """The step that reads one step of a sequence."""
    name = f"step {time} of {whole.name}"
    node = Node(name, "Gather", "", (whole.name, f"{name}: number"), (tensor.name,), {"axis": 0})
    return Step(node, (whole, Known(np.array(time))), (tensor,))


def _with_shapes(steps: Sequence[Step], opset: int) -> list[Step]:
    """The steps with the axis of time, where they had a plain number that came of counting steps."""
    new: dict[str, Tensor] = {}
    found = []
    for step in steps:
        inputs = tuple(new.get(v.name, v) if isinstance(v, Tensor) else v for v in step.inputs)
        outputs, infer = step.outputs, op_of(step).infer
        if step.scanned is None and infer is not None and inputs != step.inputs:
            results = infer(Given(step.node, inputs, opset, lambda tensor: None))
            made = zip(outputs, results, strict=False)
            outputs = tuple(None if old is None else Tensor(old.name, *result) for old, result in made)
        new |= {tensor.name: tensor for tensor in outputs if tensor is not None}
        found.append(replace(step, inputs=inputs, outputs=outputs))
    return found
