"""NaN and infinities: steps past the end of a row add nothing, whatever is there; docs/autodiff.md has the rule.

The oracle is each row alone, at its own length, on the reference backend: it has no padding.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

import rnnc
from rnnc import train
from rnnc.backends.cuda.emulator import find_compiler

T, X, H = 4, 3, 5
LENGTHS = np.array([1, 4, 2, 0, 3])
SPEC = rnnc.GRU(X, H, bidirectional=True, dtype="float64")

Point = dict[str, Any]


def point(seed: int) -> Point:
    """Parameters, x, state, and adjoints of both results."""
    rng = np.random.default_rng(seed)
    shape = (2, len(LENGTHS), H)
    return {
        "params": {name: rng.standard_normal(array.shape) for name, array in SPEC.init(0).items()},
        "x": rng.standard_normal((T, len(LENGTHS), X)),
        "state": rng.standard_normal(shape),
        "d_output": rng.standard_normal((T, len(LENGTHS), 2 * H)),
        "d_state": rng.standard_normal(shape),
    }


def spoil(case: str, at: Point, along: Point) -> None:
    """Puts what is not finite into weights, or where no step of a row is."""
    past = np.arange(T)[:, None] >= LENGTHS
    match case:
        case "a weight":  # saturates a gate: only the gradient of x becomes NaN, where a row has steps
            at["params"]["weight_ih_l0"][0, 1] = np.inf
        case "a recurrent weight":
            at["params"]["weight_hh_l0_reverse"][1, 2] = -np.inf
        case "a bias":
            at["params"]["bias_hh_l0"][1] = np.nan
        case "padding of x":
            at["x"][past], along["x"][past] = np.inf, np.nan
        case "padding of an adjoint":
            at["d_output"][past], along["d_output"][past] = np.inf, np.nan
        case "the state of a row without steps":
            at["state"][:, 3] = np.inf
        case "the state of one row":
            at["state"][:, 2] = np.nan


CASES = (
    "a weight", "a recurrent weight", "a bias", "padding of x", "padding of an adjoint", "the state of one row",
    "the state of a row without steps",
)  # fmt: skip


@cache
def compiled(backend: str) -> tuple[Any, Any, Any]:
    return tuple(kind(SPEC, backend=backend) for kind in (rnnc.vjp, rnnc.jvp, rnnc.hvp))


def derivatives(backend: str, at: Point, along: Point, lengths: Any) -> dict[str, Any]:
    """All that vjp, jvp and hvp give, by name. Of parameters: sums over rows; of all others: with an axis of rows."""
    vjp, jvp, hvp = compiled(backend)
    (output, state), pull = vjp(at["params"], at["x"], at["state"], lengths)
    seeds, along_seeds = (at["d_output"], at["d_state"]), (along["d_output"], along["d_state"])
    primals, tangents = ((p["params"], p["x"], p["state"]) for p in (at, along))
    _, (t_output, t_state) = jvp(primals, tangents, lengths=lengths)
    found = {"output": output, "state": state, "t_output": t_output, "t_state": t_state}
    second = hvp(primals, seeds, tangents, along_seeds, lengths=lengths)
    for kind, (params, x, state) in (("d", pull(*seeds)), ("hvp d", second[0]), ("hvp t", second[1])):
        found |= {f"{kind} {name}": array for name, array in params.items()} | {f"{kind} x": x, f"{kind} state": state}
    return found


def row_by_row(at: Point, along: Point) -> dict[str, Any]:
    """The same of each row alone: no row has padding, and one without steps only passes its state on."""
    alone: list[tuple[int, dict[str, Any]]] = []
    for row, length in enumerate(LENGTHS):
        if length:
            cut = [{k: v if k == "params" else v[:length, [row]] if k in ("x", "d_output") else v[:, [row]]
                    for k, v in p.items()} for p in (at, along)]  # fmt: skip
            alone.append((row, derivatives("reference", cut[0], cut[1], None)))
    found: dict[str, Any] = {}
    for name, first in alone[0][1].items():
        if first.ndim != 3:
            found[name] = np.sum([made[name] for _, made in alone], axis=0)
            continue
        steps = T if first.shape[0] == 1 and "state" not in name else first.shape[0]
        found[name] = np.zeros((steps, len(LENGTHS), first.shape[2]))
        for row, made in alone:
            found[name][: len(made[name]), row] = made[name][:, 0]
    passed = {"state": at["state"], "t_state": along["state"], "d state": at["d_state"], "hvp d state": at["d_state"]}
    for name, array in (passed | {"hvp t state": along["d_state"]}).items():
        found[name][:, LENGTHS == 0] = array[:, LENGTHS == 0]
    return found


@pytest.mark.sampled(3)
@pytest.mark.parametrize("case", CASES)
def test_padding_adds_nothing(case: str, backend: str) -> None:
    check(case, backend)


@pytest.mark.skipif(find_compiler() is None, reason="emulating CUDA needs a C++ compiler")
@pytest.mark.parametrize("case", CASES)
def test_padding_adds_nothing_on_an_emulated_gpu(case: str) -> None:
    check(case, "cuda-emulated")


def check(case: str, backend: str) -> None:
    at, along = point(0), point(1)
    spoil(case, at, along)
    with np.errstate(all="ignore"):
        expected = row_by_row(at, along)
        found = derivatives(backend, at, along, LENGTHS)
    assert case != "a weight" or np.isfinite(found["d weight_hh_l0"]).all()
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-10, atol=1e-10, err_msg=name)


MODEL = rnnc.Sequential(rnnc.LSTM(X, H, dtype="float64"), rnnc.Linear(H, 2))


def test_a_training_step_reads_no_padding(backend: str) -> None:
    check_training(backend)


@pytest.mark.skipif(find_compiler() is None, reason="emulating CUDA needs a C++ compiler")
def test_a_training_step_on_an_emulated_gpu_reads_no_padding() -> None:
    check_training("cuda-emulated")


def check_training(backend: str) -> None:
    """Padding of x and of targets is poisoned; an infinite weight saturates a gate."""
    params, rng = MODEL.init(0), np.random.default_rng(0)
    params["0.weight_ih_l0"][1, 1] = np.inf
    step = train.TrainingStep(MODEL, "mse", rnnc.optimizers.SGD(0.1), params=params, backend=backend)
    pairs = [(rng.standard_normal((n, X)), rng.standard_normal((n, 2))) for n in (1, 4, 2)]
    data = train.Sequences(MODEL, "mse", pairs)
    batch = data.batch(np.arange(3))
    past = np.arange(4)[:, None] >= np.array([1, 4, 2])
    batch.x[past], batch.target[past] = np.inf, np.nan
    loss, gradients = step.gradients(batch)
    alone = [step.gradients(data.batch(np.array([row]))) for row in range(3)]
    weights = np.array([1, 4, 2]) / 7
    assert np.isfinite(loss) and loss == pytest.approx(weights @ [made for made, _ in alone], rel=1e-12)
    for name, gradient in gradients.items():
        expected = sum(weight * made[name] for weight, (_, made) in zip(weights, alone, strict=True))
        np.testing.assert_allclose(gradient, expected, rtol=1e-10, atol=1e-12, err_msg=name)
