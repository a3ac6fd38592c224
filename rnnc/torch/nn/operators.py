"""A call as operators of PyTorch, for torch.compile and torch.export: rnnc::run and rnnc::gradient.

In their graphs a call is one node, however many steps it has. These graphs hold tensors alone, not what `run` keeps for
`gradient`. So `run` returns a ticket (`rnnc.torch.nn.tickets`). If PyTorch has kept a copy of it, `gradient` runs the
forward pass again.
"""

from __future__ import annotations

from typing import Any

import torch

from rnnc.torch.nn.engine import OWNERS, Packed, engine, spec_of
from rnnc.torch.nn.gradients import TensorCall, as_state
from rnnc.torch.nn.tickets import ticket_for

__all__ = ["call"]


def call(packed: Packed, x: Any, states: tuple[Any, ...], weights: tuple[Any, ...], lengths: Any) -> tuple[Any, Any]:
    """(output, state), as of `rnnc.torch.nn.calls.call`. The dtypes agree."""
    if lengths is not None:
        lengths = torch.as_tensor(lengths)
    tensors = (x, *states, *weights)
    record = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    output, *finals = torch.ops.rnnc.run(packed.key, packed.owner, x, list(states), list(weights), lengths, record)
    return output, as_state(finals[:-1])


def _call(key: str, states: list[Any], weights: list[Any], lengths: Any) -> TensorCall:
    return TensorCall(engine(spec_of(key), weights[0].dtype, torch.get_num_threads()), lengths, len(states))


_RUN = "(str spec, str owner, Tensor x, Tensor[] states, Tensor[] weights, Tensor? lengths, bool record) -> Tensor[]"
_GRADIENT = (
    "(str spec, Tensor ticket, Tensor x, Tensor[] states, Tensor[] weights, Tensor? lengths, Tensor[] seeds) "
    "-> Tensor[]"
)


@torch.library.custom_op("rnnc::run", mutates_args=(), schema=_RUN)  # type: ignore[untyped-decorator]
def run(spec: str, owner: str, x: Any, states: list[Any], weights: list[Any], lengths: Any, record: bool) -> list[Any]:
    """[output, *final states, ticket].

    owner: of the module's `Packed`, whose bound model runs the call if record is False: if no gradients follow.
    """
    made = _call(spec, states, weights, lengths)
    pullback = None
    if record:
        *results, pullback = made.run(x, *states, *weights)
    else:
        packed = OWNERS.get(owner) or Packed(made.engine.spec)
        results = list(made.plain(packed.model(tuple(weights), torch.get_num_threads()), x, *states, *weights))
    return [*results, ticket_for(pullback)]


@run.register_fake  # type: ignore[untyped-decorator]
def _(spec: str, owner: str, x: Any, states: list[Any], weights: list[Any], lengths: Any, record: bool) -> list[Any]:
    known = spec_of(spec)
    batch = [] if x.dim() == 2 else [x.shape[0 if known.batch_first else 1]]
    rows = known.num_layers * known.num_directions
    finals = [x.new_empty((rows, *batch, width)) for width in known.states.values()]
    ticket = x.new_empty(1, dtype=torch.float64)
    return [x.new_empty((*x.shape[:-1], known.output_size)), *finals, ticket]


@torch.library.custom_op("rnnc::gradient", mutates_args=(), schema=_GRADIENT)  # type: ignore[untyped-decorator]
def gradient(
    spec: str, ticket: Any, x: Any, states: list[Any], weights: list[Any], lengths: Any, seeds: list[Any]
) -> list[Any]:
    """The gradients of [x, *states, *weights]."""
    made = _call(spec, states, weights, lengths)
    return list(made.pulled(made.pullback(ticket, x, *states, *weights), *seeds))


@gradient.register_fake  # type: ignore[untyped-decorator]
def _(
    spec: str, ticket: Any, x: Any, states: list[Any], weights: list[Any], lengths: Any, seeds: list[Any]
) -> list[Any]:
    return [tensor.new_empty(tensor.shape) for tensor in (x, *states, *weights)]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: list[Any]) -> None:
    ctx.spec, _, x, states, weights, lengths, _ = inputs
    ctx.states, ctx.shapes = len(states), [result.shape for result in output[:-1]]
    ctx.has_lengths = lengths is not None
    ctx.save_for_backward(output[-1], x, *states, *weights, *([lengths] if ctx.has_lengths else []))


def _backward(ctx: Any, seeds: list[Any]) -> tuple[Any, ...]:
    ticket, x, *others = ctx.saved_tensors
    lengths = others.pop() if ctx.has_lengths else None
    states, weights = others[: ctx.states], others[ctx.states :]
    pairs = zip(seeds[:-1], ctx.shapes, strict=True)
    filled = [x.new_zeros(shape) if seed is None else seed for seed, shape in pairs]
    d_x, *rest = torch.ops.rnnc.gradient(ctx.spec, ticket, x, states, weights, lengths, filled)
    return None, None, d_x, rest[: ctx.states], rest[ctx.states :], None, None


run.register_autograd(_backward, setup_context=_keep)
