"""A call as operators of PyTorch, for torch.compile and torch.export: rnnc::run and rnnc::gradient.

In their graphs a call is one node, however many steps it has. These graphs hold tensors alone, not what `run` keeps for
`gradient`. So `run` returns a ticket (`rnnc.torch.nn.tickets`). If PyTorch has kept a copy of it, `gradient` runs the
forward pass again.
"""

from __future__ import annotations

from typing import Any

import torch

from rnnc.torch.nn.engine import OWNERS, Packed, engine, spec_of
from rnnc.torch.nn.gradients import TensorCall, as_state, requiring
from rnnc.torch.nn.places import place_of
from rnnc.torch.nn.tickets import ticket_for

__all__ = ["call"]


def call(packed: Packed, x: Any, states: tuple[Any, ...], weights: tuple[Any, ...], lengths: Any) -> tuple[Any, Any]:
    """(output, state), as of `rnnc.torch.nn.calls.call`. The dtypes agree."""
    if lengths is not None:
        lengths = torch.as_tensor(lengths)
    wrt = " ".join(requiring(x, states, weights)) if torch.is_grad_enabled() else ""
    output, *finals = torch.ops.rnnc.run(packed.key, packed.owner, x, list(states), list(weights), lengths, wrt)
    return output, as_state(finals[:-1])


def _call(key: str, states: list[Any], weights: list[Any], lengths: Any, wrt: str) -> TensorCall:
    made = engine(spec_of(key), weights[0].dtype, place_of(weights[0]), torch.get_num_threads())
    return TensorCall(made, lengths, len(states), tuple(wrt.split()))


_RUN = "(str spec, str owner, Tensor x, Tensor[] states, Tensor[] weights, Tensor? lengths, str wrt) -> Tensor[]"
_GRADIENT = (
    "(str spec, Tensor ticket, Tensor x, Tensor[] states, Tensor[] weights, Tensor? lengths, Tensor[] seeds, str wrt) "
    "-> Tensor[]"
)


@torch.library.custom_op("rnnc::run", mutates_args=(), schema=_RUN)  # type: ignore[untyped-decorator]
def run(spec: str, owner: str, x: Any, states: list[Any], weights: list[Any], lengths: Any, wrt: str) -> list[Any]:
    """[output, *final states, ticket].

    owner: of the module's `Packed`, whose bound model runs the call if wrt is empty: if no gradients follow.
    wrt: the arguments whose gradients may follow, as of `TensorCall`, with blanks between them.
    """
    made = _call(spec, states, weights, lengths, wrt)
    pullback = None
    if wrt:
        *results, pullback = made.run(x, *states, *weights)
    else:
        packed = OWNERS.get(owner) or Packed(made.engine.spec)
        with made.engine.place.entered():
            model = packed.model(tuple(weights), torch.get_num_threads())
        results = list(made.plain(model, x, *states, *weights))
    return [*results, ticket_for(pullback)]


@run.register_fake  # type: ignore[untyped-decorator]
def _(spec: str, owner: str, x: Any, states: list[Any], weights: list[Any], lengths: Any, wrt: str) -> list[Any]:
    known = spec_of(spec)
    batch = [] if x.dim() == 2 else [x.shape[0 if known.batch_first else 1]]
    rows = known.num_layers * known.num_directions
    finals = [x.new_empty((rows, *batch, width)) for width in known.states.values()]
    ticket = torch.empty(1, dtype=torch.float64, device="cpu")
    return [x.new_empty((*x.shape[:-1], known.output_size)), *finals, ticket]


@torch.library.custom_op("rnnc::gradient", mutates_args=(), schema=_GRADIENT)  # type: ignore[untyped-decorator]
def gradient(
    spec: str, ticket: Any, x: Any, states: list[Any], weights: list[Any], lengths: Any, seeds: list[Any], wrt: str
) -> list[Any]:
    """The gradients of those of [x, *states, *weights] that are in wrt."""
    made = _call(spec, states, weights, lengths, wrt)
    found = made.pulled(made.pullback(ticket, x, *states, *weights), *seeds)
    return [gradient for gradient in found if gradient is not None]


@gradient.register_fake  # type: ignore[untyped-decorator]
def _(
    spec: str, ticket: Any, x: Any, states: list[Any], weights: list[Any], lengths: Any, seeds: list[Any], wrt: str
) -> list[Any]:
    groups = {"x": [x], "state": states, "params": weights}
    return [tensor.new_empty(tensor.shape) for name, group in groups.items() if name in wrt.split() for tensor in group]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: list[Any]) -> None:
    ctx.spec, _, x, states, weights, lengths, ctx.wrt = inputs
    ctx.states, ctx.shapes = len(states), [result.shape for result in output[:-1]]
    ctx.has_lengths = lengths is not None
    ctx.save_for_backward(output[-1], x, *states, *weights, *([lengths] if ctx.has_lengths else []))


def _backward(ctx: Any, seeds: list[Any]) -> tuple[Any, ...]:
    ticket, x, *others = ctx.saved_tensors
    lengths = others.pop() if ctx.has_lengths else None
    states, weights = others[: ctx.states], others[ctx.states :]
    pairs = zip(seeds[:-1], ctx.shapes, strict=True)
    filled = [x.new_zeros(shape) if seed is None else seed for seed, shape in pairs]
    found = iter(torch.ops.rnnc.gradient(ctx.spec, ticket, x, states, weights, lengths, filled, ctx.wrt))
    groups = {"x": [x], "state": states, "params": weights}
    (d_x,), d_states, d_weights = (
        [next(found) if name in ctx.wrt.split() else None for _ in group] for name, group in groups.items()
    )
    return None, None, d_x, d_states, d_weights, None, None


run.register_autograd(_backward, setup_context=_keep)
