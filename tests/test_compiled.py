"""What everything that has been compiled shows alike, and the quick calls of networks."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import rnnc
from rnnc import train
from rnnc.optimizers import SGD
from rnnc.plain_calls import plain_call
from tests.refusals import raises_saying

SPEC = rnnc.GRU(3, 4)
NETWORK = rnnc.Sequential(rnnc.Embedding(9, 3), SPEC, rnnc.Linear(4, 2))
MADE: dict[str, Callable[[str], Any]] = {
    "program": lambda backend: rnnc.compile(SPEC, backend=backend),
    "model": lambda backend: rnnc.compile(SPEC, SPEC.init(), backend=backend),
    "network": lambda backend: NETWORK.compile(NETWORK.init(), backend=backend),
    "vjp": lambda backend: rnnc.vjp(SPEC, backend=backend),
    "jvp": lambda backend: rnnc.jvp(SPEC, backend=backend),
    "hvp": lambda backend: rnnc.hvp(SPEC, backend=backend),
    "training step": lambda backend: train.TrainingStep(NETWORK, "cross_entropy", SGD(0.1), backend=backend),
    "evaluation": lambda backend: train.Evaluation(NETWORK, "cross_entropy", backend=backend),
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", MADE)
def test_every_stage_can_be_read(name: str, backend: str) -> None:
    made = MADE[name](backend)
    own = ("plan", "llvm", "asm") if backend == "llvm" else ()
    assert made.backend == backend and made.stages == ("lowered", "optimized", "rolled", *own)
    texts = [made.ir(stage) for stage in made.stages]
    assert len(set(texts)) == len(texts) and all(len(text) > 50 for text in texts)
    assert made.explain()
    assert len(made.ir("lowered", steps=5)) > len(made.ir("lowered", steps=2))
    with raises_saying(rnnc.ArgumentError, "stage", backend, "rolled", "'rollt'"):
        made.ir("rollt")


def test_a_program_and_its_model_are_one_code() -> None:
    program = rnnc.compile(SPEC)
    assert program.bind(SPEC.init())._code is program._code


# ---- quick calls of networks

NETWORKS = {
    "vectors": rnnc.Sequential(rnnc.LSTM(3, 4, 2), rnnc.Linear(4, 2)),
    "vectors, batch first": rnnc.Sequential(rnnc.GRU(3, 4, batch_first=True)),
    "numbers": NETWORK,
    "numbers, batch first": rnnc.Sequential(rnnc.Embedding(9, 3), rnnc.LSTM(3, 4, batch_first=True)),
    "both directions": rnnc.Sequential(rnnc.GRU(3, 4, bidirectional=True), rnnc.Linear(8, 2)),
    "the last": rnnc.Sequential(rnnc.Embedding(9, 3), rnnc.RNN(3, 4), rnnc.Linear(4, 2), readout="last"),
    "the mean, float64": rnnc.Sequential(rnnc.GRU(3, 4, bidirectional=True, dtype="float64"), readout="mean"),
}


def x_of(net: rnnc.Sequential, steps: int, batch: int) -> Any:
    rng = np.random.default_rng(steps)
    shape = (batch, steps) if net.batch_first else (steps, batch)
    if net.embedding is not None:
        return rng.integers(0, 9, shape)
    return rng.standard_normal((*shape, net.input_size)).astype(net.dtype)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_networks_quick_call_gives_what_the_checked_one_does(name: str) -> None:
    net = NETWORKS[name]
    made = net.compile(net.init(1), threads=1)
    reference = net.compile(net.init(1), backend="reference")
    for steps, batch in ((1, 1), (5, 3)):
        x = x_of(net, steps, batch)
        quick = made._quick_call(x, None)
        assert quick is not None, "declined"
        assert quick.dtype == net.dtype and quick.tobytes() == made(x, lengths=[steps] * batch).tobytes()
        np.testing.assert_allclose(quick, reference(x), atol=1e-6)


@pytest.mark.parametrize("name", [name for name, net in NETWORKS.items() if net.causal])
def test_a_network_that_goes_on_does_so_quickly(name: str) -> None:
    net = NETWORKS[name]
    made, reference = net.compile(net.init(1), threads=1), net.compile(net.init(1), backend="reference")
    state, expected = None, None
    for steps in (1, 4, 1):
        x = x_of(net, steps, 2)
        quick = made._quick_advance(x, state)
        assert quick is not None, "declined"
        output, state = made.advance(x, state, lengths=[steps, steps])
        wanted, expected = reference.advance(x, expected)
        assert quick[0].tobytes() == output.tobytes() and list(quick[1]) == list(state) == list(expected)
        np.testing.assert_allclose(output, wanted, atol=1e-6)
        for key, array in state.items():
            assert quick[1][key].tobytes() == array.tobytes() and array.shape == expected[key].shape


def test_a_quick_call_declines_whatever_is_not_plain() -> None:
    """And leaves it to the checked call, which computes it, or says what is wrong."""
    net = NETWORK
    made = net.compile(net.init(), threads=1)
    x = x_of(net, 3, 2)
    _, state = made.advance(x)
    masked = np.ma.masked_array(x)
    for other in (x.astype(np.int32), x.astype(float), x[:, :0], x[:0], x[0], x + 9, x - 9, masked, list(x), None):
        assert made._quick_call(other, None) is None and made._quick_advance(other, None) is None
    wrong: list[Any] = [
        {},
        [*state.values()],
        state | {"another": state["1.h_l0"]},
        {"h": state["1.h_l0"]},
        {"1.h_l0": state["1.h_l0"].astype("f8")},
        {"1.h_l0": state["1.h_l0"][:1]},
        {"1.h_l0": state["1.h_l0"][None]},
        type("Own", (dict,), {})(state),
    ]
    assert all(made._quick_advance(x, it) is None for it in wrong)
    assert made._quick_call(x, state) is None and made._quick_advance(x[::-1], state) is not None
    assert made._quick_call(x.copy()[:, ::-1], None) is not None
    with raises_saying(rnnc.ArgumentError, "x", "0..8"):
        made(x + 9)
    with raises_saying(rnnc.ArgumentTypeError, "state"):
        made.advance(x, {})
    for arguments, named in (((), {}), ((x, 1), {}), ((x,), {"state": state}), ((x,), {"out": x})):
        with pytest.raises(rnnc.ArgumentTypeError, match="Network"):
            made(*arguments, **named)


@pytest.mark.parametrize("name", NETWORKS)
def test_quick_calls_keep_no_references(name: str) -> None:
    net = NETWORKS[name]
    made, x = net.compile(net.init(), threads=1), x_of(net, 2, 2)
    state = made.advance(x)[1] if net.causal else None

    def calls() -> None:
        for _ in range(100):
            assert made._quick_call(x, None) is not None
            if net.causal:
                assert made._quick_advance(x, state) is not None

    calls()
    before = sys.getallocatedblocks()
    calls()
    assert sys.getallocatedblocks() - before < 50


def test_a_quick_call_that_returns_what_the_code_does_not_make_is_none() -> None:
    """Its array would be returned unwritten."""
    model = rnnc.compile(SPEC, SPEC.init(), threads=1)
    call = plain_call(SPEC)
    assert model._bound.quick(call, model._tally.outcomes) is not None
    output, (state,) = call.results[0], call.results[1].arrays
    unknown = call.results[1]._replace(arrays=(state._replace(names=("nothing",)),))
    assert model._bound.quick(call._replace(results=(output, unknown)), model._tally.outcomes) is None
    assert "enter machine code" in model.explain()
    assert "checked in Python" in rnnc.compile(SPEC, SPEC.init(), backend="reference").explain()
