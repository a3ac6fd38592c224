"""Subject: specs of any cell, options, shapes, lengths and dtype; results and all derivatives against the oracle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import rnnc
from rnnc import GRU, LSTM, RNN, Recurrent
from tests.fuzz.agreement import MODES, Data, check_agreement, draw_data, draw_modes
from tests.fuzz.faults import Tally
from tests.fuzz.source import Source
from tests.user_cells import (
    ElmanNetwork,
    FastAndSlow,
    IndependentRNN,
    LayerNormLSTM,
    MinimalGatedUnit,
    NestedLSTM,
    PeepholeLSTM,
    SimpleRecurrentUnit,
)

CELLS = (
    MinimalGatedUnit, IndependentRNN, ElmanNetwork, FastAndSlow, SimpleRecurrentUnit, PeepholeLSTM, LayerNormLSTM,
    NestedLSTM,
)  # fmt: skip

__all__ = ["Case", "Data", "GRU", "LSTM", "RNN", "Recurrent", *(cell.__name__ for cell in CELLS)]

SIZES = (1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 15, 16, 17, 23, 31, 32, 33, 40, 50)


@dataclass(frozen=True)
class Case:
    """A spec, and calls of it."""

    spec: rnnc.Spec
    calls: tuple[Data, ...]
    modes: tuple[str, ...] = MODES
    threads: int | None = 1


def draw(source: Source) -> Case:
    spec = draw_spec(source)
    calls = tuple(source.many(lambda: draw_data(source), 1, 4, more=50))
    return Case(spec, calls, draw_modes(source), 2 if source.chance(15) else 1)


def draw_spec(source: Source) -> Any:
    """One layer mostly: several take long to compile."""
    options: dict[str, Any] = {
        "num_layers": source.pick((1,) * 16 + (2,) * 3 + (3,)),
        "bias": not source.chance(25),
        "batch_first": source.chance(25),
        "bidirectional": source.chance(12),
        "dtype": "float64" if source.chance(40) else "float32",
    }
    sizes = source.pick(SIZES), source.pick(SIZES)
    match source.pick(("RNN", "GRU", "LSTM", "GRU before", "LSTM projected", "user")):
        case "RNN":
            return RNN(*sizes, nonlinearity="relu" if source.chance(50) else "tanh", **options)
        case "GRU":
            return GRU(*sizes, **options)
        case "GRU before":
            return GRU(*sizes, reset_after=False, **options)
        case "LSTM":
            return LSTM(*sizes, **options)
        case "LSTM projected":
            return LSTM(*sizes, proj_size=source.below(sizes[1]), **options)
    return Recurrent(source.pick(CELLS)(), *sizes, **options)


def check(case: Case, tally: Tally) -> None:
    check_agreement(case.spec, case.calls, tally, case.modes, case.threads)
