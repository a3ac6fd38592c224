"""Losses: values and gradients against PyTorch, ragged; what does not count; and numbers that would overflow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rnnc import losses
from rnnc.backends.cuda.emulator import find_compiler
from rnnc.backends.reference.interpreter import run_graph
from rnnc.ir.autodiff import vjp
from rnnc.ir.equations import log
from rnnc.ir.errors import ArgumentError, ArgumentTypeError
from rnnc.ir.graph import Graph
from rnnc.ir.shape_rules import BATCH
from rnnc.ir.verify import verify
from tests.compiled_losses import evaluate
from tests.refusals import raises_saying

STEPS, ROWS, SIZE = 4, 3, 6
LENGTHS = (4, 1, 3)
WEIGHTS = (0.5, 2.0, 1.0, 0.0, 3.0, 1.5)
THERE = np.arange(STEPS)[:, None] < np.array(LENGTHS)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def scores(dtype: str = "float64") -> Any:
    return (rng().standard_normal((STEPS, ROWS, SIZE)) * 3).astype(dtype)


def classes(ignored: int | None = None) -> Any:
    targets = rng().integers(0, SIZE, (STEPS, ROWS))
    if ignored is not None:
        targets[0, 1] = targets[2, 2] = ignored
    return targets


def numbers(missing: float = 0.0, width: int = SIZE) -> Any:
    targets = rng().uniform(0, 1, (STEPS, ROWS, width))
    targets[rng().random(targets.shape) < missing] = np.nan
    return targets


def pinball(torch: Any, levels: tuple[float, ...]) -> Any:
    def loss(z: Any, t: Any) -> Any:
        error = t[:, :, None] - z.reshape(*t.shape, len(levels))
        q = torch.tensor(levels, dtype=z.dtype)
        return torch.maximum(q * error, (q - 1) * error).mean()

    return loss


def present(loss: Any) -> Any:
    """A loss of PyTorch's over the numbers that are not NaN."""
    return lambda z, t: loss(z[~t.isnan()], t[~t.isnan()])


CASES: dict[str, tuple[losses.Loss, Any, Any]] = {
    "cross_entropy": (losses.cross_entropy(), classes(), lambda f: f.cross_entropy),
    "ignored": (losses.cross_entropy(), classes(-100), lambda f: f.cross_entropy),
    "own number": (losses.cross_entropy(2), classes(), lambda f: lambda z, t: f.cross_entropy(z, t, ignore_index=2)),
    "class weights": (
        losses.cross_entropy(class_weights=WEIGHTS),
        classes(-100),
        lambda f: lambda z, t: f.cross_entropy(z, t, z.new_tensor(WEIGHTS)),
    ),
    "smoothing": (
        losses.cross_entropy(label_smoothing=0.2),
        classes(-100),
        lambda f: lambda z, t: f.cross_entropy(z, t, label_smoothing=0.2),
    ),
    "weights and smoothing": (
        losses.cross_entropy(class_weights=np.array(WEIGHTS), label_smoothing=0.1),  # type: ignore[arg-type]
        classes(),
        lambda f: lambda z, t: f.cross_entropy(z, t, z.new_tensor(WEIGHTS), label_smoothing=0.1),
    ),
    "mse": (losses.mse(), numbers(), lambda f: f.mse_loss),
    "mse with gaps": (losses.mse(missing="skip"), numbers(0.4), lambda f: present(f.mse_loss)),
    "mae": (losses.mae(), numbers(), lambda f: f.l1_loss),
    "huber": (losses.huber(1.5), numbers(), lambda f: lambda z, t: f.huber_loss(z, t, delta=1.5)),
    "quantile": (losses.quantile((0.1, 0.5, 0.8)), numbers(width=2), lambda f: pinball(f.torch, (0.1, 0.5, 0.8))),
    "bce": (losses.bce(), numbers(), lambda f: f.binary_cross_entropy_with_logits),
    "bce with weights": (
        losses.bce(WEIGHTS, missing="skip"),
        numbers() > 0.5,
        lambda f: lambda z, t: f.binary_cross_entropy_with_logits(z, t.to(z.dtype), pos_weight=z.new_tensor(WEIGHTS)),
    ),
    "function": (
        losses.function(lambda y, t: abs(y - t), missing="skip"),
        numbers(0.4),
        lambda f: present(f.l1_loss),
    ),
    "function of columns": (
        losses.function(lambda y, t: abs(y[:, :2] - t), shape=()),
        numbers(width=1)[..., 0],
        lambda f: lambda z, t: (z[:, :2] - t[:, None]).abs().mean(),
    ),
}


@pytest.mark.parametrize("where", ("reference", "llvm"))
@pytest.mark.parametrize("kind", CASES)
def test_value_and_gradient_agree_with_pytorch(kind: str, where: str) -> None:
    torch = pytest.importorskip("torch")
    loss, targets, theirs = CASES[kind]
    dtype = "float64" if where == "reference" else "float32"
    variable = torch.from_numpy(scores(dtype)).requires_grad_()
    target = torch.from_numpy(targets.astype(dtype) if targets.dtype.kind == "f" else targets)
    torch.nn.functional.torch = torch
    expected = theirs(torch.nn.functional)(variable[THERE], target[THERE])
    expected.backward()
    padded = np.where(THERE[..., None], scores(dtype), np.float32(np.nan))  # is not read
    value, gradient = evaluate(loss, padded, targets, LENGTHS, backend=where)
    assert value == pytest.approx(expected.item(), rel=1e-13 if dtype == "float64" else 1e-6)
    rtol, atol = (1e-12, 1e-15) if dtype == "float64" else (1e-5, 1e-7)
    np.testing.assert_allclose(gradient, variable.grad.numpy(), rtol=rtol, atol=atol)


@pytest.mark.skipif(find_compiler() is None, reason="emulating CUDA needs a C++ compiler")
@pytest.mark.parametrize("kind", ("weights and smoothing", "function"))
def test_an_emulated_gpu_agrees(kind: str) -> None:
    loss, targets, _ = CASES[kind]
    value, gradient = evaluate(loss, scores(), targets, LENGTHS)
    found = evaluate(loss, scores(), targets, LENGTHS, backend="cuda-emulated")
    assert found[0] == pytest.approx(value, rel=1e-13)
    np.testing.assert_allclose(found[1], gradient, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("kind", [kind for kind in CASES if kind not in ("ignored", "own number")])
def test_gradients_are_those_of_finite_differences(kind: str) -> None:
    loss, targets, _ = CASES[kind]
    z = scores()
    _, gradient = evaluate(loss, z, targets, LENGTHS)
    direction = np.where(THERE[..., None], rng().standard_normal(z.shape), 0)
    step = 1e-6
    ahead, behind = (evaluate(loss, z + s * step * direction, targets, LENGTHS)[0] for s in (1, -1))
    assert (ahead - behind) / (2 * step) == pytest.approx(float((gradient * direction).sum()), rel=1e-6)


@pytest.mark.parametrize("kind", ("class weights", "mse with gaps"))
def test_weights_of_targets_are_factors_in_the_sum_and_in_its_divisor(kind: str) -> None:
    """A target of weight 3 counts as three of weight 1; one of weight 0 as none."""
    loss, targets, _ = CASES[kind]
    repeats = np.array([3, 0, 1])
    z, target = (np.repeat(array, repeats, axis=1) for array in (scores(), targets))
    expected, _ = evaluate(loss, z, target, np.repeat(LENGTHS, repeats))
    weights = np.broadcast_to(repeats.astype(float), (STEPS, ROWS))
    assert evaluate(loss, scores(), targets, LENGTHS, weights=weights)[0] == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("dtype", ("float32", "float64"))
def test_large_scores_do_not_overflow(dtype: str) -> None:
    z = np.zeros((STEPS, ROWS, SIZE), dtype)
    z[..., 0], z[..., 1] = 1e4, -1e4
    value, gradient = evaluate(losses.cross_entropy(), z, np.zeros((STEPS, ROWS), np.int64))
    assert value == 0 and not gradient.any()
    value, gradient = evaluate(losses.cross_entropy(), z, np.ones((STEPS, ROWS), np.int64))
    assert value == pytest.approx(2e4) and np.isfinite(gradient).all()
    value, gradient = evaluate(losses.bce(WEIGHTS), z, np.ones(z.shape, dtype))
    expected = (2 * 1e4 + (0.5 * 0 + 1 + 0 + 3 + 1.5) * np.log(2)) / SIZE
    assert value == pytest.approx(expected, rel=1e-6) and np.isfinite(gradient).all()


def test_a_missing_target_makes_no_nan_where_equations_allow_no_zero() -> None:
    targets = numbers(0.4) + 1.0
    loss = losses.function(lambda y, t: abs(y - t) / t + y * log(t), missing="skip")
    value, gradient = evaluate(loss, scores(), targets, LENGTHS)
    there = THERE[..., None] & ~np.isnan(targets)
    expected = np.abs(scores() - targets) / targets + scores() * np.log(targets)
    assert value == pytest.approx(expected[there].mean(), rel=1e-13)
    slopes = np.sign(scores() - targets) / targets + np.log(targets)
    np.testing.assert_allclose(gradient, np.where(there, slopes, 0) / there.sum(), rtol=1e-12)


def test_a_maximum_over_units_gives_its_gradient_to_the_largest() -> None:
    graph = Graph("float64", 1)
    x = graph.input("x", (BATCH, 4))
    graph.outputs["y"] = graph.add("reduce_max", (x,))
    graph = verify(vjp(graph, ["x"]))
    feeds = {"x": np.array([[1.0, 3.0, 2.0, -1.0], [5.0, 0.0, 5.0, 1.0]]), "d:y": np.array([[2.0], [3.0]])}
    results = run_graph(graph, feeds)
    np.testing.assert_array_equal(results["y"], [[3.0], [5.0]])
    np.testing.assert_array_equal(results["d:x"], [[0, 2, 0, 0], [1.5, 0, 1.5, 0]])  # shared among equals


def test_targets_that_were_encoded_are_read_back() -> None:
    targets = numbers(0.4)
    encoded, counts = losses.mae(missing="skip").encode(targets, SIZE, "float32")
    assert np.isfinite(encoded).all()
    np.testing.assert_array_equal(losses.mae(missing="skip").decoded(encoded), targets.astype(np.float32))
    np.testing.assert_array_equal(counts, (~np.isnan(targets)).sum(-1))
    assert losses.mse().encode(np.zeros(5), 1, "float64")[0].shape == (5, 1)  # single numbers, where one is read


def test_what_cannot_be_a_target_is_refused() -> None:
    loss = losses.cross_entropy()
    with raises_saying(ArgumentTypeError, "targets", "integers", "float64"):
        loss.encode(np.zeros(3), SIZE, "float64")
    with raises_saying(ArgumentError, "targets", "0..5", "ignore_index", "6"):
        loss.encode(np.array([0, 6]), SIZE, "float64")
    with raises_saying(ArgumentTypeError, "targets", "floating-point", "int64"):
        losses.mse().encode(np.zeros((3, SIZE), np.int64), SIZE, "float64")
    with raises_saying(ArgumentError, "targets", "size 6", "(3, 4)"):
        losses.mse().encode(np.zeros((3, 4)), SIZE, "float64")
    with raises_saying(ArgumentError, "targets", "[0, 1]", "2.0"):
        losses.bce().encode(np.full((3, SIZE), 2.0), SIZE, "float64")
    with raises_saying(ArgumentError, "3 levels", "multiple", "4"):
        losses.quantile().encode(np.zeros((3, 1)), 4, "float64")
    with raises_saying(ArgumentError, "shape (..., 2)", "(5, 3)"):
        losses.function(lambda y, t: y, (2,)).encode(np.zeros((5, 3)), SIZE, "float64")


def test_what_cannot_be_a_loss_is_refused() -> None:
    with raises_saying(ArgumentError, "loss", "'cross_entropy' or 'mse'", "'hinge'"):
        losses.check_loss("hinge")
    with raises_saying(ArgumentTypeError, "loss", "a function of (output, target)", "None"):
        losses.check_loss(None)
    for maker in (losses.mse, losses.CrossEntropy):
        with raises_saying(ArgumentTypeError, "loss", "call it", maker.__name__):
            losses.check_loss(maker)
    with raises_saying(ArgumentError, "class_weights", "expected 6 numbers", "got 2"):
        losses.cross_entropy(class_weights=(1, 2)).target_width(SIZE)
    with raises_saying(ArgumentError, "class_weights", ">= 0", "-1"):
        losses.cross_entropy(class_weights=(1, -1))
    with raises_saying(ArgumentError, "label_smoothing", "[0, 1)", "1.5"):
        losses.cross_entropy(label_smoothing=1.5)
    with raises_saying(ArgumentError, "levels", "between 0 and 1", "1.0"):
        losses.quantile((0.5, 1.0))
    with raises_saying(ArgumentError, "missing", "'skip'", "'drop'"):
        losses.mae("drop")


def test_losses_of_several_outputs_have_constants_of_their_own() -> None:
    graph = Graph("float64", 1, share=False)
    given = {"a": (1.0, 2.0), "b": (3.0, 4.0), "c": (1.0, 2.0, 3.0)}
    feeds: dict[str, Any] = {}
    for name, weights in given.items():
        size = len(weights)
        graph.outputs[name] = (graph.input(f"z:{name}", (BATCH, size), 0),)
        loss = losses.cross_entropy(class_weights=weights)
        roles = losses.Roles(name, f"target:{name}", loss=f"loss:{name}", constants=name)
        losses.add_loss(graph, loss, roles)
        feeds |= {f"z:{name}": np.zeros((1, 1, size)), f"target:{name}": np.ones((1, 1, 1))}
        feeds |= {roles.constant(constant): array for constant, array in loss.constants(size, "float64").items()}
    found = run_graph(verify(graph), feeds)
    for name, weights in given.items():
        np.testing.assert_allclose(found[f"loss:{name}"], weights[1] * np.log(len(weights)))


def test_positions_of_a_frame_are_steps() -> None:
    """Two frames of two positions, of which the last is not there, give the numbers of three steps."""
    loss, z = losses.mae(), scores()[:3, :1]
    graph = Graph("float64", 2, share=False)
    graph.outputs["output"] = tuple(graph.input("z", (BATCH, 2 * SIZE), t) for t in range(2))
    losses.add_loss(graph, loss, losses.Roles(positions=2, weighted=True))
    padded = np.concatenate([z, np.full((1, 1, SIZE), np.nan)])
    feeds = {"z": padded.reshape(2, 1, -1), "target": np.zeros((2, 1, 2 * SIZE))}
    found = run_graph(verify(graph), feeds | {"weight": np.array([[[1.0, 2.0]], [[1.0, 0.0]]])})
    np.testing.assert_allclose(found["loss"], np.abs(z).sum() + np.abs(z[1]).sum())


def test_the_identity_of_a_loss_is_its_equations() -> None:
    def known(loss: Any, size: int = SIZE) -> str:
        return losses.identity(losses.check_loss(loss), size, "float64")

    assert known(lambda y, t: abs(y - t)) == known(lambda a, b: abs(a - b))
    assert known(lambda y, t: abs(y - t)) != known(lambda y, t: abs(y - t) * 2)
    assert known(losses.huber(1.0)) == known("huber") != known(losses.huber(2.0))
    assert known(losses.cross_entropy(class_weights=WEIGHTS)) != known(losses.cross_entropy())
    assert " at 0x" not in known(losses.function(lambda y, t: y))
