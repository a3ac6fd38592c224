"""Errors of gradients, first and second order, on a case of the test matrix.

The oracle is the reference backend in float64, given the case's own numbers. That it computes the derivatives of these
networks at all is shown beside it by PyTorch in float64, which shares nothing with it.

First order: gradients of <d_output, output> + <d_state, state> with respect to parameters, x and the initial state.
Second order: the same, and their derivative along a direction of all of these, of d_output and of d_state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

import rnnc
from tests import torch_peer
from tests.cases import Case, error

Array = NDArray[Any]
Arrays = dict[str, Array]
Measure = Callable[[Case, Sequence[str]], Iterator[tuple[str, float]]]
"""(case, backends) -> who against whom, and the worst error over all arrays."""


@dataclass(frozen=True)
class Point:
    """Where a case is differentiated: each tuple holds parameters or None, an array like x or the output, and a state.

    All arrays are of one dtype: the case's own numbers in it, exactly.
    """

    primals: tuple[dict[str, Array], Array, Any]
    seeds: tuple[Array, Any]
    tangents: tuple[dict[str, Array], Array, Any]
    seed_tangents: tuple[Array, Any]

    @staticmethod
    def of(case: Case) -> Point:
        rng = np.random.default_rng(case.seed + 1)

        def like(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(map(like, value))
            if isinstance(value, dict):
                return {name: like(array) for name, array in value.items()}
            return rng.standard_normal(value.shape).astype(case.dtype)

        state = initial_state(case)
        output = np.empty((*case.x.shape[:-1], case.directions * case.width))
        return Point(
            primals=(case.params, case.x, state),
            seeds=(like(output), like(state)),
            tangents=(like(case.params), like(case.x), like(state)),
            seed_tangents=(like(output), like(state)),
        )

    def to(self, dtype: Any) -> Point:
        return Point(*(_cast(getattr(self, name), dtype) for name in self.__dataclass_fields__))


def initial_state(case: Case) -> Any:
    """The case's, or zeros: gradients of the initial state exist either way."""
    if case.initial:
        return case.state
    given = replace(case, initial=True).state
    return tuple(map(np.zeros_like, given)) if isinstance(given, tuple) else np.zeros_like(given)


def _cast(value: Any, dtype: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_cast(v, dtype) for v in value)
    if isinstance(value, dict):
        return {name: v.astype(dtype) for name, v in value.items()}
    return value.astype(dtype)


# ---------------------------------------------------------------------------------------------- errors


def first_order(case: Case, backends: Sequence[str]) -> Iterator[tuple[str, float]]:
    return _errors(case, backends, _rnnc_first, _torch_first)


def second_order(case: Case, backends: Sequence[str]) -> Iterator[tuple[str, float]]:
    return _errors(case, backends, _rnnc_second, _torch_second)


def _errors(
    case: Case,
    backends: Sequence[str],
    ours: Callable[[Case, Point, str], Arrays],
    theirs: Callable[[Case, Point], Arrays],
) -> Iterator[tuple[str, float]]:
    point = Point.of(case)
    exact = ours(replace(case, dtype="float64"), point.to(np.float64), "reference")
    peer = theirs(case, point) if torch_peer.supports(case) else None
    if peer is not None:
        yield "torch against oracle", worst(peer, exact)
    for backend in backends:
        found = ours(case, point, backend)
        yield f"{backend} against oracle", worst(found, exact)
        if peer is not None:
            yield f"{backend} against torch", worst(found, _cast(peer, np.float64))


def worst(found: Arrays, exact: Arrays) -> float:
    """Over all arrays, each measured by its own largest magnitude."""
    if found.keys() != exact.keys():
        raise AssertionError(f"names {sorted(found)}, expected {sorted(exact)}")
    return max(error(found[name], exact[name]) for name in exact)


def _named(gradients: tuple[Any, Any, Any], prefix: str) -> Arrays:
    params, x, state = gradients
    states = state if isinstance(state, tuple) else (state,)
    named = {f"{prefix}{name}": value for name, value in params.items()} | {f"{prefix}x": x}
    return named | {f"{prefix}state_{i}": value for i, value in enumerate(states)}


# ---------------------------------------------------------------------------------------------- rnnc


def _rnnc_first(case: Case, point: Point, backend: str) -> Arrays:
    function = rnnc.vjp(case.spec(), backend=backend)
    _, pullback = function(*point.primals, lengths=case.row_lengths)
    return _named(pullback(*point.seeds), "d_")


def _rnnc_second(case: Case, point: Point, backend: str) -> Arrays:
    function = rnnc.hvp(case.spec(), backend=backend)
    gradients, changes = function(
        point.primals, point.seeds, point.tangents, point.seed_tangents, lengths=case.row_lengths
    )
    return _named(gradients, "d_") | _named(changes, "t_d_")


# ---------------------------------------------------------------------------------------------- PyTorch


def _torch_first(case: Case, point: Point) -> Arrays:
    run = _TorchRun(case, point)
    return run.named(run.gradients(run.inner(point.seeds), keep=False), "d_")


def _torch_second(case: Case, point: Point) -> Arrays:
    """Reverse over reverse. The Hessian is symmetric: its product with t is the gradient of <gradient, t>.

    How d changes along its own direction adds <t_d, results>, because gradients are linear in d.
    """
    run = _TorchRun(case, point)
    gradients = run.gradients(run.inner(point.seeds), keep=True)
    along = [run.tensor(t) for t in (*point.tangents[0].values(), point.tangents[1], *_states(point.tangents[2]))]
    product = sum((g * t).sum() for g, t in zip(gradients, along, strict=True))
    changes = run.gradients(product + run.inner(point.seed_tangents), keep=False)
    return run.named(gradients, "d_") | run.named(changes, "t_d_")


class _TorchRun:
    """One forward pass of a case with gradients kept. oneDNN is off: it has no second order."""

    def __init__(self, case: Case, point: Point) -> None:
        import torch
        from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

        self.torch = torch
        module = torch_peer.module(case, getattr(torch, case.dtype))
        params = dict(module.named_parameters())
        self.names = list(point.primals[0])
        x = self.tensor(point.primals[1]).requires_grad_()
        states = [self.tensor(s).requires_grad_() for s in _states(point.primals[2])]
        self.wrt = [*(params[name] for name in self.names), x, *states]
        given: Any = x
        with torch.backends.mkldnn.flags(enabled=False):
            if case.row_lengths is not None:
                lengths = torch.from_numpy(case.row_lengths)
                given = pack_padded_sequence(x, lengths, batch_first=case.batch_first, enforce_sorted=False)
            output, last = module(given, tuple(states) if len(states) > 1 else states[0])
        if case.row_lengths is not None:
            output, _ = pad_packed_sequence(output, batch_first=case.batch_first, total_length=case.steps)
        self.results = [output, *_states(last)]

    def tensor(self, array: Array) -> Any:
        return self.torch.from_numpy(np.ascontiguousarray(array))

    def inner(self, adjoints: tuple[Array, Any]) -> Any:
        """<d_output, output> + <d_state, state>."""
        pairs = zip(self.results, (adjoints[0], *_states(adjoints[1])), strict=True)
        return sum((value * self.tensor(adjoint)).sum() for value, adjoint in pairs)

    def gradients(self, scalar: Any, keep: bool) -> tuple[Any, ...]:
        """keep: they may themselves be differentiated. What the scalar does not depend on has a gradient of zero."""
        gradients: tuple[Any, ...] = self.torch.autograd.grad(
            scalar, self.wrt, create_graph=keep, allow_unused=True, materialize_grads=True
        )
        return gradients

    def named(self, gradients: Sequence[Any], prefix: str) -> Arrays:
        arrays = [gradient.detach().numpy() for gradient in gradients]
        count = len(self.names)
        states = tuple(arrays[count + 1 :])
        return _named((dict(zip(self.names, arrays, strict=False)), arrays[count], states), prefix)


def _states(state: Any) -> tuple[Any, ...]:
    return state if isinstance(state, tuple) else (state,)
