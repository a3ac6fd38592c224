"""CTC: the sum over all alignments, by brute force and in PyTorch; ragged rows and labels; and losses of whole rows."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby, product
from typing import Any

import numpy as np
import pytest

import rnnc
from rnnc import losses, train
from rnnc.backends.cuda.emulator import find_compiler
from rnnc.backends.reference.interpreter import run_graph
from rnnc.ir.equations import absolute, total
from rnnc.ir.errors import ArgumentError, ArgumentTypeError
from rnnc.ir.graph import Graph
from rnnc.ir.shape_rules import BATCH
from rnnc.ir.verify import verify
from rnnc.optimizers import SGD
from tests.compiled_losses import evaluate
from tests.refusals import raises_saying

STEPS, CLASSES = 5, 3
LENGTHS = (5, 3, 4, 2, 1)
LABELS: list[list[int]] = [[1, 1, 2], [1, 2], [2], [], [1]]
"""With a label that occurs twice in a row, none, and rows whose every step must be a label."""


def scores(dtype: str = "float64", steps: int = STEPS, scale: float = 2.0) -> Any:
    return (np.random.default_rng(0).standard_normal((steps, len(LABELS), CLASSES)) * scale).astype(dtype)


def labels(blank: int = 0) -> list[Any]:
    """Those of `LABELS`, with other numbers if the blank is not 0."""
    return [np.array([{1: (blank + 1) % CLASSES, 2: (blank + 2) % CLASSES}[n] for n in row], int) for row in LABELS]


def brute_force(z: Any, targets: list[Any], lengths: Any, blank: int) -> float:
    """The mean over rows of -log(sum over alignments of the product of probabilities) / number of labels."""
    powers = np.exp(z)
    chances, found = powers / powers.sum(-1, keepdims=True), []
    for row, (target, length) in enumerate(zip(targets, lengths, strict=True)):
        whole = 0.0
        for path in product(range(CLASSES), repeat=length):
            if [n for n, _ in groupby(path) if n != blank] == list(target):
                whole += np.prod([chances[t, row, n] for t, n in enumerate(path)])
        found.append(-np.log(whole) / max(len(target), 1))
    return float(np.mean(found))


@pytest.mark.parametrize("blank", (0, 2))
def test_it_is_the_sum_over_all_alignments(blank: int) -> None:
    loss, z = losses.ctc(blank, longest=4), scores()
    value, gradient = evaluate(loss, z, labels(blank), LENGTHS)
    assert value == pytest.approx(brute_force(z, labels(blank), LENGTHS, blank), rel=1e-13)
    direction = np.where(np.arange(STEPS)[:, None, None] < np.array(LENGTHS)[:, None], scores(scale=1.0), 0)
    ahead, behind = (brute_force(z + s * 1e-6 * direction, labels(blank), LENGTHS, blank) for s in (1, -1))
    assert (ahead - behind) / 2e-6 == pytest.approx(float((gradient * direction).sum()), rel=1e-7)


def test_one_label_at_most() -> None:
    few = [row[:1] for row in labels()]
    value, _ = evaluate(losses.ctc(longest=1), scores(), few, LENGTHS)
    assert value == pytest.approx(brute_force(scores(), few, LENGTHS, 0), rel=1e-13)


def in_pytorch(z: Any, lengths: Any, zero_infinity: bool = False) -> tuple[float, Any]:
    torch = pytest.importorskip("torch")
    variable = torch.from_numpy(z).requires_grad_()
    target, counts = torch.from_numpy(np.concatenate(labels())), torch.tensor([len(row) for row in LABELS])
    given = (variable.log_softmax(-1), target, torch.tensor(lengths), counts)
    loss = torch.nn.functional.ctc_loss(*given, reduction="mean", zero_infinity=zero_infinity)
    loss.backward()
    return loss.item(), variable.grad.numpy()


@pytest.mark.parametrize(("where", "dtype"), (("reference", "float64"), ("llvm", "float64"), ("llvm", "float32")))
def test_value_and_gradient_agree_with_pytorch(where: str, dtype: str) -> None:
    loss = losses.ctc(longest=3)
    for lengths in (LENGTHS, (100,) * len(LABELS)):  # PyTorch itself is off by 1e-4 in float32
        z = scores(dtype, max(lengths))
        value, gradient = evaluate(loss, z, labels(), None if len(set(lengths)) == 1 else lengths, backend=where)
        expected, slope = in_pytorch(z.astype("float64"), lengths)
        assert value == pytest.approx(expected, rel=1e-12 if dtype == "float64" else 1e-6)
        atol = 1e-13 if dtype == "float64" else 2e-6 * np.abs(slope).max()
        np.testing.assert_allclose(gradient, slope, rtol=0, atol=atol)


@pytest.mark.skipif(find_compiler() is None, reason="emulating CUDA needs a C++ compiler")
def test_an_emulated_gpu_agrees() -> None:
    value, gradient = evaluate(losses.ctc(longest=3), scores(), labels(), LENGTHS)
    found = evaluate(losses.ctc(longest=3), scores(), labels(), LENGTHS, backend="cuda-emulated")
    assert found[0] == pytest.approx(value, rel=1e-13)
    np.testing.assert_allclose(found[1], gradient, rtol=0, atol=1e-14)


@pytest.mark.parametrize("where", ("reference", "llvm"))
def test_a_row_with_too_few_steps_has_an_infinite_loss_or_none(where: str) -> None:
    short = (3, *LENGTHS[1:])  # 1, 1, 2 takes four steps: a blank lies between equal labels
    assert evaluate(losses.ctc(longest=3), scores(), labels(), short, backend=where)[0] == np.inf
    value, gradient = evaluate(losses.ctc(zero_infinity=True, longest=3), scores(), labels(), short, backend=where)
    assert not gradient[:, 0].any() and np.isfinite(gradient).all() and gradient[:, 1].any()
    expected, slope = in_pytorch(scores(), short, zero_infinity=True)
    assert value == pytest.approx(expected, rel=1e-13)
    np.testing.assert_allclose(gradient, slope, atol=1e-14)


def test_large_scores_make_no_nan() -> None:
    z = np.sign(scores("float32")) * np.float32(1e4)
    value, gradient = evaluate(losses.ctc(longest=3), z, labels(), LENGTHS, backend="llvm")
    expected, _ = in_pytorch(z.astype("float64"), LENGTHS)
    assert value == pytest.approx(expected, rel=1e-6) and np.isfinite(gradient).all()


def test_positions_of_a_frame_are_steps() -> None:
    """Three steps, in frames of two of which the last is not there."""
    loss, z = losses.ctc(longest=3), scores()[:3]
    graph = Graph("float64", 2, share=False)
    graph.outputs["output"] = tuple(graph.input("z", (BATCH, 2 * CLASSES), t) for t in range(2))
    losses.add_loss(graph, loss, losses.Roles(positions=2, inside="inside"))
    padded = np.concatenate([z, np.zeros_like(z[:1])]).reshape(2, 2, -1, CLASSES).swapaxes(1, 2)
    inside = np.tile(np.array([[[1.0, 1.0]], [[1.0, 0.0]]]), (1, len(LABELS), 1))
    target, _ = loss.encode([row[-2:] for row in labels()], CLASSES, "float64")
    found = run_graph(verify(graph), {"z": padded.reshape(2, len(LABELS), -1), "target": target, "inside": inside})
    expected = brute_force(z, [row[-2:] for row in labels()], [3] * len(LABELS), 0)
    assert found["loss"][0] / len(LABELS) == pytest.approx(expected, rel=1e-13)


def test_weights_are_factors_of_rows() -> None:
    """A row of weight 2 counts as two rows."""
    repeats = np.array([2, 0, 1, 1, 0])
    again = np.repeat(np.arange(len(LABELS)), repeats)
    expected, _ = evaluate(
        losses.ctc(longest=3), scores()[:, again], [labels()[i] for i in again], np.array(LENGTHS)[again]
    )
    value, _ = evaluate(losses.ctc(longest=3), scores(), labels(), LENGTHS, weights=repeats)
    assert value == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("where", ("reference", "llvm"))
def test_it_reads_an_output_of_fewer_steps_than_x(where: str) -> None:
    """Behind a stride of 2, whose padding makes a step more than half of them, as in recognisers of speech."""
    net = rnnc.Sequential(
        rnnc.Conv1d(2, 3, 3, stride=2, padding=(1, 2)), rnnc.GRU(3, 4, dtype="float64"), rnnc.Linear(4, CLASSES)
    )
    lengths, loss = np.array([8, 4, 6, 1, 2]), losses.ctc(longest=3)
    step = train.TrainingStep(net, loss, SGD(0.1), backend=where)
    x = np.random.default_rng(0).standard_normal((8, len(LABELS), 2))
    target, _ = loss.encode(labels(), CLASSES, "float64")
    batch = train.Batch({"x": x}, {"output": target}, lengths, {"output": len(LABELS)})
    output = net.compile(step.params, backend=where)(x, lengths=lengths)
    steps = net.graph().output_lengths(lengths).tolist()
    expected = brute_force(output, labels(), steps, 0)
    mean, gradients = step.gradients(batch)
    assert mean == pytest.approx(expected, rel=1e-12)
    assert all(np.isfinite(array).all() and array.any() for array in gradients.values())


def test_what_cannot_be_labels_is_refused() -> None:
    loss = losses.ctc(longest=2)
    with raises_saying(ArgumentTypeError, "targets[1]", "integers (L,)", "float64"):
        loss.encode([np.array([1]), np.array([1.0])], CLASSES, "float64")
    with raises_saying(ArgumentError, "targets[0]", "without the blank, 0", "got 0"):
        loss.encode([np.array([1, 0])], CLASSES, "float64")
    with raises_saying(ArgumentError, "targets[0]", "3 labels", "at most 2"):
        loss.encode([np.array([1, 2, 1])], CLASSES, "float64")
    with raises_saying(ArgumentError, "longest"):
        losses.ctc().target_width(CLASSES)
    with raises_saying(ArgumentError, "blank", "0..2", "3"):
        losses.ctc(3, longest=1).target_width(CLASSES)
    for wrong in ([[-1.0, 1.0]], [[0.5, -1.0]], [[np.nan, 1.0]]):
        with raises_saying(ArgumentError, "batch.target", "then negative"):
            loss.check("batch.target", np.array(wrong), CLASSES)
    assert loss.fitted(labels(), CLASSES) is loss and losses.ctc().fitted(labels(), CLASSES).longest == 3
    graph = Graph("float64", 1)
    graph.outputs["output"] = graph.input("z", (BATCH, CLASSES))
    with raises_saying(ArgumentError, "ctc", "value per step", "readout"):
        losses.add_loss(graph, loss)


@dataclass(frozen=True)
class SumsTo(losses.SequenceLoss):
    """The distance of the sum of all outputs of a row from the target. returned: by a step, in the place of states."""

    returned: tuple[tuple[str, Any], ...] = ()
    name = "sums to"

    def states(self, size: int) -> dict[str, int]:
        return {"sum": size}

    def step(self, output: Any, target: Any, state: Any) -> Any:
        return {"sum": state.sum + output} if not self.returned else dict(self.returned)

    def result(self, state: Any, target: Any) -> Any:
        return total(absolute(state.sum - target))


@pytest.mark.parametrize("where", ("reference", "llvm"))
def test_a_loss_of_ones_own_reads_whole_rows(where: str) -> None:
    z, target = scores(), scores()[0]
    value, gradient = evaluate(SumsTo(), z, target, LENGTHS, backend=where)
    there = np.arange(STEPS)[:, None, None] < np.array(LENGTHS)[:, None]
    far = (z * there).sum(0) - target
    assert value == pytest.approx(np.abs(far).sum() / len(LABELS), rel=1e-13)
    np.testing.assert_allclose(gradient, np.sign(far) * there / len(LABELS), rtol=1e-13)


def test_states_of_another_name_or_width_are_refused() -> None:
    with raises_saying(ArgumentTypeError, "SumsTo: step", "the states sum by name", "other"):
        evaluate(SumsTo((("other", 1),)), scores(), scores()[0])
    with raises_saying(ArgumentError, "SumsTo: step", "'sum' as 1.0", "('B', 3)"):
        evaluate(SumsTo((("sum", 1.0),)), scores(), scores()[0])
