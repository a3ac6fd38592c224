"""`rnnc.torch.accelerate`: the recurrent modules of a model replaced by those of rnnc, with the same Parameters."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import nn

from rnnc.checking import checks
from rnnc.ir.errors import ArgumentTypeError, RnncError, RnncWarning
from rnnc.torch.nn import cells, layers
from rnnc.torch.nn.base import Module
from rnnc.torch.nn.engine import dtype_of
from rnnc.torch.nn.places import place_of

__all__ = ["accelerate", "explain"]

OURS: dict[type, Any] = {
    nn.LSTM: layers.LSTM,
    nn.GRU: layers.GRU,
    nn.RNN: layers.RNN,
    nn.LSTMCell: cells.LSTMCell,
    nn.GRUCell: cells.GRUCell,
    nn.RNNCell: cells.RNNCell,
}

ARGUMENTS = (
    "input_size",
    "hidden_size",
    "num_layers",
    "nonlinearity",
    "bias",
    "batch_first",
    "bidirectional",
    "proj_size",
)


class Found(NamedTuple):
    """A recurrent module of a model. path: its name there. why: the reason why it is left as it is; "" if it is not."""

    path: str
    module: Any
    why: str


def accelerate(module: Any) -> Any:
    """The model, in which each nn.LSTM, nn.GRU, nn.RNN and their Cells is replaced by the module of rnnc.torch.

    The new modules have the very Parameters of the old ones, so an optimiser goes on as before, and their hooks. The
    model itself is changed; only if it is such a module itself, another one is returned. Call it before torch.compile.
    Warns, as RnncWarning, of each recurrent module that is left as it is, and says why; `explain` lists all.
    Raises ArgumentTypeError for what is no torch.nn.Module.
    """
    made: dict[int, Any] = {}
    left = []
    for found in _recurrent(module):
        if found.why:
            left.append(f"{found.path or 'the module'}: {found.why}")
        elif not isinstance(found.module, Module):
            made.setdefault(id(found.module), _replacement(found.module))
    if left:
        warnings.warn("accelerate: left as it is: " + "; ".join(left), RnncWarning, stacklevel=2)
    for parent in list(module.modules()):
        for name, child in parent._modules.items():
            parent._modules[name] = made.get(id(child), child)
    return made.get(id(module), module)


def explain(module: Any) -> str:
    """A text with a line for each recurrent module of a model: what runs it, or what `accelerate` does about it.

    Raises ArgumentTypeError for what is no torch.nn.Module.
    """
    lines = []
    for found in _recurrent(module):
        ours = "runs in rnnc" if isinstance(found.module, Module) else "accelerate replaces it"
        lines.append(f"{found.path or 'the module'}: {type(found.module).__name__}: {found.why or ours}\n")
    return "".join(lines) or "no recurrent module\n"


def _recurrent(module: Any) -> Iterator[Found]:
    """The recurrent modules of a model. A shared one comes once."""
    if not isinstance(module, nn.Module):
        raise ArgumentTypeError(f"module: expected a torch.nn.Module, got {checks.came(module)}")
    for path, part in module.named_modules():
        if isinstance(part, Module):
            yield Found(path, part, "")
        elif isinstance(part, (nn.RNNBase, nn.RNNCellBase)) or getattr(part, "original_name", "") in _NAMES:
            yield Found(path, part, _reason(part))


_NAMES = frozenset(kind.__name__ for kind in OURS)


def _reason(part: Any) -> str:
    """Why a module cannot be replaced; an empty text if it can."""
    kind = type(part)
    if kind not in OURS:
        if nn.utils.parametrize.is_parametrized(part):
            return "it is parametrized; accelerate the model first, then parametrize the new module"
        if hasattr(part, "original_name"):
            return "torch.jit has compiled it; accelerate the model first"
        return f"its class {kind.__name__} derives from torch's, and forward() may be its own"
    weights = list(part.parameters())
    devices, dtypes = {str(w.device) for w in weights}, {dtype_of(w) for w in weights}
    if len(devices) > 1:
        return f"its parameters are on several devices: {', '.join(sorted(devices))}"
    for what, values in (("device", {w.device.type for w in weights}), ("dtype", dtypes)):
        if not values.issubset(_RUNS[what]):
            return f"its parameters have {what} {', '.join(sorted(values))}; rnnc.torch runs {', '.join(_RUNS[what])}"
    if missing := place_of(weights[0]).missing():
        return f"its parameters are on {weights[0].device}, and {missing}"
    try:
        made = _made(part)
    except RnncError as error:
        return str(error)
    if set(made._parameters) != set(part._parameters):
        return "its parameters have other names, as by weight_norm; accelerate the model first"
    return ""


_RUNS = {"device": ("cpu", "cuda"), "dtype": ("float32", "float64")}


def _made(part: Any) -> Module:
    """A module of rnnc with the arguments of one of torch.nn, and parameters without memory."""
    options = {name: getattr(part, name) for name in ARGUMENTS if hasattr(part, name)}
    if not isinstance(part, nn.LSTM):
        options.pop("proj_size", None)
    if getattr(part, "num_layers", 1) > 1:  # in one layer it does nothing, as torch has warned
        options["dropout"] = part.dropout
    dtype = next(part.parameters()).dtype
    made: Module = OURS[type(part)](**options, device="meta", dtype=dtype)
    return made


def _replacement(part: Any) -> Module:
    """The module with the parameters, hooks, mode and further attributes of another."""
    made = _made(part)
    own: dict[str, Any] = made.__dict__
    for name, value in vars(part).items():
        kept = name.endswith(("hooks", "hooks_with_kwargs", "hooks_always_called")) or name not in own
        if kept and not name.startswith("_flat") and name not in ("mode", "_all_weights"):
            own[name] = value
    made._parameters.update(part._parameters)
    made.training = part.training
    return made
