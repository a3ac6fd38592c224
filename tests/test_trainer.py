"""A training step in one call of machine code: the same numbers as from the parts it is made of, on any threads."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

import rnnc
from rnnc import train
from rnnc.backends.llvm import code
from rnnc.backends.llvm.training import trainer
from rnnc.backends.training.composed import ComposedTrainer
from rnnc.ir.equations import Value, linear, tanh
from rnnc.losses import cross_entropy
from rnnc.optimizers import SGD, Adam, AdamW, Optimizer
from tests.training_data import (
    LENGTHS,
    WORDS,
    changed,
    check_unwritten_memory,
    noisy,
    same,
    series,
    steps,
    tagged,
    tagger,
)


@dataclass(frozen=True)
class Squashed(rnnc.Cell):
    """A weight that is computed from a parameter: the gradient is made of sums over rows, and is none itself."""

    name: ClassVar[str] = "squashed"

    def parameters(self, input_size: int, hidden_size: int, bias: bool) -> dict[str, tuple[int, ...]]:
        return {"weight_ih": (hidden_size, input_size), "weight_hh": (hidden_size, hidden_size)}

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> tuple[Value, dict[str, Value]]:
        h = tanh(linear(x, tanh(p.weight_ih)) + linear(state.h, p.weight_hh))
        return h, {"h": h}


@pytest.fixture(autouse=True)
def _small_batches_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code, "PARALLEL_FLOPS", 0)


@pytest.mark.parametrize(
    ("optimizer", "lengths", "threads"),
    (
        (SGD(0.3), LENGTHS, 2),
        (SGD(0.2, 0.9, nesterov=True), (4,) * 6, 3),
        (Adam(0.01), LENGTHS, 1),
        (AdamW(0.02), LENGTHS, 5),
    ),
)
def test_one_call_does_what_the_parts_do(optimizer: Optimizer, lengths: Any, threads: int) -> None:
    """Gradients are clipped; some rows of the table are never read, some often; one never changes."""
    model, pairs = noisy(padding=2), tagged(lengths=lengths)
    fused = steps(model, optimizer, pairs, clip=0.2, threads=threads)
    assert isinstance(fused[0]._trainer, trainer.LlvmTrainer)
    assert min(report.norm for report in fused[1]) > 0.2
    same(fused, steps(model, optimizer, pairs, clip=0.2, backend="reference"), 1e-11)


@pytest.mark.parametrize("readout", ("last", "mean"))
def test_behind_a_readout(readout: str) -> None:
    model = tagger(readout=readout)
    pairs = tagged(readout=readout)
    same(steps(model, Adam(0.01), pairs, threads=3), steps(model, Adam(0.01), pairs, backend="reference"), 1e-11)


@pytest.mark.parametrize("threads", (1, 3))
def test_the_same_threads_give_the_same_bits(threads: int) -> None:
    """However large the batches before: memory that is used again holds other numbers then."""
    model, pairs = noisy("float32"), tagged(lengths=LENGTHS)
    first, reports = steps(model, AdamW(0.01), pairs, threads=threads, clip=1.0)
    second = train.TrainingStep(model, "cross_entropy", AdamW(0.01), seed=5, threads=threads, clip=1.0)
    data = train.Sequences(model, second.loss, pairs * 7)
    second.gradients(data.batch(np.arange(len(data))))
    orders = [np.random.default_rng(number).permutation(len(pairs))[:5] for number in range(4)]
    assert [second.step(data.batch(rows))[0] for rows in orders] == reports
    np.testing.assert_array_equal(first.flat, second.flat)


def test_scratch_memory_is_kept_for_the_next_step_and_grows_when_it_must() -> None:
    model = tagger()
    step = train.TrainingStep(model, "cross_entropy", SGD(0.1), threads=1)
    data = train.Sequences(model, step.loss, tagged())

    def block(rows: int) -> tuple[int, int]:
        step.step(data.batch(np.arange(rows)))
        (kept,) = step._trainer._steps[1].kept  # type: ignore[attr-defined]
        return kept.block, kept.bytes

    small = block(1)
    assert small[0] and block(1) == small
    assert block(4)[1] > small[1] and block(1) == block(4)


@pytest.mark.parametrize("threads", (1, 3))
def test_batches_that_count_as_one(threads: int) -> None:
    """The second and third batch add to the dense gradients, and to rows of the table, old and new ones."""
    model, results = noisy(), []
    data = train.Sequences(model, cross_entropy(), tagged(lengths=LENGTHS * 3))
    for options in ({"threads": threads}, {"backend": "reference"}):
        step = train.TrainingStep(model, data.loss, Adam(0.01), clip=0.2, seed=5, **options)  # type: ignore[arg-type]
        reports = []
        for _ in range(3):
            parts = [data.batch(np.arange(a, b), a) for a, b in ((0, 3), (3, 14), (14, 18))]
            reports.append(step.step(parts)[0])
        results.append((step, reports))
    same(*results, 1e-11)


@pytest.mark.parametrize("threads", (1, 3))
def test_what_lies_in_the_padding_reaches_nothing(threads: int) -> None:
    """Gradients of steps that are not there are neither cleared nor read."""
    model, pairs = noisy(), tagged()
    step = train.TrainingStep(model, "cross_entropy", SGD(0.1), threads=threads)
    batch = train.Sequences(model, step.loss, pairs).batch(np.arange(len(pairs)))
    check_unwritten_memory(step, batch)


def test_a_row_that_the_table_lacks_is_refused_and_nothing_changes() -> None:
    """By the machine code, too: it never reads past the table, whatever it is given."""
    model, pairs = tagger(), tagged()
    step = train.TrainingStep(model, "cross_entropy", Adam(0.1), threads=2)
    batch = train.Sequences(model, step.loss, pairs).batch(np.arange(len(pairs)))
    before = step.flat.copy()
    for number in (WORDS, -1, -(2**63)):
        wrong = batch.x.copy()
        wrong[0, 3] = number
        with pytest.raises(IndexError, match=f"{WORDS}, 4"):
            step._take([changed(batch, x=wrong)], 0.1, None, batch.terms)
        np.testing.assert_array_equal(step.flat, before)
    assert step.updates == 0
    step.step(batch)
    assert step.updates == 1 and not np.array_equal(step.flat, before)


@pytest.mark.parametrize(
    ("layer", "kind"),
    (
        (rnnc.LSTM(4, 5, dtype="float64"), trainer.LlvmTrainer),
        (rnnc.Recurrent(Squashed(), 4, 5, dtype="float64"), ComposedTrainer),
    ),
    ids=("sums", "made of sums"),
)
def test_networks_without_a_table(layer: Any, kind: type[Any]) -> None:
    model, results = rnnc.Sequential(layer, rnnc.Linear(5, 3)), []
    for options in ({"threads": 3}, {"backend": "reference"}):
        step = train.TrainingStep(model, "mse", SGD(0.1), clip=0.1, **options)  # type: ignore[arg-type]
        assert isinstance(step._trainer, kind if "threads" in options else ComposedTrainer)
        assert ("one call" in step.explain()) == isinstance(step._trainer, trainer.LlvmTrainer)
        data = train.Sequences(model, step.loss, series())
        results.append((step, [step.step(data.batch(np.arange(6)))[0] for _ in range(3)]))
    same(*results, 1e-11)
