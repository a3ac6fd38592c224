"""Cells whose values go round the usual paths: states that only move, outputs that are views, concats of anything.

Each is held against the reference backend, which the pipeline's own tests hold against the unrolled equations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest

import rnnc
from rnnc.backends.cuda.emulator import find_compiler
from rnnc.ir.equations import Value, concat, greater, linear, mean, select, sigmoid, stop_gradient, tanh

Step = Callable[[Value, SimpleNamespace, SimpleNamespace], tuple[Value, dict[str, Value]]]


@dataclass(frozen=True)
class Odd(rnnc.Cell):
    """A cell made of one function.

    Each has the weights ih (H, I), hh and v (H, H), a wide one (H, I + H) and a narrow one (H, H / 2).
    """

    name: ClassVar[str] = "odd"
    function: Step
    state_names: tuple[str, ...] = ("h",)
    output_parts: tuple[int, int] = (1, 1)  # output width = H * first / second

    def parameters(self, input_size: int, hidden_size: int, bias: bool) -> dict[str, tuple[int, ...]]:
        square = (hidden_size, hidden_size)
        wide = (hidden_size, input_size + hidden_size)
        narrow = (hidden_size, hidden_size // 2)
        return {"ih": (hidden_size, input_size), "hh": square, "v": square, "wide": wide, "narrow": narrow}

    def states(self, hidden_size: int) -> dict[str, int]:
        return dict.fromkeys(self.state_names, hidden_size)

    def output_size(self, hidden_size: int) -> int:
        return hidden_size * self.output_parts[0] // self.output_parts[1]

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> tuple[Value, Mapping[str, Value]]:
        return self.function(x, state, p)


def elman(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> Value:
    return tanh(linear(x, p.ih) + linear(s.h, p.hh))


def one_wide_weight(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> tuple[Value, dict[str, Value]]:
    h = tanh(linear(concat(x, s.h), p.wide))
    return h, {"h": h}


def two_products_of_one_state(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> tuple[Value, dict[str, Value]]:
    h = tanh(linear(x, p.ih) + linear(s.h, p.hh) + linear(s.h, p.v))
    return h, {"h": h}


def halves_exchanged(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> tuple[Value, dict[str, Value]]:
    a, b = elman(x, s, p).split(2)
    h = sigmoid(linear(concat(b, a), p.v))
    return h, {"h": h}


def delay_line(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> tuple[Value, dict[str, Value]]:
    h = tanh(linear(x, p.ih) + linear(s.h, p.hh) + 0.5 * s.c)
    return h, {"h": h, "c": s.h}


def state_that_stays(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> tuple[Value, dict[str, Value]]:
    h = tanh(linear(x, p.ih) + linear(s.h, p.hh) * s.c)
    return h, {"h": h, "c": s.c}


def old_state_out(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> tuple[Value, dict[str, Value]]:
    return s.h, {"h": elman(x, s, p)}


def product_of_old_state_out(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> tuple[Value, dict[str, Value]]:
    return linear(s.h, p.v), {"h": elman(x, s, p)}


def shift_in_time(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> tuple[Value, dict[str, Value]]:
    u = linear(x, p.ih)
    return tanh(u + linear(s.h, p.hh)), {"h": u}


def half_out(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> tuple[Value, dict[str, Value]]:
    h = elman(x, s, p)
    return h.split(2)[1], {"h": h}


def new_and_old_out(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> tuple[Value, dict[str, Value]]:
    h = elman(x, s, p)
    return concat(h, s.h), {"h": h}


def mean_of_an_older_state(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> tuple[Value, dict[str, Value]]:
    h = tanh(linear(x, p.ih) + linear(s.h - mean(s.c), p.hh))
    return h, {"h": h, "c": s.h}


def first_unit_leads(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> tuple[Value, dict[str, Value]]:
    """Every unit reads the old value of one that another part of the step overwrites."""
    units = s.h.shape[-1]
    assert isinstance(units, int)
    h = tanh(linear(x, p.ih) + 0.5 * s.h - 0.7 * s.h.split(units)[0])
    return h, {"h": h}


def mask_across_matmuls(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> tuple[Value, dict[str, Value]]:
    v = linear(x, p.ih) + linear(s.h, p.hh)
    mask = greater(v, mean(v))
    u = linear(select(mask, v, 0.0), p.v)
    h = select(mask, tanh(u), 0.5 * mean(x) * u)
    return h, {"h": h}


def a_row_and_its_first_half(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> tuple[Value, dict[str, Value]]:
    """Two products in one phase whose left operands begin at the same column, and end elsewhere."""
    h = tanh(linear(x, p.ih) + linear(s.h, p.hh)) * tanh(linear(s.h.split(2)[0], p.narrow))
    return h, {"h": h}


def a_first_half_and_its_row(x: Value, s: SimpleNamespace, p: SimpleNamespace) -> tuple[Value, dict[str, Value]]:
    """As above, and the shorter one comes first."""
    h = tanh(linear(s.h.split(2)[0], p.narrow)) * tanh(linear(x, p.ih) + linear(s.h, p.hh))
    return h, {"h": h}


CELLS = [
    Odd(mask_across_matmuls),
    Odd(one_wide_weight),
    Odd(two_products_of_one_state),
    Odd(halves_exchanged),
    Odd(delay_line, ("h", "c")),
    Odd(state_that_stays, ("h", "c")),
    Odd(old_state_out),
    Odd(product_of_old_state_out),
    Odd(shift_in_time),
    Odd(half_out, output_parts=(1, 2)),
    Odd(new_and_old_out, output_parts=(2, 1)),
    Odd(mean_of_an_older_state, ("h", "c")),
    Odd(first_unit_leads),
    Odd(a_row_and_its_first_half),
    Odd(a_first_half_and_its_row),
]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("cell", CELLS, ids=lambda c: c.function.__name__)
def test_odd_cells_agree_with_the_reference(cell: Odd) -> None:
    for hidden, layers, bidirectional in ((4, 1, False), (4, 2, True), (18, 1, True), (18, 2, False)):
        spec = rnnc.Recurrent(cell, 7, hidden, num_layers=layers, bidirectional=bidirectional)
        assert_agrees(spec, "llvm", ((1, 1, False), (6, 5, False), (6, 5, True)))


@pytest.mark.rare
@pytest.mark.skipif(find_compiler() is None, reason="emulating CUDA needs a C++ compiler")
@pytest.mark.parametrize("cell", CELLS, ids=lambda c: c.function.__name__)
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
