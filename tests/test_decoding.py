"""`rnnc.Decoder` against loops in plain NumPy, on every backend."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import rnnc
from rnnc.decoding import pieces
from rnnc.decoding.gumbel import gumbel
from rnnc.ir import equations as eq
from rnnc.ir.equations import argmax, one_hot
from tests import decoding_oracle as oracle

Array = NDArray[Any]

BACKENDS = ("reference", "llvm", "cuda-emulated")
LETTERS, SOUNDS, START, END, STEPS = 9, 11, 2, 3, 15


def encoder(width: int = 6, **options: Any) -> rnnc.Graph:
    return rnnc.Graph(
        {"x": rnnc.NUMBERS},
        {"table": (rnnc.Embedding(LETTERS, 4), "x"), "gru": (rnnc.GRU(4, width, **options), "table")},
        {"h": "gru.h"},
    )


def step_network(sounds: int = SOUNDS, width: int = 6, **options: Any) -> rnnc.Graph:
    return rnnc.Graph(
        {"last": rnnc.NUMBERS},
        {
            "table": (rnnc.Embedding(sounds, 5), "last"),
            "gru": (rnnc.GRU(5, width, **options), "table"),
            "scores": (rnnc.Linear(width, sounds), "gru"),
        },
        "scores",
    )


def decoder(choice: Any = None, *, steps: int = STEPS, end: int | None = END, **options: Any) -> rnnc.Decoder:
    return rnnc.Decoder(
        step_network(**options),
        encoder=encoder(**options),
        states={"gru.h": "h"},
        start=START,
        end=end,
        steps=steps,
        choice=choice,
    )


def parameters(network: rnnc.Decoder, seed: int = 5, end: float = 0.5) -> dict[str, Array]:
    """Large enough that scores differ and rows end at different steps. end: added to the score of the end symbol."""
    rng = np.random.default_rng(seed)
    found = {n: rng.uniform(-1.5, 1.5, s).astype(network.dtype) for n, s in network.parameter_shapes().items()}
    found["step.scores.bias"][END] += end
    return found


def words(rows: int = 9, steps: int = 6, seed: int = 0) -> tuple[Array, Array]:
    """Numbers (T, B), and lengths that differ; one row is empty."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, steps + 1, rows)
    lengths[rows // 2] = 0
    return rng.integers(0, LETTERS, (steps, rows)), lengths


def check(found: rnnc.Decoded, expected: list[oracle.Row], end: int | None = END, tolerance: float = 1e-4) -> None:
    for b, row in enumerate(expected):
        count = int(found.lengths[b])
        assert found.numbers[:count, b].tolist() == row.numbers, f"row {b}"
        assert (found.numbers[count:, b] == end).all()
    np.testing.assert_allclose(found.scores, [row.score for row in expected], rtol=0, atol=tolerance)


def each_row(p: dict[str, Array], x: Array, lengths: Array, run: Callable[[Any, Any, int], oracle.Row]) -> Any:
    """The oracle's rows. run: (step, state, row)."""
    double = {name: array.astype(np.float64) for name, array in p.items()}
    step = oracle.step_of(double)
    return [run(step, oracle.encoded(double, x[: lengths[b], b]), b) for b in range(x.shape[1])]


# ---- argmax and one_hot


@pytest.mark.parametrize(("on", "size"), [*((on, n) for on in BACKENDS[:2] for n in (1, 2, 9, 33)), (BACKENDS[2], 9)])
def test_argmax_is_numpys(on: str, size: int) -> None:
    """Ties, NaN and infinities included."""
    rng = np.random.default_rng(size)
    x = rng.integers(-2, 3, (6, 5, size)).astype(np.float32)
    x[rng.random(x.shape) < 0.1] = np.nan
    x[0] = -np.inf
    x[1, :, 0] = np.inf
    made = rnnc.Graph(
        {"x": size},
        {"argmax": (_Chosen(), "x"), "one_hot": (_Spread(size), "argmax")},
        ("argmax", "one_hot"),
    ).compile({}, backend=on)(x)
    np.testing.assert_array_equal(made["argmax"][..., 0], x.argmax(-1))
    np.testing.assert_array_equal(made["one_hot"], np.eye(size)[x.argmax(-1)])


class _Chosen(rnnc.Layer):
    def output_width(self, *widths: int) -> int:
        return 1

    def step(self, x: Any, state: Any, p: Any) -> Any:
        return argmax(x)


class _Spread(rnnc.Layer):
    def __init__(self, size: int) -> None:
        self.size = size

    def output_width(self, *widths: int) -> int:
        return self.size

    def step(self, x: Any, state: Any, p: Any) -> Any:
        return one_hot(x, self.size)


# ---- greedy


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("on", BACKENDS)
def test_greedy_is_the_loop(on: str, dtype: str) -> None:
    network = decoder(dtype=dtype)
    p, (x, lengths) = parameters(network), words()
    found = network.compile(p, backend=on)(x, lengths=lengths)
    expected = each_row(p, x, lengths, lambda step, h, b: oracle.greedy(step, h, START, END, STEPS))
    check(found, expected)
    ends = {len(row.numbers) for row in expected}
    assert len(ends) > 2 and STEPS in ends  # some never end
    assert found.numbers.dtype == found.lengths.dtype == np.int64 and found.scores.dtype == dtype


@pytest.mark.parametrize("on", BACKENDS)
def test_a_row_may_end_at_once_or_never(on: str) -> None:
    network, (x, lengths) = decoder(), words()
    at_once = network.compile(parameters(network, end=1e3), backend=on)(x, lengths=lengths)
    assert (at_once.lengths == 0).all() and (at_once.numbers == END).all()
    assert at_once.numbers.shape == (STEPS, x.shape[1])
    never = network.compile(parameters(network, end=-1e3), backend=on)(x, lengths=lengths)
    assert (never.lengths == STEPS).all() and (never.numbers != END).all()


def test_without_an_end_symbol_all_steps_are_decoded() -> None:
    network = decoder(end=None)
    p, (x, lengths) = parameters(network), words()
    found = network.compile(p)(x, lengths=lengths)
    check(found, each_row(p, x, lengths, lambda step, h, b: oracle.greedy(step, h, START, None, STEPS)), None)
    assert (found.numbers == END).any()


@pytest.mark.parametrize("on", BACKENDS)
def test_scores_that_are_nan_are_chosen_as_numpy_does(on: str) -> None:
    network, (x, lengths) = decoder(), words(3)
    p = parameters(network)
    p["step.scores.bias"][7] = np.nan
    found = network.compile(p, backend=on)(x, lengths=lengths)
    assert (found.numbers == 7).all() and np.isnan(found.scores).all()


def test_the_first_of_equal_scores_is_chosen() -> None:
    network, (x, lengths) = decoder(), words(3)
    p = parameters(network)
    for name in ("step.scores.weight", "step.scores.bias"):
        p[name][...] = 0
    p["step.scores.bias"][[6, 8]] = 1
    assert (network.compile(p)(x, lengths=lengths).numbers == 6).all()


@pytest.mark.parametrize("choice", [rnnc.Greedy(), rnnc.Sample(), rnnc.Beam(3)])
def test_a_single_number_to_choose(choice: rnnc.Beam) -> None:
    network = rnnc.Decoder(step_network(1), start=0, end=None, steps=4, choice=choice)
    found = network.compile(network.init(0))(batch=2)
    assert (found.numbers == 0).all() and (found.lengths == 4).all() and (found.scores == 0).all()


@pytest.mark.parametrize("piece", [1, 4, 100])
def test_how_many_steps_run_at_once_changes_no_result(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for choice in (rnnc.Greedy(), rnnc.Sample(), rnnc.Beam(2)):
        network = decoder(choice, steps=40)
        made, (x, lengths) = network.compile(parameters(network)), words()
        expected = made(x, lengths=lengths)
        with monkeypatch.context() as patch:
            patch.setattr(pieces, "PIECE", piece)
            found = made(x, lengths=lengths)
        assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_no_rows() -> None:
    network = decoder()
    found = network.compile(network.init(0))(np.zeros((3, 0), int))
    assert found.numbers.shape == (STEPS, 0) and found.lengths.shape == found.scores.shape == (0,)


@pytest.mark.parametrize(("on", "choice"), [("llvm", rnnc.Greedy()), ("reference", rnnc.Beam(2))])
def test_layers_states_and_layouts(on: str, choice: rnnc.Beam) -> None:
    """An LSTM of two layers starts at both states of the encoder's; a layer with a window keeps its past."""
    read = rnnc.Graph({"x": 3}, {"lstm": (rnnc.LSTM(3, 4, 2, batch_first=True), "x")}, {"h": "lstm.h", "c": "lstm.c"})
    step = rnnc.Graph(
        {"last": rnnc.NUMBERS},
        {
            "table": (rnnc.Embedding(8, 4), "last"),
            "conv": (rnnc.Conv1d(4, 4, 2), "table"),
            "both": (rnnc.Concat(), "conv", "table"),
            "lstm": (rnnc.LSTM(8, 4, 2, batch_first=True), "both"),
            "scores": (rnnc.Linear(4, 7), "lstm"),
        },
        {"y": "scores"},
    )
    network = rnnc.Decoder(
        step, encoder=read, states={"lstm.h": "h", "lstm.c": "c"}, start=7, end=1, steps=9, choice=choice
    )
    rng = np.random.default_rng(0)
    p = {n: rng.uniform(-1.5, 1.5, s).astype("float32") for n, s in network.parameter_shapes().items()}
    x = rng.standard_normal((3, 5, 3), dtype="float32")
    found = network.compile(p, backend=on)(x, lengths=[5, 2, 4])
    first = read.compile({n[8:]: a for n, a in p.items() if n[:8] == "encoder."}, backend="reference")
    states = first(x, lengths=[5, 2, 4])
    one = step.compile({n[5:]: a for n, a in p.items() if n[:5] == "step."}, backend="reference")

    def advance(state: Any, last: int) -> tuple[Array, Any]:
        y, new = one.advance(np.array([[last]]), state)
        return y[0, 0].astype(np.float64), new

    width = choice.hypotheses
    for b in range(3):
        state = {f"lstm.{s}_l{k}": states[s][b : b + 1, 4 * k : 4 * k + 4] for s in "hc" for k in range(2)}
        state["conv.past"] = np.zeros((1, 4), "float32")
        row = oracle.beam(advance, state, 7, 1, 9, width)
        assert found.numbers[b, : found.lengths[b]].tolist() == row.numbers
        np.testing.assert_allclose(found.scores[b], row.score, atol=1e-4)


def test_a_torch_module_decodes_the_same() -> None:
    """The state_dict of a module with the layers as attributes binds as it is."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)

    def part(**layers: Any) -> Any:
        module = torch.nn.Module()
        for name, layer in layers.items():
            module.add_module(name, layer)
        return module

    read = part(table=torch.nn.Embedding(LETTERS, 4), gru=torch.nn.GRU(4, 6))
    write = part(table=torch.nn.Embedding(SOUNDS, 5), gru=torch.nn.GRU(5, 6), scores=torch.nn.Linear(6, SOUNDS))
    module = part(encoder=read, step=write)
    x, _ = words(20)
    with torch.no_grad():
        _, h = read.gru(read.table(torch.from_numpy(x)))
        last, expected = torch.full((20,), START), []
        for _ in range(STEPS):
            y, h = write.gru(write.table(last)[None], h)
            last = write.scores(y[0]).argmax(-1)
            expected.append(last.numpy())
    found = decoder(end=None).compile(module.state_dict())(x)
    np.testing.assert_array_equal(found.numbers, np.array(expected))


@pytest.mark.parametrize("on", ["llvm", "reference"])
def test_going_on_from_a_prompt(on: str) -> None:
    """What comes after half of a sequence is its other half."""
    network = rnnc.Decoder(step_network(), start=START, end=END, steps=STEPS)
    p = {n: a for n, a in parameters(decoder(), end=-1e3).items() if n[:5] == "step."}
    made = network.compile(p, backend=on)
    whole = made(batch=3).numbers
    prompt = np.concatenate([np.full((1, 3), START), whole[:6]])
    _, state = network.step.compile({n[5:]: a for n, a in p.items()}, backend=on).advance(prompt[:-1])
    np.testing.assert_array_equal(made(last=prompt[-1], state=state).numbers[: STEPS - 6], whole[6:])


# ---- sampling


@pytest.mark.parametrize("on", BACKENDS)
@pytest.mark.parametrize("choice", [rnnc.Sample(), rnnc.Sample(0.5, 3), rnnc.Sample(2.0, 1), rnnc.Sample(1.0, 99)])
def test_sampling_is_the_loop_with_the_same_noise(on: str, choice: rnnc.Sample) -> None:
    network = decoder(choice)
    p, (x, lengths) = parameters(network), words()
    noise = gumbel(7, 0, STEPS, np.arange(x.shape[1]), SOUNDS, "float64")
    found = network.compile(p, backend=on)(x, lengths=lengths, seed=7)

    def run(step: Any, h: Any, b: int) -> oracle.Row:
        def choose(scores: Array, t: int) -> int:
            return oracle.sampled(scores, noise[t, b], choice.temperature, choice.top_k)

        return oracle.chosen(step, h, START, END, STEPS, choose)

    check(found, each_row(p, x, lengths, run))


def test_of_equal_scores_top_k_keeps_all() -> None:
    network = decoder(rnnc.Sample(1.0, 2), end=None)
    p, (x, _) = parameters(network), words(200)
    p["step.scores.weight"][...] = 0
    p["step.scores.bias"][...] = [0, 0, 0, 0, 5, 5, 0, 5, 0, 0, 0]
    assert set(np.unique(network.compile(p)(x).numbers)) == {4, 5, 7}


def test_the_seed_alone_decides_the_numbers() -> None:
    network = decoder(rnnc.Sample())
    p, (x, lengths) = parameters(network), words(200)
    one = network.compile(p, threads=1)
    first = one(x, lengths=lengths, seed=1)
    for again in (one(x, lengths=lengths, seed=1), network.compile(p, threads=2)(x, lengths=lengths, seed=1)):
        assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first.numbers, one(x, lengths=lengths, seed=2).numbers)
    half = one(x[:, :50], lengths=lengths[:50], seed=1)  # a row's numbers do not depend on the others
    np.testing.assert_array_equal(half.numbers, first.numbers[:, :50])


def test_the_frequencies_are_the_probabilities() -> None:
    network = rnnc.Decoder(step_network(4), start=0, end=None, steps=50, choice=rnnc.Sample(0.5))
    p = network.init(0)
    p["step.scores.weight"][...] = 0
    p["step.scores.bias"][...] = np.log([0.1, 0.2, 0.3, 0.4])
    counts = np.bincount(network.compile(p)(batch=400).numbers.ravel(), minlength=4)
    expected = np.array([1, 4, 9, 16]) / 30  # temperature 1/2 squares them
    np.testing.assert_allclose(counts / counts.sum(), expected, atol=4 * 0.5 / np.sqrt(20_000))


# ---- beam


@pytest.mark.parametrize(
    ("on", "width", "penalty"),
    [("reference", 3, 1.0), ("reference", 5, 0.0), ("llvm", 2, 0.0), ("llvm", 4, 0.6), ("cuda-emulated", 2, 0.6)],
)
def test_beam_is_the_search_in_plain_python(on: str, width: int, penalty: float) -> None:
    network = decoder(rnnc.Beam(width, penalty))
    p, (x, lengths) = parameters(network), words()
    found = network.compile(p, backend=on)(x, lengths=lengths)
    check(found, each_row(p, x, lengths, lambda s, h, b: oracle.beam(s, h, START, END, STEPS, width, penalty)))


@pytest.mark.parametrize("on", BACKENDS)
def test_a_beam_of_one_is_greedy(on: str) -> None:
    p, (x, lengths) = parameters(decoder()), words()
    greedy = decoder().compile(p, backend=on)(x, lengths=lengths)
    beam = decoder(rnnc.Beam(1)).compile(p, backend=on)(x, lengths=lengths)
    assert all(np.array_equal(a, b) for a, b in zip(greedy, beam, strict=True))


def test_a_beam_may_be_wider_than_what_can_be_chosen() -> None:
    network = rnnc.Decoder(step_network(2), start=0, end=1, steps=4, choice=rnnc.Beam(5))
    p = {name: array.astype(np.float32) for name, array in network.init(3).items()}
    found = network.compile(p)(batch=2)
    double = {name: array.astype(np.float64) for name, array in p.items()}
    row = oracle.beam(oracle.step_of(double), np.zeros(6), 0, 1, 4, 5)
    check(found, [row, row], 1)


def test_a_beam_finds_what_greedy_misses() -> None:
    network = decoder(rnnc.Beam(3))
    p, (x, lengths) = parameters(network, seed=8), words(40)
    beam, greedy = network.compile(p)(x, lengths=lengths), decoder().compile(p)(x, lengths=lengths)
    assert (beam.scores > greedy.scores + 0.1).any()


# ---- attention


def attending(choice: Any = None, score: str = "general", **options: Any) -> rnnc.Decoder:
    read = rnnc.Graph(
        {"x": rnnc.NUMBERS},
        {"table": (rnnc.Embedding(LETTERS, 4), "x"), "gru": (rnnc.GRU(4, 6, **options), "table")},
        {"all": "gru", "h": "gru.h"},
    )
    step = rnnc.Graph(
        {"last": rnnc.NUMBERS},
        {
            "table": (rnnc.Embedding(SOUNDS, 5), "last"),
            "gru": (rnnc.GRU(5, 6, **options), "table"),
            "attend": (rnnc.Attention(6, 6, score), "gru"),
            "both": (rnnc.Concat(), "gru", "attend"),
            "scores": (rnnc.Linear(12, SOUNDS), "both"),
        },
        "scores",
    )
    return rnnc.Decoder(
        step,
        encoder=read,
        states={"gru.h": "h"},
        memory={"attend": "all"},
        start=START,
        end=END,
        steps=STEPS,
        choice=choice,
    )


@pytest.mark.parametrize(
    ("on", "choice", "score"),
    [
        ("reference", rnnc.Beam(3), "dot"),
        ("llvm", rnnc.Greedy(), "general"),
        ("llvm", rnnc.Beam(2), "dot"),
        ("cuda-emulated", rnnc.Greedy(), "general"),
    ],
)
def test_attention_is_the_loop(on: str, choice: rnnc.Beam, score: str) -> None:
    """Of ragged rows, one of them without states; more states need code of another size."""
    network = attending(choice, score)
    p = parameters(network)
    made = network.compile(p, backend=on)
    double = {name: array.astype(np.float64) for name, array in p.items()}
    for steps in (6, 11):
        x, lengths = words(steps=steps)
        expected = []
        for b in range(x.shape[1]):
            memory = oracle.all_encoded(double, x[: lengths[b], b])
            step = oracle.attending_step(double, partial(oracle.attention, double, memory))
            first = memory[-1] if len(memory) else np.zeros(6)
            expected.append(oracle.beam(step, first, START, END, STEPS, choice.hypotheses))
        check(made(x, lengths=lengths), expected)


def test_attention_reads_nothing_of_the_padding() -> None:
    network = attending(batch_first=True)
    made = network.compile(parameters(network))
    x, lengths = words()
    found = made(x.T, lengths=lengths)
    for b in (0, 3):
        alone = made(x[: lengths[b], b][None])
        np.testing.assert_array_equal(alone.numbers[0], found.numbers[b])
        np.testing.assert_allclose(alone.scores[0], found.scores[b], rtol=1e-5)


class _Mean(rnnc.Layer):
    """The mean of the row's states, and how many steps it has been read for; a state that follows from the memory."""

    memory = 6

    def output_width(self, *widths: int) -> int:
        return 6

    def states(self, *widths: int) -> dict[str, int]:
        return {"count": 1}

    def step(self, x: Any, state: Any, p: Any) -> Any:
        count = eq.total(p.valid.as_numbers())
        return eq.vecmat(p.valid.as_numbers(), p.memory) / eq.maximum(count, 1.0) + 0 * state.count, {"count": count}


def _same(value: Array, _: Array) -> Array:
    return value


@pytest.mark.parametrize("on", ["llvm", "reference"])
def test_a_layer_of_ones_own_reads_a_memory(on: str) -> None:
    good = attending()
    layers = {name: (e.layer, *e.inputs) for name, e in good.step.entries.items()} | {"attend": (_Mean(), "gru")}
    step = rnnc.Graph({"last": rnnc.NUMBERS}, layers, "scores")
    for choice in (rnnc.Greedy(), rnnc.Beam(2)):
        network = rnnc.Decoder(
            step, encoder=good.encoder, memory={"attend": "all"}, start=START, end=END, steps=STEPS, choice=choice
        )
        p, (x, lengths) = parameters(network), words()
        double = {name: array.astype(np.float64) for name, array in p.items()}
        expected = []
        for b in range(x.shape[1]):
            states = oracle.all_encoded(double, x[: lengths[b], b])
            mean = states.sum(axis=0) / max(len(states), 1)
            step_of_row = oracle.attending_step(double, partial(_same, mean))
            expected.append(oracle.beam(step_of_row, np.zeros(6), START, END, STEPS, choice.hypotheses))
        check(network.compile(p, backend=on)(x, lengths=lengths), expected)


def test_a_sequential_is_a_step() -> None:
    """A language model of characters, as `rnnc.train` trains it."""
    model = rnnc.Sequential(rnnc.Embedding(8, 4), rnnc.LSTM(4, 6), rnnc.Dropout(0.1), rnnc.Linear(6, 8))
    p = {name: 3 * array for name, array in model.init(0).items()}
    network = rnnc.Decoder(model, start=5, end=None, steps=7)
    found = network.compile({f"step.{name}": array for name, array in p.items()})(batch=1)
    made, state, last = model.compile(p), None, 5
    for t in range(7):
        y, state = made.advance(np.array([[last]]), state)
        last = int(y.argmax())
        assert found.numbers[t, 0] == last


def test_attention_needs_a_decoder() -> None:
    step = attending().step
    with pytest.raises(rnnc.IRError, match="layer 'attend': it reads all states of an encoder, which rnnc.Decoder"):
        step.compile(step.init(0))


# ---- many random decoders


@pytest.mark.parametrize("seed", range(5))
def test_any_decoder(seed: int) -> None:
    rng = np.random.default_rng(seed)
    steps, width = int(rng.integers(1, 14)), int(rng.integers(1, 5))
    network = decoder(rnnc.Beam(width), steps=steps)
    p, (x, lengths) = parameters(network, seed), words(int(rng.integers(1, 30)), seed=seed)
    found = network.compile(p)(x, lengths=lengths)
    check(found, each_row(p, x, lengths, lambda s, h, b: oracle.beam(s, h, START, END, steps, width)))


# ---- plain data, copies


@pytest.mark.parametrize("choice", [rnnc.Greedy(), rnnc.Sample(0.7, 4), rnnc.Beam(3, 0.5)])
def test_plain_data_and_pickles(choice: rnnc.Beam) -> None:
    network = decoder(choice)
    assert rnnc.Decoder.from_json(network.to_json()) == network
    assert hash(rnnc.Decoder.from_json(network.to_json())) == hash(network)
    x, lengths = words()
    made = network.compile(network.init(1))
    again = pickle.loads(pickle.dumps(made))
    for a, b in zip(made(x, lengths=lengths), again(x, lengths=lengths), strict=True):
        np.testing.assert_array_equal(a, b)
    assert "the steps" in made.explain() and "loop t" in made.ir("rolled")
