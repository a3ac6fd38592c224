"""Trainings of several ranks, which end as one process does: data, noise, clipping, validation, files, errors."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import rnnc
from rnnc import train
from rnnc.ir.errors import ArgumentError, ArgumentTypeError, CheckpointError, RankError
from rnnc.optimizers import SGD, Adam
from rnnc.train.check import Rules
from rnnc.train.groups import Group, MpiGroup, group_of
from tests.ranks import Meeting, ThreadGroup, on_ranks
from tests.training_data import noisy, series, tagged, tagger

LENGTHS = (5, 2, 7, 1, 3, 7, 4, 4, 9, 2, 6)
MODEL = rnnc.Sequential(rnnc.GRU(4, 5, dtype="float64"), rnnc.Linear(5, 3))


def fit(group: Any, data: Any, model: Any = MODEL, **changes: Any) -> train.Trained:
    options: dict[str, Any] = {"loss": "mse", "epochs": 2, "batch_size": 4, "optimizer": Adam(0.02)}
    options |= {"progress": False, "backend": "reference"}
    return train.fit(model, data, distributed=group, **(options | changes))


def check_equal(size: int, work: Callable[[Any], train.Trained]) -> list[train.Trained]:
    """Checks that ranks end with the same bits, and as one process does up to the order of sums."""
    alone, found = work(False), on_ranks(size, work)
    for rank, trained in enumerate(found):
        assert isinstance(trained, train.Trained), trained
        for name, array in trained.params.items():
            np.testing.assert_array_equal(array, found[0].params[name], err_msg=f"{name} on rank {rank}")
            np.testing.assert_allclose(array, alone.params[name], rtol=1e-10, atol=1e-12, err_msg=name)
        for line, expected in zip(trained.history, alone.history, strict=True):
            assert line.loss == pytest.approx(expected.loss, rel=1e-12)
            assert (line.validation_loss or 0) == pytest.approx(expected.validation_loss or 0, rel=1e-12)
            assert line.metrics == pytest.approx(expected.metrics, rel=1e-12)
        assert (trained.updates, trained.ended) == (alone.updates, alone.ended)
    return found


def check_says(error: object, kind: type[Exception], words: str) -> None:
    assert isinstance(error, kind) and words in str(error), error


@pytest.mark.parametrize(("size", "threads"), ((2, 1), (3, 2)))
def test_ranks_end_as_one_process(backend: str, size: int, threads: int) -> None:
    """Ragged rows, batches smaller than the ranks, sparse rows with padding, every mask, accumulation, clipping."""
    model, data, held_out = noisy(padding=0), tagged(lengths=LENGTHS), tagged(1)
    options = {"batch_size": 5, "accumulate": 2, "clip": 0.2, "metrics": ["accuracy"], "patience": 1}
    options |= {"backend": backend, "threads": threads, "loss": "cross_entropy", "validation": held_out}
    check_equal(size, lambda group: fit(group, data, model, epochs=3, **options))


def weighted() -> list[Any]:
    rng = np.random.default_rng(3)
    return [(*pair, rng.uniform(size=len(pair[0]))) for pair in series(lengths=LENGTHS)]


class Dataset:
    """Items with numbers, read one by one."""

    def __len__(self) -> int:
        return len(LENGTHS)

    def __getitem__(self, number: int) -> Any:
        return weighted()[number]


def batches() -> list[train.Batch]:
    rules = Rules(MODEL, {"output": rnnc.losses.mse()}, True)
    whole = train.Sequences(MODEL, "mse", weighted()).batch(np.arange(len(LENGTHS)))
    return [rules.part(whole, slice(first, first + 3)) for first in (0, 3, 6)]


def spread(output: Any, target: Any) -> Any:
    return np.stack([output[:, 0], target[:, 0] ** 2], 1)


@pytest.mark.parametrize("kind", ("list", "dataset", "generator", "batches", "shuffled"))
def test_each_kind_of_data_is_shared(kind: str) -> None:
    """With weights, whose sums are the terms of the mean; and a validation of which one rank has no row."""

    def work(group: Any) -> train.Trained:
        data = {"list": weighted, "dataset": Dataset, "batches": lambda: batches}.get(kind, lambda: weighted)()
        changes = {"shuffle_buffer": 8} if kind == "shuffled" else {}
        metrics = {"variance": train.Metric(spread, lambda mean: mean[1] - mean[0]), "mae": "mae"}
        return fit(group, data, validation=weighted()[:1], metrics=metrics, **changes)

    check_equal(3, work)


def test_a_checkpoint_is_written_once_and_goes_on_with_any_number_of_ranks(tmp_path: Path) -> None:
    """In the middle of an epoch. Only rank 0 sees the file."""
    data = series(lengths=LENGTHS)
    expected = fit(False, data)

    def path(group: Any) -> Path:
        return tmp_path / ("run" if group is False or group.rank() == 0 else "nowhere")

    def stop(training: train.Training) -> None:
        if training.updates == 2 and training.rank == training.ranks - 1:
            training.stop()

    def begin(group: Any) -> train.Trained:
        watch = SimpleNamespace(on_update=stop)
        return fit(group, data, checkpoint=path(group), callbacks=[watch, train.CSV(tmp_path / "lines.csv")])

    stopped = on_ranks(3, begin)
    assert [trained.ended for trained in stopped] == ["stopped"] * 3 and not (tmp_path / "nowhere").exists()
    found = on_ranks(2, lambda group: fit(group, data, checkpoint=path(group), resume=True))
    for trained in found:
        assert trained.updates == expected.updates
        for name, array in trained.params.items():
            np.testing.assert_allclose(array, expected.params[name], rtol=1e-10, atol=1e-12)
    (tmp_path / "run").write_bytes(b"damaged")
    for error in on_ranks(2, lambda group: fit(group, data, checkpoint=path(group), resume=True)):
        check_says(error, CheckpointError, "is damaged")


def test_an_error_of_one_rank_ends_the_others() -> None:
    def wrong(group: ThreadGroup) -> train.Trained:
        def stream() -> Iterator[Any]:
            yield from series(lengths=(4,) * 4)
            if group.rank() == 1:
                raise KeyError("sample 4")
            yield from series(lengths=(4,) * 4)

        return fit(group, stream)

    first, second = on_ranks(2, wrong)
    assert isinstance(second, KeyError)
    check_says(first, RankError, "rank 1, KeyError: 'sample 4'")


def test_ranks_that_are_given_different_data_are_refused() -> None:
    def other(group: ThreadGroup) -> train.Trained:
        return fit(group, series(seed=group.rank()))

    def shorter(group: ThreadGroup) -> train.Trained:
        items = series(lengths=(4,) * (8 - 4 * group.rank()))
        return fit(group, lambda: iter(items))

    for error in on_ranks(2, other):
        check_says(error, RankError, "different settings, data or parameters")
    for error in on_ranks(2, shorter):
        check_says(error, RankError, "the data of 1 of 2 ranks is over")


def test_a_rank_that_is_lost_ends_the_others() -> None:
    def work(group: ThreadGroup) -> train.Trained:
        def dies(training: train.Training) -> None:
            if group.rank() == 1:
                raise SystemExit  # its thread ends, and tells nobody

        return fit(group, series(), callbacks=[SimpleNamespace(on_update=dies)])

    check_says(on_ranks(2, work)[0], RankError, "rank 0 of 2 has lost another rank")


def test_a_training_step_sums_over_ranks() -> None:
    """Each rank gives its own rows, of which there may be none."""
    pairs = tagged()

    def work(group: Any) -> tuple[Any, Any]:
        step = train.TrainingStep(tagger(), "cross_entropy", SGD(0.1), clip=0.1, distributed=group)
        rules = Rules(tagger(), {"output": step.loss}, False)
        batch = train.Sequences(tagger(), step.loss, pairs).batch(np.arange(len(pairs)))
        own = {0: slice(0, 4), 1: slice(4, 6), 2: slice(6, 6)}
        given = batch if group is False else rules.part(batch, own[group.rank()])
        return [step.step(given)[0] for _ in range(3)], step.flat.copy()

    outcomes, flat = work(False)
    for found, other in on_ranks(3, work):
        np.testing.assert_allclose(found, outcomes, rtol=1e-12)
        np.testing.assert_allclose(other, flat, rtol=1e-10, atol=1e-12)


# -- groups ---------------------------------------------------------------------------------------------


def test_what_is_no_group_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "MPI_LOCALNRANKS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ArgumentError, match="started alone; start the script by 'torchrun"):
        group_of(True)
    with pytest.raises(ArgumentTypeError, match=r"distributed: expected True, False, or an object .* got 2"):
        group_of(2)

    def pieces(group: Any) -> train.Trained:
        return fit(group, series(), tbptt=2)

    for error in on_ranks(2, pieces):
        assert "tbptt: the rows of one rank may have fewer pieces" in str(error)

    def normalised(group: Any) -> train.TrainingStep:
        net = rnnc.Sequential(rnnc.GRU(3, 4), rnnc.BatchNorm(4))
        return train.TrainingStep(net, "mse", SGD(0.1), distributed=group)

    for error in on_ranks(2, normalised):
        assert "the statistics of a batch would differ from process to process; freeze them" in str(error)


def test_mpi4py_is_used_where_mpirun_has_started_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its interface is a fake, behind which the ranks are threads."""
    mpi, package = ModuleType("mpi4py.MPI"), ModuleType("mpi4py")
    mpi.IN_PLACE = object()  # type: ignore[attr-defined]
    package.MPI = mpi  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mpi4py", package)
    monkeypatch.setitem(sys.modules, "mpi4py.MPI", mpi)
    monkeypatch.setenv("PMI_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)

    def world(group: ThreadGroup) -> Any:
        def allreduce(place: object, array: Any) -> None:
            assert place is mpi.IN_PLACE
            group.sum(array)

        return SimpleNamespace(Get_rank=group.rank, Get_size=group.size, Allreduce=allreduce)

    mpi.COMM_WORLD = world(ThreadGroup(0, Meeting(1)))  # type: ignore[attr-defined]
    assert isinstance(group_of(True), MpiGroup) and isinstance(MpiGroup(), Group)

    def work(given: Any) -> train.Trained:
        if given is False:
            return fit(False, series())
        group = MpiGroup()
        group._world = world(given)
        return fit(group, series())

    check_equal(2, work)


SCRIPT = """
import os, signal, sys, time
import numpy as np
from rnnc import train
from tests.test_distributed import MODEL, series

def update(training):
    if training.updates == 3 and training.rank == 1 and sys.argv[1] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)

class Watch(train.Callback):
    on_update = staticmethod(update)

trained = train.fit(MODEL, series(), loss="mse", batch_size=4, epochs=4, progress=False, callbacks=[Watch()],
                    distributed=True)
print(repr(float(sum(np.abs(array).sum() for array in trained.params.values()))))
"""


def started(rank: int, port: int, mode: str) -> subprocess.Popen[str]:
    """A process as torchrun starts it."""
    variables = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-c", SCRIPT, mode]
    return subprocess.Popen(
        command, env=os.environ | variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.rare
@pytest.mark.parametrize("mode", ("train", "kill"))
def test_processes_of_torchrun_train_together_and_end_together(mode: str) -> None:
    """Without torchrun itself, which would end the other rank on its own."""
    pytest.importorskip("torch")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [started(rank, port, mode) for rank in range(2)]
    (first, error), (second, _) = (process.communicate(timeout=120) for process in processes)
    if mode == "train":
        alone = fit(False, series(), epochs=4, optimizer=Adam(1e-3), backend="llvm")
        assert first == second, error
        assert float(first) == pytest.approx(sum(np.abs(array).sum() for array in alone.params.values()), rel=1e-10)
    else:
        assert [process.returncode for process in processes] == [1, -signal.SIGKILL]
        assert "RankError: distributed: rank 0 of 2 has lost another rank" in error
