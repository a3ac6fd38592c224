"""A call of a module: without gradients the bound model, with them the autograd functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch.autograd import forward_ad

from rnnc.checking import checks
from rnnc.ir.errors import ArgumentError, ArgumentTypeError, DtypeError
from rnnc.specs import Spec
from rnnc.torch.nn.engine import Engine, Packed, array, engine
from rnnc.torch.nn.gradients import Run, TensorCall, as_state

__all__ = ["call"]

Tensors = Sequence[Any]


def call(spec: Spec, packed: Packed, weights: Tensors, x: Any, state: Any, lengths: Any) -> tuple[Any, Any]:
    """(output, state) of a spec, as `rnnc.Model.__call__` has them, of and as tensors.

    spec: its dtype may be another than that of the weights, which decides.
    packed: the module's bound model of this spec. weights: in the order of `spec.parameter_shapes()`.
    """
    made = _engine(spec, weights[0].dtype, torch.get_num_threads())
    states = () if state is None else _states(made.spec, state)
    if not isinstance(x, torch.Tensor):
        raise ArgumentTypeError(f"input: expected a tensor, got {checks.came(x)}")
    dtype = weights[0].dtype
    if x.dtype is not dtype or any(state.dtype is not dtype for state in states):
        x, states = _cast("input", x, dtype), tuple(_cast("hx", state, dtype) for state in states)
    if _wants_graph(x, states, weights):
        packed.forget()  # an optimiser comes next, and may write past PyTorch's counters
        output, *finals, _ = Run.apply(TensorCall(made, lengths, len(states)), None, x, *states, *weights)
        return output, as_state(finals)
    model = packed.model(made, weights)
    initial = as_state([array("hx", tensor) for tensor in states])
    output, final = model(array("input", x), initial, lengths=lengths)
    if type(final) is tuple:
        return torch.from_numpy(output), tuple([torch.from_numpy(part) for part in final])
    return torch.from_numpy(output), torch.from_numpy(final)


def _wants_graph(x: Any, states: Tensors, weights: Tensors) -> bool:
    """True if PyTorch is to know what the results depend on."""
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return True
    if not torch.is_grad_enabled():
        return False
    return x.requires_grad or any(w.requires_grad for w in weights) or any(s.requires_grad for s in states)


def _states(spec: Spec, state: Any) -> tuple[Any, ...]:
    """The initial states. Raises ArgumentError unless there are as many as the cell has."""
    states = tuple(state) if isinstance(state, (tuple, list)) else (state,)
    if len(states) != len(spec.states):
        names = ", ".join(spec.states)
        expected = f"a tuple of {len(spec.states)} tensors ({names})" if len(spec.states) > 1 else "a tensor"
        raise ArgumentError(f"hx: expected {expected}, got {len(states)}")
    if bad := [state for state in states if not isinstance(state, torch.Tensor)]:
        raise ArgumentTypeError(f"hx: expected tensors, got {checks.came(bad[0])}")
    return states


def _cast(name: str, tensor: Any, dtype: Any) -> Any:
    """The tensor in the dtype of the parameters, where autocast is on: a call is one of its float32 operations.

    Raises DtypeError for another dtype elsewhere.
    """
    if tensor.dtype is dtype or torch.is_autocast_enabled("cpu") and tensor.dtype.is_floating_point:
        return tensor.to(dtype)
    how = f"pass {name}.to({dtype}), or use module.to({tensor.dtype})"
    raise DtypeError(f"{name}: expected {dtype}, as the parameters have,, got {tensor.dtype}; {how}")


@lru_cache(maxsize=512)
def _engine(spec: Spec, dtype: Any, threads: int) -> Engine:
    """The engine of a spec in the dtype of its weights. Raises DtypeError for one that rnnc does not have."""
    name = str(dtype).removeprefix("torch.")
    if name not in ("float32", "float64"):
        raise DtypeError(f"weights: expected float32 or float64, got {name}; use module.float()")
    return engine(replace(spec, dtype=name), threads)  # type: ignore[type-var]
