"""The arguments of `rnnc.Decoder`: the checks that its networks fit each other. Errors name the argument."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rnnc.checking import checks
from rnnc.checking.arrays import as_array
from rnnc.checking.networks import NUMBERS, Kind, unknown
from rnnc.ir.errors import ArgumentError, ArgumentTypeError, ShapeError
from rnnc.layers import Layer, recurrent, starts_of

if TYPE_CHECKING:
    from rnnc.backends.arrays import Array, ArrayLibrary
    from rnnc.decoding.choices import Choice
    from rnnc.graph import Graph

MOST_CANDIDATES = 1 << 24
"""The most scores of a row, over all hypotheses: their numbers are exact in float32."""


def check_step(step: object) -> int:
    """The width of the scores of the network of a step. Raises ArgumentError or ArgumentTypeError."""
    from rnnc.graph import Graph

    if not isinstance(step, Graph):
        raise ArgumentTypeError(f"step: expected a rnnc.Graph or Sequential, got {checks.came(step)}")
    numbers = [name for name, width in step.inputs.items() if not width]
    others = [name for name, width in step.inputs.items() if width]
    if len(numbers) != 1 or others:
        came = ", ".join(step.inputs)
        raise ArgumentError(f"step: expected one input, {NUMBERS!r}: the number chosen last; got the inputs {came}")
    if numbers[0] not in {source for source, _ in step.tables.values()}:
        raise ArgumentError(f"step: no Embedding reads its input {numbers[0]!r}")
    if len(step.outputs) != 1 or not step.kinds[next(iter(step.outputs.values()))].timed:
        came = ", ".join(step.outputs)
        raise ArgumentError(f"step: expected one output, the scores of each step; got the outputs {came}")
    (scores,) = step.outputs.values()
    if not step.causal:
        raise ArgumentError(
            "step: it cannot choose step by step; expected layers of one direction, none of which looks ahead or "
            "reads a value per sequence"
        )
    if learned := [name for name in step.entries if starts_of(step.entries[name].layer)]:
        hint = "give its spec, and start it with states= at an output of the encoder"
        raise ArgumentError(f"step: layer {learned[0]!r} learns where its states start, which a decoder says; {hint}")
    if unread := [name for name in step.entries if name not in _needed(step, scores)]:
        raise ArgumentError(f"step: the scores do not depend on the layer {unread[0]!r}; leave it out")
    return step.kinds[scores].width


def _needed(step: Graph, scores: str) -> set[str]:
    """The layers and inputs that the scores depend on."""
    found, todo = set[str](), [scores]
    while todo:
        if (name := todo.pop()) not in found:
            found.add(name)
            todo += step.entries[name].reads() if name in step.entries else ()
    return found


def check_agree(step: Graph, encoder: Graph | None, rows: int, scores: int) -> None:
    """Raises an error unless each number that can be chosen has a row, and both networks have one dtype and layout."""
    if scores > rows:
        raise ShapeError(f"step: it chooses one of {scores} numbers, and reads a table of {rows} rows")
    for option in ("dtype", "batch_first"):
        values = getattr(step, option), getattr(encoder, option, getattr(step, option))
        if values[0] != values[1]:
            raise ArgumentError(f"encoder: its {option} is {values[1]!r}, that of the step is {values[0]!r}")


def read_names(what: str, given: object) -> dict[str, str]:
    """A mapping of names to names."""
    if not isinstance(given, Mapping) or not all(isinstance(part, str) for pair in given.items() for part in pair):
        raise ArgumentTypeError(f"{what}: expected a dict of names of the step to outputs, got {checks.came(given)}")
    return dict(given)


def read_choice(choice: object, scores: int) -> Choice:
    """The choice, if there are not too many candidates."""
    from rnnc.decoding.choices import Choice

    if not isinstance(choice, Choice):
        raise ArgumentTypeError(f"choice: expected rnnc.Greedy(), Sample() or Beam(width), got {checks.came(choice)}")
    if choice.hypotheses * scores > MOST_CANDIDATES:
        raise ArgumentError(f"choice: {choice.hypotheses} * {scores} scores per row; at most 2^24 can be compared")
    return choice


def check_states(step: Graph, encoder: Graph | None, states: Mapping[str, str]) -> None:
    """Raises an error unless each state is one of a recurrent layer, and starts at an output of its width."""
    for name, output in states.items():
        wanted = Kind(_state_width(step, name), False)
        came = encoder_output("states", encoder, output)
        if came != wanted:
            kind = "per step" if came.timed else "per sequence"
            raise ShapeError(
                f"states: {name!r} starts at one vector of size {wanted.width} per sequence; {output!r} is one {kind} "
                f"of size {came.width}"
            )


def check_memory(step: Graph, encoder: Graph | None, memory: Mapping[str, str]) -> None:
    """Raises an error unless each layer that reads states of an encoder is given some of its width, and no other."""
    wanted = {name: entry.layer.memory for name, entry in step.entries.items() if isinstance(entry.layer, Layer)}
    for name in memory:
        if wanted.get(name) is None:
            reading = ", ".join(repr(n) for n, width in wanted.items() if width is not None) or "none"
            raise ArgumentError(f"memory: {name!r} is no layer of the step that reads states of an encoder: {reading}")
    for name, width in wanted.items():
        if width is None:
            continue
        if name not in memory:
            raise ArgumentError(f"memory: layer {name!r} reads states of an encoder; say which output")
        came = encoder_output("memory", encoder, memory[name])
        if came != Kind(width, True):
            kind = "per step" if came.timed else "per sequence"
            raise ShapeError(
                f"memory: layer {name!r} reads vectors of size {width}, one per step; {memory[name]!r} is one {kind} "
                f"of size {came.width}"
            )


def encoder_output(what: str, encoder: Graph | None, output: str) -> Kind:
    """The kind of an encoder's output."""
    if encoder is None:
        raise ArgumentError(f"{what}: {output!r} is an output of an encoder, and there is no encoder")
    if output not in encoder.outputs:
        hint = checks.suggestion(output, encoder.outputs)
        known = ", ".join(map(repr, encoder.outputs))
        raise ArgumentError(f"{what}: {output!r} is no output of the encoder, which has {known}{hint}")
    return encoder.kinds[encoder.outputs[output]]


def _state_width(step: Graph, name: str) -> int:
    """The width of "layer.state", all layers side by side."""
    layer, _, state = name.rpartition(".")
    if layer not in step.entries:
        raise ArgumentError(f'states: {name!r} is no "layer.state" of the step; {unknown(layer, step.entries)}')
    spec = recurrent(step.entries[layer].layer)
    if spec is None or state not in spec.states:
        known = ", ".join(repr(f"{layer}.{s}") for s in spec.states) if spec else "none that can be set"
        raise ArgumentError(f"states: {name!r} is no state of layer {layer!r}, which has {known}")
    return spec.num_layers * spec.num_directions * spec.states[state]


def check_last(last: object, rows: int, arrays: ArrayLibrary) -> Array:
    """The numbers (B,) that the first step of each row reads, each in 0..rows-1; on a device they are clipped."""
    array = arrays.aligned("last", as_array("last", last, arrays))
    if array.dtype.kind not in "iu":
        raise ArgumentTypeError(f"last: expected integers, got {array.dtype}")
    if array.ndim != 1:
        raise ShapeError(f"last: expected one number per row, (B,), got shape {array.shape}")
    if not arrays.on_host:
        return array.clip(0, rows - 1)
    if array.size and not (0 <= int(array.min()) and int(array.max()) < rows):
        raise ArgumentError(f"last: expected numbers of rows of the step's table, 0..{rows - 1}")
    return array
