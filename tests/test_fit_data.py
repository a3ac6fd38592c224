"""What `fit` trains from: arrays, data sets, generators, loaders, files; weights, metrics, and how a stream goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rnnc
from rnnc import train
from rnnc.ir.errors import ArgumentError, ArgumentTypeError, RnncError, ShapeError
from rnnc.optimizers import Adam
from rnnc.train.sources import is_stored
from tests.refusals import raises_saying
from tests.training_data import Pairs, series, tagged, tagger

MODEL = rnnc.Sequential(rnnc.GRU(4, 5, dtype="float64"), rnnc.Linear(5, 3))


class Items:
    """A data set that counts what is read of it."""

    def __init__(self, items: Pairs) -> None:
        self.items, self.read = items, 0

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> Any:
        self.read += 1
        return self.items[number]


class Rows:
    """An array of another library, in a file: h5py's and zarr's, say. It counts what is read of it."""

    def __init__(self, array: Any) -> None:
        self.array, self.shape, self.dtype, self.read = array, array.shape, array.dtype, 0

    def __getitem__(self, row: int) -> Any:
        self.read += 1
        return self.array[row].copy()


def fit(data: Any, model: Any = MODEL, **changes: Any) -> train.Trained:
    options: dict[str, Any] = {"loss": "mse", "epochs": 2, "batch_size": 2, "optimizer": Adam(0.02)}
    return train.fit(model, data, **(options | {"progress": False, "backend": "reference"} | changes))


def same(one: train.Trained, other: train.Trained) -> None:
    assert one.updates == other.updates
    for name, array in one.params.items():
        np.testing.assert_array_equal(array, other.params[name])


def stacked(items: Pairs) -> tuple[Any, Any]:
    x, target = (np.stack(arrays) for arrays in zip(*items, strict=True))
    return x, target


def generator(items: Pairs) -> Callable[[], Iterator[Any]]:
    def pairs() -> Iterator[Any]:
        yield from items

    return pairs


# -- the same data in other forms -----------------------------------------------------------------------


def test_arrays_and_files_train_as_the_list_of_their_rows(tmp_path: Path) -> None:
    """Bit for bit; rows of a file are read when a batch needs them."""
    items = series(lengths=(4,) * 6)
    x, target = stacked(items)
    expected = fit(items, validation=items)
    same(expected, fit((x, target), validation=(x, target)))
    paths = [tmp_path / "x.npy", tmp_path / "target.npy"]
    for path, array in zip(paths, (x, target), strict=True):
        np.save(path, array)
    mapped = tuple(np.load(path, mmap_mode="r") for path in paths)
    assert all(map(is_stored, mapped)) and is_stored(mapped[0][1][2:]) and not is_stored(x)
    same(expected, fit(mapped))
    same(expected, fit([(mapped[0][n], mapped[1][n]) for n in range(6)]))
    stored = Rows(x), Rows(target)
    same(expected, fit(stored))
    assert [rows.read for rows in stored] == [2 * 6 + 2] * 2  # two epochs, and the first row, to see what it is


def test_elements_of_a_stream_are_items_or_batches_of_any_form() -> None:
    """All make the same batches: items one by one, lists, arrays, a torch DataLoader, ready batches."""
    items = series(lengths=(4,) * 6)
    groups = [items[n : n + 2] for n in range(0, 6, 2)]
    sequences = train.Sequences(MODEL, "mse", items)
    ready = [sequences.batch(np.arange(n, n + 2)) for n in range(0, 6, 2)]
    expected = fit(generator(items))
    for data in (groups, [stacked(group) for group in groups], ready):
        same(expected, fit(lambda data=data: iter(data)))
    torch = pytest.importorskip("torch")
    tensors = torch.utils.data.TensorDataset(*map(torch.from_numpy, stacked(items)))
    same(expected, fit(torch.utils.data.DataLoader(tensors, batch_size=2)))
    ragged = series()
    loader = torch.utils.data.DataLoader(ragged, batch_size=2, collate_fn=list)
    same(fit(generator(ragged)), fit(loader))


def test_a_data_set_is_read_item_by_item() -> None:
    """Every item once per epoch, in another order in each."""
    items = Items(series())
    trained = fit(items, epochs=3)
    assert items.read == 3 * 6 and trained.updates == 9
    same(trained, fit(Items(series()), epochs=3))
    assert trained.history[0].loss != fit(generator(series()), epochs=1).history[0].loss


@pytest.mark.parametrize("buffer", (0, 4))
def test_a_buffer_shuffles_a_stream_and_loses_nothing(buffer: int) -> None:
    """With a rate of 0 the loss of an epoch is that of all items, in whatever order."""
    loss = fit(generator(series()), optimizer=Adam(0.0), shuffle_buffer=buffer, accumulate=2).history
    assert loss[0].loss == pytest.approx(fit(series(), optimizer=Adam(0.0)).history[0].loss, rel=1e-12)
    moved = fit(generator(series()), shuffle_buffer=buffer, epochs=1)
    assert (moved.history[0].loss == fit(generator(series()), epochs=1).history[0].loss) == (buffer == 0)


def test_an_epoch_of_a_stream_may_be_a_number_of_updates() -> None:
    """The stream goes on from epoch to epoch; an iterator that is over ends the training."""
    whole = fit(generator(series()), epochs=3)
    cut = fit(generator(series()), epochs=3, steps_per_epoch=3)
    same(whole, cut)
    odd = fit(generator(series()), epochs=9, steps_per_epoch=1)
    same(whole, odd)
    over = fit(iter(series() * 2), epochs=5, steps_per_epoch=4)
    assert (over.ended, over.updates, len(over.history)) == ("data", 6, 2)
    with raises_saying(ArgumentError, "data", "iterator", "once", "generator function", "steps_per_epoch"):
        fit(iter(series()))
    with raises_saying(ArgumentError, "validation", "iterator", "once", "generator function"):
        fit(series(), validation=iter(series()))
    for options in ({}, {"steps_per_epoch": 4}):
        again = iter(series())
        with raises_saying(ArgumentError, "data", "no item", "started again"):
            fit(lambda again=again: again, **options)


def test_a_function_is_given_the_number_of_the_pass() -> None:
    seen: list[int] = []

    def data(number: int) -> Iterator[Any]:
        seen.append(number)
        yield from series(number)

    fit(data, epochs=3)
    assert seen == [0, 1, 2]


# -- going on -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    (
        {"data": lambda: generator(series())},
        {"data": lambda: generator(series()), "shuffle_buffer": 4},
        {"data": lambda: generator(series()), "steps_per_epoch": 4, "accumulate": 2},
        {"data": lambda: Items(series() * 2), "batch_size": 1, "stop": 21},
        {"data": lambda: iter(series() * 4), "steps_per_epoch": 4},
    ),
    ids=("generator", "buffer", "steps", "set", "iterator"),
)
def test_a_stream_is_resumed_where_it_was(changes: dict[str, Any], tmp_path: Path) -> None:
    """What was seen is skipped: stopped in the middle, a training ends with the bits of one that was not."""
    pytest.importorskip("safetensors")
    options = {name: value for name, value in changes.items() if name not in ("data", "stop")}
    stop = changes.get("stop", 5)  # in the second epoch, and there behind the first block of items
    expected = fit(changes["data"](), **options)
    path = tmp_path / "run"

    class Stop(train.Callback):
        def on_update(self, training: train.Training) -> None:
            if training.updates == stop:
                training.stop()

    stopped = fit(changes["data"](), checkpoint=path, callbacks=[Stop()], **options)
    assert stopped.updates == stop and stopped.ended == "stopped"
    same(expected, fit(changes["data"](), checkpoint=path, resume=True, **options))


# -- weights and metrics --------------------------------------------------------------------------------


def test_metrics_are_means_over_the_steps_that_are_there() -> None:
    """Of one number per step, of one per batch, and of what a function makes of the mean in the end."""
    valid = series(3)
    ratio = train.Metric(lambda y, t: np.stack([abs(y - t).sum(1), abs(t).sum(1)], 1), lambda mean: mean[0] / mean[1])
    metrics = {
        "mae": "mae",
        "own": lambda y, t: abs(y - t).mean(1),
        "batch": lambda y, t: abs(y - t).mean(),
        "columns": lambda y, t: abs(y - t),
        "rmse": "rmse",
        "wape": ratio,
    }
    trained = fit(series(), validation=valid, metrics=metrics)
    network = rnnc.Sequential(*MODEL.layers).compile(trained.params, backend="reference")
    output = np.concatenate([network(x[:, None])[:, 0] for x, _ in valid])
    target = np.concatenate([t for _, t in valid])
    found, error = trained.history[-1].metrics, abs(output - target)
    assert [found[name] for name in ("mae", "own", "batch", "columns")] == pytest.approx([error.mean()] * 4, rel=1e-12)
    assert found["rmse"] == pytest.approx(np.sqrt((error**2).mean()), rel=1e-12)
    assert found["wape"] == pytest.approx(error.sum() / abs(target).sum(), rel=1e-12)
    assert found["rmse"] ** 2 == pytest.approx(trained.history[-1].validation_loss, rel=1e-12)


def test_accuracy_leaves_out_what_is_ignored() -> None:
    items = [(x, np.where(np.arange(len(x)) % 2, t, -100)) for x, t in tagged()]
    trained = fit(tagged(), tagger(), loss="cross_entropy", validation=items, metrics="accuracy", epochs=1)
    scores = tagger().compile(trained.params, backend="reference")
    right = np.concatenate([(scores(x[:, None])[:, 0].argmax(-1) == t)[t >= 0] for x, t in items])
    assert trained.history[0].accuracy == trained.history[0].metrics["accuracy"] == right.mean()


@pytest.mark.parametrize(
    ("metrics", "words"),
    (
        ({"m": lambda y, t: np.zeros(3)}, ("metrics['m']", "one per step", "(3,)")),
        ({"m": train.Metric(lambda y, t: y, lambda mean: mean)}, ("metrics['m']", "one number from finish", "(3,)")),
        ({"m": lambda y, t: "x"}, ("metrics['m']", "numbers", "'x'")),
        ({"loss": "mae"}, ("metrics", "'loss'")),
        ({"m": "nope"}, ("metrics['m']", "'rmse'")),
        (3, ("metrics", "names")),
        ("accuracy", ("accuracy", "classes", "width 3")),
    ),
)
def test_metrics_that_are_none_are_refused(metrics: Any, words: tuple[str, ...]) -> None:
    with raises_saying(RnncError, *words):
        fit(series(), validation=series(), metrics=metrics, epochs=1)


# -- networks of several inputs and outputs ------------------------------------------------------------


def hours() -> Any:
    """Values per hour, an hour's number, and a vector per site; outputs per hour, per three hours and per sequence."""
    return rnnc.Graph(
        inputs={"speed": 2, "hour": "numbers", "site": rnnc.Static(3)},
        layers={
            "hours": (rnnc.Embedding(7, 4), "hour"),
            "all": (rnnc.Concat(), "speed", "hours", "site"),
            "gru": (rnnc.GRU(9, 5, dtype="float64"), "all"),
            "next": (rnnc.Linear(5, 2), "gru"),
            "parts": (rnnc.Conv1d(5, 4, 3, stride=3), "gru"),
            "mean": (rnnc.Mean(), "gru"),
            "storm": (rnnc.Linear(5, 1), "mean"),
        },
        outputs=("next", "parts", "storm"),
    )


LOSSES = {"next": "mse", "parts": ("cross_entropy", 0.2), "storm": ("mae", 0.5)}


def reports(seed: int = 0) -> list[Any]:
    """Items of different lengths, with a weight per hour, per part and per sequence."""
    rng = np.random.default_rng(seed)

    def report(steps: int) -> Any:
        parts = hours().output_lengths(steps)["parts"]
        x = {"speed": rng.random((steps, 2)), "hour": rng.integers(0, 7, steps), "site": rng.random(3)}
        y = {"next": rng.random((steps, 2)), "parts": rng.integers(0, 4, parts), "storm": rng.random(1)}
        return x, y, {"next": rng.random(steps), "parts": rng.integers(0, 2, parts), "storm": rng.random()}

    return [report(steps) for steps in (9, 5, 7, 3, 12, 8)]


def losses_of(model: Any, params: Any, items: list[Any]) -> dict[str, float]:
    """The mean losses by output, from the outputs of each sequence."""
    network = model.compile(params, backend="reference")
    sums, terms = dict.fromkeys(LOSSES, 0.0), dict.fromkeys(LOSSES, 0.0)
    for x, y, weight in items:
        outputs = network({name: value[:, None] if name != "site" else value[None] for name, value in x.items()})
        gap = outputs["next"][:, 0] - y["next"]
        scores = outputs["parts"][:, 0]
        classes = np.log(np.exp(scores).sum(-1)) - scores[np.arange(len(scores)), y["parts"]]
        each = {"next": (gap**2).sum(-1), "parts": classes, "storm": abs(outputs["storm"][0] - y["storm"])}
        for name, loss in each.items():
            sums[name] += float((weight[name] * loss).sum())
            terms[name] += float(np.sum(weight[name])) * (2 if name == "next" else 1)
    return {name: sums[name] / terms[name] for name in LOSSES}


def test_a_graph_is_trained_on_weighted_items_by_name() -> None:
    """The losses by output are those of each sequence alone; metrics are named by output; what is frozen stays."""
    model, items = hours(), reports()
    options: dict[str, Any] = {"model": model, "loss": LOSSES, "batch_size": 6, "epochs": 1}
    metrics = {"next": "mae", "parts": ["accuracy"]}
    trained = fit(items, validation=reports(1), metrics=metrics, frozen=["hours.*"], **options)
    (line,) = trained.history
    expected = losses_of(model, model.init(0), items)
    assert line.losses == pytest.approx(expected, rel=1e-12)
    assert line.validation_losses == pytest.approx(losses_of(model, trained.params, reports(1)), rel=1e-12)
    found = line.validation_losses
    total = found["next"] + 0.2 * found["parts"] + 0.5 * found["storm"]
    assert line.validation_loss == pytest.approx(total, rel=1e-12)
    assert set(line.metrics) == {"next.mae", "parts.accuracy"}
    np.testing.assert_array_equal(trained.params["hours.weight"], model.init(0)["hours.weight"])
    assert not np.array_equal(trained.params["gru.weight_ih_l0"], model.init(0)["gru.weight_ih_l0"])


def test_a_stream_of_a_graph_makes_the_batches_of_its_list() -> None:
    model, items = hours(), reports()
    options: dict[str, Any] = {"model": model, "loss": LOSSES, "epochs": 1, "optimizer": Adam(0.0)}
    listed, streamed = fit(items, batch_size=6, **options), fit(lambda: iter(items), batch_size=6, **options)
    assert streamed.history[0].losses == pytest.approx(listed.history[0].losses, rel=1e-13)
    with raises_saying(ArgumentTypeError, "item 0 of data", "'speed', 'hour', 'site'", "dict"):
        fit([(items[0][0]["speed"], items[0][1])], **options)
    short = {**items[1][1], "parts": items[0][1]["parts"]}
    with raises_saying(ShapeError, "item 1 of data", "[1]['parts']", "2 steps", "(3,)"):
        fit([items[0][:2], (items[1][0], short)], **options)


def test_pieces_behind_strides_are_whole_frames() -> None:
    """With a rate of 0 the losses of pieces add up to those of whole sequences."""
    model = rnnc.Sequential(rnnc.GRU(4, 5, dtype="float64"), rnnc.Conv1d(5, 3, 2, stride=2))
    items = [(x, t[: model.graph().output_lengths(len(x))]) for x, t in series(lengths=(9, 4, 7, 6))]
    weighted = [(x, t, np.arange(1.0, len(t) + 1)) for x, t in items]
    options: dict[str, Any] = {"optimizer": Adam(0.0), "epochs": 1, "batch_size": 4}
    for data in (items, weighted):
        whole, pieces = (fit(data, model, tbptt=size, **options).history[0].loss for size in (None, 4))
        assert pieces == pytest.approx(whole, rel=1e-12)
    with raises_saying(ArgumentError, "size", "multiple of 2", "3"):
        fit(items, model, tbptt=3, **options)


# -- data that does not fit -----------------------------------------------------------------------------


def with_nan(items: Pairs, number: int) -> Pairs:
    items[number][0][1, 2] = np.nan
    return items


@pytest.mark.parametrize(
    ("data", "error", "words"),
    (
        (lambda: with_nan(series(), 2), ArgumentError, ("item 2 of data", "nan", "step 1")),
        (lambda: generator(with_nan(series(), 5)), ArgumentError, ("item 5 of data", "nan", "step 1")),
        (lambda: Items(with_nan(series(), 4)), ArgumentError, ("item 4 of data", "nan", "step 1")),
        (lambda: stacked(with_nan(series(lengths=(3,) * 4), 1)), ArgumentError, ("item 1 of data", "nan")),
        (lambda: generator([*series(), (np.zeros((2, 4)),)]), ArgumentTypeError, ("item 6 of data", "(x, target)")),
        (lambda: [(x[:, :3], t) for x, t in series()], ShapeError, ("item 0 of data", "(T, 4)", "(5, 3)")),
        (lambda: [(x.astype("f4"), t) for x, t in series()], TypeError, ("item 0 of data", "float64", "float32")),
        (lambda: [(*series()[0], 1.0), series()[1]], ArgumentTypeError, ("item 1 of data", "weight")),
        (lambda: [(*series()[0], -1.0)], ArgumentError, ("item 0 of data", "[2]", ">= 0")),
        (lambda: [(*series()[0], np.ones(4))], ShapeError, ("item 0 of data", "(5,)", "(4,)")),
        (lambda: (np.zeros((3, 2, 4)), np.zeros((2, 2, 3))), ArgumentError, ("data", "(3, 2, 4)", "(2, 2, 3)")),
        (lambda: [np.zeros((3, 2, 4)), np.zeros((3, 2, 3))], ArgumentTypeError, ("item 0", "the tuple (X, Y)")),
        (lambda: generator([]), ArgumentError, ("data", "at least one item")),
        (lambda: lambda: 3, ArgumentTypeError, ("data", "generator function", "3")),
        (lambda: lambda a, b: [], ArgumentTypeError, ("data", "one, the number")),
        (lambda: "abc", ArgumentTypeError, ("data", "a list of pairs", "'abc'")),
        (lambda: {"x": 3}, ArgumentTypeError, ("data", "a list of pairs")),
        (lambda: [({"y": x}, t) for x, t in series()], ArgumentError, ("item 0 of data", "names x", "'y'")),
    ),
)
def test_an_item_that_does_not_fit_is_named(data: Any, error: type[Exception], words: tuple[str, ...]) -> None:
    with raises_saying(error, *words):
        fit(data(), epochs=1)


def test_what_is_for_streams_is_refused_elsewhere() -> None:
    for argument in ("shuffle_buffer", "steps_per_epoch"):
        with raises_saying(ArgumentError, argument, "no stream"):
            fit(series(), **{argument: 3})
    with raises_saying(ArgumentError, "shuffle_buffer", "batches"):
        fit(lambda: iter([series()]), shuffle_buffer=4)
