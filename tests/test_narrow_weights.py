"""Narrow weights: machine code rounds and sums as the reference does, and that is what the formats say."""

from __future__ import annotations

import pickle
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from numpy.typing import NDArray

import rnnc
from rnnc.backends.llvm import compile
from rnnc.backends.llvm.asm.target import ISAS, Dots, Target, host, legalized
from rnnc.backends.products import ProductFormat, quantized_rows, rounded
from rnnc.backends.reference import compile as interpret
from rnnc.computations import forward
from rnnc.ir.computation import Computation
from rnnc.ir.lower import Stack
from tests import real_models
from tests.networks import data_of, lengths_of, parameters_of
from tests.random_cells import stacks
from tests.refusals import raises_saying
from tests.test_any_cell import run_llvm
from tests.test_real_models import data

Array = NDArray[Any]

FORMS = {
    "bfloat16": ProductFormat("bfloat16"),
    "int8": ProductFormat("int8"),
    "int8 rows": ProductFormat("int8", "int8"),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "bfloat16": {"weights": "bfloat16"},
    "int8": {"weights": "int8", "activations": "float32"},
    "int8 rows": {"weights": "int8"},
}
SUMS = 2e-6
"""Of float32 sums taken in another order."""
FLIP = 0.02
"""Of a code that is rounded to the other side, because the number before differs by a rounding."""


def dense(weight: Array, x: Array, options: dict[str, Any], backend: str = "llvm") -> Array:
    """One product, x (T, B, K) times weight (N, K)."""
    layer = rnnc.Sequential(rnnc.Linear(weight.shape[1], len(weight), bias=False))
    name = next(iter(layer.parameter_shapes()))
    found: Array = layer.compile({name: weight}, backend=backend, **options)(x)
    return found


@pytest.mark.parametrize("form", FORMS)
def test_any_cell(form: str) -> None:
    @settings(max_examples=3)
    @given(stacks(dtype="float32"))
    def check(stack: Stack) -> None:
        computation, product = Computation.of_stack(stack), FORMS[form]
        machine = compile(computation, threads=1, product=product)
        for ragged in (False, True):
            rng, lengths = np.random.default_rng(7), lengths_of(5, 4) if ragged else None
            feeds = parameters_of(stack, rng) | data_of(stack, 5, 4, rng, lengths)
            found = run_llvm(machine, stack, feeds, ragged)
            expected = run_llvm(interpret(computation, product=product), stack, feeds, ragged)  # type: ignore[arg-type]
            for name, value in expected.items():
                size = max(1.0, np.abs(value).max(initial=0))
                assert np.abs(found[name] - value).max(initial=0) <= (FLIP if product.activations else 1e-5) * size, (
                    name
                )

    check()


TARGETS: dict[str, Target] = {"avx512 layout": legalized("avx512"), "generic layout": legalized("generic")}
for isa in ISAS:
    with suppress(rnnc.BackendError):  # this machine lacks it
        best = host(isa)
        kinds = [Dots.BYTES] if best.dots is Dots.BYTES else dict.fromkeys([best.dots, Dots.PAIRS, Dots.BYTES])
        TARGETS |= {f"{isa} {dots.value}": best._replace(dots=dots) for dots in kinds}
"""Every layout with every kind of dot product that this machine runs."""


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("form", FORMS)
def test_products_on_every_instruction_set(form: str, target: str) -> None:
    """Rows of every length around a word and a vector, more rows than a tile and a workspace hold."""
    if FORMS[form].activations is None and not target.endswith(("layout", Dots.BYTES.value)):
        pytest.skip("float activations take no dot products of bytes")
    for inner, width, rows in ((1, 1, 1), (3, 9, 2), (37, 20, 7), (64, 33, 70)):
        rng = np.random.default_rng(inner)
        layer = rnnc.Sequential(rnnc.Linear(inner, width, bias=False))
        computation = forward(layer)
        w = rng.standard_normal((width, inner), dtype=np.float32)
        x, out = rng.standard_normal((1, rows, inner), dtype=np.float32), np.empty((1, rows, width), np.float32)
        code = compile(computation, threads=1, target=TARGETS[target], product=FORMS[form])
        name = next(iter(layer.parameter_shapes()))
        (target_name,) = code.program.outputs
        (source,) = {*code.interface.timed} - {target_name}
        code.bind({name: w}).start({source: x}, {target_name: out}, 1, rows, None)
        expected = dense(w, x, OPTIONS[form], "reference")
        np.testing.assert_allclose(out, expected, atol=SUMS * np.abs(expected).max() * 8)


def test_sums_of_integers_are_exact() -> None:
    """Of the largest and smallest codes, -128 among the weights', whose pairs must not saturate."""
    rng = np.random.default_rng(0)
    for inner in (4, 33, 512):
        codes = rng.choice([-128, -127, -1, 0, 1, 127], (24, inner))
        codes[:, 0], codes[8:16], codes[16:] = -128, -128, 127
        activations = rng.choice([-127, -126, 0, 126, 127], (3, 5, inner))
        activations[..., 0] = 127
        activations[0, 0], activations[0, 1] = -127, 127
        x = activations.astype(np.float32)
        found = dense((codes / 128).astype(np.float32), x, OPTIONS["int8 rows"])
        step = quantized_rows(x)[1] / np.float32(128)  # of a row's codes, and of a weight's
        sums = (activations @ codes.T).astype(np.float32)
        np.testing.assert_array_equal(found, sums * step)


def test_rows_without_finite_numbers() -> None:
    """A row with NaN or an infinity is NaN, in its own products alone; a row of zeros gives zeros."""
    rng = np.random.default_rng(0)
    w, x = rng.standard_normal((9, 21)).astype(np.float32), rng.standard_normal((1, 6, 21)).astype(np.float32)
    w[3] = 0
    x[0, 1, 20], x[0, 2, 0], x[0, 3], x[0, 4] = np.nan, -np.inf, 0, 1e-42
    for backend in ("llvm", "reference"):
        y = dense(w, x, OPTIONS["int8 rows"], backend)[0]
        assert np.isnan(y[1:3]).all(), backend
        assert (y[3:5] == 0).all() and (y[0, 3], y[5, 3]) == (0, 0), backend
        assert np.abs(y[[0, 5]] - x[0, [0, 5]] @ w.T).max() < 0.2, backend


def test_rounding_of_weights() -> None:
    rng = np.random.default_rng(0)
    w = rng.standard_normal((50, 9)).astype(np.float32)
    w[:, 1], w[:, 2], w[0, 3], w[:, 4] = 0, 1e-44, np.nan, np.round(w[:, 4] * 20)
    w[:, 5] = np.linspace(-128, 100, 50).round() * np.float32(0.003)
    bits = rounded(w, FORMS["bfloat16"]).widened()
    fine = np.isfinite(w) & (np.abs(w) > 1e-30)
    assert (np.abs(bits - w)[fine] <= np.abs(w)[fine] * 2.0**-8).all() and np.isnan(bits[0, 3])
    near = np.array([[1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8 - 2**-20]], np.float32)
    np.testing.assert_array_equal(rounded(near, FORMS["bfloat16"]).widened(), [[1, 1 + 2**-6, -1 - 2**-7]])
    made = rounded(w, FORMS["int8"])
    assert made.scales is not None and np.isnan(made.scales[3])
    assert (np.abs(made.widened() - w)[:, [0, 6, 7, 8]] <= 0.5001 * made.scales[[0, 6, 7, 8]]).all()
    assert (made.codes[:, 1] == 0).all() and np.isfinite(made.widened()[:, 2]).all()
    np.testing.assert_allclose(made.widened()[:, 4:6], w[:, 4:6], rtol=1e-6)  # on grids, which are kept
    assert made.codes[:, 5].min() == -128


@pytest.mark.parametrize("form", FORMS)
def test_whole_networks(form: str, tmp_path: Path) -> None:
    """Ragged, in two directions, streamed, on threads, from a file and from a pickle."""
    rng, options = np.random.default_rng(0), OPTIONS[form]
    spec = rnnc.GRU(13, 30, num_layers=2, bidirectional=True)
    params, x = spec.init(1), rng.standard_normal((9, 40, 13), dtype=np.float32)
    lengths = rng.integers(0, 10, 40)
    model = rnnc.compile(spec, params, threads=1, **options)
    output, state = model(x, lengths=lengths)
    expected, last = rnnc.compile(spec, params, backend="reference", **options)(x, lengths=lengths)
    assert max(np.abs(output - expected).max(), np.abs(state - last).max()) <= (FLIP if form == "int8 rows" else 1e-5)
    plain = rnnc.compile(spec, params)(x, lengths=lengths)[0]
    assert 0 < np.abs(output - plain).max() < 0.05
    for other in (pickle.loads(pickle.dumps(model)), rnnc.compile(spec, params, threads=3, **options)):
        np.testing.assert_array_equal(other(x, lengths=lengths)[0], output)

    net = rnnc.Sequential(
        rnnc.Embedding(7, 12), rnnc.Conv1d(12, 17, 3, padding=(2, 0)), rnnc.LSTM(17, 19), rnnc.Linear(19, 5)
    )
    made = net.compile(net.init(0), **options)
    numbers = rng.integers(0, 7, (12, 3))
    whole = made(numbers)
    first, carried = made.advance(numbers[:5])
    np.testing.assert_allclose(np.concatenate([first, made.advance(numbers[5:], carried)[0]]), whole, atol=1e-6)
    made.save(tmp_path / "net.rnnc")
    np.testing.assert_array_equal(rnnc.load(tmp_path / "net.rnnc", **options)(numbers), whole)


@pytest.mark.skipif(not real_models.REAL.exists(), reason=f"the data is not there: {real_models.REAL}")
def test_integers_of_a_file_are_kept() -> None:
    """RNNoise's weights are bytes: they are packed as these bytes, and lose nothing."""
    model, params = real_models.rnnoise(data("rnnoise"))
    x = data("rnnoise")["x"][:, None]
    net = model.compile(params, **OPTIONS["int8"])
    for name, plain in model.compile(params)(x).items():
        np.testing.assert_allclose(net(x)[name], plain, atol=1e-6)
    assert net.explain().count("kept exactly") == 9
    report = rnnc.quantization_report(model.compile(params, weights="int8"), x)
    assert all(each.largest == 0 for each in report.weights)
    assert all(0 < each.relative < 0.05 for each in (*report.products, *report.outputs))


def test_packed_bytes() -> None:
    computation = forward(rnnc.LSTM(128, 128))
    plain = compile(computation, threads=1).manifest.arena_size
    for name, share in (("bfloat16", 0.51), ("int8", 0.27), ("int8 rows", 0.28)):
        assert compile(computation, threads=1, product=FORMS[name]).manifest.arena_size <= share * plain, name


def test_report() -> None:
    """The error of weights is that of rounding them; the outputs' is that of two calls."""
    spec = rnnc.RNN(6, 11)
    params, x = spec.init(0), np.random.default_rng(0).standard_normal((4, 3, 6)).astype(np.float32)
    model = rnnc.compile(spec, params, weights="bfloat16")
    report = rnnc.quantization_report(model, x, lengths=[4, 0, 2])
    assert [each.name for each in report.weights] == [each.name for each in report.products] == [*params][:2]
    for each in report.weights:
        difference = rounded(params[each.name].T, FORMS["bfloat16"]).widened() - params[each.name].T
        assert each.largest == pytest.approx(np.abs(difference).max())
        assert each.output_largest == pytest.approx(np.abs(difference).sum(axis=0).max())
    plain = rnnc.compile(spec, params)(x, lengths=[4, 0, 2])[0]
    assert report.outputs[0].largest == pytest.approx(np.abs(model(x, lengths=[4, 0, 2])[0] - plain).max(), rel=1e-3)
    assert "weight_hh_l0" in str(report) and "weights weight_hh_l0: rounded by" in model.explain()


@pytest.mark.parametrize("form", FORMS)
def test_tables(form: str) -> None:
    """A look-up gives the row, rounded by itself: through every way into a network, and in the report."""
    rng, product = np.random.default_rng(0), FORMS[form]
    table = rng.standard_normal((5000, 21), dtype=np.float32)
    table[1], table[2], table[3], table[4] = 0, np.round(table[2] * 9), np.round(table[3]) * 2.0**-100, table[4] * 1e30
    net = rnnc.Graph(
        inputs={"n": rnnc.NUMBERS, "m": rnnc.NUMBERS},
        layers={
            "a": (rnnc.Embedding(5000, 21), "n"),
            "again": ("a", "m"),
            "sum": (rnnc.Concat(), "a", "again"),
        },
        outputs={"sum": "sum", "a": "a"},
    )
    params = {"a.weight": table}
    made = net.compile(params, **OPTIONS[form])
    numbers = rng.integers(0, 5000, (2, 3, 700))
    numbers[:, 0, :5], numbers[0, 1, :4000] = np.arange(5), 4999
    each = rounded(table.T, product).widened().T  # a row has a scale, as an output of a product has
    assert 0 < np.abs(each - table).max() / np.abs(table).max() < 0.01
    np.testing.assert_allclose(each[1:4], table[1:4], rtol=1e-6)  # multiples of a step, which are kept
    x = {"n": numbers[0], "m": numbers[1]}
    expected = np.concatenate(each[numbers], axis=-1)
    for found in (made(x), made.advance(x)[0], net.compile(params, backend="reference", **OPTIONS[form])(x)):
        np.testing.assert_array_equal(found["sum"], expected)
        np.testing.assert_array_equal(found["a"], expected[..., :21])
    assert made.calls.native == 2
    wide = {name: array.astype(np.int32) for name, array in x.items()}  # a call that Python makes
    np.testing.assert_array_equal(made(wide, lengths=[3] * 700)["sum"], expected)
    report = rnnc.quantization_report(made, x)
    assert [error.name for error in report.weights] == [error.name for error in report.products] == ["rows of a.weight"]
    assert report.weights[0].largest == pytest.approx(np.abs(each.astype(np.float64) - table).max())
    assert "rows of a.weight: rounded by" in made.explain()
    with raises_saying(rnnc.RnncError, "x['m']", "4999"):
        made(x | {"m": numbers[0] + 1})


def test_rows_without_finite_numbers_of_a_table() -> None:
    """They are NaN as bytes, and stay as they are in bfloat16; no other row changes."""
    table = np.random.default_rng(0).standard_normal((4, 9), dtype=np.float32)
    table[1, 3], table[2, 0] = np.nan, np.inf
    net = rnnc.Sequential(rnnc.Embedding(4, 9))
    for form, options in OPTIONS.items():
        for backend in ("llvm", "reference"):
            (name,) = net.parameter_shapes()
            found = net.compile({name: table}, backend=backend, **options)(np.arange(4)[:, None])[:, 0]
            assert np.isnan(found[1]).all() or form == "bfloat16"
            assert np.isnan(found[1, 3]) and not np.isfinite(found[2, 0])
            assert np.abs(found[[0, 3]] - table[[0, 3]]).max() < 0.02


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"weights": "int4"}, ("weights: expected None, 'bfloat16' or 'int8'", "'int4'")),
        ({"weights": {}}, ("weights: expected", "params")),
        ({"activations": "int8"}, ("activations", "weights=None")),
        ({"weights": "bfloat16", "activations": "int8"}, ("activations", "int8")),
        ({"weights": "int8", "activations": "uint8"}, ("activations: expected None, 'int8' or 'float32'",)),
        ({"weights": "int8", "backend": "cuda-emulated"}, ("weights", "cuda-emulated", "llvm")),
        ({"weights": "int8", "dtype": "float64"}, ("weights", "float32", "float64")),
    ],
)  # fmt: skip
def test_what_there_is_not(given: dict[str, Any], words: tuple[str, ...]) -> None:
    spec = rnnc.GRU(3, 4, dtype=given.pop("dtype", "float32"))
    with raises_saying(rnnc.RnncError, *words):
        rnnc.compile(spec, **given)


def test_rows_too_long_for_exact_sums() -> None:
    layer = rnnc.Sequential(rnnc.Linear((1 << 17) + 1, 1, bias=False))
    with raises_saying(rnnc.BackendError, "131,072", 'activations="float32"'):
        layer.compile(layer.init(0), weights="int8")
    with raises_saying(rnnc.ArgumentError, "not narrow", "weights="):
        rnnc.quantization_report(rnnc.compile(rnnc.GRU(3, 4), rnnc.GRU(3, 4).init(0)), np.zeros((1, 1, 3), np.float32))
