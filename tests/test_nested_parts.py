"""Parts of parts: concats of slices of concats, and sums of what reverse mode makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rnnc
from rnnc.backends.cuda.emulator import find_compiler
from rnnc.ir.equations import Value, concat, linear, tanh

WIDTH, T, B = 6, 3, 2

Cut = tuple[int, int, int]
"""Which of the values so far, counted from the last; first column and number of columns, modulo what there is."""
Rule = tuple[str, tuple[Cut, ...]]


@dataclass(frozen=True)
class Nested(rnnc.Cell):
    """Each rule makes a value of columns of earlier ones; state and output are columns of the last."""

    rules: tuple[Rule, ...]
    finished: bool = True
    name: ClassVar[str] = "nested"

    def parameters(self, input_size: int, hidden_size: int, bias: bool) -> dict[str, tuple[int, ...]]:
        return {"ih": (hidden_size, input_size), "hh": (hidden_size, hidden_size)}

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> tuple[Value, dict[str, Value]]:
        product = linear(state.h, p.hh)
        values = [x, state.h, product, tanh(linear(x, p.ih) + product)]
        for op, cuts in self.rules:
            parts = [columns(values, cut) for cut in cuts]
            values.append({"join": concat(parts), "tanh": tanh(parts[0]), "scale": parts[0] * 0.5}[op])
        last = concat([*values[:-3:-1], values[3], state.h])
        return last[:, 2 : 2 + WIDTH], {"h": tanh(last[:, :WIDTH]) if self.finished else last[:, 1 : 1 + WIDTH]}


def columns(values: list[Value], cut: Cut) -> Value:
    which, start, count = cut
    value = values[-1 - which % len(values)]
    width = int(value.shape[-1])
    start %= width
    return value[:, start : start + 1 + count % (width - start)]


cuts = st.tuples(st.integers(0, 5), st.integers(0, 11), st.integers(0, 11))
rules = st.tuples(st.sampled_from(("join", "join", "join", "tanh", "scale")), st.lists(cuts, min_size=1, max_size=3))
cells = st.builds(
    Nested,
    st.lists(rules.map(lambda r: (r[0], tuple(r[1]))), min_size=2, max_size=6).map(tuple),
    st.booleans(),
)


def everything(cell: rnnc.Cell, backend: str) -> list[Any]:
    """Results and gradients of a ragged batch."""
    spec, rng = rnnc.Recurrent(cell, WIDTH, WIDTH, dtype="float64"), np.random.default_rng(0)
    params, x = spec.init(0), rng.standard_normal((T, B, WIDTH))
    results = rnnc.compile(spec, params, backend=backend)(x, lengths=np.array([3, 2]))
    (output, state), pull = rnnc.vjp(spec, backend=backend)(params, x, None)
    gradients = pull(rng.standard_normal(output.shape), rng.standard_normal(state.shape))
    return [*results, output, state, *gradients[0].values(), *gradients[1:]]


def check(cell: rnnc.Cell, backend: str) -> None:
    for found, expected in zip(everything(cell, backend), everything(cell, "reference"), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-11, err_msg=repr(cell))


@dataclass(frozen=True)
class Turned(rnnc.Cell):
    """The state is rotated twice: a concat that only columns of another concat read has to be written as well."""

    name: ClassVar[str] = "turned"

    def parameters(self, input_size: int, hidden_size: int, bias: bool) -> dict[str, tuple[int, ...]]:
        return {"ih": (hidden_size, input_size), "hh": (hidden_size, hidden_size)}

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> tuple[Value, dict[str, Value]]:
        h = tanh(linear(x, p.ih) + linear(state.h, p.hh))
        for _ in range(2):
            h = concat([h[:, 1:], h[:, :1]])
        return h, {"h": h}


def test_a_row_that_is_turned_twice(backend: str) -> None:
    check(Turned(), backend)


@pytest.mark.skipif(find_compiler() is None, reason="emulating CUDA needs a C++ compiler")
def test_a_row_that_is_turned_twice_on_an_emulated_gpu() -> None:
    check(Turned(), "cuda-emulated")


ADJOINTS = Nested((("join", ((5, 1, 3), (4, 3, 3))), ("join", ((0, 1, 5), (4, 7, 1)))))


def test_zeros_of_adjoints_are_no_values_of_a_batch(backend: str) -> None:
    """Sums of the zeros beside a part's adjoint would be values of one row per sequence, read at every step."""
    check(ADJOINTS, backend)


@pytest.mark.sampled(2)
@settings(max_examples=8)
@given(cells)
def test_random_parts(cell: Nested) -> None:
    check(cell, "llvm")
