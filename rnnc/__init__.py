"""rnnc: a compiler for recurrent networks.

    spec = rnnc.LSTM(128, 256, num_layers=2)
    model = rnnc.compile(spec, spec.init(seed=0))
    output, state = model(x)

`compile` turns a spec into machine code; `Program.ir` shows every stage on the way. New cells are
equations: see `rnnc.cells`.
"""

from rnnc import cells
from rnnc.cells import Cell
from rnnc.compile import Program, compile
from rnnc.derivatives import hvp, jvp, vjp
from rnnc.ir.errors import (
    ArgumentError,
    ArgumentTypeError,
    BackendError,
    BackendUnavailable,
    DtypeError,
    IRError,
    LengthError,
    ParameterError,
    RnncError,
    ShapeError,
)
from rnnc.model import Model
from rnnc.specs import GRU, LSTM, RNN, Recurrent, Spec

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "ArgumentError",
    "ArgumentTypeError",
    "BackendError",
    "BackendUnavailable",
    "Cell",
    "DtypeError",
    "IRError",
    "LengthError",
    "Model",
    "ParameterError",
    "Program",
    "Recurrent",
    "RnncError",
    "ShapeError",
    "Spec",
    "cells",
    "compile",
    "hvp",
    "jvp",
    "vjp",
]


def __getattr__(name: str) -> str:
    if name == "__version__":
        from importlib.metadata import version  # 10 ms, for the few who ask

        return version("rnnc")
    raise AttributeError(f"module 'rnnc' has no attribute {name!r}")
