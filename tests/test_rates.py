"""Layers that change the number of steps: against PyTorch, ragged, streamed with and without a latency, derivatives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import rnnc
from rnnc.checking.networks import Kind
from rnnc.ir.errors import ArgumentError, DtypeError, ShapeError
from tests.refusals import raises_saying
from tests.test_layer_graphs import Smoothed, chain

LAYERS: dict[str, tuple[Any, ...]] = {
    "a stride": (rnnc.Conv1d(4, 6, 3, stride=2),),
    "patches": (rnnc.Conv1d(4, 6, 3, padding="valid", stride=3),),
    "valid": (rnnc.Conv1d(4, 6, 3, padding="valid", dilation=2),),
    "a stride, both sides": (rnnc.Conv1d(4, 6, 4, padding=(1, 1), stride=2),),
    "more padding than taps": (rnnc.Conv1d(4, 6, 4, padding=(4, 4), stride=3),),
    "one tap and padding": (rnnc.Conv1d(4, 6, 1, padding=(2, 1)),),
    "every other step": (rnnc.Conv1d(4, 4, 1, stride=2, groups=4),),
    "transposed": (rnnc.ConvTranspose1d(4, 6, 4, stride=2),),
    "transposed, cut": (rnnc.ConvTranspose1d(4, 6, 5, padding=(2, 1), stride=3, groups=2),),
    "transposed, longer": (rnnc.ConvTranspose1d(4, 6, 2, padding=(0, -2), stride=3),),
    "transposed, whole": (rnnc.ConvTranspose1d(4, 6, 4, padding=(0, 0), dilation=2),),
    "max": (rnnc.MaxPool1d(3, 2, padding=(1, 1)),),
    "max, dilated": (rnnc.MaxPool1d(2, 1, dilation=2),),
    "mean": (rnnc.AvgPool1d(4, 2, padding=(2, 2)),),
    "mean of the own": (rnnc.AvgPool1d(3, 2, padding=(1, 1), count_include_pad=False),),
    "past the end of a pool": (rnnc.MaxPool1d(2), rnnc.Conv1d(4, 4, 1, padding=(0, 1))),
    "longer than a pool": (rnnc.AvgPool1d(2), rnnc.ConvTranspose1d(4, 6, 2, padding=(0, -1), stride=2)),
    "down, down, up": (
        rnnc.Conv1d(4, 5, 4, padding=(1, 2), stride=2),
        rnnc.PReLU(5),
        rnnc.Conv1d(5, 4, 3, stride=2),
        rnnc.ConvTranspose1d(4, 3, 3, padding=(1, 0), stride=2),
    ),
}
STEPS, ROWS = 13, 3
OWN = (13, 7, 4)


def series(steps: int = STEPS, rows: int = ROWS) -> Any:
    return np.random.default_rng(5).standard_normal((steps, rows, 4))


def peer(layer: Any, params: dict[str, Any], x: Any) -> Any:
    """PyTorch's layer, (B, C, T)."""
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    params = {name: torch.tensor(array) for name, array in params.items()}
    if isinstance(layer, rnnc.Conv1d):
        options = dict(stride=layer.stride, dilation=layer.dilation, groups=layer.groups)
        return F.conv1d(F.pad(x, layer.pads), params["weight"], params["bias"], **options)
    if isinstance(layer, rnnc.ConvTranspose1d):
        options = dict(stride=layer.stride, dilation=layer.dilation, groups=layer.groups)
        whole = F.conv_transpose1d(x, params["weight"], None, **options)
        before, after = layer._cut
        return F.pad(whole, (-before, -after)) + params["bias"][:, None]
    if isinstance(layer, rnnc.MaxPool1d):
        return F.max_pool1d(F.pad(x, layer.pads, value=-torch.inf), layer.kernel_size, layer.stride, 0, layer.dilation)
    if isinstance(layer, rnnc.AvgPool1d):
        padding = layer.pads[0]
        return F.avg_pool1d(x, layer.kernel_size, layer.stride, padding, count_include_pad=layer.count_include_pad)
    return F.prelu(x, params["weight"])


def expected(net: rnnc.Graph, params: dict[str, Any], x: Any) -> Any:
    """(T, B, N) -> (T', B, M)."""
    torch = pytest.importorskip("torch")
    y = torch.tensor(x).permute(1, 2, 0)
    for name, entry in net.entries.items():
        own = {n.removeprefix(f"{name}."): a for n, a in params.items() if n.startswith(f"{name}.")}
        y = peer(entry.layer, own, y)
    return y.permute(2, 0, 1).numpy()


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_pytorchs(name: str, backend: str) -> None:
    net = chain(*LAYERS[name], width=4)
    params = net.init(1)
    network = net.compile(params, backend=backend)
    for steps in (13, 12, 5):
        y = network(series(steps))
        np.testing.assert_allclose(y, expected(net, params, series(steps)), atol=1e-12)
        assert net.output_lengths(steps) == len(y)


RATED: dict[str, rnnc.Graph] = {
    **{name: chain(*layers, width=4) for name, layers in LAYERS.items()},
    "a recurrence below and above a stride": chain(
        rnnc.GRU(4, 5, dtype="float64"), rnnc.Conv1d(5, 4, 4, padding=(2, 1), stride=2), Smoothed(),
        rnnc.ConvTranspose1d(4, 3, 2, stride=2), rnnc.LSTM(3, 3, dtype="float64"), width=4,
    ),
    "both directions behind a stride": chain(
        rnnc.Conv1d(4, 4, 3, padding=(1, 1), stride=2), rnnc.GRU(4, 3, bidirectional=True, dtype="float64"), width=4,
    ),
    "a last value behind a stride": chain(
        rnnc.MaxPool1d(2), rnnc.RNN(4, 3, bidirectional=True, dtype="float64"), rnnc.Last(), rnnc.Linear(6, 2), width=4,
    ),
    "a mean behind valid": chain(rnnc.Conv1d(4, 4, 3, padding="valid"), Smoothed(), rnnc.Mean(), width=4),
    "look-ahead beside a recurrence": rnnc.Graph(
        {"x": 4},
        {
            "same": (rnnc.Conv1d(4, 4, 3, padding="same"), "x"),
            "gru": (rnnc.GRU(4, 4, dtype="float64"), "x"),
            "sum": (rnnc.Add(), "gru", "same"),
            "again": (rnnc.Conv1d(4, 3, 5, padding=(1, 3)), "sum"),
        },
        ("again", "gru"),
    ),
    "a mean of what is late": rnnc.Graph(
        {"x": 4},
        {
            "same": (rnnc.Conv1d(4, 4, 3, padding="same"), "x"),
            "state": (Smoothed(), "same"),
            "mean": (rnnc.Mean(), "state"),
        },
        ("mean", "state"), dtype="float64",
    ),
    "rates that meet again": rnnc.Graph(
        {"x": 4},
        {
            "down": (rnnc.AvgPool1d(2), "x"),
            "up": (rnnc.ConvTranspose1d(4, 4, 2, stride=2), "down"),
            "sum": (rnnc.Add(), "up", "x"),
            "wide": (rnnc.Conv1d(4, 2, 3, padding="same"), "sum"),
            "rest": (rnnc.Conv1d(4, 2, 2, stride=2), "wide2"),
            "wide2": (rnnc.Conv1d(4, 4, 3, padding="same"), "sum"),
        },
        ("wide", "rest"), dtype="float64",
    ),
}  # fmt: skip


def named(output: Any) -> dict[str, Any]:
    return output if isinstance(output, dict) else {"": output}


def assert_rows_are_as_if_alone(net: rnnc.Graph, own: tuple[int, ...], backend: str) -> None:
    network = net.compile(net.init(1), backend=backend)
    x = series(own[0])
    for row, length in enumerate(own):
        x[length:, row] = np.nan
    whole = named(network(x, lengths=own))
    for row, length in enumerate(own):
        alone = named(network(x[:length, row : row + 1]))
        for (output, y), source in zip(whole.items(), net.outputs.values(), strict=True):
            if not net.kinds[source].timed:
                np.testing.assert_allclose(y[row], alone[output][0], atol=1e-12)
                continue
            steps = len(alone[output])
            assert steps == net.kinds[source].steps(length)
            np.testing.assert_allclose(y[:steps, row], alone[output][:, 0], atol=1e-12)
            assert not y[steps:, row].any()


def assert_streams_are_whole(net: rnnc.Graph, frames: int, sizes: tuple[int, ...], backend: str) -> None:
    """sizes: of pieces, in frames."""
    network = net.compile(net.init(1), backend=backend)
    x = series(frames * net.frame)
    whole = named(network(x))
    for size in (net.frame * size for size in sizes):
        pieces: dict[str, list[Any]] = {output: [] for output in net.outputs}
        state = None
        for start in range(0, len(x), size):
            y, state = network.advance(x[start : start + size], state)
            for found, piece in zip(pieces.values(), named(y).values(), strict=True):
                found.append(piece)
        if state:  # else there is nothing to finish
            for found, piece in zip(pieces.values(), named(network.finish(state)).values(), strict=True):
                found.append(piece)
        for expected, found, source in zip(whole.values(), pieces.values(), net.outputs.values(), strict=True):
            kind = net.kinds[source]
            if not kind.timed:
                np.testing.assert_allclose(found[-1], expected, atol=1e-12)
                continue
            late, streamed = int(net.latency * kind.rate), np.concatenate(found)
            assert not streamed[:late].any()
            np.testing.assert_allclose(streamed[late:], expected, atol=1e-12)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", RATED)
def test_a_ragged_batch_is_each_row_alone(name: str, backend: str) -> None:
    assert_rows_are_as_if_alone(RATED[name], (12, 8, 4) if name == "rates that meet again" else OWN, backend)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", [name for name, net in RATED.items() if net.streams])
def test_a_stream_and_its_end_are_the_whole(name: str, backend: str) -> None:
    assert_streams_are_whole(RATED[name], 12, (1, 3), backend)


@st.composite
def layers(draw: Any, size: int) -> Any:
    """A layer that reads vectors of a size."""
    kernel, stride, dilation = (
        draw(st.integers(1, 4)),
        draw(st.sampled_from((1, 1, 2, 3))),
        draw(st.sampled_from((1, 2))),
    )
    span, wide = (kernel - 1) * dilation, draw(st.integers(1, 4))
    most = st.integers(0, span + 2)
    padding = draw(st.one_of(st.sampled_from(("causal", "same", "valid")), st.tuples(most, most)))
    cut = draw(st.tuples(st.integers(0, span // 2), st.integers(-2, span // 2)))
    return draw(
        st.sampled_from(
            (
                rnnc.Conv1d(size, wide, kernel, padding, dilation, stride=stride),
                rnnc.ConvTranspose1d(size, wide, kernel, cut, dilation, stride=stride),
                rnnc.MaxPool1d(kernel, stride, padding, dilation),
                rnnc.AvgPool1d(kernel, stride, padding, draw(st.booleans())),
                rnnc.GRU(size, wide, dtype="float64"),
                Smoothed(),
                rnnc.Delay(kernel),
                rnnc.Scale(size, bias=True),
            )
        )
    )


@st.composite
def networks(draw: Any) -> rnnc.Graph:
    """Layers of any pace, some of which read what an earlier one gives beside the last."""
    entries: dict[str, Any] = {}
    kinds = {"x": Kind(4, True)}
    last = "x"
    for number in range(draw(st.integers(1, 4))):
        entries[name := f"l{number}"] = draw(layers(kinds[last].width)), last
        kinds = dict(rnnc.Graph({"x": 4}, entries, name, dtype="float64").kinds)
        alike = [
            other for other, kind in kinds.items() if other != name and kind == kinds[name]._replace(width=kind.width)
        ]
        last = name
        if alike and draw(st.booleans()):
            entries[last := f"j{number}"] = rnnc.Concat(), name, draw(st.sampled_from(alike))
            kinds = dict(rnnc.Graph({"x": 4}, entries, last, dtype="float64").kinds)
    return rnnc.Graph(
        {"x": 4}, entries, tuple(draw(st.sets(st.sampled_from(sorted(entries)), max_size=1)) | {last}), dtype="float64"
    )


@settings(max_examples=5)
@given(networks(), st.integers(8, 20), st.integers(1, 3))
def test_any_network_is_ragged_and_streamed(net: rnnc.Graph, steps: int, size: int) -> None:
    assume(net.frame <= 12)
    assert_rows_are_as_if_alone(net, (steps, steps // 2, 3), "llvm")
    if net.streams:
        assert_streams_are_whole(net, max(4, -(-8 // net.frame)), (size,), "llvm")


@pytest.mark.parametrize("name", ("a stride, both sides", "look-ahead beside a recurrence", "mean of the own"))
def test_kernels_for_a_gpu_do_the_same(name: str) -> None:
    net, x = RATED[name], series()
    ours, theirs = (net.compile(net.init(1), backend=backend) for backend in ("cuda-emulated", "reference"))
    for lengths in (None, OWN):
        expected = named(theirs(x, lengths=lengths))
        for output, y in named(ours(x, lengths=lengths)).items():
            np.testing.assert_allclose(y, expected[output], atol=1e-12)
    piece = x[: 2 * net.frame]
    ends = [named(network.finish(network.advance(piece)[1])) for network in (ours, theirs)]
    for output, y in ends[0].items():
        np.testing.assert_allclose(y, ends[1][output], atol=1e-12)


def test_plain_pieces_enter_machine_code() -> None:
    for name in ("look-ahead beside a recurrence", "valid", "a recurrence below and above a stride"):
        network = RATED[name].compile(RATED[name].init(1))
        assert network._quick_advance is not None


def test_rows_of_a_stream_may_pause(backend: str) -> None:
    net = RATED["look-ahead beside a recurrence"]
    network = net.compile(net.init(1), backend=backend)
    x = series(6, 2)
    _, state = network.advance(x, None, lengths=[6, 2])
    later = np.concatenate([series(4, 2)[:, :1], x[2:, 1:]], axis=1)
    _, state = network.advance(later, state)
    left = network.finish(state)
    whole = network(x[:, 1:])
    for output in whole:
        np.testing.assert_allclose(left[output][:, 1], whole[output][-net.latency :, 0], atol=1e-12)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", RATED)
def test_gradients_are_finite_differences(name: str, backend: str) -> None:
    net = RATED[name]
    params, own = net.init(1), None if name == "rates that meet again" else OWN
    x = series(12 if own is None else STEPS)
    rng = np.random.default_rng(7)
    f = rnnc.vjp(net, backend=backend)
    (y, _), pullback = f(params, x, None, own)
    seeds = {key: rng.standard_normal(array.shape) for key, array in named(y).items()}
    d_params, d_x, _ = pullback(seeds if len(net.outputs) > 1 else seeds[""])

    def loss(params: Any, x: Any) -> float:
        network = net.compile(params, backend="reference")
        found = named(network(x, lengths=own))
        return float(sum((found[key] * seeds[key]).sum() for key in found))

    direction = rng.standard_normal(x.shape)
    step = 1e-6
    numeric = (loss(params, x + step * direction) - loss(params, x - step * direction)) / (2 * step)
    np.testing.assert_allclose((d_x * direction).sum(), numeric, rtol=2e-6, atol=1e-7)
    turn = {key: rng.standard_normal(array.shape) for key, array in params.items()}
    ahead, behind = ({k: a + s * turn[k] for k, a in params.items()} for s in (step, -step))
    numeric = (loss(ahead, x) - loss(behind, x)) / (2 * step)
    np.testing.assert_allclose(sum((d_params[k] * turn[k]).sum() for k in params), numeric, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("batch_first", (False, True))
def test_plain_calls_enter_machine_code_in_frames(batch_first: bool) -> None:
    layers = {
        "down": (rnnc.Conv1d(4, 6, 4, padding=(1, 2), stride=2), "x"),
        "even": (rnnc.Conv1d(4, 2, 2, padding=(0, 1), stride=2), "x"),
        "high": (rnnc.ConvTranspose1d(6, 5, 4, stride=2), "down"),
        "mean": (rnnc.Mean(), "high"),
    }
    for outputs in ("down", "high", ("down", "even"), "mean"):
        net = rnnc.Graph({"x": 4}, layers, outputs, dtype="float64", batch_first=batch_first)
        network = net.compile(net.init(0))
        assert network._quick_call is not None
        rows = 2 if batch_first else 1
        x = series(12, rows).swapaxes(0, int(batch_first))
        checked = named(network(x, lengths=[12] * rows))
        for array in (np.ascontiguousarray(x), x[::-1][::-1], np.asfortranarray(x)):
            for y, expected in zip(named(network(array)).values(), checked.values(), strict=True):
                np.testing.assert_allclose(y, expected, atol=1e-12)
        with raises_saying(ShapeError, "x", "at least one time step"):
            network(x[:, :0] if batch_first else x[:0])
        with raises_saying(ShapeError, "x", "I = 4", "8"):
            network(np.zeros((2, 1, 8) if not batch_first else (1, 2, 8)))
        with raises_saying(DtypeError, "x", "float32"):
            network(x.astype("float32"))


@pytest.mark.parametrize("lengths", (None, OWN))
def test_both_directions_visit_each_step_of_a_frame(lengths: Any, backend: str) -> None:
    """Below a stride there are several steps in a frame; the layers apart have one."""
    layers = rnnc.GRU(4, 3, bidirectional=True, dtype="float64"), rnnc.Conv1d(6, 2, 3, padding="valid", stride=3)
    whole, x = chain(*layers, width=4), series()
    params = whole.init(2)
    own = ({k.replace("1.", "0."): a for k, a in params.items() if k.startswith(f"{n}.")} for n in (0, 1))
    apart = [chain(layer, width=size) for layer, size in zip(layers, (4, 6), strict=True)]
    first, second = (net.compile(given, backend=backend) for net, given in zip(apart, own, strict=True))
    y = whole.compile(params, backend=backend)(x, lengths=lengths)
    np.testing.assert_allclose(y, second(first(x, lengths=lengths), lengths=lengths), atol=1e-12)


def beside(layers: dict[str, Any], last: str) -> Any:
    """A network that adds what layers give to x."""
    net = rnnc.Graph({"x": 4}, layers | {"sum": (rnnc.Add(), "x", last)}, "sum", dtype="float64")
    return net.compile(net.init(0))


def test_pieces_may_be_shorter_than_what_layers_take_off() -> None:
    layers = {
        "short": (rnnc.Conv1d(4, 4, 6, padding="valid"), "x"),
        "long": (rnnc.ConvTranspose1d(4, 4, 6, padding=(0, 0)), "short"),
    }
    network, x = beside(layers, "long"), series(12)
    state, pieces = None, []
    for t in range(12):
        y, state = network.advance(x[t : t + 1], state)
        pieces.append(y)
    streamed = np.concatenate([*pieces, network.finish(state)])[network.latency :]
    np.testing.assert_allclose(streamed, network(x), atol=1e-12)
    assert "plain pieces of whole frames of one row, without lengths, enter" in network.explain()


def test_what_does_not_fit_is_refused() -> None:
    with raises_saying(ShapeError, "layer 'sum'", "'x': 1", "'down': 1/2"):
        rnnc.Graph({"x": 4}, {"down": (rnnc.MaxPool1d(2), "x"), "sum": (rnnc.Add(), "x", "down")}, "sum")
    net = RATED["rates that meet again"]
    network = net.compile(net.init(0))
    with raises_saying(ShapeError, "layer 'sum'", "'up' has 12", "'x' has 13"):
        network(series(13))
    with raises_saying(ShapeError, "multiple of 2 steps", "got 3"):
        network.advance(series(3))
    with raises_saying(ArgumentError, "padding", "'same'"):
        rnnc.ConvTranspose1d(4, 4, 3, padding="same")
    with raises_saying(ShapeError, "layer 'sum'", "as many steps"):
        beside({"short": (rnnc.Conv1d(4, 4, 3, padding="valid"), "x")}, "short").advance(series(4))
    down = rnnc.Sequential(rnnc.Conv1d(4, 4, 2, stride=2))
    x = series(4)[:, 0].astype("float32")
    with raises_saying(ShapeError, "data[0][1]", "expected 2 steps"):
        rnnc.train.Sequences(down, "mse", [(x, x[:3])])
    with raises_saying(ArgumentError, "frames of 999000 steps", "1024"):
        chain(rnnc.MaxPool1d(1000), rnnc.MaxPool1d(999), width=4)
    backward = RATED["both directions behind a stride"]
    with raises_saying(ArgumentError, "finish", "bidirectional"):
        backward.compile(backward.init(0)).finish({})
