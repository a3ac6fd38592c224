"""What `rnnc.Decoder` refuses, and what it says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import rnnc
from tests.test_decoding import END, START, attending, decoder, encoder, step_network

E = rnnc.Embedding(11, 5)
GOOD: dict[str, Any] = {"start": START, "end": END, "steps": 4}


def graph(outputs: Any = "scores", inputs: Any = None, **layers: Any) -> rnnc.Graph:
    entries = {"table": (E, "last"), "scores": (rnnc.Linear(5, 11), "table")} | layers
    return rnnc.Graph(inputs or {"last": rnnc.NUMBERS}, entries, outputs)


STEPS = [
    ("step: expected a rnnc.Graph or Sequential, got 3", 3),
    ("got the inputs x", rnnc.Graph({"x": 5}, {"scores": (rnnc.Linear(5, 11), "x")}, "scores")),
    ("expected one input", graph(inputs={"last": rnnc.NUMBERS, "x": 5}, scores=(rnnc.Add(), "table", "x"))),
    ("expected one output.*got the outputs scores, table", graph(("scores", "table"))),
    ("expected one output.*got the outputs scores", graph(scores=(rnnc.Last(), "table"))),
    ("step: it cannot choose step by step", graph(scores=(rnnc.GRU(5, 4, bidirectional=True), "table"))),
    ("the scores do not depend on the layer 'gru'", graph(gru=(rnnc.GRU(5, 4), "table"))),
    ("it chooses one of 12 numbers, and reads a table of 11 rows", graph(scores=(rnnc.Linear(5, 12), "table"))),
]


@pytest.mark.parametrize(("message", "step"), STEPS)
def test_a_step_that_cannot_be_decoded(message: str, step: Any) -> None:
    with pytest.raises((rnnc.ArgumentError, rnnc.ArgumentTypeError, rnnc.ShapeError), match=message):
        rnnc.Decoder(step, start=START, end=None, steps=4)


ARGUMENTS = [
    ("start: expected an integer <= 10, got 11", {"start": 11}),
    ("end: expected an integer <= 10, got 11", {"end": 11}),
    ("steps: expected an integer >= 1, got 0", {"steps": 0}),
    ("encoder: expected a Graph, a Sequential or None, got 'gru'", {"encoder": "gru"}),
    ("choice: expected rnnc.Greedy\\(\\), Sample\\(\\) or Beam\\(width\\), got 'beam'", {"choice": "beam"}),
    ("choice: expected .*, got <class", {"choice": rnnc.Greedy}),
    ("states: expected a dict of names of the step to outputs, got \\['gru.h'\\]", {"states": ["gru.h"]}),
    ("states: 'gru' is no \"layer.state\" of the step", {"states": {"gru": "h"}}),
    ("states: 'gru.c' is no state of layer 'gru', which has 'gru.h'", {"states": {"gru.c": "h"}}),
    ("states: 'table.h' is no state of layer 'table', which has none", {"states": {"table.h": "h"}}),
    ("states: 'hh' is no output of the encoder, which has 'h' .did you mean 'h'", {"states": {"gru.h": "hh"}}),
    ("there is no encoder", {"encoder": None}),
    ("states: 'gru.h' starts at one vector of size 6 per sequence; 'h' is one per sequence of size 7",
     {"encoder": encoder(7)}),
    ("encoder: its dtype is 'float64', that of the step is 'float32'", {"encoder": encoder(dtype="float64")}),
    ("encoder: its batch_first is True", {"encoder": encoder(batch_first=True)}),
    ("memory: 'gru' is no layer of the step that reads states of an encoder: none", {"memory": {"gru": "h"}}),
]  # fmt: skip


@pytest.mark.parametrize(("message", "wrong"), ARGUMENTS)
def test_arguments_that_do_not_fit(message: str, wrong: dict[str, Any]) -> None:
    given = GOOD | {"encoder": encoder(), "states": {"gru.h": "h"}} | wrong
    with pytest.raises((rnnc.ArgumentError, rnnc.ArgumentTypeError, rnnc.ShapeError), match=message):
        rnnc.Decoder(step_network(), **given)


@pytest.mark.parametrize(
    ("message", "memory"),
    [
        ("memory: layer 'attend' reads states of an encoder; say which output", {}),
        ("layer 'attend' reads vectors of size 6, one per step; 'h' is one per sequence of size 6", {"attend": "h"}),
        ("memory: 'al' is no output of the encoder", {"attend": "al"}),
    ],
)
def test_a_memory_that_does_not_fit(message: str, memory: dict[str, str]) -> None:
    good = attending()
    with pytest.raises((rnnc.ArgumentError, rnnc.ShapeError), match=message):
        rnnc.Decoder(good.step, encoder=good.encoder, memory=memory, **GOOD)


@pytest.mark.parametrize(
    ("message", "make"),
    [
        ("temperature: expected a number > 0, got 0", lambda: rnnc.Sample(0)),
        ("temperature: expected a number > 0, got nan", lambda: rnnc.Sample(float("nan"))),
        ("top_k: expected an integer >= 1, got 0", lambda: rnnc.Sample(top_k=0)),
        ("width: expected an integer >= 1, got 0", lambda: rnnc.Beam(0)),
        ("width: expected an integer <= 32, got 33", lambda: rnnc.Beam(33)),
        ("length_penalty: expected a number >= 0, got -1", lambda: rnnc.Beam(2, -1)),
        ("Beam needs width", lambda: rnnc.Beam()),  # type: ignore[call-arg]
        ("score: expected 'general' or 'dot', got 'add'", lambda: rnnc.Attention(3, 4, "add")),
        ("score: 'dot' multiplies vectors of one size", lambda: rnnc.Attention(3, 4, "dot")),
    ],
)
def test_choices_and_attention(message: str, make: Any) -> None:
    with pytest.raises((rnnc.ArgumentError, rnnc.ArgumentTypeError), match=message):
        make()


def test_calls() -> None:
    network, alone = decoder(), rnnc.Decoder(step_network(), **GOOD)
    made, single = network.compile(network.init(0)), alone.compile(alone.init(0))
    x = np.zeros((3, 2), int)
    for message, call in {
        "x: expected numbers of rows of the embedding, 0..8": lambda: made(x + 9),
        "batch, last, state: the encoder's x has the rows": lambda: made(x, batch=2),
        "last: expected integers, got float64": lambda: single(last=np.zeros(2)),
        "last: expected one number per row, .B,., got shape .3, 2.": lambda: single(last=x),
        "last: expected numbers of rows of the step's table, 0..10": lambda: single(last=x[0] + 11),
        "batch: last has 2 rows, got 3": lambda: single(last=x[0], batch=3),
        "state: expected None or what an earlier call returned, a dict of 'gru.h_l0'": lambda: single(batch=2, state=3),
        "state.'gru.h_l0'.: expected shape .2, 6.": lambda: single(
            batch=2, state={"gru.h_l0": np.zeros((3, 6), "float32")}
        ),
        "seed: expected an integer >= 0": lambda: made(x, seed=-1),
        "lengths": lambda: made(x, lengths=[4, 1]),
        "the decoder has no encoder that reads them; give batch= or last=": lambda: single(x),
        "batch: expected an integer >= 0, got None": lambda: single(),
        "Decoding takes no argument 'length'": lambda: made(x, length=3),  # type: ignore[call-arg]
    }.items():
        with pytest.raises(rnnc.RnncError, match=message):
            call()
    with pytest.raises(rnnc.ParameterError, match="missing 'encoder.table.weight'"):
        network.compile(alone.init(0))


@pytest.mark.parametrize(
    ("message", "change"),
    [
        ("expected a dict such as Decoder.to_dict", {"type": "Graph"}),
        ("data: 'beams' is no argument of Decoder", {"beams": 3}),
        ("choice: type: expected 'Beam' or 'Greedy' or 'Sample', got 'Best'", {"choice": {"type": "Best"}}),
        ("choice: expected a dict", {"choice": 3}),
    ],
)
def test_plain_data_that_is_no_decoder(message: str, change: dict[str, Any]) -> None:
    with pytest.raises((rnnc.ArgumentError, rnnc.ArgumentTypeError), match=message):
        rnnc.Decoder.from_dict(decoder().to_dict() | change)


class Reader(rnnc.Layer):
    def __init__(self, memory: Any, **shapes: Any) -> None:
        self.size, self.shapes = memory, shapes

    @property
    def memory(self) -> Any:
        return self.size

    def parameter_shapes(self) -> Any:
        return self.shapes


@pytest.mark.parametrize(
    ("message", "layer"),
    [
        ("layer 'read', Reader: memory: expected an integer >= 1, got 0", Reader(0)),
        ("layer 'read', Reader: memory: expected an integer >= 1, got 'h'", Reader("h")),
        ("layer 'read', Reader: 'valid' is what its equations read the states", Reader(3, valid=(4,))),
    ],
)
def test_a_layer_that_declares_its_memory_wrongly(message: str, layer: Reader) -> None:
    with pytest.raises((rnnc.ArgumentError, rnnc.ArgumentTypeError), match=message):
        rnnc.Graph({"x": 4}, {"read": (layer, "x")}, "read")
