"""Training: gradients and updates against PyTorch, accumulation, pieces, resumption, early stopping."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rnnc
from rnnc import train
from rnnc.ir.errors import ArgumentError, ArgumentTypeError, RnncError, ShapeError
from rnnc.losses import cross_entropy, mse
from rnnc.optimizers import SGD, Adam, AdamW, Optimizer
from rnnc.train.data import batches
from tests.refusals import raises_saying
from tests.training_data import CLASSES, LENGTHS, WORDS, series, tagged, tagger

ROOT = Path(__file__).resolve().parent.parent
OPTIMIZERS: dict[str, Optimizer] = {"sgd": SGD(0.3), "adam": Adam(0.01), "adamw": AdamW(0.01)}
TOLERANCE = {"float64": 1e-12, "float32": 2e-6}


def whole(model: Any, loss: Any, pairs: Any) -> train.Batch:
    return train.Sequences(model, loss, pairs).batch(np.arange(len(pairs)))


def torch_loss(peer: Any, batch: train.Batch, pairs: Any) -> Any:
    """PyTorch's mean loss over the steps that are there."""
    import torch

    scores = peer.scores(batch.x, batch.lengths)
    targets = np.stack([t for _, t in pairs]) if scores.ndim == 2 else np.concatenate([t for _, t in pairs])
    if scores.ndim == 3:
        scores = torch.cat([scores[: len(x), row] for row, (x, _) in enumerate(pairs)])
    compare = torch.nn.functional.cross_entropy if targets.dtype.kind == "i" else torch.nn.functional.mse_loss
    return compare(scores, torch.from_numpy(targets))


def torch_optimizer(peer: Any, optimizer: Optimizer) -> list[Any]:
    """The same updates in PyTorch: of the rows of the embedding that a batch names, and of all else."""
    import torch

    table, others = [peer[0].weight], [p for n, p in peer.named_parameters() if n != "0.weight"]
    rate = optimizer.learning_rate
    if isinstance(optimizer, SGD):
        return [torch.optim.SGD([*table, *others], lr=rate)]
    dense = torch.optim.AdamW(others, lr=rate) if isinstance(optimizer, AdamW) else torch.optim.Adam(others, lr=rate)
    return [dense, torch.optim.SparseAdam(table, lr=rate)]


def worst(found: Any, expected: Any) -> float:
    """The largest difference, relative to the largest number of each array."""
    assert found.keys() == expected.keys()
    return max(float(np.abs(found[k] - expected[k]).max() / np.abs(expected[k]).max()) for k in found)


# -- against PyTorch ----------------------------------------------------------------------------------


@pytest.mark.sampled(3)
@pytest.mark.parametrize("readout", ("every", "last", "mean"))
@pytest.mark.parametrize("lengths", (LENGTHS, (4, 4, 4)))
@pytest.mark.parametrize("cell", (rnnc.RNN, rnnc.LSTM))
def test_loss_and_gradients_agree_with_pytorch(cell: Any, lengths: Any, readout: str, backend: str) -> None:
    pytest.importorskip("torch")
    from tests.torch_network import TorchNetwork

    model, pairs = tagger(cell=cell, readout=readout), tagged(lengths=lengths, readout=readout)
    step = train.TrainingStep(model, "cross_entropy", SGD(0.1), backend=backend)
    peer = TorchNetwork(model, step.params)
    batch = whole(model, step.loss, pairs)
    loss, gradients = step.gradients(batch)
    expected = torch_loss(peer, batch, pairs)
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-13)
    assert worst(gradients, peer.gradients()) < 1e-12


def test_vectors_in_and_out_agree_with_pytorch(backend: str) -> None:
    pytest.importorskip("torch")
    from tests.torch_network import TorchNetwork

    model = rnnc.Sequential(rnnc.GRU(4, 5, dtype="float64"), rnnc.Linear(5, 3))
    step = train.TrainingStep(model, "mse", SGD(0.1), backend=backend)
    peer = TorchNetwork(model, step.params)
    batch = whole(model, step.loss, series())
    loss, gradients = step.gradients(batch)
    expected = torch_loss(peer, batch, series())
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-13)
    assert worst(gradients, peer.gradients()) < 1e-12


@pytest.mark.sampled(3)
@pytest.mark.parametrize("dtype", ("float64", "float32"))
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_five_steps_agree_with_pytorch(name: str, dtype: str, backend: str) -> None:
    """Losses and parameters, with gradients clipped. Each batch leaves some rows of the embedding unread."""
    torch = pytest.importorskip("torch")
    from tests.torch_network import TorchNetwork

    optimizer = OPTIMIZERS[name]
    if name == "adamw":  # PyTorch has no sparse AdamW: give the table no decay by not comparing it
        optimizer = AdamW(0.01, weight_decay=0.0)
    model = tagger(dtype)
    step = train.TrainingStep(model, "cross_entropy", optimizer, clip=None if name == "adam" else 0.05, backend=backend)
    peer = TorchNetwork(model, step.params, sparse=not isinstance(optimizer, SGD))
    others = torch_optimizer(peer, optimizer)
    if name == "adamw":
        others[0].param_groups[0]["weight_decay"] = 0.0
    for number in range(5):
        pairs = tagged(number, (3, 2, 4))
        batch = whole(model, step.loss, pairs)
        outcome, _ = step.step(batch)
        loss = torch_loss(peer, batch, pairs)
        peer.zero_grad()
        loss.backward()
        if step.clip is not None:
            clip_together(torch, peer, step.clip)
        for other in others:
            scale_epsilon(other, number + 1)
            other.step()
        assert outcome.loss == pytest.approx(loss.item(), rel=TOLERANCE[dtype])
        assert worst(step.params, peer.arrays()) < 5 * TOLERANCE[dtype], number


def scale_epsilon(other: Any, update: int) -> None:
    """SparseAdam adds epsilon before it corrects the bias of v; Adam, and the paper's main form, after."""
    if type(other).__name__ == "SparseAdam":
        (group,) = other.param_groups
        group["eps"] = 1e-8 * (1 - group["betas"][1] ** update) ** 0.5


def clip_together(torch: Any, peer: Any, clip: float) -> None:
    """torch.nn.utils.clip_grad_norm_, which takes no sparse gradients."""
    gradients = [p.grad.coalesce() if p.grad.is_sparse else p.grad for p in peer.parameters()]
    norm = torch.stack([g.values().norm() if g.is_sparse else g.norm() for g in gradients]).norm()
    factor = min(1.0, clip / (norm.item() + 1e-6))
    assert factor < 1
    for parameter, gradient in zip(peer.parameters(), gradients, strict=True):
        parameter.grad = gradient * factor


# -- what a step does ---------------------------------------------------------------------------------


def test_rows_of_the_embedding_that_are_not_used_are_not_touched() -> None:
    model = tagger()
    step = train.TrainingStep(model, "cross_entropy", Adam(0.1), backend="reference")
    before = step.params["0.weight"].copy()
    pair = (np.array([1, 4, 1]), np.array([0, 1, 2]))
    for _ in range(2):
        step.step(whole(model, step.loss, [pair, (np.array([4]), np.array([1]))]))
    changed = (step.params["0.weight"] != before).any(axis=1)
    assert list(np.flatnonzero(changed)) == [1, 4]
    slot = step.layout.views(step.slots["v"])["0.weight"]
    assert list(np.flatnonzero(slot.any(axis=1))) == [1, 4]


def test_the_row_for_padding_stays_zero() -> None:
    model = rnnc.Sequential(rnnc.Embedding(5, 4, padding_index=2), rnnc.GRU(4, 3), rnnc.Linear(3, 3))
    step = train.TrainingStep(model, "cross_entropy", SGD(0.5), backend="reference")
    step.step(whole(model, step.loss, [(np.array([1, 2, 3]), np.array([0, 1, 2]))]))
    assert not step.params["0.weight"][2].any()


def test_parameters_are_views_of_one_array_and_its_gaps_stay_zero() -> None:
    model = tagger()
    step = train.TrainingStep(model, "cross_entropy", AdamW(0.1), backend="reference")
    for _ in range(3):
        step.step(whole(model, step.loss, tagged()))
    assert all(np.shares_memory(step.flat, array) for array in step.params.values())
    copy = step.layout.zeros()
    for name, view in step.layout.views(copy).items():
        view[...] = step.params[name]
    np.testing.assert_array_equal(copy, step.flat)


def test_several_batches_count_as_one(backend: str) -> None:
    """Parts of very different sizes, with dropout: the same update as from all rows at once."""
    model = rnnc.Sequential(
        rnnc.Embedding(WORDS, 4), rnnc.Dropout(0.3), rnnc.GRU(4, 5, 2, dropout=0.5, dtype="float64"), rnnc.Linear(5, 3)
    )
    data = train.Sequences(model, cross_entropy(), tagged())
    one, several = (train.TrainingStep(model, "cross_entropy", SGD(0.5), backend=backend) for _ in range(2))
    for _ in range(2):
        first, _ = one.step(data.batch(np.arange(6)))
        second, _ = several.step([data.batch(np.arange(1)), data.batch(np.arange(1, 6), first=1)])
        assert first.loss == pytest.approx(second.loss, rel=1e-13)
        assert first.norm == pytest.approx(second.norm, rel=1e-12)
    assert worst(several.params, one.params) < 1e-13


def test_noise_depends_on_the_seed_and_the_update_and_not_on_the_backend(backend: str) -> None:
    model = rnnc.Sequential(
        rnnc.Embedding(WORDS, 4),
        rnnc.Regularized(rnnc.LSTM(4, 5, 2, dropout=0.4, dtype="float64"), 0.3, 0.2),
        rnnc.Dropout(0.5, variational=True),
        rnnc.Linear(5, CLASSES),
    )
    batch = whole(model, cross_entropy(), tagged())

    def losses(seed: int, name: str) -> list[float]:
        step = train.TrainingStep(model, "cross_entropy", SGD(0.0), params=model.init(0), seed=seed, backend=name)
        return [step.step(batch)[0].loss for _ in range(2)]

    first = losses(1, backend)
    assert first == pytest.approx(losses(1, "reference"), rel=1e-12)
    assert first[0] != pytest.approx(first[1], rel=1e-6)
    assert first != pytest.approx(losses(2, backend), rel=1e-6)


def test_a_batch_that_counts_nothing_changes_nothing() -> None:
    model = tagger()
    step = train.TrainingStep(model, "cross_entropy", SGD(0.5, weight_decay=0.1), backend="reference")
    before = step.flat.copy()
    outcome, _ = step.step(whole(model, step.loss, [(np.array([1, 2]), np.array([-100, -100]))]))
    assert outcome.loss == 0 and step.updates == 0
    np.testing.assert_array_equal(step.flat, before)


# -- fit ----------------------------------------------------------------------------------------------


def options(**changes: Any) -> dict[str, Any]:
    base = {"epochs": 3, "batch_size": 2, "optimizer": Adam(0.02), "progress": False, "backend": "reference"}
    return base | changes


def learnable(count: int, seed: int = 0) -> Any:
    """The class of a step is a function of the words before and at it."""
    rng = np.random.default_rng(seed)
    words = [rng.integers(0, WORDS, rng.integers(2, 9)) for _ in range(count)]
    return [(x, (x + np.concatenate([[0], x[:-1]])) % CLASSES) for x in words]


def test_a_network_learns(backend: str) -> None:
    """A rule of two words; chance is 1/3."""
    model = rnnc.Sequential(rnnc.Embedding(WORDS, 8), rnnc.GRU(8, 24), rnnc.Linear(24, CLASSES))
    lines: list[train.Epoch] = []
    trained = train.fit(
        model,
        learnable(150),
        validation=learnable(40, seed=1),
        **options(epochs=12, batch_size=10, backend=backend, on_epoch=lines.append, optimizer=Adam(0.02)),
    )
    assert trained.history == tuple(lines) and len(lines) == 12
    assert lines[0].accuracy is not None and lines[-1].accuracy is not None
    assert lines[0].accuracy < 0.7 < 0.9 < lines[-1].accuracy
    network = trained.compile()
    x, classes = learnable(1, seed=2)[0]
    assert (network(x[:, None]).argmax(-1)[:, 0] == classes).mean() > 0.7


def test_fit_is_the_same_every_time_and_another_seed_differs() -> None:
    first, second, other = (train.fit(tagger(), tagged(), **options(seed=s)) for s in (0, 0, 1))
    for name in first.params:
        np.testing.assert_array_equal(first.params[name], second.params[name])
        assert not np.array_equal(first.params[name], other.params[name])


def test_an_epoch_takes_every_sequence_once_in_batches_of_like_lengths() -> None:
    lengths = np.random.default_rng(0).integers(1, 60, 1003)
    order = batches(lengths, 8, seed=0, epoch=0)
    np.testing.assert_array_equal(np.sort(np.concatenate(order)), np.arange(1003))
    assert max(map(len, order)) == 8
    padding = sum(lengths[rows].max() * len(rows) for rows in order) / lengths.sum()
    shuffled = np.random.default_rng(0).permutation(1003)
    random = sum(lengths[r].max() * len(r) for r in np.array_split(shuffled, len(order))) / lengths.sum()
    assert padding < 1.1 < 1.5 < random
    firsts = [lengths[rows].max() for rows in order]
    assert firsts != sorted(firsts, reverse=True)
    again, later = batches(lengths, 8, seed=0, epoch=0), batches(lengths, 8, seed=0, epoch=1)
    assert all(np.array_equal(a, b) for a, b in zip(order, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(order, later, strict=True))


def test_accumulated_batches_are_one_larger_batch() -> None:
    """Sequences of one length, so that both ways see them in one order."""
    pairs = tagged(lengths=(4,) * 8)
    parts = train.fit(tagger(), pairs, **options(batch_size=2, accumulate=4, epochs=1))
    assert parts.updates == 1
    joint = train.fit(tagger(), pairs, **options(batch_size=8, epochs=1))
    assert worst(parts.params, joint.params) < 1e-9  # Adam divides by the size of small gradients
    assert parts.history[0].loss == pytest.approx(joint.history[0].loss, rel=1e-12)


def test_early_stopping_returns_the_best_epoch() -> None:
    """Targets of the validation data are noise: its loss falls at first, then rises."""
    trained = train.fit(
        tagger(), tagged(0), validation=tagged(7), **options(epochs=60, patience=2, optimizer=Adam(0.05))
    )
    losses = [line.validation_loss or 0 for line in trained.history]
    best = int(np.argmin(losses))
    assert len(losses) == best + 3 < 60
    evaluation = train.Evaluation(trained.model, "cross_entropy", backend="reference")
    total = 0.0
    for pair in tagged(7):
        total += evaluation(trained.params, whole(trained.model, cross_entropy(), [pair]))[0]
    assert total / sum(LENGTHS) == pytest.approx(losses[best], rel=1e-12)


def test_a_schedule_sets_the_rate_of_every_update() -> None:
    seen: list[tuple[float, int]] = []

    def schedule(epoch: float, losses: Any) -> float:
        seen.append((epoch, len(losses)))
        return 0.0 if epoch < 1 else 1.0

    trained = train.fit(tagger(), tagged(), **options(epochs=1, schedule=schedule))
    np.testing.assert_array_equal(trained.params["1.weight_hh_l0"], tagger().init(0)["1.weight_hh_l0"])
    assert [e for e, _ in seen[:3]] == pytest.approx([0, 1 / 3, 2 / 3])
    train.fit(tagger(), tagged(), **options(epochs=2, schedule=schedule))
    assert seen[-1] == (1.0, 1)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("cell", (rnnc.GRU, rnnc.LSTM))
def test_pieces_start_from_the_states_before(cell: Any, backend: str) -> None:
    """With a rate of 0 the losses of pieces of two steps add up to the loss of whole sequences."""
    model = tagger(cell=cell, bidirectional=False)
    loss = [
        train.fit(model, tagged(), **options(optimizer=SGD(0.0), epochs=1, backend=backend, tbptt=size)).history[0].loss
        for size in (None, 2)
    ]
    assert loss[0] == pytest.approx(loss[1], rel=1e-13)


def test_pieces_are_updates_of_their_own_without_gradients_to_the_piece_before() -> None:
    pytest.importorskip("torch")
    import torch

    from tests.torch_network import TorchNetwork

    model, pairs = tagger(bidirectional=False, num_layers=1), tagged(lengths=(6, 6))
    params = model.init(0)
    trained = train.fit(model, pairs, params=params, **options(optimizer=SGD(0.5), epochs=1, tbptt=4))
    assert trained.updates == 2
    peer = TorchNetwork(model, params)
    (rows,) = batches(np.array([6, 6]), 2, 0, 0)
    x, targets = (torch.from_numpy(np.stack([pairs[row][i] for row in rows], 1)) for i in (0, 1))
    state = None
    for piece in (slice(0, 4), slice(4, 6)):
        h, state = peer[1](peer[0](x[piece]), None if state is None else state.detach())
        loss = torch.nn.functional.cross_entropy(peer[2](h).reshape(-1, CLASSES), targets[piece].reshape(-1))
        peer.zero_grad()
        loss.backward()
        torch.optim.SGD(peer.parameters(), lr=0.5).step()
    assert worst(trained.params, peer.arrays()) < 1e-12


def test_a_loss_that_is_no_number_stops_the_training() -> None:
    pairs = series(dtype="float32")
    model = rnnc.Sequential(rnnc.RNN(4, 5, nonlinearity="relu"), rnnc.Linear(5, 3))
    with raises_saying(RnncError, "epoch", "update", "learning rate"):
        train.fit(model, pairs, loss=mse(), **options(optimizer=SGD(1e12), epochs=30))


def test_a_rate_of_zero_leaves_parameters_and_fills_slots() -> None:
    step = train.TrainingStep(tagger(), "cross_entropy", Adam(0.0), backend="reference")
    before = step.flat.copy()
    step.step(whole(tagger(), step.loss, tagged()))
    np.testing.assert_array_equal(step.flat, before)
    assert step.slots["m"].any() and step.updates == 1


def test_the_layout_of_a_network_is_of_its_calls_alone() -> None:
    """Training takes sequences one by one: batch_first changes nothing in it."""
    specs = [rnnc.GRU(4, 5, batch_first=first, dtype="float64") for first in (False, True)]
    time_first, batch_first = (
        train.fit(rnnc.Sequential(spec, rnnc.Linear(5, 3)), series(), loss="mse", **options()) for spec in specs
    )
    for name, array in time_first.params.items():
        np.testing.assert_array_equal(batch_first.params[name], array)
    x = np.random.default_rng(0).standard_normal((6, 2, 4))
    np.testing.assert_array_equal(batch_first.compile()(x.swapaxes(0, 1)).swapaxes(0, 1), time_first.compile()(x))


def test_a_trained_network_is_compiled_with_options() -> None:
    trained = train.fit(tagger("float32"), tagged(), **options(epochs=1))
    with raises_saying(RnncError, "matmul"):
        trained.compile(matmul="bfloat16")
    assert trained.compile(backend="llvm", threads=1).backend == "llvm"


# -- checkpoints --------------------------------------------------------------------------------------

PROGRAM = """
import sys
import numpy as np
import rnnc
from rnnc import train
from rnnc.optimizers import Adam
from tests.training_data import tagged

model = rnnc.Sequential(
    rnnc.Embedding(11, 4), rnnc.GRU(4, 5, 2, dropout=0.3, bidirectional=True), rnnc.Dropout(0.2), rnnc.Linear(10, 3)
)
trained = train.fit(
    model, tagged(lengths=(5, 2, 7, 1, 3, 7, 4, 4)), epochs=3, batch_size=2, optimizer=Adam(0.02), progress=False,
    validation=tagged(1, (3, 4)), checkpoint=sys.argv[1], checkpoint_every=1, resume=True, backend=sys.argv[3],
)
train.save_parameters(sys.argv[2], trained.params)
"""


def run_training(folder: Path, name: str, backend: str) -> subprocess.Popen[bytes]:
    arguments = [sys.executable, "-c", PROGRAM, str(folder / f"{name}.ck"), str(folder / f"{name}.end"), backend]
    return subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.PIPE)


def finished(process: subprocess.Popen[bytes]) -> None:
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors.decode()


@pytest.mark.rare
def test_a_training_killed_at_any_moment_ends_with_the_same_parameters(tmp_path: Path, backend: str) -> None:
    """Killed again and again, each time a moment after a new checkpoint appears, until it comes through."""
    finished(run_training(tmp_path, "whole", backend))
    kills = 0
    while kills < 3:
        process = run_training(tmp_path, "killed", backend)
        before = _stamp(tmp_path / "killed.ck")
        while process.poll() is None and _stamp(tmp_path / "killed.ck") == before:
            time.sleep(0.001)
        time.sleep(0.003 * kills)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not (tmp_path / "killed.end").exists(), "the training was too quick to be killed"
        kills += 1
    finished(run_training(tmp_path, "killed", backend))
    assert (tmp_path / "killed.end").read_bytes() == (tmp_path / "whole.end").read_bytes()
    whole_arrays, killed = (train.load_parameters(tmp_path / f"{name}.ck") for name in ("whole", "killed"))
    assert all(np.array_equal(whole_arrays[k], killed[k]) for k in whole_arrays)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns


class Stopped(Exception):
    """Raised to stop a training."""


def stop_after(epochs: int) -> Callable[[train.Epoch], None]:
    def stop(line: train.Epoch) -> None:
        if line.epoch == epochs:
            raise Stopped

    return stop


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "changes",
    (
        {"optimizer": SGD(0.2, 0.9, True)},
        {"patience": 2, "validation": tagged(7), "optimizer": Adam(0.05), "epochs": 40},
        {"accumulate": 2, "clip": 0.2},
        {"schedule": rnnc.schedules.ReduceOnPlateau(0, 0.5), "validation": tagged(7)},
    ),
)
def test_a_resumed_training_ends_as_one_that_was_not_stopped(changes: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    expected = train.fit(tagger(), tagged(), **options(**changes))
    with pytest.raises(Stopped):
        train.fit(tagger(), tagged(), **options(**changes, checkpoint=path, on_epoch=stop_after(2)))
    found = train.fit(tagger(), tagged(), **options(**changes, checkpoint=path, resume=True))
    assert found.updates == expected.updates
    assert [line.loss for line in found.history] == [line.loss for line in expected.history]
    assert [line.validation_loss for line in found.history] == [line.validation_loss for line in expected.history]
    for name in expected.params:
        np.testing.assert_array_equal(found.params[name], expected.params[name])


def test_a_checkpoint_is_a_safetensors_file_of_parameters(tmp_path: Path) -> None:
    numpy = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "folder" / "run.safetensors"
    trained = train.fit(tagger(), tagged(), **options(epochs=1, checkpoint=path))
    arrays = numpy.load_file(path)
    for name, array in trained.params.items():
        np.testing.assert_array_equal(arrays[name], array)
        assert f"optimizer.m.{name}" in arrays
    assert [p.name for p in path.parent.iterdir()] == ["run.safetensors"]
    more = train.fit(tagger(), tagged(), **options(epochs=2, checkpoint=path, resume=True))
    assert len(more.history) == 2


def test_checkpoints_of_other_trainings_and_broken_ones_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    trained = train.fit(tagger(), tagged(), **options(epochs=1, checkpoint=path))
    for changes, word in (
        ({"batch_size": 3}, "batch_size"),
        ({"optimizer": SGD(0.1)}, "optimizer"),
        ({"seed": 5}, "seed"),
    ):
        with raises_saying(ArgumentError, "checkpoint", word, "another name"):
            train.fit(tagger(), tagged(), **options(**changes, checkpoint=path, resume=True))
    with raises_saying(ArgumentError, "checkpoint", "data"):
        train.fit(tagger(), tagged(9), **options(checkpoint=path, resume=True))
    trained.save(path)
    with raises_saying(ArgumentError, "checkpoint", "parameters only"):
        train.fit(tagger(), tagged(), **options(checkpoint=path, resume=True))
    path.write_bytes(path.read_bytes()[:100])
    with raises_saying(ArgumentError, "checkpoint", "damaged"):
        train.fit(tagger(), tagged(), **options(checkpoint=path, resume=True))
    with raises_saying(ArgumentError, "no file"):
        train.load_parameters(tmp_path / "nothing")


# -- arguments ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    (
        ({"epochs": 0}, ("epochs", ">= 1", "0")),
        ({"patience": 3}, ("patience", "validation")),
        ({"resume": True}, ("checkpoint", "file")),
        ({"tbptt": 3, "accumulate": 2}, ("accumulate", "tbptt")),
        ({"clip": 0.0}, ("clip", "> 0", "0.0")),
        ({"tbptt": 3}, ("carry", "one direction")),
    ),
)
def test_options_that_make_no_sense_are_refused(changes: dict[str, Any], words: tuple[str, ...]) -> None:
    with raises_saying(ArgumentError, *words):
        train.fit(tagger(), tagged(), **options(**changes))


@pytest.mark.parametrize(
    ("pairs", "error", "words"),
    (
        ([], ArgumentTypeError, ("data", "pairs")),
        ([(np.zeros(3, int),)], ArgumentTypeError, ("data[0]", "pair (x, target)")),
        ([(np.zeros(3), np.zeros(3, int))], ArgumentTypeError, ("data[0][0]", "integers", "float64")),
        ([(np.zeros(3, int), np.zeros(2, int))], ShapeError, ("data[0]", "3 steps", "(2,)")),
        ([(np.full(3, WORDS), np.zeros(3, int))], ArgumentError, ("data[0][0]", f"0..{WORDS - 1}")),
        ([(np.zeros(3, int), np.full(3, CLASSES))], ArgumentError, ("targets", f"0..{CLASSES - 1}")),
        ([(np.zeros(0, int), np.zeros(0, int))], ShapeError, ("data[0][0]", "at least one step")),
        ([(np.zeros(3, int), np.zeros((3, 1), int))], ShapeError, ("data[0][1]", "per step", "(1,)", "[..., 0]")),
        ([(np.zeros(4, int), np.eye(4, CLASSES, dtype=int))], ShapeError, ("data[0][1]", "(3,)", "target.argmax(-1)")),
        (
            [(np.zeros(3, int), np.zeros(3, int)), (np.zeros(3, int), np.zeros((3, 1), int))],
            ShapeError,
            ("data[1][1]", "(1,)", "()"),
        ),
        ([(np.zeros(3, int), ["a", "b", "c"])], ArgumentTypeError, ("targets", "integers")),
        ([(object(), np.zeros(3, int))], ArgumentTypeError, ("data[0][0]", "array")),
    ),
)
def test_data_that_does_not_fit_is_refused(pairs: Any, error: type[Exception], words: tuple[str, ...]) -> None:
    with raises_saying(error, *words):
        train.fit(tagger(), pairs, **options())


@pytest.mark.parametrize("part", (0, 1))
def test_data_that_is_not_finite_is_named(part: int) -> None:
    """With the pair and the step."""
    model = rnnc.Sequential(rnnc.GRU(4, 5, dtype="float64"), rnnc.Linear(5, 3))
    pairs = series()
    pairs[2][part][4, 1] = np.nan
    with raises_saying(ArgumentError, f"data[2][{part}]", "nan", "step 4"):
        train.fit(model, pairs, loss="mse", **options())


def test_numbers_of_any_integer_type_are_data() -> None:
    """Also side by side: NumPy joins int64 and uint64 to floats."""
    kinds = ("int64", "uint64", "uint8", ">i2", "int32", "uint16")
    pairs = [(x.astype(kind), t) for (x, t), kind in zip(tagged(), kinds, strict=True)]
    found, expected = (train.fit(tagger(), given, **options(epochs=1)) for given in (pairs, tagged()))
    np.testing.assert_array_equal(found.params["2.weight"], expected.params["2.weight"])


def test_tensors_that_require_gradients_are_refused() -> None:
    torch = pytest.importorskip("torch")
    model = rnnc.Sequential(rnnc.GRU(4, 5, dtype="float64"), rnnc.Linear(5, 3))
    pairs = [(torch.from_numpy(x), torch.from_numpy(t)) for x, t in series()]
    train.fit(model, pairs, loss="mse", **options(epochs=1))
    pairs[1][0].requires_grad_()
    with raises_saying(ArgumentTypeError, "data[1][0]", "requires gradients", "detach()"):
        train.fit(model, pairs, loss="mse", **options())


@pytest.mark.parametrize(
    ("factor", "error", "word"),
    (
        (None, ArgumentTypeError, "None"),
        ("0.1", ArgumentTypeError, "'0.1'"),
        (-0.5, ArgumentError, "-0.5"),
        (float("nan"), ArgumentError, "nan"),
        (1e300, ArgumentError, "1e+300"),
    ),
)
def test_a_schedule_that_gives_no_factor_is_refused(factor: Any, error: type[Exception], word: str) -> None:
    with raises_saying(error, "schedule", "epoch", word, ">= 0"):
        train.fit(tagger(), tagged(), **options(schedule=lambda epoch, losses: factor))
    with raises_saying(ArgumentTypeError, "schedule", "function", "0.5"):
        train.fit(tagger(), tagged(), **options(schedule=0.5))


def test_lines_are_shown_where_bars_are_not_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    given = options(epochs=2)
    del given["progress"]
    train.fit(tagger(), tagged(), validation=tagged(1), **given)
    lines = capsys.readouterr().err.splitlines()
    assert [line[:9] for line in lines] == ["epoch 1/2", "epoch 2/2"] and "accuracy" in lines[0]


def test_the_bar_shows_every_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    train.fit(tagger(), tagged(), validation=tagged(1), **options(epochs=2, progress=True))
    shown = capsys.readouterr().err
    assert "epoch 1/2" in shown and "epoch 2/2" in shown and "accuracy" in shown
