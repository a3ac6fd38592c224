"""A call of a module: without gradients the bound model, with them the autograd functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.autograd import forward_ad

from rnnc.checking import checks
from rnnc.checking.wrt import EVERY
from rnnc.ir.errors import ArgumentError, ArgumentTypeError, DtypeError
from rnnc.torch.nn import operators
from rnnc.torch.nn.engine import Packed, engine
from rnnc.torch.nn.gradients import Run, TensorCall, as_state, requiring
from rnnc.torch.nn.places import HOST, TensorPlace, place_of

__all__ = ["call"]

Tensors = Sequence[Any]


def call(packed: Packed, weights: Tensors, x: Any, state: Any, lengths: Any) -> tuple[Any, Any]:
    """(output, state), as `rnnc.Model.__call__` has them, of and as tensors.

    packed: the spec, in any dtype, and its bound model. weights: in the order of `spec.parameter_shapes()`.
    Raises ShapeError, DtypeError, LengthError, ArgumentError or ArgumentTypeError.
    """
    if not isinstance(x, torch.Tensor):
        raise ArgumentTypeError(f"input: expected a tensor, got {checks.came(x)}")
    states: tuple[Any, ...] = ()
    dtype = weights[0].dtype
    if x.dtype is not dtype:
        x = _cast("input", x, dtype)
    if state is not None:
        states = tuple([_cast("hx", part, dtype) for part in _states(packed.states, state)])
    if torch.compiler.is_compiling():
        return operators.call(packed, x, states, tuple(weights), lengths)
    if wrt := _wanted(x, states, weights):
        packed.forget()  # an optimiser comes next, and may write past PyTorch's counters
        made = engine(packed.spec, dtype, place_of(weights[0]), torch.get_num_threads())
        output, *finals, _ = Run.apply(TensorCall(made, lengths, len(states), wrt), None, x, *states, *weights)
        return output, as_state(finals)
    if weights[0].is_cpu:
        return _bound(packed, HOST, weights, x, states, lengths)
    place = place_of(weights[0])
    with place.entered():
        return _bound(packed, place, weights, x, states, lengths)


def _bound(
    packed: Packed, place: TensorPlace, weights: Tensors, x: Any, states: Tensors, lengths: Any
) -> tuple[Any, Any]:
    """The call of the bound model."""
    model, array, tensor = packed.model(weights, torch.get_num_threads()), place.array, place.tensor
    initial = as_state([array("hx", part) for part in states]) if states else None
    output, final = model(array("input", x), initial, lengths=lengths)
    return tensor(output), tuple([tensor(part) for part in final]) if type(final) is tuple else tensor(final)


def _wanted(x: Any, states: Tensors, weights: Tensors) -> tuple[str, ...]:
    """The arguments whose gradients may be asked for, as of `rnnc.vjp`; none if PyTorch records no graph."""
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return EVERY  # their tensors need not say that they require gradients
    if not torch.is_grad_enabled():
        return ()
    return requiring(x, states, weights)


def _states(names: tuple[str, ...], state: Any) -> tuple[Any, ...]:
    """The initial states. Raises ArgumentError unless there are as many as names, ArgumentTypeError for no tensors."""
    states = tuple(state) if isinstance(state, (tuple, list)) else (state,)
    if len(states) != len(names):
        expected = f"a tuple of {len(names)} tensors ({', '.join(names)})" if len(names) > 1 else "a tensor"
        raise ArgumentError(f"hx: expected {expected}, got {len(states)}")
    if bad := [state for state in states if not isinstance(state, torch.Tensor)]:
        raise ArgumentTypeError(f"hx: expected tensors, got {checks.came(bad[0])}")
    return states


def _cast(name: str, tensor: Any, dtype: Any) -> Any:
    """The tensor in the dtype of the parameters, where autocast is on: a call is one of its float32 operations.

    Raises DtypeError for another dtype elsewhere.
    """
    if tensor.dtype is dtype:
        return tensor
    if torch.is_autocast_enabled(tensor.device.type) and tensor.dtype.is_floating_point:
        return tensor.to(dtype)
    how = f"pass {name}.to({dtype}), or use module.to({tensor.dtype})"
    raise DtypeError(f"{name}: expected {dtype}, as the parameters have, got {tensor.dtype}; {how}")
