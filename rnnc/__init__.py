"""rnnc: a compiler for recurrent networks.

    spec = rnnc.LSTM(128, 256, num_layers=2)
    model = rnnc.compile(spec, spec.init(seed=0))
    output, state = model(x)

`compile` turns a spec into machine code; `Program.ir` shows every stage on the way. New cells are
equations: see `rnnc.cells`. Whole networks: `Sequential`, trained by `rnnc.train.fit`.
"""

from typing import TYPE_CHECKING, Any

from rnnc import cells, initializers
from rnnc.cells import Cell, Parameter
from rnnc.compile import Program, compile
from rnnc.derivatives import hvp, jvp, vjp
from rnnc.ir.errors import (
    ArgumentError,
    ArgumentTypeError,
    BackendError,
    BackendUnavailable,
    CheckpointError,
    DtypeError,
    IRError,
    LengthError,
    NonFiniteError,
    ParameterError,
    RnncError,
    RnncWarning,
    ShapeError,
    SizeError,
)
from rnnc.model import Model
from rnnc.specs import GRU, LSTM, RNN, Recurrent, Spec

if TYPE_CHECKING:
    from rnnc import losses, optimizers, schedules, train
    from rnnc.layers import Dropout, Embedding, Linear, Regularized
    from rnnc.network import Network
    from rnnc.sequential import Sequential

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "ArgumentError",
    "ArgumentTypeError",
    "BackendError",
    "BackendUnavailable",
    "Cell",
    "CheckpointError",
    "Dropout",
    "DtypeError",
    "Embedding",
    "IRError",
    "LengthError",
    "Linear",
    "Model",
    "Network",
    "NonFiniteError",
    "Parameter",
    "ParameterError",
    "Program",
    "Recurrent",
    "Regularized",
    "RnncError",
    "RnncWarning",
    "Sequential",
    "ShapeError",
    "SizeError",
    "Spec",
    "cells",
    "compile",
    "hvp",
    "initializers",
    "jvp",
    "losses",
    "optimizers",
    "schedules",
    "train",
    "vjp",
]

# Imported when they are first asked for: whoever only runs a network does not pay for them.
_LATER = {
    "Dropout": "rnnc.layers",
    "Embedding": "rnnc.layers",
    "Linear": "rnnc.layers",
    "Network": "rnnc.network",
    "Regularized": "rnnc.layers",
    "Sequential": "rnnc.sequential",
    "losses": "",
    "optimizers": "",
    "schedules": "",
    "train": "",
}


def __dir__() -> list[str]:
    return sorted({*__all__, "__version__", *(name for name in globals() if name.startswith("__"))})


def __getattr__(name: str) -> Any:
    import importlib

    if name == "__version__":
        from importlib.metadata import version  # 10 ms, for the few who ask

        return version("rnnc")
    if name not in _LATER:
        raise AttributeError(f"module 'rnnc' has no attribute {name!r}")
    module = importlib.import_module(_LATER[name] or f"rnnc.{name}")
    value = getattr(module, name) if _LATER[name] else module
    globals()[name] = value
    return value
