"""The built-in function behind a plain call: what it owns, and what it does when memory runs out."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import rnnc
from rnnc.ir import settings
from rnnc.layers import Concat, Last
from tests.failing_memory import failing_allocator

OUTLIVES = """
import gc, sys
import numpy as np
import rnnc
from rnnc.ir import settings

spec = rnnc.GRU(3, 4)
model = rnnc.compile(spec, spec.init(seed=0), threads=1)
x = np.ones((5, 2, 3), "float32")
kept = []
sys.setprofile(lambda frame, event, it: kept.append(it) if event == "c_call" and it.__name__ == "rnnc_call" else None)
want = model(x)[0]
sys.setprofile(None)
(function,) = kept
del model, spec
gc.collect()
waste = [bytes([k % 256]) * size for size in range(8, 4096, 8) for k in range(8)]  # reuses what was freed
assert function.__name__ == "rnnc_call", function
assert (function(x, None)[0] == want).all()
kept.clear()
del function
gc.collect()
"""


def test_a_built_in_that_outlives_its_model_still_works() -> None:
    """A profiler is handed the built-in function, and may keep it. Freed memory is overwritten here."""
    garbage = {"PYTHONMALLOC": "malloc", "MALLOC_PERTURB_": "165"}
    subprocess.run([sys.executable, "-c", OUTLIVES], env=os.environ | garbage, check=True)


# -- memory that runs out ------------------------------------------------------------------------------

def outcomes(function: Callable[[Any, Any], Any], x: Any, state: Any, own: Any) -> list[object]:
    """What a call gave whose n-th allocation failed, for each n up to the number of its allocations."""
    found: list[object] = []
    while True:
        gc.collect()  # empties CPython's stores of free tuples and numbers
        try:
            own[0] = len(found)
            result = function(x, state)
            left, own[0] = own[0], -1
            if left >= 0:
                return found
            found.append(result)
        except MemoryError as error:
            found.append(type(error))


Quick = tuple[Callable[[Any, Any], Any], Any, Any, Any]
"""A quick call, x, a state, and what the checked call makes of x and None."""


def model_of(spec: rnnc.Spec) -> Quick:
    model = rnnc.compile(spec, spec.init(seed=0), threads=1)
    x = np.ones((300, 1, 3), np.float32)  # larger than the numbers that CPython keeps
    output, state = model(x, lengths=[300])
    return model._quick, x, state, output


def network() -> Quick:
    """Rows of a table, a dict of two states, and memory of its own for what is looked up."""
    net = rnnc.Sequential(rnnc.Embedding(9, 3), rnnc.LSTM(3, 4))
    made, x = net.compile(net.init(0), threads=1), np.ones((300, 2), np.int64)
    output, state = made.advance(x, lengths=[300, 300])
    return made._quick_advance, x, state, output


def mean() -> Quick:
    """An output alone, without steps."""
    net = rnnc.Sequential(rnnc.GRU(3, 4), readout="mean")
    made, x = net.compile(net.init(0), threads=1), np.ones((300, 1, 3), np.float32)
    return lambda x, _: (made._quick_call(x, None),), x, None, made(x, lengths=[300])


def several() -> Quick:
    """Dicts of inputs, of outputs of both kinds, and of states; two tables."""
    layers: dict[str, Any] = {
        "e": (rnnc.Embedding(9, 2), "n"),
        "e2": (rnnc.Embedding(9, 3), "n"),
        "c": (Concat(), "a", "e", "e2"),
        "g": (rnnc.LSTM(8, 4), "c"),
        "last": (Last(), "g"),
    }
    model = rnnc.Graph({"a": 3, "n": "numbers"}, layers, ("g", "last"))
    made = model.compile(model.init(0), threads=1)
    x = {"a": np.ones((300, 1, 3), np.float32), "n": np.ones((300, 1), np.int64)}
    outputs, state = made.advance(x, lengths=[300])

    def call(x: Any, state: Any) -> Any:
        found = made._quick_advance(x, state)
        return found and (found[0]["g"], found)

    return call, x, state, outputs["g"]


def first_half() -> Quick:
    """A vjp, whose memory comes from Python."""
    f = rnnc.vjp(rnnc.LSTM(3, 4), threads=1)
    params, x = f.spec.init(seed=0), np.ones((300, 1, 3), np.float32)
    output, state = f(params, x, lengths=[300])[0]
    halves: Any = f._halves
    return lambda x, state: halves.start(params, x, state), x, state, output


def second_half() -> Quick:
    """A pullback, whose results are two arrays and a dict of them."""
    f = rnnc.vjp(rnnc.LSTM(3, 4), threads=1)
    params, x = f.spec.init(seed=0), np.ones((300, 1, 3), np.float32)
    (output, state), pullback = f(params, x)
    tape: Any = pullback._quick

    def call(d_output: Any, d_state: Any) -> Any:
        found = tape.quick(d_output, d_state)
        return found and (found[1], found)

    return call, output, state, pullback(output)[1]


CALLS: dict[str, Callable[[], Quick]] = {
    "gru": lambda: model_of(rnnc.GRU(3, 4)),
    "lstm": lambda: model_of(rnnc.LSTM(3, 4)),
    "network": network,
    "mean": mean,
    "several": several,
    "first half": first_half,
    "second half": second_half,
}


@pytest.mark.sampled(7)
@pytest.mark.parametrize("given", (False, True), ids=("no state", "state"))
@pytest.mark.parametrize("name", CALLS)
def test_any_allocation_may_fail(name: str, given: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that runs out is a MemoryError, or the call declines: no other exception, no leak, no wrong number."""
    monkeypatch.setattr(settings, "poison", lambda: False)  # results from numpy.empty itself, as users get them
    function, x, state, want = CALLS[name]()
    if given and state is not None:
        want = function(x, state)[0]
    assert (function(x, state if given else None)[0] == want).all()
    gc.freeze()  # what the tests before have left is not looked at again for each allocation
    with failing_allocator() as own:
        outcomes(function, x, state if given else None, own)
        before = sys.getallocatedblocks()
        found = outcomes(function, x, state if given else None, own)
        lost = sys.getallocatedblocks() - before - len(found)
    gc.unfreeze()
    outputs = [it[0] if isinstance(it, tuple) else it for it in found]
    failed = [isinstance(it, type) and issubclass(it, MemoryError) for it in outputs]
    assert any(failed)
    assert all(fails or it is None or (it == want).all() for it, fails in zip(outputs, failed, strict=True))
    assert lost < 20, "objects are not released"
