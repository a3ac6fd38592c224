"""Signals whose handlers raise, such as Ctrl-C: a step is taken whole or not at all, and nothing ends the process."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rnnc
from rnnc import train
from rnnc.backends.llvm import code
from rnnc.backends.llvm.asm import library
from rnnc.backends.llvm.asm.jit import compile_assembly, emit_assembly
from rnnc.backends.llvm.asm.target import host
from rnnc.backends.whole import whole
from rnnc.optimizers import Adam
from tests.interrupted import Interrupt, at_moment, handler, moments
from tests.test_jit import adder
from tests.test_trainer import Squashed
from tests.training_data import noisy, series, tagged, tagger

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _small_batches_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code, "PARALLEL_FLOPS", 0)


def network(kind: str) -> tuple[Any, Any, str]:
    """With every kind of mask; with a weight that is computed; a small one. All but one have a table."""
    if kind == "squashed":
        spec = rnnc.Recurrent(Squashed(), 4, 5, dtype="float64")
        return rnnc.Sequential(spec, rnnc.Linear(5, 3)), series(), "mse"
    if kind == "small":
        return tagger(num_layers=1, bidirectional=False), tagged(lengths=(2, 1, 2, 1, 1, 2)), "cross_entropy"
    return noisy(), tagged(), "cross_entropy"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a finalizer was interrupted
@pytest.mark.parametrize(
    ("kind", "runs_on", "files", "most"),
    (
        ("noisy", "llvm", "/rnnc/", 150),
        ("squashed", "llvm", "/rnnc/", 150),
        ("noisy", "llvm", "/rnnc/train/step.py", 20),
        ("small", "reference", "/rnnc/backends/training/", 60),
    ),
)
def test_a_step_is_taken_whole_or_not_at_all(kind: str, runs_on: str, files: str, most: int) -> None:
    """Interrupted at moments all over a step, in code of some files; then the steps that are not taken yet."""
    model, pairs, loss = network(kind)
    step = train.TrainingStep(model, loss, Adam(0.05), seed=5, clip=0.2, backend=runs_on, threads=2)
    data = train.Sequences(model, step.loss, pairs)
    batches = [data.batch([n, (n + 1) % 6, (n + 3) % 6]) for n in range(6)]

    def arrays() -> list[Any]:
        return [step.flat.copy(), *(slot.copy() for slot in step.slots.values())]

    def take() -> None:
        step.step([batches[step.updates % 6], batches[-1]])

    after = [arrays()]
    for _ in range(6):
        take()
        after.append(arrays())

    def reset() -> None:
        step.updates = 0
        for array, start in zip((step.flat, *step.slots.values()), after[0], strict=True):
            array[...] = start

    reset()
    take()
    reset()
    interrupts, count = 0, moments(take, files)
    stride = -(-count // most)
    with handler():
        for moment in range(0, count, stride):
            if step.updates == 6:
                reset()
            interrupts += at_moment(moment, take, files)
            for found, want in zip(arrays(), after[step.updates], strict=True):
                np.testing.assert_array_equal(found, want, err_msg=f"moment {moment} of {count}")
    assert interrupts >= 0.95 * (count / stride) - 2  # a step that waits less for threads has fewer moments


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_training_in_a_storm_of_signals_ends_as_one_without() -> None:
    """A timer's signals come anywhere, loops included, and while other threads compute."""
    armed, interrupts, rng = False, 0, np.random.default_rng(0)

    def interrupt(*_: object) -> None:
        if armed:
            raise Interrupt

    made = [train.TrainingStep(noisy(), "cross_entropy", Adam(0.01), seed=5, threads=2) for _ in range(2)]
    batch = train.Sequences(noisy(), made[0].loss, tagged()).batch(range(6))
    start = time.perf_counter()
    for _ in range(200):
        made[0].step(batch)
    mean = (time.perf_counter() - start) / 200
    before = signal.signal(signal.SIGALRM, interrupt)
    calm = True
    while made[1].updates < 200:
        try:
            armed = True
            signal.setitimer(signal.ITIMER_REAL, rng.uniform(0, 2 * mean) if calm else 0)
            made[1].step(batch)
            calm = True
        except Interrupt:
            interrupts, calm = interrupts + 1, False  # the next one is let through
        finally:
            armed = False
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)
    assert interrupts > 5
    np.testing.assert_array_equal(made[1].flat, made[0].flat)


def test_a_signal_within_whole_work_comes_after_it() -> None:
    done: list[int] = []

    def work() -> None:
        for number in range(20):
            done.append(number)

    with handler():
        count = moments(lambda: whole(work), "")
        outcomes = set()
        for moment in range(count):
            done.clear()
            outcomes.add((at_moment(moment, lambda: whole(work), ""), len(done)))
            with pytest.raises(Interrupt):  # the handler is back in its place
                signal.raise_signal(signal.SIGUSR1)
    assert outcomes <= {(True, 0), (True, 20), (False, 20)} and (True, 20) in outcomes and (True, 0) in outcomes


def test_a_step_within_a_step_is_refused() -> None:
    step = train.TrainingStep(tagger(), "cross_entropy", Adam(0.01), threads=1)
    batch = train.Sequences(tagger(), step.loss, tagged()).batch([0, 1])
    with step._lock:
        step._running = True
        with pytest.raises(rnnc.RnncError, match="step: called within a step of the same"):
            step.step(batch)
        step._running = False
    step.step(batch)
    assert step.updates == 1


@pytest.mark.rare
def test_a_training_that_is_interrupted_again_and_again_ends_as_one_that_is_not(tmp_path: Path) -> None:
    options = {"epochs": 2, "batch_size": 2, "seed": 3, "progress": False, "threads": 2, "optimizer": Adam(0.01)}
    want = train.fit(tagger(), tagged(), **options)
    found: list[Any] = []

    def go_on() -> None:
        path = tmp_path / "run.safetensors"
        found.append(train.fit(tagger(), tagged(), checkpoint=path, checkpoint_every=1, resume=True, **options))

    with handler():
        interrupts = sum(at_moment(moment, go_on, "/rnnc/train/") for moment in (140, 220, 260, 300))
    go_on()
    assert interrupts >= 3
    assert found[-1].updates == want.updates
    for name, array in want.params.items():
        np.testing.assert_array_equal(found[-1].params[name], array)


# -- LLVM ----------------------------------------------------------------------------------------------

COMPILE = """
import gc, os
os.environ["RNNC_CACHE_DIR"] = "off"
from rnnc.backends.llvm.asm.jit import compile_assembly
from rnnc.backends.llvm.asm.target import host
from tests.interrupted import at_moment, handler, moments
from tests.test_jit import adder, call

def work():
    compile_assembly(adder(1), target).assembly()

target = host()
work()
with handler():
    for files in ("/llvmlite/", "/backends/llvm/"):
        for moment in range(min(moments(work, files), 200)):
            at_moment(moment, work, files)
            gc.collect()
assert call(compile_assembly(adder(5), target), 37) == 42
"""


def test_an_interrupt_during_compile_ends_nothing_but_the_compile() -> None:
    """At every moment within llvmlite, if it is used on the main thread, and within what uses it."""
    subprocess.run([sys.executable, "-c", COMPILE], cwd=ROOT, check=True, timeout=120)


def test_llvm_is_used_by_one_errand_at_a_time_on_threads_that_no_signal_interrupts() -> None:
    """Also to free what it made. llvmlite tells of every use, on the errand's thread or on one that helps it."""
    import llvmlite.binding as llvm

    wrong: list[str] = []

    def used() -> None:
        main = threading.current_thread() is threading.main_thread()
        if not library._lock._is_owned() and library._lock.acquire(blocking=False):  # type: ignore[attr-defined]
            library._lock.release()
            wrong.append("outside of an errand")
        if main:
            wrong.append("on the main thread")

    before = len(library._engines)
    watch = used, lambda: None
    llvm.ffi.register_lock_callback(*watch)
    try:
        for number in range(3):
            compiled = compile_assembly(adder(1000 + number), host())
            assert compiled.address("adder") and "adder" in compiled.assembly()
            emit_assembly(adder(7), host(), "aarch64-unknown-linux-gnu")
            del compiled
            with pytest.raises(RuntimeError):
                compile_assembly("define void @f() { ret i32 0 }", host())
        program = rnnc.compile(rnnc.RNN(3, 4), threads=2)
        program.ir("asm")
        del program
        gc.collect()
        compile_assembly(adder(2000), host())
    finally:
        library.use(lambda: llvm.ffi.unregister_lock_callback(*watch))
    assert not wrong
    assert len(library._engines) <= before + 2, "machine code that is not needed is kept"
