"""remat: the same gradients from less memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

import rnnc
from rnnc.segments import segment_size
from rnnc.specs import Spec

SPECS = (
    rnnc.LSTM(3, 5, 2, dtype="float64"),
    rnnc.GRU(3, 4, batch_first=True, dtype="float64"),
    rnnc.RNN(2, 3, bias=False, dtype="float64"),
)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("lengths", (None, [9, 0, 4, 7]))
@pytest.mark.parametrize("remat", ("sqrt", 1, 4, 50))
@pytest.mark.parametrize("spec", SPECS, ids=repr)
def test_gradients_do_not_depend_on_it(backend: str, spec: Spec, remat: int | str, lengths: list[int] | None) -> None:
    random = np.random.default_rng(0)
    steps, batch = 9, 4
    x = random.standard_normal((batch, steps, spec.input_size) if spec.batch_first else (steps, batch, spec.input_size))
    state = tuple(random.standard_normal((spec.num_layers, batch, w)) for w in spec.states.values())
    given = state if len(state) > 1 else state[0]
    params = spec.init(0)
    (output, last), pullback = rnnc.vjp(spec, backend=backend)(params, x, given, lengths=lengths)
    (again, last_again), segmented = rnnc.vjp(spec, backend=backend, remat=remat)(params, x, given, lengths=lengths)
    d_output = random.standard_normal(output.shape)
    expected, found = pullback(d_output, given), segmented(d_output, given)
    close(again, output)
    for a, b in zip(flat(last_again), flat(last), strict=True):
        close(a, b)
    for name, gradient in expected[0].items():
        close(found[0][name], gradient)
    close(found[1], expected[1])
    for a, b in zip(flat(found[2]), flat(expected[2]), strict=True):
        close(a, b)
    params[next(iter(params))][...] = 7
    x[...] = 7
    close(segmented(d_output, given)[1], expected[1])  # neither reaches the pullback


def flat(state: object) -> tuple[np.ndarray, ...]:
    return state if isinstance(state, tuple) else (state,)  # type: ignore[return-value]


def close(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * max(1.0, float(np.abs(expected).max())))


def test_a_long_sequence_is_trained_in_memory_that_grows_like_its_square_root() -> None:
    spec = rnnc.LSTM(1, 32)
    f = rnnc.vjp(spec, remat="sqrt", threads=1)
    saved = [f.saved_bytes(steps, 1) for steps in (1250, 5000, 20_000)]
    assert all(1.9 < b / a < 2.1 for a, b in zip(saved, saved[1:], strict=False))
    peaks = []
    for steps in (5000, 20_000):
        params, x = spec.init(0), np.ones((steps, 1, 1), np.float32)
        rnnc.vjp(spec, remat="sqrt", threads=1)(params, x[:4])  # compiled, imported
        tracemalloc.start()
        (output, _), pullback = f(params, x)
        d_params, _, _ = pullback(output)
        fixed = 3 * output.nbytes + 4 * x.nbytes  # x and its copy, the output, their gradients
        peaks.append(tracemalloc.get_traced_memory()[1] - fixed)
        tracemalloc.stop()
        assert all(np.isfinite(array).all() for array in d_params.values())
    assert peaks[1] < 3 * max(peaks[0], 200_000)
    assert saved[-1] < rnnc.vjp(spec, threads=1).saved_bytes(20_000, 1) / 50


def test_sizes_of_segments() -> None:
    assert [segment_size("sqrt", t) for t in (1, 2, 4, 5, 9, 10, 20_000)] == [1, 2, 2, 3, 3, 4, 142]
    assert segment_size(None, 7) == segment_size(8, 7) == 7


@pytest.mark.parametrize(
    ("spec", "remat", "message"),
    (
        (rnnc.LSTM(3, 4, bidirectional=True), "sqrt", "remat: a network with a reverse direction"),
        (rnnc.LSTM(3, 4), "all", "remat: expected 'sqrt'"),
        (rnnc.LSTM(3, 4), 0, "remat: expected an integer >= 1"),
        (rnnc.LSTM(3, 4), 2.5, "remat: expected None, 'sqrt' or a number of steps"),
    ),
)
def test_what_is_refused(spec: Spec, remat: object, message: str) -> None:
    with pytest.raises((rnnc.ArgumentError, rnnc.ArgumentTypeError), match=message):
        rnnc.vjp(spec, remat=remat)  # type: ignore[arg-type]
