"""Statistics of a batch: normalisation in training, and the parts that such a computation is cut into."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

import rnnc
from rnnc import train
from rnnc.backends.cuda.emulator import find_compiler
from rnnc.backends.llvm import code
from rnnc.backends.reference.interpreter import run_graph
from rnnc.ir import names
from rnnc.ir.computation import Computation
from rnnc.ir.equations import maximum
from rnnc.ir.errors import ArgumentError, IRError
from rnnc.ir.graph import Graph
from rnnc.ir.parts import parts_of
from rnnc.optimizers import SGD
from tests.refusals import raises_saying

Array = Any
N = 4
LENGTHS = (6, 3, 1, 5)
DOUBLE = {"dtype": "float64"}
TRAINERS: list[dict[str, Any]] = [{"threads": 2}, {"threads": 1}, {"backend": "reference"}]
if find_compiler():
    TRAINERS.append({"backend": "cuda-emulated"})


@pytest.fixture(autouse=True)
def _small_batches_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code, "PARALLEL_FLOPS", 0)


@dataclass(frozen=True)
class Centred(rnnc.Layer):
    """A user's layer with a statistic: x less its mean, in inference less the largest of its sums so far."""

    size: int
    statistics: ClassVar[tuple[str, ...]] = ("largest",)

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"largest": (self.size,)}

    def step(self, x: Any, state: SimpleNamespace, p: SimpleNamespace) -> Any:
        return x - (p.largest if p.mean is None else p.mean)

    def renewed(self, p: SimpleNamespace) -> dict[str, Any]:
        return {"largest": maximum(p.largest, p.mean * p.count)}


def tied() -> rnnc.Graph:
    """One normalisation, and one recurrence, at two depths: gradients that are sums of several parts."""
    layers = {
        "up": (rnnc.Linear(3, N), "x"),
        "norm": (rnnc.BatchNorm(N), "up"),
        "rnn": (rnnc.GRU(N, N, **DOUBLE), "norm"),  # type: ignore[arg-type]
        "again": ("norm", "rnn"),
        "deeper": ("rnn", "again"),
        "out": (rnnc.Linear(N, 2), "deeper"),
    }
    return rnnc.Graph({"x": 3}, layers, "out")


def network(kind: str) -> Any:
    gru, lstm = rnnc.GRU(N, N, **DOUBLE), rnnc.LSTM(3, N, bidirectional=True, **DOUBLE)  # type: ignore[arg-type]
    half = rnnc.Conv1d(N, N, 3, stride=2, padding=(1, 1))
    layers: dict[str, tuple[Any, ...]] = {
        "a user's layer": (Centred(3), rnnc.Linear(3, N), gru),
        "two directions": (lstm, rnnc.BatchNorm(2 * N, eps=0.1, affine=False), rnnc.Linear(2 * N, N)),
        "behind a readout": (rnnc.Linear(3, N), gru, rnnc.Mean(), rnnc.BatchNorm(N), rnnc.Activation("tanh")),
        "two rates": (rnnc.Conv1d(3, N, 3, padding="same"), rnnc.BatchNorm(N), half, rnnc.BatchNorm(N), gru),
        "delay lines": (rnnc.Conv1d(3, N, 3), rnnc.BatchNorm(N), rnnc.Conv1d(N, N, 2, dilation=2), gru),
    }
    return tied() if kind == "tied" else rnnc.Sequential(*layers[kind], rnnc.Linear(N, 2))


KINDS = ("tied", "a user's layer", "two directions", "behind a readout", "two rates", "delay lines")


def parameters(model: Any, dtype: str = "float64") -> dict[str, Array]:
    """Random ones; biases are none of 0, gains none of 1."""
    rng = np.random.default_rng(1)
    moved = {name: array + rng.uniform(0, 0.4, array.shape) for name, array in model.init(seed=0).items()}
    return {name: array.astype(dtype) for name, array in moved.items()}


def step_of(model: Any, params: dict[str, Array], **options: Any) -> train.TrainingStep:
    return train.TrainingStep(model, "mse", SGD(0.1), params=params, **options)


def batch_of(model: Any, lengths: tuple[int, ...], dtype: str = "float64", far: float = 0.0) -> train.Batch:
    """Random numbers, x about `far`, and NaN in its padding."""
    rng, graph = np.random.default_rng(2), model.graph()
    (last,) = graph.outputs.values()
    timed = graph.kinds[last].timed
    items = []
    for n in lengths:
        shape = (graph.output_lengths(n), 2) if timed else (2,)
        items.append(((far + rng.standard_normal((n, 3))).astype(dtype), rng.standard_normal(shape).astype(dtype)))
    batch = train.Sequences(model, "mse", items).batch(np.arange(len(items)))
    x = batch.inputs["x"].copy()
    x[np.arange(len(x))[:, None] >= np.array(lengths)] = np.nan
    return batch._replace(inputs={"x": x})


def unrolled(step: train.TrainingStep, batch: train.Batch) -> dict[str, Array]:
    """The outputs of the graph of a step, interpreted node by node for as many steps as the batch has."""
    framed = step._framing(batch, None)
    frames, rows = framed.times.frames, framed.times.batch
    feeds = {**step.params, **framed.inputs, **step._constants}
    seeds = zip(step.objective.places, step.objective.seeds(batch.terms), strict=True)
    feeds |= {names.gradient(place): np.full(1, seed) for place, seed in seeds}
    if framed.lengths is not None:
        feeds[names.VALID] = np.arange(frames)[:, None, None] < framed.lengths[None, :, None]
    graph = step._build(frames, framed.lengths is not None)
    states = {n.attr("name"): n.shape for n in graph.nodes if n.op == "input" and n.attr("name") not in feeds}
    return run_graph(graph, feeds | {name: np.zeros((rows, int(shape[-1]))) for name, shape in states.items()})


@pytest.mark.parametrize("ragged", (False, True))
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", TRAINERS, ids=str)
def test_gradients_and_statistics_are_those_of_the_unrolled_graph(
    options: dict[str, Any], kind: str, ragged: bool
) -> None:
    model = network(kind)
    step = step_of(model, parameters(model), **options)
    batch = batch_of(model, LENGTHS if ragged else (6,) * 4)
    expected = unrolled(step, batch)
    _, gradients = step.gradients(batch)
    before = {name: array.copy() for name, array in step.params.items()}
    step.step(batch)
    for name, array in gradients.items():
        if name in step._renewed:
            assert not np.array_equal(step.params[name], before[name])
            np.testing.assert_allclose(step.params[name], expected[names.renewed(name)], rtol=1e-12)
        else:
            gradient = expected[names.gradient(name)]
            np.testing.assert_allclose(array, gradient, rtol=1e-10, atol=1e-12, err_msg=name)
            np.testing.assert_allclose(step.params[name], before[name] - 0.1 * gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ("two rates", "behind a readout"))
def test_gradients_are_the_slopes_of_the_loss(kind: str) -> None:
    model, size = network(kind), 1e-5
    params, batch = parameters(model), batch_of(model, LENGTHS)
    step = step_of(model, params, threads=1)
    rng = np.random.default_rng(3)
    along = {name: rng.standard_normal(array.shape) for name, array in params.items()}

    def loss(way: float) -> float:
        for name, array in params.items():
            step.params[name][...] = array + way * size * along[name]
        return step.gradients(batch)[0]

    slope = (loss(1) - loss(-1)) / (2 * size)
    loss(0)
    gradients = step.gradients(batch)[1]
    assert slope == pytest.approx(sum((array * along[name]).sum() for name, array in gradients.items()), rel=1e-7)


def far_from_zero(dtype: str) -> tuple[rnnc.Graph, dict[str, Array]]:
    layers = {
        "norm": (rnnc.BatchNorm(3, momentum=0.3), "x"),
        "rnn": (rnnc.GRU(3, N, dtype=dtype), "norm"),
        "again": (rnnc.BatchNorm(N, eps=1e-3, affine=False), "rnn"),
        "out": (rnnc.Linear(N, 2), "again"),
    }
    model = rnnc.Graph({"x": 3}, layers, "out")
    return model, parameters(model, dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), (("float64", 1e-9), ("float32", 2e-4)))
def test_ragged_batches_train_as_in_pytorch(dtype: str, tolerance: float) -> None:
    """Data whose mean is 30 times its deviation, of rows of several lengths; two batches count as one."""
    torch = pytest.importorskip("torch")
    nn = torch.nn
    model, params = far_from_zero(dtype)
    parts = {"norm": nn.BatchNorm1d(3, momentum=0.3), "rnn": nn.GRU(3, N), "out": nn.Linear(N, 2)}
    module = nn.ModuleDict(parts | {"again": nn.BatchNorm1d(N, eps=1e-3, affine=False)}).to(getattr(torch, dtype))
    module.load_state_dict({name: torch.tensor(array) for name, array in params.items()}, strict=False)
    descent, step = torch.optim.SGD(module.parameters(), 0.1), step_of(model, params, threads=2)
    batches = [batch_of(model, lengths, dtype, far=30.0) for lengths in (LENGTHS, (4, 6))]

    def squares(batch: train.Batch) -> Any:
        x, target = (torch.tensor(array) for array in (batch.x, batch.target))
        there = torch.arange(len(x))[:, None] < torch.tensor(batch.lengths)
        normal = torch.zeros_like(x).masked_scatter(there[..., None], module["norm"](x[there]))
        output, _ = module["rnn"](normal)
        return ((module["out"](module["again"](output[there])) - target[there]) ** 2).sum()

    for _ in range(3):
        descent.zero_grad()
        loss = sum(squares(batch) for batch in batches) / (2 * (sum(LENGTHS) + 10))
        loss.backward()
        descent.step()
        outcome, _ = step.step(batches)
        assert outcome.loss == pytest.approx(loss.item(), rel=tolerance)
    for name, tensor in module.state_dict().items():
        if name in params:
            np.testing.assert_allclose(step.params[name], tensor, rtol=tolerance, atol=tolerance, err_msg=name)


def test_a_module_trains_as_in_pytorch_and_is_then_used_with_its_own_statistics() -> None:
    torch = pytest.importorskip("torch")
    nn = torch.nn
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv1d(3, N, 2), nn.BatchNorm1d(N, momentum=0.5), nn.ReLU(), nn.Conv1d(N, 2, 1)).double()
    network = rnnc.from_torch(module)
    assert network.frozen == ()
    x, target = torch.randn(3, 7, 3).double(), torch.randn(3, 6, 2).double()
    items = [(row.numpy(), wanted.numpy()) for row, wanted in zip(x, target, strict=True)]
    options: dict[str, Any] = {"loss": "mse", "optimizer": SGD(0.1), "epochs": 3, "batch_size": 3, "progress": False}
    trained = train.fit(network.model, items, params=network.params, **options)
    descent = torch.optim.SGD(module.parameters(), 0.1)
    for _ in range(3):
        descent.zero_grad()
        (module(x.mT) - target.mT).square().mean().backward()
        descent.step()
    for name, array in network.to_torch_state_dict(trained.params).items():
        if "tracked" not in name:  # a count that momentum does not need
            np.testing.assert_allclose(array, module.state_dict()[name], rtol=1e-9, atol=1e-12, err_msg=name)
    used = network.model.compile(trained.params)(x.mT.numpy())
    np.testing.assert_allclose(used, module.eval()(x.mT).detach(), rtol=1e-9, atol=1e-12)


def test_steps_that_change_nothing_and_frozen_statistics() -> None:
    model, params = far_from_zero("float64")
    batch = batch_of(model, LENGTHS)
    step = step_of(model, params, on_nonfinite="skip")
    step.gradients(batch)
    wild = batch._replace(targets={"out": batch.target * 1e200})
    step.step(wild)
    assert step.skipped == 1
    for name, array in params.items():
        np.testing.assert_array_equal(step.params[name], array)
    kept = [name for name in params if "running" in name]
    frozen = step_of(model, params, frozen=["norm.running_*", "again.running_mean"])  # one keeps both
    assert "parts" not in frozen.explain()
    used, _ = train.Evaluation(model, "mse")(params, batch)
    outcome, _ = frozen.step(batch)
    assert outcome.loss == pytest.approx(used / batch.terms["out"])
    for name in kept:
        np.testing.assert_array_equal(frozen.params[name], params[name])


def test_fit_goes_on_from_a_checkpoint_with_the_statistics_it_had(tmp_path: Path) -> None:
    """Of sequences trained in pieces; the network at the end uses its statistics."""
    model = rnnc.Sequential(rnnc.BatchNorm(3), rnnc.GRU(3, N), rnnc.BatchNorm(N), rnnc.Linear(N, 2))
    rng = np.random.default_rng(0)
    data = [(5 + rng.standard_normal((n, 3), "f4"), rng.standard_normal((n, 2), "f4")) for n in (9, 6, 8)]
    options: dict[str, Any] = {"loss": "mse", "batch_size": 2, "tbptt": 4, "progress": False, "seed": 1}
    whole = train.fit(model, data, epochs=4, **options)
    path = tmp_path / "run.safetensors"
    train.fit(model, data, epochs=2, checkpoint=path, **options)
    again = train.fit(model, data, epochs=4, checkpoint=path, resume=True, **options)
    for name, array in whole.params.items():
        np.testing.assert_array_equal(again.params[name], array)
    np.testing.assert_allclose(whole.params["0.running_mean"], 5, atol=1.5)
    assert np.isfinite(model.compile(whole.params)(data[0][0][:, None])[0]).all()


def test_what_is_refused() -> None:
    with raises_saying(ArgumentError, "momentum", "[0, 1]", "1.5"):
        rnnc.BatchNorm(4, momentum=1.5)
    model = rnnc.Sequential(rnnc.GRU(3, 4), rnnc.BatchNorm(4, momentum=None))
    with raises_saying(ArgumentError, "layer 1, BatchNorm", "momentum is None"):
        train.TrainingStep(model, "mse", SGD(0.1))


def less_its_sum(steps: int, lengths: bool, *, of_a_step: bool = False) -> Graph:
    """x less its sum over all rows and steps, and perhaps less that over the rows of each step."""
    graph = Graph("float64", steps)
    x = [graph.input("x", ("B", 3), t) for t in range(steps)]
    sums = [graph.add("reduce_rows", (value,), keep=False) for value in x]
    less = [graph.add("sub", (value, graph.tsum(sums))) for value in x]
    pairs = zip(less, sums, strict=True)
    graph.outputs["y"] = tuple(graph.add("sub", pair) for pair in pairs) if of_a_step else tuple(less)
    return graph


def test_a_graph_is_cut_where_rows_read_a_sum_over_all_rows() -> None:
    first, second = parts_of(Computation(less_its_sum))
    assert (first.inputs, first.outputs, second.outputs) == ({"x"}, set(), {"y"})
    assert [(value.shape, value.timed) for value in first.passed] == [((3,), False)]
    assert second.inputs == {"x", first.passed[0].name}
    with pytest.raises(IRError, match="reduce_rows.*the rows of one step"):
        parts_of(Computation(lambda steps, lengths: less_its_sum(steps, lengths, of_a_step=True)))
