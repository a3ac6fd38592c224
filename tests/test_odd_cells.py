"""Every property of a cell, for each odd cell: results, plans, gradients, and kernels of a GPU.

Results are held against the reference backend, which the pipeline's own tests hold against the unrolled equations.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

import rnnc
from rnnc.backends.cuda.emulator import find_compiler
from rnnc.ir.equations import Value, linear, stop_gradient, tanh
from tests.cases import error
from tests.derivative_oracles import Point, difference, inner, size_of_terms
from tests.odd_cells import HELD, ODD, Odd
from tests.whole_plans import assert_plan_is_complete

each_cell = pytest.mark.parametrize("cell", ODD, ids=str)


@pytest.mark.sampled(3)
@each_cell
def test_odd_cells_agree_with_the_reference(cell: Odd) -> None:
    for hidden, layers, bidirectional in ((4, 1, False), (18, 2, True)):
        spec = rnnc.Recurrent(cell, 7, hidden, num_layers=layers, bidirectional=bidirectional)
        assert_plan_is_complete(spec.stack())
        assert_agrees(spec, "llvm", ((1, 1, False), (6, 5, False), (6, 5, True)))


@pytest.mark.rare
@pytest.mark.skipif(find_compiler() is None, reason="emulating CUDA needs a C++ compiler")
@each_cell
def test_odd_cells_on_an_emulated_gpu(cell: Odd) -> None:
    assert_agrees(rnnc.Recurrent(cell, 7, 18, bidirectional=True), "cuda-emulated", ((6, 5, False), (6, 5, True)))


def assert_agrees(spec: rnnc.Recurrent, backend: str, calls: tuple[tuple[int, int, bool], ...]) -> None:
    """calls: steps, batch, whether it is ragged."""
    rng = np.random.default_rng(0)
    params = spec.init(seed=1)
    native, reference = (rnnc.compile(spec, params, backend=b) for b in (backend, "reference"))
    for steps, batch, ragged in calls:
        x = rng.standard_normal((steps, batch, 7)).astype("float32")
        rows = spec.num_layers * spec.num_directions
        states = tuple(rng.standard_normal((rows, batch, w)).astype("float32") for w in spec.states.values())
        state = states if len(states) > 1 else states[0]
        lengths = rng.integers(0, steps + 1, batch) if ragged else None
        (got, got_state), (want, want_state) = (m(x, state, lengths=lengths) for m in (native, reference))
        np.testing.assert_allclose(got, want, rtol=0, atol=3e-6)
        for a, b in zip(as_tuple(got_state), as_tuple(want_state), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=3e-6)


def as_tuple(state: object) -> tuple[object, ...]:
    return state if isinstance(state, tuple) else (state,)


# ------------------------------------------------------------------------------------------ gradients

H = 4


def call_of(cell: Odd, num_layers: int) -> tuple[rnnc.Recurrent, tuple[Any, Any, Any], tuple[Any, Any]]:
    """A spec in float64, the arguments of a call of 4 steps and 2 rows, and adjoints of its results."""
    spec = rnnc.Recurrent(cell, 3, H, num_layers, bidirectional=True, dtype="float64")
    rng, widths = np.random.default_rng(2), list(spec.states.values())
    state, d_state = (tuple(rng.standard_normal((2 * num_layers, 2, w)) for w in widths) for _ in range(2))
    d_output = rng.standard_normal((4, 2, spec.output_size))
    return spec, (spec.init(seed=1), rng.standard_normal((4, 2, 3)), given(state)), (d_output, given(d_state))


def given(states: tuple[Any, ...]) -> Any:
    """States as a caller gives them."""
    return states if len(states) > 1 else states[0]


@pytest.mark.sampled(6)
@each_cell
def test_gradients_are_slopes(cell: Odd, backend: str) -> None:
    """Along a random direction of the parameters, of x and of the states; of a rectangular and of a ragged batch."""
    spec, (params, x, state), (d_output, d_state) = call_of(cell, 2)
    f, model = rnnc.vjp(spec, backend=backend), rnnc.compile(spec, backend="reference")
    names = list(spec.states)
    for lengths in (None, (1, 4)):
        d_params, d_x, d_states = f(params, x, state, lengths=lengths)[1](d_output, d_state)
        found = d_params | {"x": d_x} | dict(zip(names, as_tuple(d_states), strict=True))

        def loss(point: Point, lengths: Any = lengths) -> Point:
            bound = model.bind({name: point[name] for name in params})
            output, last = bound(point["x"], given(tuple(point[n] for n in names)), lengths=lengths)
            pairs = zip(as_tuple(last), as_tuple(d_state), strict=True)
            return {"": np.sum(output * d_output) + sum(np.sum(a * b) for a, b in pairs)}

        at = params | {"x": x} | dict(zip(names, as_tuple(state), strict=True))
        rng = np.random.default_rng(3)
        for group in (list(params), ["x"], names):
            along = {n: rng.standard_normal(v.shape) * (n in group) for n, v in at.items()}
            size = np.sqrt(sum(np.sum(v**2) for v in along.values()))
            along = {n: v / size for n, v in along.items()}
            off = abs(difference(loss, at, along)[""] - inner(found, along))
            assert off <= 1e-9 * size_of_terms(found, along), group


@pytest.mark.parametrize("lengths", (None, (1, 4)))
@pytest.mark.parametrize("cell", HELD, ids=str)
def test_nothing_flows_through_what_is_held_constant(cell: Odd, lengths: Any, backend: str) -> None:
    cut = cell is HELD[0]
    spec, (params, x, state), (d_output, _) = call_of(cell, 1)
    d_output = np.ones_like(d_output)
    (output, _), pullback = rnnc.vjp(spec, backend=backend)(params, x, state, lengths=lengths)
    d_params, d_x, d_states = pullback(d_output)
    assert not any(d[:, np.array(lengths or (4, 4)) > 0].any() for d in d_states)
    valid = np.arange(4)[:, None, None] < np.array(lengths or (4, 4))[None, :, None]
    for d, suffix in enumerate(("_l0", "_l0_reverse")):
        through = np.where(valid, 1 - output[..., d * H : (d + 1) * H] ** 2, 0) * cut
        expected = np.einsum("tbh,tbi->hi", through, x)
        assert error(d_params["ih" + suffix], expected) <= 1e-13
        d_x = d_x - through @ params["ih" + suffix]
    assert np.max(np.abs(d_x)) <= 1e-13
    f = rnnc.jvp(spec, backend=backend)
    for first in (0, 1, 2):
        tangents = tuple(part if n == first else None for n, part in enumerate((params, x, state)))
        (_, _), (moved, _) = f((params, x, state), tangents, lengths=lengths)
        assert moved.any() == (cut and first < 2)


@dataclass(frozen=True)
class HalfRead(rnnc.Cell):
    """Reads half of x where a gradient flows, and all of it where none does: to the other half goes no adjoint."""

    name: ClassVar[str] = "half_read"

    def parameters(self, input_size: int, hidden_size: int, bias: bool) -> dict[str, tuple[int, ...]]:
        return {"w": (hidden_size, input_size // 2), "o": (2, hidden_size)}

    def output_size(self, hidden_size: int) -> int:
        return 2

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> tuple[Value, dict[str, Value]]:
        read = x.split(2)[0] + stop_gradient(x.max())
        h = tanh(linear(read, p.w) + state.h)
        return linear(h, p.o), {"h": h}


@pytest.mark.parametrize("lengths", (None, [3, 1]))
def test_a_direction_whose_output_nobody_differentiates(lengths: list[int] | None) -> None:
    spec = rnnc.Recurrent(HalfRead(), 4, 3, num_layers=2, bidirectional=True, dtype="float64")
    params, x = spec.init(seed=0), np.random.default_rng(0).standard_normal((3, 2, 4))
    found = []
    for backend in ("reference", "llvm"):
        (output, _), pullback = rnnc.vjp(spec, backend=backend)(params, x, lengths=lengths)
        found.append(pullback(output))
    for name, gradient in found[0][0].items():
        np.testing.assert_allclose(found[1][0][name], gradient, rtol=0, atol=1e-12, err_msg=name)
    np.testing.assert_allclose(found[1][1], found[0][1], rtol=0, atol=1e-12)
    assert not found[1][0]["o_l0_reverse"].any() and found[1][0]["o_l0"].any()
