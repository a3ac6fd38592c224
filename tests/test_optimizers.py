"""Optimisers, clipping and schedules against PyTorch's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rnnc import backends, schedules
from rnnc.backends.reference.training import CHUNK
from rnnc.ir.errors import ArgumentError, ArgumentTypeError
from rnnc.ir.verify import verify
from rnnc.optimizers import SGD, Adam, AdamW, Optimizer, check_optimizer, update_graph
from tests.refusals import raises_saying

OPTIMIZERS: dict[str, tuple[Optimizer, str, dict[str, Any]]] = {
    "sgd": (SGD(0.1), "SGD", {"lr": 0.1}),
    "sgd decay": (SGD(0.1, weight_decay=0.01), "SGD", {"lr": 0.1, "weight_decay": 0.01}),
    "momentum": (SGD(0.1, 0.9), "SGD", {"lr": 0.1, "momentum": 0.9}),
    "nesterov": (SGD(0.1, 0.9, True), "SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "adam": (Adam(0.01), "Adam", {"lr": 0.01}),
    "adam decay": (
        Adam(0.01, 0.8, 0.99, 1e-6, 0.1),
        "Adam",
        {"lr": 0.01, "betas": (0.8, 0.99), "eps": 1e-6, "weight_decay": 0.1},
    ),
    "adamw": (AdamW(0.01, weight_decay=0.1), "AdamW", {"lr": 0.01, "weight_decay": 0.1}),
}


def steps(optimizer: Optimizer, p: Any, gradients: Any, backend: str) -> Any:
    """Parameters after each of some updates."""
    module: Any = backends.get(backend)
    update = module.compile_update(verify(update_graph(optimizer, p.dtype.name)))
    arrays = {"p": p.copy()} | {name: np.zeros_like(p) for name in optimizer.slots}
    found = []
    for number, gradient in enumerate(gradients, start=1):
        scalars = {"scale": 1.0} | optimizer.scalars(number, optimizer.learning_rate)
        update.run(arrays | {"g": gradient.copy()}, scalars)
        found.append(arrays["p"].copy())
    return found


@pytest.mark.parametrize(("dtype", "tolerance"), (("float64", 1e-14), ("float32", 1e-6)))
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_five_updates_agree_with_pytorch(name: str, dtype: str, tolerance: float, backend: str) -> None:
    torch = pytest.importorskip("torch")
    optimizer, peer, options = OPTIMIZERS[name]
    rng = np.random.default_rng(0)
    p = rng.standard_normal(50).astype(dtype)
    gradients = rng.standard_normal((5, 50)).astype(dtype)
    variable = torch.from_numpy(p.copy()).requires_grad_()
    other = getattr(torch.optim, peer)([variable], **options)
    for gradient, found in zip(gradients, steps(optimizer, p, gradients, backend), strict=True):
        variable.grad = torch.from_numpy(gradient.copy())
        other.step()
        np.testing.assert_allclose(found, variable.detach().numpy(), rtol=tolerance, atol=tolerance)


def test_long_vectors_are_updated_to_their_end(backend: str) -> None:
    rng = np.random.default_rng(0)
    p, gradient = rng.standard_normal((2, 2 * CHUNK + 5))
    (found,) = steps(SGD(0.5), p, [gradient], backend)
    np.testing.assert_allclose(found, p - 0.5 * gradient, rtol=1e-15)


@pytest.mark.parametrize("name", ("cosine", "step", "one cycle", "warm-up"))
def test_schedules_agree_with_pytorch(name: str) -> None:
    torch = pytest.importorskip("torch")
    of = torch.optim.lr_scheduler
    other = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    mine, peer = {
        "cosine": (schedules.Cosine(20, final=0.1), lambda: of.CosineAnnealingLR(other, 20, eta_min=0.1)),
        "step": (schedules.StepDecay(7, 0.5), lambda: of.StepLR(other, 7, 0.5)),
        "one cycle": (
            schedules.OneCycle(19, rise=5 / 19, start=0.04, final=0.001),
            lambda: of.OneCycleLR(
                other, 1.0, total_steps=20, pct_start=0.3, div_factor=25, final_div_factor=40, cycle_momentum=False
            ),
        ),
        "warm-up": (schedules.LinearWarmup(10, start=0.25), lambda: of.LinearLR(other, 0.25, 1.0, 10)),
    }[name]
    scheduler = peer()
    for epoch in range(20):
        assert mine(epoch, ()) == pytest.approx(other.param_groups[0]["lr"], rel=1e-12), epoch
        other.step()
        if epoch < 19:
            scheduler.step()


def test_reduction_on_a_plateau_agrees_with_pytorch() -> None:
    torch = pytest.importorskip("torch")
    other = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(other, patience=2, factor=0.5)
    mine = schedules.ReduceOnPlateau(patience=2, factor=0.5)
    losses = [3.0, 2.0, 2.0, 2.1, 1.99999, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.5]
    found = set()
    for number, loss in enumerate(losses, start=1):
        scheduler.step(loss)
        rate = mine(0.0, losses[:number])
        assert rate == pytest.approx(other.param_groups[0]["lr"]), number
        found.add(rate)
    assert found == {1.0, 0.5, 0.25}


def test_a_schedule_may_follow_a_warm_up() -> None:
    schedule = schedules.LinearWarmup(2, then=schedules.StepDecay(3, 0.1))
    assert [schedule(e, ()) for e in (0, 1, 2, 4.9, 5)] == pytest.approx([0, 0.5, 1, 1, 0.1])


def test_wrong_arguments_are_refused() -> None:
    with raises_saying(ArgumentError, "learning_rate", ">= 0", "-1"):
        SGD(-1.0)
    with raises_saying(ArgumentTypeError, "learning_rate", "'fast'"):
        Adam("fast")  # type: ignore[arg-type]
    with raises_saying(ArgumentError, "beta2", "[0, 1)", "1.0"):
        Adam(beta2=1.0)
    with raises_saying(ArgumentError, "nesterov", "momentum"):
        SGD(0.1, nesterov=True)
    with raises_saying(ArgumentTypeError, "optimizer", "call it"):
        check_optimizer(Adam)
    with raises_saying(ArgumentError, "epochs", "> 0", "0"):
        schedules.Cosine(0)
