"""The autograd functions of a call. f(p) = (output, final state) of all it reads, p = (x, initial state, parameters):

    Run         p -> f(p)               backward  s -> J' s              forward mode  v -> J v
    Gradient    (p, s) -> J' s          backward  v -> (H v, J v)        forward mode  (v, w) -> H v + J' w

J is the derivative of f at p, and H the second derivative of <s, f> at p. J' s is `rnnc.vjp`, J v is `rnnc.jvp`, and
H v + J' w is `rnnc.hvp`. `Underived` runs the latter two, which have no derivatives of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rnnc.checking.wrt import EVERY
from rnnc.ir.errors import ArgumentError
from rnnc.model import Model
from rnnc.torch.nn.engine import Engine
from rnnc.torch.nn.tickets import kept_by, ticket_for

__all__ = ["Run", "TensorCall", "as_state", "as_tuple", "requiring"]

Tensors = Sequence[Any]


@dataclass(frozen=True)
class TensorCall:
    """What a call is besides its tensors: these are x, the initial states, and the parameters, in this order.

    lengths: as of `rnnc.Model.__call__`. states: the number of initial states that are given; 0 if they are zeros.
    wrt: the arguments whose gradients are wanted, as of `rnnc.vjp`.
    """

    engine: Engine
    lengths: Any
    states: int
    wrt: tuple[str, ...] = EVERY

    def __len__(self) -> int:
        """The number of tensors that the call reads."""
        return 1 + self.states + len(self.engine.names)

    def arrays(self, tensors: Tensors) -> tuple[Any, Any, Any]:
        """(params, x, state), as the derivatives take them, of the tensors or of tangents of them."""
        array = self.engine.place.array
        states = [array("hx", tensor) for tensor in tensors[1 : 1 + self.states]]
        return self.engine.params(tensors[1 + self.states :]), array("input", tensors[0]), as_state(states)

    def tensors(self, gradients: tuple[Any, Any, Any]) -> tuple[Any, ...]:
        """The gradients of the call's tensors, from what a derivative returns; None where it returns none."""
        params, x, state = gradients
        states = () if not self.states else (None,) * self.states if state is None else as_tuple(state)
        weights = (None,) * len(self.engine.names) if params is None else params.values()
        tensor = self.engine.place.tensor
        return tuple([None if each is None else tensor(each) for each in (x, *states, *weights)])

    def results(self, result: tuple[Any, Any]) -> tuple[Any, ...]:
        """(output, state) as tensors in a row."""
        output, state = result
        return tuple(map(self.engine.place.tensor, (output, *as_tuple(state))))

    def seeds(self, seeds: Tensors) -> tuple[Any, Any]:
        """(d_output, d_state) as a pullback takes them: None for the output, or for all states, stands for zeros."""
        output, *states = (None if seed is None else self.engine.place.array("gradient", seed) for seed in seeds)
        return output, None if states[0] is None else as_state(states)

    def run(self, *tensors: Any) -> tuple[Any, ...]:
        """The output, the final states, and the pullback."""
        with self.engine.place.entered():
            result, pullback = self.engine.vjp(self.wrt)(*self.arrays(tensors), self.lengths)
            return (*self.results(result), pullback)

    def pullback(self, ticket: Any, *tensors: Any) -> Any:
        """The pullback that a ticket owns. Without one the forward pass runs again."""
        found = kept_by(ticket)
        return self.run(*tensors)[-1] if found is None else found

    def plain(self, model: Model, *tensors: Any) -> tuple[Any, ...]:
        """The output and the final states, by the bound model."""
        with self.engine.place.entered():
            _, x, state = self.arrays(tensors)
            return self.results(model(x, state, lengths=self.lengths))

    def pulled(self, pullback: Any, *seeds: Any) -> tuple[Any, ...]:
        """J' s, of s."""
        with self.engine.place.entered():
            return self.tensors(pullback(*self.seeds(seeds)))

    def tangent(self, *tensors: Any) -> tuple[Any, ...]:
        """J v, of (p, v)."""
        with self.engine.place.entered():
            p, v = self.arrays(tensors[: len(self)]), self.arrays(tensors[len(self) :])
            return self.results(self.engine.jvp(p, v, lengths=self.lengths)[1])

    def turned(self, *tensors: Any) -> tuple[Any, ...]:
        """H v + J' w, of (p, v, s, w), or H v of (p, v, s)."""
        count, many = len(self), 1 + len(self.engine.spec.states)
        s, w = tensors[2 * count : 2 * count + many], tensors[2 * count + many :]
        with self.engine.place.entered():
            p, v = self.arrays(tensors[:count]), self.arrays(tensors[count : 2 * count])
            turned = self.seeds(w) if w else (None, None)
            return self.tensors(self.engine.hvp(p, self.seeds(s), v, turned, lengths=self.lengths)[1])


class _Function(torch.autograd.Function):  # type: ignore[misc]
    """The base of the functions. torch.vmap calls them once per element."""

    @classmethod
    def apply(cls, *inputs: Any) -> Any:
        """As of `torch.autograd.Function`, which matches inputs with forward()'s signature first: 40 us per call."""
        if torch._C._are_functorch_transforms_active():
            return super().apply(*inputs)
        return super(torch.autograd.Function, cls).apply(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        ctx.call, _, *tensors = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @classmethod
    def vmap(cls, info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Any, Any]:
        found = [cls.apply(*_element(inputs, in_dims, number)) for number in range(info.batch_size)]
        columns = list(zip(*found, strict=True))
        tensors = [isinstance(column[0], torch.Tensor) for column in columns]
        made = tuple(torch.stack(c) if tensor else c for c, tensor in zip(columns, tensors, strict=True))
        return made, tuple(0 if tensor else None for tensor in tensors)


class Run(_Function):
    """(call, None, *p) -> (output, *final states, pullback). The pullback is no tensor."""

    @staticmethod
    def forward(call: TensorCall, _: None, *tensors: Any) -> tuple[Any, ...]:
        return call.run(*tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        _Function.setup_context(ctx, inputs, output)
        ctx.shapes = [result.shape for result in output[:-1]]
        ctx.pullback = output[-1] if torch._C._are_functorch_transforms_active() else None
        if ctx.pullback is None:
            ctx.save_for_backward(*inputs[2:], ticket_for(output[-1]))

    @staticmethod
    def backward(ctx: Any, *seeds: Any) -> tuple[Any, ...]:
        call, pullback, tensors = ctx.call, ctx.pullback, ctx.saved_tensors  # raises PyTorch's errors
        if pullback is None:
            *tensors, ticket = tensors
            pullback = call.pullback(ticket, *tensors)
        if torch.is_grad_enabled():
            seeds = tuple(_filled(seeds[:-1], ctx.shapes, tensors[0]))
            return (None, None, *Gradient.apply(call, pullback, *tensors, *seeds))
        output, *states = seeds[:-1]
        if any([state is not None for state in states]):  # otherwise all are zeros to the pullback
            states = _filled(states, ctx.shapes[1:], tensors[0])
        return (None, None, *call.pulled(pullback, output, *states))

    @staticmethod
    def jvp(ctx: Any, _: None, __: None, *tangents: Any) -> tuple[Any, ...]:
        tensors = ctx.saved_tensors
        return (*Underived.apply(ctx.call.tangent, *tensors, *_like(tangents, tensors)), None)


class Gradient(_Function):
    """(call, pullback, *p, *s) -> J' s, None for what the call has no gradients of."""

    @staticmethod
    def forward(call: TensorCall, pullback: Any, *tensors: Any) -> tuple[Any, ...]:
        return call.pulled(pullback, *tensors[len(call) :])

    @staticmethod
    def backward(ctx: Any, *tangents: Any) -> tuple[Any, ...]:
        call, count = ctx.call, len(ctx.call)
        p, s = ctx.saved_tensors[:count], ctx.saved_tensors[count:]
        v, needed = _like(tangents, p), ctx.needs_input_grad[2:]
        of_p = Underived.apply(call.turned, *p, *v, *s) if any(needed[:count]) else (None,) * count
        of_s = Underived.apply(call.tangent, *p, *v) if any(needed[count:]) else (None,) * len(s)
        return (None, None, *of_p, *of_s)

    @staticmethod
    def jvp(ctx: Any, _: None, __: None, *tangents: Any) -> tuple[Any, ...]:
        count = len(ctx.call)
        p, s = ctx.saved_tensors[:count], ctx.saved_tensors[count:]
        v, w = _like(tangents[:count], p), _like(tangents[count:], s)
        found: tuple[Any, ...] = Underived.apply(ctx.call.turned, *p, *v, *s, *w)
        return found


class Underived(_Function):
    """(function, *tensors) -> function(*tensors), without derivatives."""

    @staticmethod
    def forward(function: Callable[..., tuple[Any, ...]], *tensors: Any) -> tuple[Any, ...]:
        return function(*tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        """Nothing is kept."""

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise ArgumentError("create_graph: rnnc has first and second derivatives; a third one was asked for")

    jvp = backward


def requiring(x: Any, states: Tensors, weights: Tensors) -> tuple[str, ...]:
    """The arguments that require gradients, as of `TensorCall.wrt`."""
    groups = zip(EVERY, (weights, (x,), states), strict=True)
    return tuple([name for name, tensors in groups if any([tensor.requires_grad for tensor in tensors])])


def as_tuple(state: Any) -> tuple[Any, ...]:
    """The arrays or tensors of a state, which is bare if there is one, otherwise a tuple."""
    return state if isinstance(state, tuple) else (state,)


def as_state(parts: Sequence[Any]) -> Any:
    """The inverse of `as_tuple`; None without parts."""
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else tuple(parts)


def _filled(tensors: Tensors, shapes: Sequence[Any], like: Any) -> list[Any]:
    """The tensors, with zeros in the place of None, of the dtype and on the device of another one."""
    options = {"dtype": like.dtype, "device": like.device}
    pairs = zip(tensors, shapes, strict=True)
    return [torch.zeros(shape, **options) if tensor is None else tensor for tensor, shape in pairs]


def _like(tangents: Tensors, tensors: Tensors) -> list[Any]:
    """Tangents of tensors, with zeros in the place of None."""
    return _filled(tangents, [tensor.shape for tensor in tensors], tensors[0])


def _element(inputs: Tensors, in_dims: tuple[Any, ...], number: int) -> list[Any]:
    """The arguments of one element of a vmap. Pullbacks of the elements are a tuple."""
    found = []
    for value, dim in zip(inputs, in_dims, strict=True):
        if isinstance(value, torch.Tensor):
            found.append(value if dim is None else value.select(dim, number))
        else:
            found.append(value[number] if isinstance(value, tuple) else value)
    return found
