"""Recurrent modules of torch.nn, and their cells, as specs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.ir.errors import TorchError
from rnnc.specs import GRU, LSTM, RNN, Spec
from rnnc.torch.traced import BATCH, STEPS, WIDTH, Argument, Opaque, Result, TracedTensor, Weight, ZeroTensor

if TYPE_CHECKING:
    from rnnc.torch.reading import Reader

__all__ = ["cell", "recurrent_layer"]


def recurrent_layer(r: Reader, m: Any, x: Any, hx: Any = None) -> Result:
    """A call of RNN, GRU or LSTM: (output, h), or (output, (h, c))."""
    value = r.tensor(x)
    axes = (BATCH, STEPS, WIDTH) if m.batch_first else (STEPS, BATCH, WIDTH)
    if not value.packed and value.axes != axes:
        raise TorchError(f"it reads ({', '.join(axes)}), as batch_first={m.batch_first}; {value} came")
    spec = _layers(r, m)
    weights = r.weights(m, spec)
    starts = _starts(r, spec, hx)
    made = r.apply(spec, (value,), value, weights, starts=starts)
    states = tuple(_last_values(made.source, state, width, spec) for state, width in spec.states.items())
    return Result((made, states[0] if len(states) == 1 else states))


def cell(r: Reader, m: Any, x: Any, hx: Any = None) -> Any:
    """A call of a cell, in a forward() that is one step of the network: h, or (h, c)."""
    value = r.tensor(x)
    if not r.guess.step or value.axes != (BATCH, WIDTH) or not value.timed:
        raise TorchError(
            f"a cell is read in a forward() that is one step: it takes (B, N) and, as arguments, states; {value} came. "
            "For whole sequences use the module of its name without Cell"
        )
    mode = type(m).__name__.removesuffix("Cell")
    if mode == "RNN":
        mode = f"RNN_{m.nonlinearity.upper()}"
    spec = _spec(r, m, mode, 1, {"bias": m.bias})
    if any(isinstance(state, TracedTensor) for state in _listed(hx)):
        raise TorchError("its state is computed in forward(); expected an argument of forward(), zeros or none")
    _starts(r, spec, hx)
    made = r.apply(spec, (value,), value, r.weights(m, spec, "_l0"))
    last = [_last_values(made.source, state, width, spec) for state, width in spec.states.items()]
    others = [Opaque(f"{state.source}, which is known behind the last step,", state.taken(0, 0)) for state in last[1:]]
    return Result((made, *others)) if others else made


def _layers(r: Reader, m: Any) -> Spec:
    """The spec of a module of whole sequences. Those of rnnc.torch have one."""
    dropout = m.dropout if m.num_layers > 1 else 0.0  # torch's does nothing in one layer
    if hasattr(m, "spec"):
        dtype = r.parts.check_dtype(Weight(f"{r.path}.{m._names[0]}", m.weights()[0]))
        return replace(m.spec, dropout=dropout, batch_first=r.guess.batch_first, dtype=dtype)  # type: ignore[no-any-return]
    options = {"bias": m.bias, "dropout": dropout, "bidirectional": m.bidirectional}
    return _spec(r, m, m.mode, m.num_layers, options | ({"proj_size": m.proj_size} if m.proj_size else {}))


def _spec(r: Reader, m: Any, mode: str, layers: int, options: dict[str, Any]) -> Spec:
    sizes = (m.input_size, m.hidden_size, layers)
    first = "weight_ih" if hasattr(m, "weight_ih") else "weight_ih_l0"
    dtype = r.parts.check_dtype(Weight(f"{r.path}.{first}", getattr(m, first)))
    options |= {"batch_first": r.guess.batch_first, "dtype": dtype}
    if mode in ("RNN_TANH", "RNN_RELU"):
        return RNN(*sizes, nonlinearity=mode[4:].lower(), **options)  # type: ignore[arg-type]
    return {"GRU": GRU, "LSTM": LSTM}[mode](*sizes, **options)


def _last_values(layer: str, state: str, width: int, spec: Spec) -> TracedTensor:
    """The last values of a state, (L * D, B, width)."""
    slabs = spec.num_layers * spec.num_directions
    return TracedTensor(
        f"{layer}.{state}", ("S0", BATCH, WIDTH), width, timed=False, places=np.arange(slabs), slabs=slabs
    )


def _starts(r: Reader, spec: Spec, hx: Any) -> dict[str, str]:
    """The values of the network that states start at. ZeroTensor, and states that the caller gives, are none."""
    given = _listed(hx)
    if isinstance(hx, Argument):
        r.roles[hx.name] = "state"
        return {}
    if not given:
        return {}
    if len(given) != len(spec.states):
        raise TorchError(f"its state has {len(spec.states)} parts, {len(given)} came")
    found = {}
    for (state, width), value in zip(spec.states.items(), given, strict=True):
        if isinstance(value, Argument):
            r.roles[value.name] = "state"
        elif not isinstance(value, ZeroTensor):
            found[state] = _start(r, state, width, spec, value)
    if found and any(isinstance(value, Argument) for value in given):
        what = f"{', '.join(found)} starts at a value of the network"
        raise TorchError(f"{what}, another state at an argument of forward()")
    return found


def _start(r: Reader, state: str, width: int, spec: Spec, value: Any) -> str:
    slabs = spec.num_layers * spec.num_directions
    if isinstance(value, Opaque):
        raise TorchError(f"state {state} starts at {value.what}; expected zeros or a value of the network")
    value = r.tensor(value)
    whole = value.axes == ("S0", BATCH, WIDTH) and list(value.places) == list(range(value.slabs))
    if whole and (value.slabs, value.width) == (slabs, width):
        return str(value.source)
    if value.axes == ("1", BATCH, WIDTH) and slabs == 1 and value.width == width and not value.timed:
        return str(r.plain(replace(value, axes=(BATCH, WIDTH))).source)
    expected = f"({slabs}, B, {width}), all of another layer's, or one value per row with unsqueeze(0)"
    raise TorchError(f"state {state} starts at {value} of width {value.width}; expected {expected}")


def _listed(hx: Any) -> tuple[Any, ...]:
    if hx is None:
        return ()
    return tuple(hx) if isinstance(hx, (tuple, list)) else (hx,)
