"""The kinds of networks of the matrix: cells, layers, convolutions, ragged batches, narrow weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import rnnc
from benchmarks.exported.programs import Given
from rnnc.backends.llvm.portable.interface import CInterface
from tests import user_cells

Array = Any
FRAMES, BATCH = 7, 4


@dataclass(frozen=True)
class Case:
    """A network. made: binds it, with options of `compile`. lengths: of a ragged batch. narrow: its weights are."""

    group: str
    name: str
    made: Callable[..., Any]
    lengths: tuple[int, ...] | None = None
    narrow: bool = False

    @property
    def oracle(self) -> Any:
        """Who says what is right: the reference backend, or for narrow weights this machine's code."""
        return self.made() if self.narrow else self.made(backend="reference")


def _spec(spec: Any, **bound: Any) -> Callable[..., Any]:
    return lambda **options: rnnc.compile(spec, spec.init(seed=1), **bound, **options)


def _layers(*layers: Any, **bound: Any) -> Callable[..., Any]:
    model = rnnc.Sequential(*layers)
    return lambda **options: model.compile(model.init(seed=1), **bound, **options)


_RELU = rnnc.Activation("relu")
RAGGED = (3, 7, 0, 5)

CASES = (
    Case("cells", "RNN 6", _spec(rnnc.RNN(4, 6))),
    Case("cells", "GRU 17", _spec(rnnc.GRU(3, 17))),
    Case("cells", "LSTM 32", _spec(rnnc.LSTM(5, 32))),
    Case("cells", "LSTM 9, float64", _spec(rnnc.LSTM(3, 9, dtype="float64"))),
    Case("cells", "peephole LSTM 11", _spec(rnnc.Recurrent(user_cells.PeepholeLSTM(), 4, 11))),
    Case("cells", "layer-norm LSTM 21", _spec(rnnc.Recurrent(user_cells.LayerNormLSTM(), 4, 21))),
    Case("layers", "LSTM 17, two layers", _spec(rnnc.LSTM(5, 17, 2))),
    Case("layers", "embedding, GRU, linear", _layers(rnnc.Embedding(11, 6), rnnc.GRU(6, 8), rnnc.Linear(8, 11))),
    Case("layers", "LSTM 7, both directions", _spec(rnnc.LSTM(4, 7, bidirectional=True))),
    Case("layers", "GRU 5, both, batch first", _spec(rnnc.GRU(4, 5, bidirectional=True, batch_first=True))),
    Case("conv", "conv of 5 taps, GRU", _layers(rnnc.Conv1d(3, 8, 5), _RELU, rnnc.GRU(8, 7), rnnc.Linear(7, 2))),
    Case("conv", "conv that looks ahead, LSTM", _layers(rnnc.Conv1d(3, 4, 3, padding="same"), rnnc.LSTM(4, 5))),
    Case("conv", "conv of stride 2, GRU", _layers(rnnc.Conv1d(3, 8, 4, stride=2), _RELU, rnnc.GRU(8, 7))),
    Case("ragged", "LSTM 7, both directions", _spec(rnnc.LSTM(4, 7, bidirectional=True)), RAGGED),
    Case("ragged", "GRU 5, both, two layers", _spec(rnnc.GRU(4, 5, 2, bidirectional=True)), RAGGED),
    Case("narrow", "GRU 32, int8", _spec(rnnc.GRU(16, 32), weights="int8"), narrow=True),
    Case("narrow", "LSTM 24, bfloat16", _spec(rnnc.LSTM(8, 24), weights="bfloat16"), narrow=True),
)


def given_to(case: Case, api: CInterface) -> Given:
    """Random arguments of a network with one input."""
    (port,), rng = api.inputs, np.random.default_rng(8)
    lead = (FRAMES,) if api.streams else (BATCH, FRAMES) if api.batch_first else (FRAMES, BATCH)
    shape = (*lead, port.width)
    x = rng.integers(0, port.rows, shape) if port.rows else rng.standard_normal(shape)
    return Given((x.astype(port.dtype),), case.lengths)


def expected(oracle: Any, api: CInterface, given: Given) -> Array:
    """What a network gives: (frames, widths of the outputs), or the output of whole sequences."""
    (x,) = given.inputs
    if not api.streams:
        ends = None if given.lengths is None else np.array(given.lengths)
        return oracle(x[..., 0] if api.inputs[0].rows else x, lengths=ends)[0]
    frames = len(x)
    rows = x if api.inputs[0].rows else x.reshape(frames * api.frame, 1, -1)
    output, _ = oracle.advance(rows)
    if isinstance(output, dict):
        output = np.concatenate(list(output.values()), axis=-1)
    return output.reshape(frames, -1)
