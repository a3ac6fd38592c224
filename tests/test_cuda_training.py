"""Training on a GPU, by emulation: the numbers of the reference backend, with parameters that stay on the device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rnnc
from rnnc import train
from rnnc.backends.cuda import emulated
from rnnc.backends.cuda.emulator import find_compiler
from rnnc.backends.reference import training
from rnnc.backends.training.noise import Where
from rnnc.optimizers import SGD, Adam, AdamW, Optimizer, update_graph
from tests.training_data import changed, noisy, overflowing, same, series, steps, tagged, tagger

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="emulating CUDA needs a C++ compiler")

EMULATED, REFERENCE = {"backend": "cuda-emulated"}, {"backend": "reference"}
TOLERANCE = {"float32": 2e-6, "float64": 1e-13}


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("optimizer", "dtype", "options"),
    (
        (SGD(0.3), "float64", {}),
        (SGD(0.2, 0.9, nesterov=True), "float32", {"clip": 0.05}),
        (Adam(0.01), "float64", {"clip": 1e9}),
        (AdamW(0.02), "float64", {"clip": 0.01}),
    ),
    ids=str,
)
def test_updates_are_those_of_the_reference(optimizer: Optimizer, dtype: str, options: Any) -> None:
    """Ragged batches, an embedding of which few rows change, clipping."""
    model = tagger(dtype)
    found, expected = (steps(model, optimizer, tagged(), **options, **on) for on in (EMULATED, REFERENCE))
    same(found, expected, TOLERANCE[dtype])


def test_masks_are_the_same_on_every_backend() -> None:
    model = noisy(padding=3)
    found, expected = (steps(model, Adam(0.02), tagged(), **on) for on in (EMULATED, REFERENCE))
    same(found, expected, TOLERANCE["float64"])
    np.testing.assert_array_equal(found[0].params["0.weight"][3], model.init(5)["0.weight"][3])


def test_a_step_that_overflows_changes_nothing() -> None:
    model, fitting, wild = overflowing("float64", True)
    step = train.TrainingStep(model, "mse", Adam(0.01), on_nonfinite="skip", **EMULATED)
    step.step(fitting)
    before = {name: array.copy() for name, array in (step.slots | {"p": step.flat}).items()}
    outcome, _ = step.step(changed(wild, target=wild.target * 1e5))
    assert not np.isfinite(outcome).all()
    step.step(wild, 1e10)
    assert (step.updates, step.skipped) == (1, 2)
    for name, array in (step.slots | {"p": step.flat}).items():
        np.testing.assert_array_equal(array, before[name])


def test_vectors_and_the_squared_error() -> None:
    model = rnnc.Sequential(rnnc.LSTM(4, 6, dtype="float64"), rnnc.Linear(6, 3), readout="mean")
    pairs = [(x, y.mean(axis=0)) for x, y in series()]
    results = []
    for on in (EMULATED, REFERENCE):
        step = train.TrainingStep(model, "mse", SGD(0.3), seed=1, **on)
        data = train.Sequences(model, step.loss, pairs)
        results.append((step, [step.step(data.batch(np.arange(6)))[0] for _ in range(2)]))
    same(*results, TOLERANCE["float64"])


def test_batches_that_count_as_one_and_pieces_of_sequences() -> None:
    model = rnnc.Sequential(rnnc.Embedding(11, 4), rnnc.GRU(4, 5, dtype="float64"), rnnc.Linear(5, 3))
    results = []
    for on in (EMULATED, REFERENCE):
        step = train.TrainingStep(model, "cross_entropy", SGD(0.5), seed=1, carry=True, **on)
        data = train.Sequences(model, step.loss, tagged())
        parts = [data.batch(np.array(rows)) for rows in ([0, 2], [1, 5, 4])]
        reports = [step.step(parts)[0]]
        report, state = step.step(parts[0])
        reports += [report, step.step(parts[0], state=state)[0]]
        results.append((step, reports))
    same(*results, TOLERANCE["float64"])
    gradients = [step.gradients(parts[1])[1] for step, _ in results]
    for name, value in gradients[1].items():
        np.testing.assert_allclose(gradients[0][name], value, rtol=0, atol=1e-13 * np.abs(value).max(), err_msg=name)


def test_what_is_written_to_the_parameters_counts() -> None:
    model = tagger()
    step, reports = steps(model, SGD(0.3), tagged(), count=1, **EMULATED)
    again, others = steps(model, SGD(0.3), tagged(), count=1, **EMULATED)
    for name, array in step.params.items():
        again.params[name][...] = 0
        again.params[name][...] = array
    again.params["2.bias"][...] += 1
    data = train.Sequences(model, step.loss, tagged())
    batch = data.batch(np.arange(6))
    assert reports == others
    assert step.step(batch)[0].loss != again.step(batch)[0].loss
    again.params["2.bias"][...] = 0
    step.params["2.bias"][...] = 0
    for name, array in step.params.items():
        again.params[name][...] = array
    assert step.step(batch)[0] == again.step(batch)[0]


def test_fit_validates_and_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    model = tagger("float32", num_layers=1, bidirectional=False)
    options = {"batch_size": 2, "optimizer": Adam(0.02), "progress": False, "seed": 3}
    runs = {}
    for backend in ("reference", "cuda-emulated"):
        runs[backend] = train.fit(model, tagged(), validation=tagged(1), epochs=3, backend=backend, **options)
    file = tmp_path / "state.safetensors"
    for epochs in (2, 3):
        resumed = train.fit(
            model,
            tagged(),
            validation=tagged(1),
            epochs=epochs,
            backend="cuda-emulated",
            checkpoint=file,
            resume=epochs == 3,
            **options,
        )
    whole = runs["cuda-emulated"]
    for line, other in zip(whole.history, runs["reference"].history, strict=True):
        assert line.loss == pytest.approx(other.loss, rel=1e-5)
        assert line.validation_loss == pytest.approx(other.validation_loss, rel=1e-5)
        assert line.accuracy == other.accuracy
    for name, array in whole.params.items():
        np.testing.assert_array_equal(resumed.params[name], array, err_msg=name)
    words, lengths = np.array([[1, 2], [3, 4], [5, 0]]), [3, 2]
    scores = whole.compile()(words, lengths=lengths)
    np.testing.assert_allclose(scores, whole.compile(backend="llvm")(words, lengths=lengths), atol=1e-5)


@pytest.mark.parametrize("shape", ((1, 1, 1), (3, 2, 7), (2, 5, 8), (1, 3, 33)))
@pytest.mark.parametrize("dtype", ("float32", "float64"))
def test_noise_is_numpys(shape: tuple[int, int, int], dtype: str) -> None:
    where = Where(seed=2**63 + 5, update=7, number=3, row=11, step=2**31)
    found, expected = (np.full(shape, np.nan, dtype) for _ in range(2))
    emulated.compile_noise(dtype).fill(found, where, 0.3, 0.5, 1.5)
    training.compile_noise(dtype).fill(expected, where, 0.3, 0.5, 1.5)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("size", (0, 1, 257, 70_000))
def test_an_update_of_flat_arrays(size: int) -> None:
    graph = update_graph(Adam(0.1), "float64")
    random = np.random.default_rng(0)
    arrays = {n.attr("name"): random.random(size) for n in graph.nodes if n.op == "input" and n.shape == ("B",)}
    scalars = {n.attr("name"): 0.5 for n in graph.nodes if n.op == "input" and n.shape != ("B",)}
    found, expected = ({name: array.copy() for name, array in arrays.items()} for _ in range(2))
    emulated.compile_update(graph).run(found, scalars)
    training.compile_update(graph).run(expected, scalars)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-14, err_msg=name)


def test_training_on_tensor_cores() -> None:
    """The losses are those of float32, to the precision of the operands; and others than those."""
    options = {"epochs": 2, "batch_size": 3, "optimizer": Adam(0.02), "progress": False, "backend": "cuda-emulated"}
    plain, rounded = (train.fit(tagger("float32"), tagged(), matmul=m, **options) for m in (None, "bfloat16"))
    for line, other in zip(plain.history, rounded.history, strict=True):
        assert line.loss == pytest.approx(other.loss, rel=1e-2)
    assert plain.history[-1].loss != rounded.history[-1].loss
    words = np.array([[1, 2], [3, 4], [5, 0]])
    networks = (plain.model.compile(plain.params, backend="cuda-emulated", matmul=m) for m in (None, "bfloat16"))
    scores, coarse = (network(words) for network in networks)
    np.testing.assert_allclose(scores, coarse, atol=2e-2)
    assert not np.array_equal(scores, coarse)
    with pytest.raises(rnnc.RnncError, match="matmul: expected None, or operands that backend 'llvm' has"):
        train.fit(tagger("float32"), tagged(), matmul="bfloat16")
