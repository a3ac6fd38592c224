"""Training of whole graphs: several inputs and outputs, tables, strides, weights, starts, on all three trainers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import rnnc
from rnnc import train
from rnnc.backends.cuda.emulator import find_compiler
from rnnc.backends.llvm import code
from rnnc.backends.llvm.training import trainer
from rnnc.ir.errors import ArgumentError, ArgumentTypeError, NonFiniteError, ShapeError
from rnnc.losses import cross_entropy
from rnnc.losses import ctc as ctc_loss
from rnnc.optimizers import SGD, Adam, AdamW
from rnnc.train import Batch
from tests.refusals import raises_saying
from tests.training_data import WORDS, check_unwritten_memory, same

Array = Any
T, TAGS = 7, 5
ROWS = np.array([7, 2, 4, 1, 6])
B = len(ROWS)
LOSSES = {"a": "cross_entropy", "b": ("mse", 0.3), "c": ("cross_entropy", 2.0)}
TRAINERS: list[dict[str, Any]] = [{"threads": 2}, {"threads": 1}, {"backend": "reference"}]
if find_compiler():
    TRAINERS.append({"backend": "cuda-emulated"})


@pytest.fixture(autouse=True)
def _small_batches_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code, "PARALLEL_FLOPS", 0)


def several(p: float, stride: int) -> rnnc.Graph:
    """Two tables, one of them read twice; outputs at each step, behind a stride, and one per sequence."""
    dtype = {"dtype": "float64"}
    before: Any = rnnc.Conv1d(14, 6, 3, stride=stride, padding=(1, 1)) if stride > 1 else rnnc.Linear(14, 6)
    return rnnc.Graph(
        {"x": 4, "words": "numbers", "tags": "numbers", "who": rnnc.Static(2)},
        {
            "word": (rnnc.Embedding(WORDS, 4, padding_index=2), "words"),
            "tag": (rnnc.Embedding(TAGS, 2), "tags"),
            "again": ("tag", "tags"),
            "all": (rnnc.Concat(), "x", "word", "tag", "again", "who"),
            "noise": (rnnc.Dropout(p), "all"),
            "slow": (before, "noise"),
            "both": (rnnc.Regularized(rnnc.GRU(6, 3, bidirectional=True, **dtype), zoneout=p / 2), "slow"),
            "a": (rnnc.Linear(6, 3), "both"),
            "fast": (rnnc.LearnedStart(rnnc.RNN(14, 3, 2, dropout=p, **dtype)), "noise"),
            "mean": (rnnc.Mean(), "fast"),
            "b": (rnnc.Linear(3, 2), "mean"),
            "c": (rnnc.Linear(3, 4), "fast"),
        },
        ("a", "b", "c"),
    )


def batch_of(model: rnnc.Graph, seed: int, weighted: bool) -> Batch:
    """A ragged batch, with NaN in the padding."""
    rng = np.random.default_rng(seed)
    steps, own = model.output_lengths(T)["a"], model.output_lengths(ROWS)["a"]
    x = rng.standard_normal((T, B, 4))
    x[np.arange(T)[:, None] >= ROWS] = np.nan
    numbers = {"words": rng.integers(0, WORDS, (T, B)), "tags": rng.integers(0, TAGS, (T, B))}
    classes = {"a": rng.integers(0, 3, (steps, B, 1)), "c": rng.integers(0, 4, (T, B, 1))}
    targets = {"b": rng.standard_normal((B, 2))} | {name: array.astype(float) for name, array in classes.items()}
    weights = {"a": rng.random((steps, B)), "b": rng.random(B), "c": rng.random(B)} if weighted else {}
    ones = {"a": np.ones((steps, B)), "b": np.ones(B), "c": np.ones(B)} | weights
    there = np.arange(steps)[:, None] < own
    terms = {"a": (ones["a"] * there).sum(), "b": 2 * ones["b"].sum(), "c": (ones["c"] * ROWS).sum()}
    return Batch({"x": x, **numbers, "who": rng.standard_normal((B, 2))}, targets, ROWS, terms, weights)


@pytest.mark.parametrize(
    ("stride", "p", "weighted", "frozen"),
    (
        (1, 0.3, False, ()),
        pytest.param(2, 0.3, True, ("both.*", "tag.weight"), marks=pytest.mark.rare),
        pytest.param(2, 0.0, True, ("a.bias",), marks=pytest.mark.rare),
    ),
)
def test_all_trainers_take_the_same_steps(stride: int, p: float, weighted: bool, frozen: Any) -> None:
    model, results = several(p, stride), []
    for on in TRAINERS:
        step = train.TrainingStep(
            model, LOSSES, AdamW(0.02), clip=0.5, seed=1, weighted=weighted, frozen=frozen, **on
        )
        before = {name: array.copy() for name, array in step.params.items()}
        reports = [step.step(batch_of(model, n, weighted))[0] for n in range(2)]
        parts = [batch_of(model, 3, weighted), batch_of(model, 4, False)]
        reports.append(step.step(parts)[0])
        results.append((step, reports))
        changed = {name for name, array in step.params.items() if not np.array_equal(array, before[name])}
        assert changed == set(before) - step.frozen
        same(results[0], results[-1], 1e-10)
        total = sum(factor * reports[0].losses[name] for name, factor in (("a", 1), ("b", 0.3), ("c", 2)))
        assert reports[0].loss == pytest.approx(total)
    assert isinstance(results[0][0]._trainer, trainer.LlvmTrainer) == (stride == 1)  # a kernel is made of sums


def test_gradients_are_those_of_finite_differences() -> None:
    """Of the losses of an Evaluation, which does not differentiate. Behind strides, ragged, with weights."""
    model, on = several(0.0, 2), {"backend": "reference", "weighted": True}
    step, evaluation = train.TrainingStep(model, LOSSES, SGD(0.1), **on), train.Evaluation(model, LOSSES, **on)
    rng, batch = np.random.default_rng(0), batch_of(model, 9, True)
    for array in step.params.values():
        array += 0.1 * rng.standard_normal(array.shape)
    params = {name: array.copy() for name, array in step.params.items()}
    batch.weights["b"][1] = 0  # whatever the target is
    batch.targets["b"][1] = np.nan
    batch = batch._replace(terms={**batch.terms, "b": 2 * batch.weights["b"].sum()})
    loss, gradients = step.gradients(batch)

    def value(at: dict[str, Array]) -> float:
        sums, _ = evaluation(at, batch)
        return float(sum(f * sums[n] / batch.terms[n] for n, f in (("a", 1), ("b", 0.3), ("c", 2))))

    assert value(params) == pytest.approx(loss, rel=1e-12)
    for name in params:
        direction = rng.standard_normal(params[name].shape)
        if name == "word.weight":
            direction[2] = 0  # its row for padding has no gradient
        ahead, behind = (value(params | {name: params[name] + s * direction}) for s in (1e-6, -1e-6))
        assert (ahead - behind) / 2e-6 == pytest.approx(float((gradients[name] * direction).sum()), abs=1e-8), name


def test_a_tied_table_has_a_dense_gradient() -> None:
    """The sum of those of its rows, but that for padding, and of the output layer; as PyTorch's."""
    torch = pytest.importorskip("torch")
    model = rnnc.Graph(
        {"words": "numbers"},
        {
            "word": (rnnc.Embedding(WORDS, 4, padding_index=2), "words"),
            "cell": (rnnc.GRU(4, 4, dtype="float64"), "word"),
            "next": (rnnc.Linear(4, WORDS), "cell", {"weight": "word.weight"}),
        },
        "next",
    )
    rng = np.random.default_rng(0)
    words, target, lengths = rng.integers(0, WORDS, (7, 4)), rng.integers(0, WORDS, (7, 4)), np.array([7, 2, 5, 7])
    targets = {"next": target[..., None].astype(float)}
    batch, results = Batch({"words": words}, targets, lengths, {"next": lengths.sum()}), []
    for on in (TRAINERS[0], *TRAINERS[2:]):
        step = train.TrainingStep(model, "cross_entropy", Adam(0.02), clip=0.3, **on)
        results.append((step, [step.step([batch, batch])[0] for _ in range(3)]))
        same(results[0], results[-1], 1e-11)
    step = results[0][0]
    assert isinstance(step._trainer, trainer.LlvmTrainer) and "word.weight: it is read as a matrix" in step.explain()
    loss, gradients = step.gradients(batch)
    peer = {name: torch.tensor(array, requires_grad=True) for name, array in step.params.items()}
    cell, total = torch.nn.GRU(4, 4, dtype=torch.float64), 0
    for row, n in enumerate(lengths):
        rows = torch.nn.functional.embedding(torch.tensor(words[:n, [row]]), peer["word.weight"], padding_idx=2)
        own = {name[5:]: array for name, array in peer.items() if name[:4] == "cell"}
        scores = torch.func.functional_call(cell, own, (rows,))[0][:, 0] @ peer["word.weight"].T + peer["next.bias"]
        total = total + torch.nn.functional.cross_entropy(scores, torch.tensor(target[:n, row]), reduction="sum")
    (total / lengths.sum()).backward()
    assert loss == pytest.approx(total.item() / lengths.sum(), rel=1e-12)
    for name, array in peer.items():
        np.testing.assert_allclose(gradients[name], array.grad.numpy(), rtol=0, atol=1e-14, err_msg=name)


def starting() -> rnnc.Graph:
    """States that start at a value of the network, and at parameters."""
    return rnnc.Graph(
        {"x": 3, "who": rnnc.Static(2)},
        {
            "start": (rnnc.Linear(2, 5), "who"),
            "all": (rnnc.Concat(), "x", "who"),
            "gru": (rnnc.GRU(5, 5, dtype="float64"), "all", {"h": "start"}),
            "lstm": (rnnc.LearnedStart(rnnc.LSTM(5, 4, 2, dtype="float64")), "gru"),
        },
        "lstm",
    )


def test_states_start_where_the_network_says(backend: str) -> None:
    """As PyTorch's do; and in a stream only in its first piece."""
    torch = pytest.importorskip("torch")
    model, rng = starting(), np.random.default_rng(0)
    assert rnnc.Graph.from_dict(model.to_dict()) == model
    params = {name: array + 0.3 * rng.standard_normal(array.shape) for name, array in model.init(0).items()}
    x, who, target = rng.standard_normal((6, 3, 3)), rng.standard_normal((3, 2)), rng.standard_normal((6, 3, 4))
    network, state, pieces = model.compile(params, backend=backend), None, []
    for start, stop in ((0, 2), (2, 3), (3, 6)):
        piece, state = network.advance({"x": x[start:stop], "who": who}, state)
        pieces.append(piece)
    whole = network({"x": x, "who": who})
    np.testing.assert_allclose(np.concatenate(pieces), whole, rtol=0, atol=1e-13)
    peer = {name: torch.tensor(array, requires_grad=True) for name, array in params.items()}
    gru, lstm = torch.nn.GRU(5, 5, dtype=torch.float64), torch.nn.LSTM(5, 4, 2, dtype=torch.float64)
    h, given = torch.tensor(who) @ peer["start.weight"].T + peer["start.bias"], torch.tensor(who).expand(6, 3, 2)
    own = {name[4:]: array for name, array in peer.items() if name[:4] == "gru."}
    y, _ = torch.func.functional_call(gru, own, (torch.cat([torch.tensor(x), given], -1), h[None]))
    first = [torch.stack([peer[f"lstm.start_{s}_l{k}"].expand(3, 4) for k in (0, 1)]) for s in "hc"]
    own = {name[5:]: array for name, array in peer.items() if name[:5] == "lstm." and "start" not in name}
    y, _ = torch.func.functional_call(lstm, own, (y, tuple(first)))
    np.testing.assert_allclose(whole, y.detach().numpy(), rtol=0, atol=1e-13)
    torch.nn.functional.mse_loss(y, torch.tensor(target)).backward()
    step = train.TrainingStep(model, "mse", SGD(0.0), params=params, carry=True, backend=backend)
    batch = Batch({"x": x, "who": who}, {"lstm": target}, None, {"lstm": target.size})
    loss, gradients = step.gradients(batch)
    for name, array in peer.items():
        np.testing.assert_allclose(gradients[name], array.grad.numpy(), rtol=0, atol=1e-13, err_msg=name)
    total, last = 0.0, None
    for a, b in ((0, 4), (4, 6)):
        part = Batch({"x": x[a:b], "who": who}, {"lstm": target[a:b]}, None, {"lstm": target[a:b].size}, start=a)
        outcome, last = step.step(part, state=last)
        total += outcome.loss * target[a:b].size
    assert total / target.size == pytest.approx(loss, rel=1e-12)


def test_pieces_go_through_strides_in_whole_frames() -> None:
    """With a rate of 0 their losses add up to that of whole sequences, some of which end in earlier pieces."""
    layers = rnnc.Conv1d(2, 3, 4, stride=2, padding="causal"), rnnc.GRU(3, 4, dtype="float64"), rnnc.Linear(4, 3)
    model, rng = rnnc.Sequential(*layers), np.random.default_rng(0)
    step = train.TrainingStep(model, "mse", SGD(0.0), carry=True, backend="reference")
    x, target, lengths = rng.standard_normal((11, 3, 2)), rng.standard_normal((6, 3, 3)), np.array([11, 3, 8])

    def piece(a: int, b: int) -> Batch:
        own = np.clip(lengths - a, 0, b - a)
        count = 3 * int(model.graph().output_lengths(own).sum())
        kept = target[a // 2 : -(-b // 2)]
        return Batch({"x": x[a:b]}, {"output": kept}, own, {"output": count}, start=a)

    whole, state, total = piece(0, 11), None, 0.0
    for a, b in ((0, 4), (4, 10), (10, 11)):
        outcome, state = step.step(piece(a, b), state=state)
        total += outcome.loss * piece(a, b).terms["output"]
    assert total / whole.terms["output"] == pytest.approx(step.gradients(whole)[0], rel=1e-13)
    with raises_saying(ArgumentError, "batch.start", "multiple of 2"):
        step.step(piece(3, 5), state=state)
    for padding, words in (((1, 1), ("later steps",)), ((5, 0), ("padding",))):
        other = rnnc.Sequential(rnnc.Conv1d(2, 3, 3, padding=padding), rnnc.GRU(3, 4))
        with raises_saying(ArgumentError, "carry", *words):
            train.TrainingStep(other, "mse", SGD(0.1), carry=True)


def test_memory_of_the_padding_reaches_nothing() -> None:
    """It is neither cleared nor read."""
    model = several(0.3, 1)
    step = train.TrainingStep(model, LOSSES, AdamW(0.02), threads=2)
    batch = batch_of(model, 0, False)
    check_unwritten_memory(step, batch)


def test_what_does_not_fit_is_named() -> None:
    model = several(0.0, 2)
    step = train.TrainingStep(model, LOSSES, SGD(0.1), backend="reference", weighted=True)
    batch = batch_of(model, 0, True)
    start = step.flat.copy()
    for change, error, words in (
        ({"inputs": {**batch.inputs, "who": np.zeros((4, 2))}}, ShapeError, ("batch.inputs", "'who': (4, 2)")),
        ({"inputs": {"x": batch.inputs["x"]}}, ArgumentTypeError, ("batch.inputs", "'words'", "'who'")),
        ({"targets": {**batch.targets, "a": np.zeros((T, B, 1))}}, ShapeError, ("batch.targets['a']", "(4, 5, 1)")),
        ({"weights": {**batch.weights, "c": -np.ones(B)}}, ArgumentError, ("batch.weights['c']", ">= 0")),
        ({"weights": {"d": np.ones(B)}}, ArgumentTypeError, ("batch.weights", "'d'")),
        ({"terms": {**batch.terms, "b": 3.0}}, ArgumentError, ("batch.terms['b']", "3.0")),
    ):
        with raises_saying(error, *words):
            step.step(batch._replace(**change))
    assert np.array_equal(step.flat, start) and step.updates == 0
    targets = {**batch.targets, "a": batch.targets["a"].copy(), "b": np.full((B, 2), 1e200)}
    with raises_saying(NonFiniteError, "overflow"):
        step.step(batch._replace(targets=targets))
    targets["a"][3, 2] = np.nan  # in the padding
    with raises_saying(NonFiniteError, "overflow"):
        step.step(batch._replace(targets=targets))
    x = batch.inputs["x"].copy()
    x[1, 1, 2] = np.inf
    with raises_saying(NonFiniteError, "batch.inputs['x'] holds inf", "[1, 1, 2]"):
        step.step(batch._replace(inputs={**batch.inputs, "x": x}))
    assert np.array_equal(step.flat, start) and step.updates == 0
    plain = train.TrainingStep(model, LOSSES, SGD(0.1), backend="reference")
    with raises_saying(ArgumentError, "batch.weights", "weighted=True"):
        plain.step(batch)
    for loss, error, words in (
        ("mse", ArgumentTypeError, ("loss", "'a', 'b', 'c'", "dict")),
        ({"d": "mse"}, ArgumentError, ("loss", "'d'")),
        ({"a": ("mse", -1)}, ArgumentError, ("loss['a']", "-1")),
        ({"a": "hinge"}, ArgumentError, ("loss['a']", "hinge")),
    ):
        with raises_saying(error, *words):
            train.TrainingStep(model, loss, SGD(0.1))  # type: ignore[arg-type]
    layers = {"e": (rnnc.Embedding(3, 2), "y"), "s": (rnnc.LearnedStart(rnnc.GRU(2, 3)), "e")}
    with raises_saying(ArgumentError, "step", "'s' learns", "states="):
        rnnc.Decoder(rnnc.Graph({"y": "numbers"}, layers, "s"), start=0, end=1, steps=3)
    with raises_saying(ArgumentError, "layer 'z'", "learns", "'h'"):
        rnnc.Graph({"x": 2, "w": rnnc.Static(3)}, {"z": (rnnc.LearnedStart(rnnc.GRU(2, 3)), "x", {"h": "w"})}, "z")
    with raises_saying(ArgumentError, "frozen", "'fats.*'"):
        train.TrainingStep(model, LOSSES, SGD(0.1), frozen=["fats.*"])


def test_an_output_without_a_loss_is_not_trained() -> None:
    model = several(0.0, 1)
    step = train.TrainingStep(model, {"c": cross_entropy()}, SGD(0.5), backend="reference")
    batch = batch_of(model, 0, False)
    before = {name: array.copy() for name, array in step.params.items()}
    outcome, _ = step.step(batch._replace(targets={"c": batch.targets["c"]}, terms={"c": batch.terms["c"]}))
    changed = {name.split(".")[0] for name, array in step.params.items() if not np.array_equal(array, before[name])}
    assert outcome.losses == {"c": outcome.loss} and changed == {"c", "fast", "word", "tag"}


def test_a_loss_of_whole_rows_reads_an_output_behind_strides() -> None:
    """CTC, with weights, as PyTorch's of the outputs of each row; beside a loss of single steps."""
    torch = pytest.importorskip("torch")
    layers = {
        "slow": (rnnc.Conv1d(3, 4, 3, stride=2, padding=(1, 1)), "x"),
        "labels": (rnnc.GRU(4, 5, dtype="float64"), "slow"),
        "next": (rnnc.Linear(3, 2), "x"),
    }
    model, rng = rnnc.Graph({"x": 3}, layers, ("labels", "next")), np.random.default_rng(0)
    ctc, labels, lengths = ctc_loss(longest=3), [[1, 2, 1], [3, 3], [2]], np.array([13, 9, 12])
    x, target, weights = rng.standard_normal((13, 3, 3)), rng.standard_normal((13, 3, 2)), np.array([1.0, 0.5, 2.0])
    encoded, _ = ctc.encode([np.array(row) for row in labels], 5, "float64")
    terms = {"labels": weights.sum(), "next": 2 * lengths.sum()}
    losses: Any = {"labels": ctc, "next": ("mse", 0.5)}
    step = train.TrainingStep(model, losses, SGD(0.1), weighted=True, backend="reference")
    batch = Batch({"x": x}, {"labels": encoded, "next": target}, lengths, terms, {"labels": weights})
    outcome, _ = step.step(batch, 0.0)
    found, own = model.compile(dict(step.params))({"x": x}, lengths=lengths), model.output_lengths(lengths)["labels"]
    counts = torch.tensor([len(row) for row in labels])
    joined = torch.tensor([label for row in labels for label in row])
    scores = torch.log_softmax(torch.tensor(found["labels"]), -1)
    each = torch.nn.functional.ctc_loss(scores, joined, torch.tensor(own), counts, reduction="none") / counts
    there = np.arange(13)[:, None] < lengths
    squares = ((found["next"] - target) ** 2).sum(-1)[there].sum() / terms["next"]
    assert outcome.losses["labels"] == pytest.approx((each.numpy() * weights).sum() / weights.sum(), rel=1e-12)
    assert outcome.loss == pytest.approx(outcome.losses["labels"] + 0.5 * squares, rel=1e-12)
