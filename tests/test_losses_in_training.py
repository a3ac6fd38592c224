"""Losses in `fit`: functions, CTC, classes of unequal weight, targets with gaps; and what messages say of targets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rnnc
from rnnc import losses, optimizers, train
from rnnc.ir.errors import ArgumentError, ArgumentTypeError, CheckpointError, IRError
from tests.refusals import raises_saying

NET = rnnc.Sequential(rnnc.GRU(2, 4, dtype="float64"), rnnc.Linear(4, 3))
LENGTHS = (5, 2, 7, 3)


def pairs(target: Any, lengths: tuple[int, ...] = LENGTHS) -> list[Any]:
    """Ragged sequences. target: a function of a generator and a number of steps."""
    rng = np.random.default_rng(0)
    return [(rng.standard_normal((n, 2)), target(rng, n)) for n in lengths]


def fit(data: Any, loss: Any, **options: Any) -> Any:
    given = {
        "epochs": 3,
        "batch_size": 2,
        "optimizer": optimizers.Adam(0.02),
        "progress": False,
        "backend": "reference",
    } | options
    return train.fit(NET, data, loss=loss, **given)


def test_a_function_is_a_loss() -> None:
    """One that computes what a built-in loss does trains to the same bits' neighbourhood."""
    data = pairs(lambda rng, n: rng.standard_normal((n, 3)))
    own, built_in = fit(data, lambda y, t: (y - t) ** 2), fit(data, "mse")
    assert [line.loss for line in own.history] == pytest.approx([line.loss for line in built_in.history], rel=1e-12)


def test_a_function_reads_targets_of_any_width() -> None:
    """Single whole numbers, where the output has three columns."""
    data = pairs(lambda rng, n: rng.integers(0, 2, n))
    trained = fit(data, lambda y, t: abs(y[:, :1] - t) + 0 * y, validation=data, epochs=1)
    output = trained.compile()(data[0][0][:, None])
    found = train.Evaluation(NET, losses.function(lambda y, t: abs(y[:, :1] - t), shape=()))
    batch = train.Sequences(NET, found.loss, data[:1]).batch(np.arange(1))
    assert found(trained.params, batch)[0] == pytest.approx(float(np.abs(output[:, 0, 0] - data[0][1]).sum()))


def test_ctc_trains_with_labels_of_any_number() -> None:
    data = pairs(lambda rng, n: rng.integers(1, 3, rng.integers(0, n // 2 + 1)))
    held_out = [(x, target[:1]) for x, target in data]
    trained = fit(data, "ctc", validation=[*held_out, (np.ones((9, 2)), np.array([1, 2, 1, 2]))], backend="llvm")
    assert trained.history[-1].loss < trained.history[0].loss
    step = train.TrainingStep(NET, losses.ctc(longest=4), optimizers.SGD(0.1))
    batch = train.Sequences(NET, step.loss, data).batch(np.arange(4))
    assert batch.target.shape == (4, 4) and batch.terms == {"output": 4}
    mean, _ = step.gradients(batch)
    assert mean == pytest.approx(step.step(batch)[0].loss, rel=1e-13)


def test_weights_of_classes_divide_the_mean_of_a_batch_and_not_the_accuracy() -> None:
    data = pairs(lambda rng, n: rng.integers(0, 3, n))
    loss = losses.cross_entropy(class_weights=(0.1, 0.2, 0.3))
    trained = fit(data, loss, validation=data)
    scores = [trained.compile()(x[:, None])[:, 0] for x, _ in data]
    z, t = np.concatenate(scores), np.concatenate([target for _, target in data])
    weights = np.array([0.1, 0.2, 0.3])[t]
    nll = np.log(np.exp(z).sum(-1)) - z[np.arange(len(t)), t]
    assert trained.history[-1].validation_loss == pytest.approx((weights * nll).sum() / weights.sum(), rel=1e-10)
    assert trained.history[-1].accuracy == pytest.approx((z.argmax(-1) == t).mean())
    step = train.TrainingStep(NET, loss, optimizers.SGD(0.1), params=trained.params, backend="reference")
    mean, _ = step.gradients(train.Sequences(NET, loss, data).batch(np.arange(len(data))))
    assert mean == pytest.approx(trained.history[-1].validation_loss, rel=1e-12)


def test_gaps_in_targets_are_left_out_or_told_with_their_place() -> None:
    data = pairs(lambda rng, n: np.where(rng.random((n, 3)) < 0.4, np.nan, 1.0))
    data[0][1][:] = 1.0
    assert np.isfinite(fit(data, losses.mae(missing="skip")).history[-1].loss)
    with raises_saying(ArgumentError, "data[1][1]", "finite numbers", "nan at step", "missing='skip'"):
        fit(data, "mae")


@pytest.mark.parametrize(
    ("loss", "kind", "words"),
    (
        (lambda y, t: 3.0, ArgumentTypeError, ("<lambda>", "(B, K)", "y of shape (B, 3)", "t of shape (B, 1)", "3.0")),
        (lambda y, t: np.ones(3), ArgumentTypeError, ("<lambda>", "symbolic losses of shape (B, K)")),
        (lambda y: y, ArgumentTypeError, ("called with (output, target)", "takes y", "got 2")),
        (lambda y, t: y.reshape(-1, 4), IRError, ("reshape(-1, 4)", "('B', 3)")),
        (losses.function(lambda y, t: y, missing="skip"), ArgumentError, ("for each number", "(B, 1)", "(B, 3)")),
    ),
)
def test_what_a_function_returns_is_told(loss: Any, kind: type[Exception], words: tuple[str, ...]) -> None:
    with raises_saying(kind, *words, "test_losses_in_training.py:"):
        fit(pairs(lambda rng, n: rng.standard_normal(n)), loss)


def test_a_checkpoint_knows_the_equations_of_a_function(tmp_path: Path) -> None:
    data = pairs(lambda rng, n: rng.standard_normal((n, 3)))
    options = {"checkpoint": tmp_path / "run.safetensors", "resume": True}
    fit(data, lambda y, t: (y - t) ** 2, epochs=1, **options)
    resumed = fit(data, lambda output, target: (output - target) ** 2, epochs=2, **options)
    assert len(resumed.history) == 2
    with raises_saying(CheckpointError, "loss = ", "Function(", "this one has"):
        fit(data, lambda y, t: 2 * (y - t) ** 2, epochs=3, **options)
