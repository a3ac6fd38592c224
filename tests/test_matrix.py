"""Every backend against the oracle over the matrix: all pairs of option values, and random draws beyond its sizes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rnnc
from tests.cases import CELLS, Case, assert_close
from tests.matrix import allowed, cases

pytestmark = pytest.mark.shipped


@pytest.mark.sampled(2)
@pytest.mark.parametrize("case", cases(strength=2), ids=str)
def test_all_pairs_of_options(case: Case, backend: str) -> None:
    model = rnnc.compile(case.spec(), case.params, backend=backend)
    assert_close(case.call(model), case.expected(), case.dtype)


random_cases = st.builds(
    Case,
    cell=st.sampled_from(CELLS),
    num_layers=st.integers(1, 3),
    bidirectional=st.booleans(),
    bias=st.booleans(),
    batch_first=st.booleans(),
    dtype=st.sampled_from(("float32", "float64")),
    steps=st.integers(1, 20),
    batch=st.none() | st.integers(0, 19),
    input_size=st.integers(1, 70),
    hidden_size=st.integers(1, 70),
    lengths=st.sampled_from(("none", "mixed", "full", "empty")),
    initial=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
).filter(lambda case: allowed(dict(vars(case))) and case.width > 0)


@pytest.mark.rare
@settings(max_examples=40)
@given(case=random_cases)
def test_random_options_and_sizes(case: Case, backend: str) -> None:
    model = rnnc.compile(case.spec(), case.params, backend=backend)
    assert_close(case.call(model), case.expected(), case.dtype)
