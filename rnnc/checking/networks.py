"""The arguments of `rnnc.Graph`: their normal form, and the checks that they agree with each other.

Errors name the layer, what came and what was expected.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from graphlib import CycleError, TopologicalSorter
from typing import Any, NamedTuple

from rnnc.cells import Shape
from rnnc.checking import checks
from rnnc.checking.declarations import check_name, check_shapes
from rnnc.ir import names
from rnnc.ir.errors import ArgumentError, ArgumentTypeError, RnncError, ShapeError
from rnnc.layers import Embedding, Layer, Readout, is_layer, recurrent, starts_of
from rnnc.layers.base import EVEN, MOST, Pace
from rnnc.specs import Spec

PAST, PAST_SPAN = "past", "past_span"
"""States of a layer that reads steps before its own: these steps, side by side, and where they lie of a row's span."""
LATE = "late"
"""The beginning of the names of states that delay a value until another one is there."""
BEGUN = "begun"
"""The state that tells whether a row's sequence has begun, of a recurrent layer whose states do not start at zeros."""
MEMORY = "memory"
"""What the name of the states of an encoder that a layer reads ends in."""
NUMBERS = "numbers"
"""Given in place of the width of an input that holds integers, which `rnnc.Embedding` layers read."""


@dataclass(frozen=True)
class Static:
    """Given in place of the width of an input that is one vector per sequence, (B, width): features of a speaker, say.

    Layers read it beside values per step as if it were there at every step, and states may start at it.
    """

    width: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "width", checks.integer("width", self.width, 1))


class Entry(NamedTuple):
    """A layer of a graph.

    shares: the name of the layer whose parameters it uses; usually its own.
    inputs: the names of the values that it reads.
    states: (state, name of its initial value), for each state that does not start at zeros.
    ties: (parameter, full name of the parameter of another layer that is used in its place).
    """

    layer: Layer | Spec
    shares: str
    inputs: tuple[str, ...]
    states: tuple[tuple[str, str], ...] = ()
    ties: tuple[tuple[str, str], ...] = ()

    def parameter(self, base: str) -> str:
        """The full name of the layer's parameter."""
        return dict(self.ties).get(base) or names.in_layer(self.shares, base)

    def reads(self) -> tuple[str, ...]:
        """The names of all values that it reads, including initial states."""
        return (*self.inputs, *(source for _, source in self.states))


class Kind(NamedTuple):
    """The kind of a value: (steps, B, width) if `timed`, else one vector per sequence, (B, width). Width 0: integers.

    paces: those of the layers between the inputs and the value that change the number of steps, in order.
    """

    width: int
    timed: bool
    paces: tuple[Pace, ...] = ()

    @property
    def rate(self) -> Fraction:
        """Steps per step of the inputs, in the long run."""
        return Fraction(math.prod(pace.factor for pace in self.paces), math.prod(pace.stride for pace in self.paces))

    def steps(self, n: Any) -> Any:
        """The number of steps for n steps of the inputs, an integer or an array of them."""
        for pace in self.paces:
            n = pace.steps(n)
        return n


def read_entries(layers: object) -> dict[str, Entry]:
    if not isinstance(layers, Mapping) or not layers:
        raise ArgumentTypeError(f"layers: expected a mapping of names to (layer, *inputs), got {checks.came(layers)}")
    for name in layers:
        _check_name("layers", name)
    return {name: _entry(name, given, layers) for name, given in layers.items()}


def _entry(name: str, given: object, layers: Mapping[str, Any]) -> Entry:
    if not isinstance(given, tuple) or len(given) < 2:
        raise ArgumentTypeError(f"layer {name!r}: expected (layer, *names of what it reads), got {checks.came(given)}")
    first, *sources = given
    further: object = sources.pop() if isinstance(sources[-1], Mapping) else {}
    layer, shares = first, name
    if isinstance(first, str):
        other = layers.get(first)
        if not isinstance(other, tuple) or not other or not is_layer(other[0]):
            raise ArgumentError(f"layer {name!r}: it shares the layer {first!r}, which holds none of its own")
        layer, shares = other[0], first
    if not is_layer(layer):
        hint = "; call it to make one" if isinstance(layer, type) else ""
        raise ArgumentTypeError(f"layer {name!r}: expected a layer or a recurrent spec, got {checks.came(layer)}{hint}")
    for source in sources:
        if not isinstance(source, str):
            raise ArgumentTypeError(f"layer {name!r}: it reads names, got {checks.came(source)}")
    wanted = 1 if isinstance(layer, Spec) else layer.inputs
    if len(sources) != wanted and (wanted is not None or not sources):
        raise ArgumentError(f"layer {name!r}: {_type(layer)} reads {wanted or 'some'} values, got {len(sources)}")
    states, ties = _states_and_ties(name, layer, further)
    if shares != name:
        if ties:
            what = f"its parameters are those of {shares!r}; tie {ties[0][0]!r} there"
            raise ArgumentError(f"layer {name!r}: {what}")
        ties = _entry(shares, layers[shares], layers).ties
    return Entry(layer, shares, tuple(sources), states, ties)


Pairs = tuple[tuple[str, str], ...]


def _states_and_ties(name: str, layer: Layer | Spec, given: object) -> tuple[Pairs, Pairs]:
    """The dict at the end of an entry: what states start at, and which parameters are another layer's."""
    assert isinstance(given, Mapping)
    spec = recurrent(layer)
    states = spec.states if spec else {}
    parameters = layer.parameter_shapes()
    if starts_of(layer) and (started := [key for key in given if key in states]):
        raise ArgumentError(f"layer {name!r}: it learns where its states start; leave out {checks.shown(started[0])}")
    for key, source in given.items():
        if key not in states and key not in parameters:
            known = ", ".join(states) or "no states that can be set"
            what = f"{checks.shown(key)} is no state and no parameter of {_type(layer)}"
            held = ", ".join(parameters) or "no parameters"
            raise ArgumentError(f"layer {name!r}: {what}; it has {known}, and {held}")
        if not isinstance(source, str):
            what = "starts at" if key in states else "is tied to"
            raise ArgumentTypeError(f"layer {name!r}: {key!r} {what} {checks.came(source)}; expected a name")
    pairs = tuple(given.items())
    return tuple(p for p in pairs if p[0] in states), tuple(p for p in pairs if p[0] not in states)


def check_ties(entries: Mapping[str, Entry]) -> None:
    """Raises ArgumentError or ShapeError unless ties name parameters of other layers, of the same shape."""
    shapes = own_parameters(entries)
    for name, entry in entries.items():
        mine = entry.layer.parameter_shapes()
        for base, other in entry.ties:
            if other not in shapes:
                hint = checks.suggestion(other, shapes)
                what = f"{checks.shown(other)} is no parameter that a layer holds itself{hint}"
                raise ArgumentError(f"layer {name!r}: {base!r} is tied to a parameter, and {what}")
            if tuple(shapes[other]) != tuple(mine[base]):
                what = f"{base!r} has shape {tuple(mine[base])}, {other!r} has {tuple(shapes[other])}"
                raise ShapeError(f"layer {name!r}: {what}; tied parameters are one array")


def own_parameters(entries: Mapping[str, Entry]) -> dict[str, Shape]:
    """The shapes of all parameters by their full names: of each layer those that are not another's."""
    return {
        entry.parameter(base): tuple(shape)
        for name, entry in entries.items()
        if entry.shares == name
        for base, shape in entry.layer.parameter_shapes().items()
        if base not in dict(entry.ties)
    }


def read_inputs(inputs: object, entries: Mapping[str, Entry]) -> tuple[dict[str, int], frozenset[str]]:
    """The widths of the inputs, and the names of those that are one vector per sequence."""
    if not isinstance(inputs, Mapping) or not inputs:
        raise ArgumentTypeError(f"inputs: expected a mapping of names to widths, got {checks.came(inputs)}")
    found, static = {}, frozenset(name for name, width in inputs.items() if isinstance(width, Static))
    if len(static) == len(inputs):
        raise ArgumentError("inputs: expected one with values per step, besides those per sequence")
    for name, width in inputs.items():
        _check_name("inputs", name)
        if name in entries:
            raise ArgumentError(f"layers: {name!r} is the name of an input, too")
        width = width.width if isinstance(width, Static) else width
        found[name] = 0 if width == NUMBERS else checks.integer(f"inputs[{name!r}]", width, 1)
    return found, static


def read_outputs(outputs: object) -> dict[str, str]:
    if isinstance(outputs, str):
        return {outputs: outputs}
    if not isinstance(outputs, Mapping):
        if not isinstance(outputs, Iterable):
            raise ArgumentTypeError(f"outputs: expected names of layers, got {checks.came(outputs)}")
        listed = list(outputs)
        outputs = {name: name for name in listed if isinstance(name, str)}
        if len(outputs) != len(listed):
            raise ArgumentError(f"outputs: expected different names of layers, got {checks.shown(listed)}")
    if not outputs or not all(isinstance(part, str) for pair in outputs.items() for part in pair):
        raise ArgumentTypeError(f"outputs: expected at least one name of a layer, got {checks.came(outputs)}")
    return dict(outputs)


def _check_name(what: str, name: object) -> None:
    """Raises ArgumentError unless a name is identifiers or numbers joined by dots.

    So every derived name shows what it is derived from (`rnnc.ir.names`).
    """
    parts = name.split(".") if isinstance(name, str) else [""]
    if not all(part.isidentifier() or part.isdecimal() for part in parts):
        raise ArgumentError(f"{what}: {checks.shown(name)} is no name; expected identifiers, which dots may join")


# ---- how layers fit together


def in_order(inputs: Mapping[str, int], entries: Mapping[str, Entry]) -> dict[str, Entry]:
    """The entries, each after those that it reads, otherwise in the order in which they were written.

    Raises ArgumentError for an unknown name, and for a cycle.
    """
    known = {*inputs, *entries}
    _check_apart(entries, known)
    reads = {name: [_owner(name, source, entries, known) for source in e.reads()] for name, e in entries.items()}
    sorter = TopologicalSorter({name: [s for s in sources if s in entries] for name, sources in reads.items()})
    try:
        sorter.prepare()
    except CycleError as error:
        cycle = " -> ".join(reversed(error.args[1]))
        raise ArgumentError(f"layers: {cycle} is a cycle; a layer cannot wait for itself within a step") from None
    position = {name: number for number, name in enumerate(entries)}
    ready = sorted(sorter.get_ready(), key=position.__getitem__)
    found: dict[str, Entry] = {}
    while ready:
        name = ready.pop(0)
        found[name] = entries[name]
        sorter.done(name)
        ready = sorted([*ready, *sorter.get_ready()], key=position.__getitem__)
    return found


def _check_apart(entries: Mapping[str, Entry], known: Collection[str]) -> None:
    """Raises ArgumentError if a name stands for a layer and for the last values of another one's state."""
    for name, entry in entries.items():
        spec = recurrent(entry.layer)
        for state in spec.states if spec else ():
            if f"{name}.{state}" in known:
                what = f"the last values of the state {state!r} of layer {name!r}"
                raise ArgumentError(f"layers: '{name}.{state}' is the name of {what}; give it another name")


def _owner(name: str, source: str, entries: Mapping[str, Entry], known: Collection[str]) -> str:
    """The input or layer whose value the name `source`, which a layer reads, stands for."""
    if source in known:
        return source
    layer, _, state = source.rpartition(".")
    spec = recurrent(entries[layer].layer) if layer in entries else None
    if spec is None or state not in spec.states:
        raise ArgumentError(f"layer {name!r}: {unknown(source, known)}")
    return layer


def unknown(source: object, known: Iterable[str]) -> str:
    hint = checks.suggestion(source, known) if isinstance(source, str) else ""
    return f"{checks.shown(source)} is no input and no layer{hint}"


def kind_of(name: str, entry: Entry, known: Mapping[str, Kind]) -> Kind:
    """The kind of a layer's output. Raises an error that names the layer if it cannot read the kinds of its inputs."""
    kinds = [known[source] for source in entry.inputs]
    layer, widths = entry.layer, tuple(kind.width for kind in kinds)
    timed = any(kind.timed for kind in kinds)
    who = f"layer {name!r}"
    paces = _common_paces(who, {source: known[source] for source in entry.inputs})
    if isinstance(layer, Embedding):
        if widths != (0,) or entry.inputs[0] not in known:
            raise ArgumentError(f"{who}: an Embedding reads an input declared as {NUMBERS!r}, got {entry.inputs[0]!r}")
    elif 0 in widths:
        numbers = entry.inputs[widths.index(0)]
        raise ArgumentError(f"{who}: {numbers!r} holds integers, which only an Embedding reads")
    if not timed and _over_time(layer):
        raise ArgumentError(f"{who}: {_type(layer)} reads values per step; {entry.inputs[0]!r} is one per sequence")
    if (wanted := width_of(layer)) not in (None, widths[0]):
        raise ShapeError(f"{who}: {_type(layer)} takes vectors of size {wanted}, got size {widths[0]}")
    if spec := recurrent(layer):
        _check_starts(who, spec, entry, known)
        return Kind(spec.output_size, True, paces)
    assert isinstance(layer, Layer)
    try:
        width = layer.output_width(*widths)
    except RnncError as error:
        raise type(error)(f"{who}: {error}") from None
    _check_declared(f"{who}, {_type(layer)}", layer, width, widths)
    if not timed or isinstance(layer, Readout):
        return Kind(width, False)
    return Kind(width, True, paces if layer.pace == EVEN else (*paces, layer.pace))


def _over_time(layer: Layer | Spec) -> bool:
    """Whether a layer needs values per step."""
    if recurrent(layer) or isinstance(layer, Readout):
        return True
    assert isinstance(layer, Layer)
    return layer.window != (0, 0) or layer.pace != EVEN or layer.sees_padding


def _common_paces(who: str, kinds: Mapping[str, Kind]) -> tuple[Pace, ...]:
    """The paces of what a layer reads, which have as many steps for each of x. Raises ShapeError if they have not."""
    timed = {source: kind for source, kind in kinds.items() if kind.timed}
    first = next(iter(timed), None)
    if len({kind.rate for kind in timed.values()}) > 1:
        rates = ", ".join(f"{name!r}: {kind.rate}" for name, kind in timed.items())
        raise ShapeError(f"{who}: it reads values with different numbers of steps per step of the input, {rates}")
    return timed[first].paces if first is not None else ()


def _check_declared(who: str, layer: Layer, width: object, widths: tuple[int, ...]) -> None:
    """Raises ArgumentError or ArgumentTypeError if what a layer declares of itself is unusable."""
    checks.integer(f"{who}: output_width", width, 1)
    shapes, states, noise = layer.parameter_shapes(), layer.states(*widths), layer.noise(*widths)
    check_shapes(who, shapes, 3)
    for state, size in states.items():
        check_name(who, state)
        checks.integer(f"{who}: the width of state {state}", size, 1)
    for name in noise:
        check_name(who, name)
        if name in shapes:
            raise ArgumentError(f"{who}: {name!r} is the name of a parameter and of its noise")
    if layer.memory is not None:
        checks.integer(f"{who}: memory", layer.memory, 1)
        if taken := {"memory", "valid"} & {*shapes, *noise}:
            raise ArgumentError(f"{who}: {min(taken)!r} is what its equations read the states of an encoder as, too")
    before, after = (checks.integer(f"{who}: window", steps, 0) for steps in layer.window)
    for state in states:
        if state in (PAST, PAST_SPAN) or state.partition("_")[0] == LATE:
            raise ArgumentError(f"{who}: {state!r} is a state that a window or delay keeps; give its own another name")
    if before + after and layer.inputs != 1:
        raise ArgumentError(f"{who}: it has a window, and so reads one value, but its `inputs` is {layer.inputs}")
    _check_pace(who, layer)


def _check_pace(who: str, layer: Layer) -> None:
    pace = layer.pace
    if not isinstance(pace, Pace):
        raise ArgumentTypeError(f"{who}: expected a rnnc.Pace as its pace, got {checks.came(pace)}")
    for name, number, least in zip(pace._fields, pace, (1, 1, -MOST, -MOST), strict=True):
        checks.integer(f"{who}: pace.{name}", number, least, MOST)
    if pace != EVEN and layer.inputs != 1:
        raise ArgumentError(f"{who}: its pace is that of one value, but its `inputs` is {layer.inputs}")
    if isinstance(layer, Readout) and pace != EVEN:
        raise ArgumentError(f"{who}: a readout gives no steps, but its pace is {pace}")


def _check_starts(who: str, spec: Spec, entry: Entry, known: Mapping[str, Kind]) -> None:
    for state, source in entry.states:
        wanted = Kind(spec.num_layers * spec.num_directions * spec.states[state], False)
        if known[source] != wanted:
            came = known[source]
            raise ShapeError(
                f"{who}: state {state!r} starts at one vector of size {wanted.width} per sequence; {source!r} is "
                f"{'one per step' if came.timed else 'one per sequence'} of size {came.width}"
            )


def width_of(layer: Layer | Spec) -> int | None:
    """The width that a layer declares for its input; None if it takes any."""
    spec = recurrent(layer)
    return spec.input_size if spec else layer.width  # type: ignore[union-attr]


def agreed(entries: Mapping[str, Entry], option: str, given: object) -> Any:
    """The value of an option that all recurrent layers share, or the one that is given.

    Raises ArgumentError if two of them differ.
    """
    found: tuple[str, object] | None = None if given is None else ("Graph", given)
    for name, entry in entries.items():
        if spec := recurrent(entry.layer):
            value = getattr(spec, option)
            found = found or (name, value)
            if value != found[1]:
                other = f"that of {found[0]!r} is {found[1]!r}; they must be the same"
                raise ArgumentError(f"layer {name!r}: {option} is {value!r}, {other}")
    default = {"dtype": "float32", "batch_first": False}[option]
    return found[1] if found else default


def _type(layer: Layer | Spec) -> str:
    return type(recurrent(layer) or layer).__name__
