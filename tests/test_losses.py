"""Losses: values and gradients against PyTorch, padding, and numbers that would overflow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rnnc import losses
from rnnc.backends.reference.interpreter import run_graph
from rnnc.ir.autodiff import vjp
from rnnc.ir.errors import ArgumentError, ArgumentTypeError
from rnnc.ir.graph import Graph
from rnnc.ir.shape_rules import BATCH
from rnnc.ir.verify import verify
from tests.refusals import raises_saying

STEPS, ROWS, SIZE = 3, 4, 5


def graph_of(loss: losses.Loss, dtype: str = "float64") -> Graph:
    """The loss of an input "z", and its gradient."""
    graph = Graph(dtype, STEPS, share=False)
    graph.outputs["output"] = tuple(graph.input("z", (BATCH, SIZE), t) for t in range(STEPS))
    losses.add_loss(graph, loss)
    return verify(vjp(graph, ["z"], {"loss": "d:loss"}))


def evaluate(loss: losses.Loss, z: Any, targets: Any, dtype: str = "float64") -> tuple[float, Any]:
    """The mean loss and its gradient."""
    target, counts = loss.encode(targets, SIZE, dtype)
    total = counts.sum()
    feeds = {"z": z, "target": target, "d:loss": np.full(1, 1 / total, dtype)} | loss.constants(SIZE, dtype)
    results = run_graph(graph_of(loss, dtype), feeds)
    return float(results["loss"][0] / total), results["d:z"]


def case(kind: str) -> tuple[losses.Loss, Any, Any]:
    rng = np.random.default_rng(0)
    z = rng.standard_normal((STEPS, ROWS, SIZE)) * 3
    if kind == "mse":
        return losses.mse(), z, rng.standard_normal(z.shape)
    targets = rng.integers(0, SIZE, (STEPS, ROWS))
    ignore = {"plain": -100, "ignored": -100, "own number": 2}[kind]
    if kind == "ignored":
        targets[0, 1] = targets[2, 3] = ignore
    return losses.cross_entropy(ignore), z, targets


@pytest.mark.parametrize("kind", ("plain", "ignored", "own number", "mse"))
def test_value_and_gradient_agree_with_pytorch(kind: str) -> None:
    torch = pytest.importorskip("torch")
    loss, z, targets = case(kind)
    value, gradient = evaluate(loss, z, targets)
    variable = torch.from_numpy(z).requires_grad_()
    if isinstance(loss, losses.CrossEntropy):
        expected = torch.nn.functional.cross_entropy(
            variable.reshape(-1, SIZE), torch.from_numpy(targets).reshape(-1), ignore_index=loss.ignore_index
        )
    else:
        expected = torch.nn.functional.mse_loss(variable, torch.from_numpy(targets))
    expected.backward()
    assert value == pytest.approx(expected.item(), rel=1e-14)
    np.testing.assert_allclose(gradient, variable.grad.numpy(), rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize("kind", ("plain", "ignored", "mse"))
def test_gradients_are_those_of_finite_differences(kind: str) -> None:
    loss, z, targets = case(kind)
    _, gradient = evaluate(loss, z, targets)
    rng = np.random.default_rng(1)
    for _ in range(3):
        direction = rng.standard_normal(z.shape)
        step = 1e-6
        ahead, behind = (evaluate(loss, z + s * step * direction, targets)[0] for s in (1, -1))
        assert (ahead - behind) / (2 * step) == pytest.approx(float((gradient * direction).sum()), rel=1e-7)


@pytest.mark.parametrize("dtype", ("float32", "float64"))
def test_large_scores_do_not_overflow(dtype: str) -> None:
    z = np.zeros((STEPS, ROWS, SIZE), dtype)
    z[..., 0], z[..., 1] = 1e4, -1e4
    value, gradient = evaluate(losses.cross_entropy(), z, np.zeros((STEPS, ROWS), np.int64), dtype)
    assert value == 0 and not gradient.any()
    value, gradient = evaluate(losses.cross_entropy(), z, np.ones((STEPS, ROWS), np.int64), dtype)
    assert value == pytest.approx(2e4) and np.isfinite(gradient).all()


def test_a_maximum_over_units_gives_its_gradient_to_the_largest() -> None:
    graph = Graph("float64", 1)
    x = graph.input("x", (BATCH, 4))
    graph.outputs["y"] = graph.add("reduce_max", (x,))
    graph = verify(vjp(graph, ["x"]))
    feeds = {"x": np.array([[1.0, 3.0, 2.0, -1.0], [5.0, 0.0, 5.0, 1.0]]), "d:y": np.array([[2.0], [3.0]])}
    results = run_graph(graph, feeds)
    np.testing.assert_array_equal(results["y"], [[3.0], [5.0]])
    np.testing.assert_array_equal(results["d:x"], [[0, 2, 0, 0], [1.5, 0, 1.5, 0]])  # shared among equals


def test_what_cannot_be_a_target_is_refused() -> None:
    loss = losses.cross_entropy()
    with raises_saying(ArgumentTypeError, "targets", "integers", "float64"):
        loss.encode(np.zeros(3), SIZE, "float64")
    with raises_saying(ArgumentError, "targets", "0..4", "ignore_index", "5"):
        loss.encode(np.array([0, 5]), SIZE, "float64")
    with raises_saying(ArgumentTypeError, "targets", "floating-point", "int64"):
        losses.mse().encode(np.zeros((3, SIZE), np.int64), SIZE, "float64")
    with raises_saying(ArgumentError, "targets", "size 5", "(3, 4)"):
        losses.mse().encode(np.zeros((3, 4)), SIZE, "float64")
    with raises_saying(ArgumentError, "loss", "'cross_entropy' or 'mse'", "'hinge'"):
        losses.check_loss("hinge")
    with raises_saying(ArgumentTypeError, "loss", "None"):
        losses.check_loss(None)
