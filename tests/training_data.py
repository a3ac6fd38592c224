"""Small networks, ragged data and training steps for the tests of training."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

import rnnc
from rnnc import train
from rnnc.backends.llvm.training.trainer import LlvmTrainer
from rnnc.losses import mse
from rnnc.optimizers import Optimizer

Array = NDArray[Any]
Pairs = list[tuple[Array, Array]]

WORDS, CLASSES = 11, 3
LENGTHS = (5, 2, 7, 1, 3, 7)


def tagger(dtype: str = "float64", *, readout: str = "every", cell: type[Any] = rnnc.GRU, **options: Any) -> Any:
    """Embedding, recurrent layers, output layer."""
    options = {"num_layers": 2, "bidirectional": True, "dtype": dtype} | options
    spec = cell(4, 5, **options)
    head = rnnc.Linear(spec.output_size, CLASSES)
    return rnnc.Sequential(rnnc.Embedding(WORDS, 4), spec, head, readout=readout)


def tagged(seed: int = 0, lengths: tuple[int, ...] = LENGTHS, readout: str = "every") -> Pairs:
    """Numbers of words, and classes: one a step, or one a sequence."""
    rng = np.random.default_rng(seed)
    shape = {"every": lambda n: n}.get(readout, lambda n: None)
    return [(rng.integers(0, WORDS, n), rng.integers(0, CLASSES, shape(n))) for n in lengths]


def series(seed: int = 0, lengths: tuple[int, ...] = LENGTHS, dtype: str = "float64") -> Pairs:
    """Vectors of size 4, and vectors of size 3 to predict at each step."""
    rng = np.random.default_rng(seed)
    return [(rng.standard_normal((n, 4)).astype(dtype), rng.standard_normal((n, 3)).astype(dtype)) for n in lengths]


def noisy(dtype: str = "float64", padding: int | None = None) -> Any:
    """Every kind of mask: a step's, a sequence's, a state's, one behind a readout; and a row for padding."""
    spec = rnnc.RNN(6, 20, 2, dropout=0.3, bidirectional=True, dtype=dtype)
    return rnnc.Sequential(
        rnnc.Embedding(WORDS, 6, padding_index=padding),
        rnnc.Dropout(0.2, variational=True),
        rnnc.Regularized(spec, recurrent_dropout=0.2, zoneout=0.1),
        rnnc.Dropout(0.4),
        rnnc.Linear(40, 3),
    )


def changed(batch: train.Batch, **fields: Any) -> train.Batch:
    """A batch with other fields. x, target, count: of its only input and output."""
    plain = {"x": ("inputs", batch.inputs), "target": ("targets", batch.targets), "count": ("terms", batch.terms)}
    for name in [name for name in fields if name in plain]:
        field, old = plain[name]
        fields[field] = dict.fromkeys(old, fields.pop(name))
    return batch._replace(**fields)


def steps(model: Any, optimizer: Optimizer, pairs: Any, *, count: int = 4, **options: Any) -> Any:
    """A TrainingStep after some updates, and what they reported."""
    step = train.TrainingStep(model, "cross_entropy", optimizer, seed=5, **options)
    data = train.Sequences(model, step.loss, pairs)
    orders = [np.random.default_rng(number).permutation(len(data))[:5] for number in range(count)]
    return step, [step.step(data.batch(rows))[0] for rows in orders]


def same(one: Any, other: Any, tolerance: float) -> None:
    (a, reports), (b, others) = one, other
    np.testing.assert_allclose(reports, others, rtol=tolerance)
    scale = np.abs(a.flat).max()
    np.testing.assert_allclose(a.flat, b.flat, rtol=0, atol=tolerance * scale)
    for slot in a.slots:
        largest = np.abs(a.slots[slot]).max()
        np.testing.assert_allclose(a.slots[slot], b.slots[slot], rtol=0, atol=tolerance * largest)


def overflowing(dtype: str, table: bool) -> tuple[Any, Any, Any]:
    """A network without bounds, a batch that fits, and one whose gradient times 1e10, squared, overflows."""
    layers = [rnnc.RNN(4, 5, nonlinearity="relu", dtype=dtype), rnnc.Linear(5, 3)]
    model = rnnc.Sequential(*([rnnc.Embedding(6, 4)] if table else []), *layers)
    rng = np.random.default_rng(0)
    large = np.array({"float32": 1e15, "float64": 1e150}[dtype], dtype)
    targets = [rng.standard_normal((n, 3)).astype(dtype) for n in (5, 2, 4, 5)]
    xs = [rng.integers(0, 6, len(t)) if table else rng.standard_normal((len(t), 4)).astype(dtype) for t in targets]
    fitting, wild = ([(x, t * factor) for x, t in zip(xs, targets, strict=True)] for factor in (1, large))
    return model, *(train.Sequences(model, mse(), pairs).batch(np.arange(4)) for pairs in (fitting, wild))


def check_unwritten_memory(step: train.TrainingStep, batch: train.Batch) -> None:
    """Fails if gradients depend on what the memory that steps reuse held before."""
    loss, before = step.gradients(batch)
    assert isinstance(step._trainer, LlvmTrainer)
    for threaded in step._trainer._steps.values():
        for block in threaded.space._blocks.values():
            block[...] = np.nan
    again, after = step.gradients(batch)
    assert loss == again
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])
