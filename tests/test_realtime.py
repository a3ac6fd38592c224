"""Real-time steps: what they compute, what they refuse, and that they allocate nothing."""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rnnc
from rnnc.layers import Concat
from tests.failing_memory import failing_allocator
from tests.refusals import raises_saying

LAYERS: dict[str, Any] = {
    "e": (rnnc.Embedding(9, 2), "n"),
    "c": (Concat(), "a", "e"),
    "g": (rnnc.GRU(5, 4), "c"),
    "d": (rnnc.Linear(4, 2), "g"),
}
MODELS: dict[str, Any] = {
    "two states, two layers": rnnc.LSTM(3, 4, 2),
    "batch first, float64": rnnc.GRU(3, 4, batch_first=True, dtype="float64"),
    "delay line and mean": rnnc.Sequential(rnnc.Conv1d(3, 4, 3), rnnc.LSTM(4, 4), rnnc.Mean()),
    "two inputs, two outputs": rnnc.Graph({"a": 3, "n": "numbers"}, LAYERS, ("g", "d")),
}


def compiled(model: Any) -> Any:
    return rnnc.compile(model, model.init(0)) if isinstance(model, rnnc.Spec) else model.compile(model.init(0))


def x_of(model: Any, steps: int, batch: int, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    lead = (batch, steps) if model.batch_first else (steps, batch)
    floats = rng.standard_normal((*lead, 3)).astype(model.dtype)
    return {"a": floats, "n": rng.integers(0, 9, lead)} if isinstance(model, rnnc.Graph) else floats


def flat(output: Any) -> list[Any]:
    return list(output.values()) if isinstance(output, dict) else [output]


@pytest.mark.parametrize("name", MODELS)
def test_steps_give_what_advance_gives(name: str) -> None:
    model = MODELS[name]
    made, state = compiled(model), None
    step = made.realtime(batch=3, steps=2)
    for turn in range(3):
        x = x_of(model, 2, 3, turn)
        output, state = made.advance(x, state)
        assert step(x) is step.output
        assert all((one == other).all() for one, other in zip(flat(step.output), flat(output), strict=True))
        assert all((step.state[key] == state[key]).all() for key in state) and list(step.state) == list(state)
    expected = made.advance(x, state)[0]
    step.reset()
    step(x)
    step.reset(state)
    assert all((one == other).all() for one, other in zip(flat(step(x)), flat(expected), strict=True))
    assert made.calls.python == 0


def test_a_stream_starts_again() -> None:
    made, x = compiled(MODELS["two states, two layers"]), x_of(MODELS["two states, two layers"], 1, 2)
    step = made.realtime(batch=2)
    first = step(x).copy()
    for array in step.state.values():
        array[0] = 0
    assert (step(x)[:, 0] == first[:, 0]).all() and (step.output[:, 1] != first[:, 1]).all()


def test_what_a_step_refuses() -> None:
    spec = rnnc.GRU(3, 3)
    made, x = compiled(spec), x_of(spec, 1, 2)
    step = made.realtime(batch=2)
    step(x)
    state = {key: array.copy() for key, array in step.state.items()}
    for other in (x[:, :1], x[:0], np.concatenate([x, x]), x[0], x.astype(float), None, "x", step.output):
        with pytest.raises(rnnc.RnncError, match="^x: "):
            step(other)
    assert all((step.state[key] == state[key]).all() for key in state), "a refused step changes nothing"
    wide = np.repeat(x, 2, axis=-1)[..., ::2]
    assert (step(wide) == made.advance(x, state)[0]).all(), "another layout is copied"
    with raises_saying(rnnc.ShapeError, "state['h_l0']", "(2, 3)"):
        step.reset({"h_l0": x[0, :1]})
    for wrong in ({"batch": 0}, {"steps": 1.5}, {"batch": True}):
        with pytest.raises(rnnc.RnncError, match="^(batch|steps): "):
            made.realtime(**wrong)
    with raises_saying(rnnc.SizeError, "streams"):
        made.realtime(batch=1 << 30, steps=1 << 30)
    with raises_saying(rnnc.ArgumentError, "realtime", "reference"):
        rnnc.compile(spec, spec.init(), backend="reference").realtime()
    with raises_saying(rnnc.ArgumentError, "realtime", "bidirectional"):
        compiled(rnnc.GRU(3, 4, bidirectional=True)).realtime()
    with raises_saying(rnnc.ArgumentTypeError, "cannot be copied"):
        copy.copy(step)


# -- memory

COUNTER = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
long allocations;
extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
void *malloc(size_t n) { allocations++; return __libc_malloc(n); }
void *calloc(size_t n, size_t m) { allocations++; return __libc_calloc(n, m); }
void *realloc(void *p, size_t n) { allocations++; return __libc_realloc(p, n); }
"""

STEPS = """
import ctypes, gc, sys
import numpy as np, rnnc

count = ctypes.c_long.in_dll(ctypes.CDLL(None), "allocations")
spec = rnnc.LSTM(8, 16, 2)
model = rnnc.compile(spec, spec.init(0))
step, x = model.realtime(batch=4), np.ones((1, 4, 8), np.float32)
wide = np.ones((1, 4, 16), np.float32)[..., ::2]
gc.disable()

def run():
    for _ in range(100):
        step(x)
        step(wide)

run()
before, blocks = count.value, sys.getallocatedblocks()
run()
made, left = count.value - before, sys.getallocatedblocks() - blocks
before = count.value
for _ in range(100):
    model(np.ones((1, 4, 8), np.float32))
print(made, left, count.value - before)
"""


def test_a_step_makes_no_object() -> None:
    made, x = compiled(MODELS["two states, two layers"]), x_of(MODELS["two states, two layers"], 1, 2)
    step, wide = made.realtime(batch=2), np.repeat(x, 2, axis=-1)[..., ::2]
    step(x)
    with failing_allocator() as own:
        own[0] = 0  # the first object that is made raises MemoryError
        step(x)
        step(wide)


@pytest.mark.skipif(not sys.platform.startswith("linux") or shutil.which("cc") is None, reason="needs glibc and cc")
def test_a_step_allocates_nothing(tmp_path: Path) -> None:
    """malloc is counted for the whole process. Ordinary calls, for comparison, allocate scratch memory."""
    source, library = tmp_path / "counter.c", tmp_path / "counter.so"
    source.write_text(COUNTER, encoding="utf-8")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    preloaded = os.environ | {"LD_PRELOAD": str(library), "RNNC_POISON": "0"}
    found = subprocess.run([sys.executable, "-c", STEPS], env=preloaded, check=True, capture_output=True, text=True)
    made, left, ordinary = map(int, found.stdout.split())
    assert made == 0 and abs(left) < 5 and ordinary >= 100
