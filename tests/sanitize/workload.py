"""What runs under valgrind: a representative set of calls, in parts of a process each.

    python -m tests.sanitize.workload PART [--prepare]

Sizes are odd, so that the last vector of a row is partly empty. Results must be finite, and every byte of them written:
that shows that a part has run. The code is that for AVX2 whatever the machine is: valgrind knows no AVX-512.

With --prepare nothing that is planted happens: that run fills the cache, so that valgrind sees no compiler at work.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numpy as np

import rnnc
from rnnc import train
from rnnc.backends.llvm import code
from rnnc.backends.llvm.asm.jit import MachineCode, compile_assembly
from rnnc.backends.llvm.asm.target import host
from rnnc.optimizers import Adam
from tests.user_cells import FastAndSlow, LayerNormLSTM

SPECS: Mapping[str, Any] = {
    "lstm": rnnc.LSTM(3, 11),
    "gru": rnnc.GRU(5, 9, 2, batch_first=True, bidirectional=True, dtype="float64"),
    "rnn": rnnc.RNN(1, 33, nonlinearity="relu"),
    "projected": rnnc.LSTM(2, 7, proj_size=3),
    "slow": rnnc.Recurrent(FastAndSlow(), 3, 6),
    "normed": rnnc.Recurrent(LayerNormLSTM(), 2, 5, dtype="float64"),
}
DERIVED: Mapping[str, Any] = {
    "lstm": SPECS["lstm"],
    "gru": rnnc.GRU(5, 9, batch_first=True, dtype="float64"),
    "slow": SPECS["slow"],
}
"""Specs whose derivatives are taken."""


def only_avx2() -> None:
    """The machine has AVX2 and FMA, and nothing that valgrind may not know."""
    llvm.get_host_cpu_name = lambda: "haswell"
    llvm.get_host_cpu_features = lambda: {"avx2": True, "fma": True}


def _x(spec: Any, steps: int, rows: int) -> Any:
    shape = (rows, steps, spec.input_size) if spec.batch_first else (steps, rows, spec.input_size)
    return np.random.default_rng(steps * rows).standard_normal(shape).astype(spec.dtype)


# ------------------------------------------------------------------------------------------ checks of results

_BRANCHES = """
define void @branch_on_bytes(ptr %bytes, i64 %count, ptr %sink) {
entry:
  %any = icmp sgt i64 %count, 0
  br i1 %any, label %loop, label %end
loop:
  %n = phi i64 [ 0, %entry ], [ %next, %continue ]
  %place = getelementptr i8, ptr %bytes, i64 %n
  %byte = load i8, ptr %place
  %zero = icmp eq i8 %byte, 0
  br i1 %zero, label %store, label %continue
store:
  store volatile i8 0, ptr %sink
  br label %continue
continue:
  %next = add i64 %n, 1
  %more = icmp slt i64 %next, %count
  br i1 %more, label %loop, label %end
end:
  ret void
}
"""
"""Valgrind reports a byte that nobody wrote where a branch hangs on it; here that is in generated code."""


@cache
def _branches() -> MachineCode:
    return compile_assembly(_BRANCHES, host())


def _written(array: Any) -> None:
    """Makes valgrind report bytes of an array that nobody wrote."""
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p)
    copy, sink = array.copy(), ctypes.c_int8()  # a copy of such bytes is no better
    call(_branches().address("branch_on_bytes"))(copy.ctypes.data, copy.nbytes, ctypes.addressof(sink))


def _right(value: Any) -> None:
    """All arrays in a result are written and finite."""
    for array in value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple) else (value,):
        if isinstance(array, (tuple, Mapping)):
            _right(array)
        elif array is not None:
            _written(np.asarray(array))
            assert np.isfinite(array).all()


# ------------------------------------------------------------------------------------------ parts that must hold


def quick() -> None:
    """Plain calls: the entry, with and without states, whole and piece by piece; and calls it leaves to Python."""
    for spec in SPECS.values():
        model = rnnc.compile(spec, spec.init(), threads=1)
        for steps, rows in ((1, 1), (3, 2), (2, 7), (5, 13)):
            output, state = model(_x(spec, steps, rows))
            _right((output, state))
            _right(model(_x(spec, 1, rows), state))
        for wrong in (_x(spec, 2, 2).astype("int8"), _x(spec, 2, 2)[..., None], None):
            try:
                model(wrong)
            except rnnc.RnncError:
                continue
            raise AssertionError("accepted")
        assert model(_x(spec, 2, 0))[0].size == 0


def ragged() -> None:
    """Lengths, strides, arrays to write into, calls without an axis of rows, and real-time steps."""
    for spec in SPECS.values():
        model = rnnc.compile(spec, spec.init(), threads=1)
        x = _x(spec, 4, 5)
        output, state = model(x, lengths=[4, 0, 2, 3, 1])
        _right((output, state))
        _right(model(x[..., ::-1], state, lengths=np.full(5, 4)))
        again = np.empty_like(output)
        model(x, out=(again, tuple(map(np.empty_like, state)) if isinstance(state, tuple) else np.empty_like(state)))
        _right(again)
        _right(model(np.asfortranarray(x[0] if spec.batch_first else x[:, 0])))
        if not spec.reads_ahead:
            step = model.realtime(batch=5)
            _right((step(_x(spec, 1, 5)), step(np.asfortranarray(_x(spec, 1, 5))), tuple(step.state.values())))


def reverse() -> None:
    """vjp and its pullback, whole and ragged, and with segments that are computed again."""
    for spec in DERIVED.values():
        for remat in (None, 2):
            f = rnnc.vjp(spec, threads=1, remat=remat)
            for lengths in (None, [4, 0, 2]):
                result, pullback = f(spec.init(), _x(spec, 4, 3), lengths=lengths)
                _right(pullback(*result))
                _right(pullback(result[0]))


def forward() -> None:
    """jvp."""
    for spec in DERIVED.values():
        f = rnnc.jvp(spec, threads=1)
        for lengths in (None, [4, 0, 2]):
            x = _x(spec, 4, 3)
            _right(f((spec.init(), x, None), (spec.init(1), x, None), lengths=lengths))


def second() -> None:
    """hvp."""
    for spec in DERIVED.values():
        f = rnnc.hvp(spec, threads=1)
        x = _x(spec, 3, 3)
        output = np.ones((3, 3, spec.output_size), spec.dtype)  # three steps, three rows
        for lengths in (None, [3, 0, 2]):
            _right(f((spec.init(), x, None), (output, None), (spec.init(1), x, None), lengths=lengths))


def training() -> None:
    """Steps by two threads, with a table, dropout, clipping and ragged rows; and an evaluation."""
    net = rnnc.Sequential(
        rnnc.Embedding(7, 3), rnnc.Dropout(0.3), rnnc.GRU(3, 9, bidirectional=True), rnnc.Linear(18, 3)
    )
    step = train.TrainingStep(net, "cross_entropy", Adam(0.01), clip=1.0, threads=2)
    rng = np.random.default_rng(0)
    pairs = [(rng.integers(0, 7, n), rng.integers(0, 3, n)) for n in (5, 2, 4, 1, 3, 5)]
    data = train.Sequences(net, step.loss, pairs)
    for rows in ([0, 1, 2, 3, 4, 5], [1], [0, 5]):
        assert np.isfinite(step.step(data.batch(np.array(rows)))[0].loss)
    evaluation = train.Evaluation(net, "cross_entropy", threads=1)
    assert np.isfinite(evaluation(step.params, data.batch(np.arange(6)))[0])


def network() -> None:
    """A network, whole and in pieces, and one with a table, whose last row is read."""
    net = rnnc.Sequential(rnnc.LSTM(3, 5), rnnc.Linear(5, 3))
    compiled = net.compile(net.init(), threads=1)
    x = _x(rnnc.LSTM(3, 5), 5, 3)
    _right(compiled(x, lengths=[5, 0, 2]))
    _, state = compiled.advance(x)
    _right(compiled.advance(x[:1], state))
    tagger = rnnc.Sequential(rnnc.Embedding(7, 3), rnnc.GRU(3, 5, dtype="float64"), rnnc.Linear(5, 3))
    words = np.array([[0, 6], [6, 3], [1, 0]])
    _right(tagger.compile(tagger.init(), threads=1)(words, lengths=[3, 1]))


def freed() -> None:
    """Models that are freed while their calls, or what calls returned, live on."""
    spec = SPECS["lstm"]
    for _ in range(3):
        model = rnnc.compile(spec, spec.init(), threads=1)
        kept = []
        sys.setprofile(lambda frame, event, argument, kept=kept: kept.append(argument))
        output, state = model(_x(spec, 2, 3))
        sys.setprofile(None)
        del model
        gc.collect()
        _right((output, state))
        kept.clear()
        gc.collect()
    f = rnnc.vjp(spec, threads=1)
    result, pullback = f(spec.init(), _x(spec, 4, 3))
    del f
    gc.collect()
    _right(pullback(*result))


def threads() -> None:
    """Rows split between threads, and threads that call one model and one derivative at once."""
    code.PARALLEL_FLOPS = 0  # every call is worth splitting
    for spec in DERIVED.values():
        model, f = rnnc.compile(spec, spec.init(), threads=2), rnnc.vjp(spec, threads=2)
        failed: list[BaseException] = []

        def work(seed: int, spec: Any = spec, model: Any = model, f: Any = f, failed: Any = failed) -> None:
            try:
                x = _x(spec, 4, 5)
                _right(model(x))
                _right(model(x, lengths=[4, 0, 2, 3, 1]))
                result, pullback = f(spec.init(seed), x)
                _right(pullback(*result))
            except BaseException as error:
                failed.append(error)

        workers = [threading.Thread(target=work, args=(seed,)) for seed in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert not failed, failed


# ------------------------------------------------------------------------------------------ planted faults


def planted_read(harm: bool) -> None:
    """x ends one element too early."""
    spec = SPECS["lstm"]
    model = rnnc.compile(spec, spec.init(), threads=1)
    x = np.lib.stride_tricks.as_strided(np.ones(3 * 2 * 3 - harm, "float32"), (3, 2, 3), (24, 12, 4))
    model._run(x, None, None, np.empty((3, 2, 11), "float32"), _states())


def planted_write(harm: bool) -> None:
    """The output ends one element too early."""
    spec = SPECS["lstm"]
    model = rnnc.compile(spec, spec.init(), threads=1)
    output = np.lib.stride_tricks.as_strided(np.empty(3 * 2 * 11 - harm, "float32"), (3, 2, 11), (88, 44, 4))
    model._run(_x(spec, 3, 2), None, None, output, _states())


def planted_gap(harm: bool) -> None:
    """A result has an element that nobody wrote."""
    spec = SPECS["lstm"]
    model = rnnc.compile(spec, spec.init(), threads=1)
    output, _ = model(_x(spec, 30, 20))
    if harm:
        output[3, 1, 7] = np.empty(10_000, "float32")[0]
    _written(output)


def _states() -> Any:
    return tuple(np.empty((1, 2, 11), "float32") for _ in "hc")


HELD: Mapping[str, Callable[[], None]] = {
    part.__name__: part for part in (quick, ragged, reverse, forward, second, training, network, freed, threads)
}
PLANTED: Mapping[str, Callable[[bool], None]] = {
    part.__name__: part for part in (planted_read, planted_write, planted_gap)
}
"""They take whether to do harm."""


def main(part: str, prepare: bool) -> None:
    only_avx2()
    _branches()
    HELD[part]() if part in HELD else PLANTED[part](not prepare)
    print(f"{part}: done")
    print(Path("/proc/self/maps").read_text(encoding="utf-8"), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], "--prepare" in sys.argv)
