"""A training step checks what it is given before it changes anything; without a finite result it changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rnnc
from rnnc import train
from rnnc.backends.llvm import code
from rnnc.backends.llvm.training.trainer import LlvmTrainer
from rnnc.ir.errors import ArgumentError, ArgumentTypeError, NonFiniteError, ParameterError, RnncError, ShapeError
from rnnc.optimizers import SGD, Adam, AdamW, Optimizer
from tests.refusals import raises_saying
from tests.training_data import CLASSES, WORDS, changed, overflowing, series, tagged, tagger

Draw = Callable[..., Any]


@pytest.fixture(autouse=True)
def _small_batches_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code, "PARALLEL_FLOPS", 0)


class Setup:
    """The same training step on `llvm` and on `reference`, and batches that fit it."""

    def __init__(self, model: Any, loss: str, pairs: Any, carry: bool = False) -> None:
        on = ({"backend": "llvm", "threads": 2}, {"backend": "reference"})
        self.model = model
        self.steps = [train.TrainingStep(model, loss, Adam(0.01), clip=1.0, carry=carry, **o) for o in on]  # type: ignore[arg-type]
        self.evaluations = [train.Evaluation(model, loss, **o) for o in on]  # type: ignore[arg-type]
        self.data = train.Sequences(model, loss, pairs)
        self.batches = [self.data.batch(rows) for rows in (np.arange(4), np.arange(2, 6), np.array([5, 5]))]
        self.start = snapshot(self.steps[0])
        self.state = self.steps[1].step(self.batches[0])[1] if carry else None

    def reset(self) -> None:
        for step in self.steps:
            flat, slots, updates = self.start
            step.flat[...] = flat
            for name, slot in step.slots.items():
                slot[...] = slots[name]
            step.updates = updates


def snapshot(step: train.TrainingStep) -> tuple[Any, Any, int]:
    return step.flat.copy(), {name: slot.copy() for name, slot in step.slots.items()}, step.updates


def unchanged(step: train.TrainingStep, before: tuple[Any, Any, int]) -> None:
    """Bit for bit."""
    flat, slots, updates = before
    assert step.flat.tobytes() == flat.tobytes() and step.updates == updates
    assert all(step.slots[name].tobytes() == slots[name].tobytes() for name in slots)


SETUPS: dict[str, Callable[[], Setup]] = {
    "words": lambda: Setup(tagger(), "cross_entropy", tagged()),
    "vectors": lambda: Setup(
        rnnc.Sequential(rnnc.LSTM(4, 5, dtype="float64"), rnnc.Linear(5, 3)), "mse", series(), carry=True
    ),
    "readout": lambda: Setup(tagger(readout="mean"), "cross_entropy", tagged(readout="mean")),
}
_made: dict[str, Setup] = {}


def setup(name: str) -> Setup:
    if name not in _made:
        _made[name] = SETUPS[name]()
    _made[name].reset()
    return _made[name]


# -- random damage ------------------------------------------------------------------------------------

NUMBERS = (0, -1, -7, 2, 3, 10**9, -(10**9), 2**63 - 1, 0.5, 1e300, float("nan"), float("inf"))
PLAIN = (None, "x", True, -1, 0, 1, 3, 2.5, 10**30, float("nan"), [1, 2], (), {}, np.int64(3), object())
DTYPES = ("float32", "float64", ">f8", "complex128", "object", "int64", "int32", ">i8", "uint8", "bool", "U3")


def misaligned(array: Any) -> Any:
    memory = np.zeros(array.nbytes + 1, np.uint8)[1:]
    copy = memory.view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


FORMS: tuple[Callable[[Any], Any], ...] = (
    lambda a: a[1:],
    lambda a: a[:0],
    lambda a: a[..., :1],
    lambda a: a[..., :0],
    lambda a: a[:, ::-1] if a.ndim > 1 else a[::-1],
    lambda a: np.concatenate([a, a]),
    lambda a: np.concatenate([a, a], -1),
    lambda a: a[None],
    lambda a: a[0],
    lambda a: a.T,
    lambda a: np.asfortranarray(a),
    lambda a: np.repeat(a, 2, -1)[..., ::2],
    lambda a: np.broadcast_to(a[:1], a.shape),
    misaligned,
    lambda a: np.ma.masked_array(a),
    lambda a: a.tolist(),
    lambda a: a.view(np.recarray),
)


def damaged_array(draw: Draw, array: Any) -> Any:
    """An array of another form, dtype or content, or none at all."""
    if array is None:
        return np.array(draw(st.sampled_from(([1, 2, 3, 4], [9] * 4, [-1, 0, 1, 2], [1.0] * 4, [1], [[1] * 4]))))
    kind = draw(st.integers(0, 4))
    if kind == 0:
        with np.errstate(all="ignore"):
            return array.astype(draw(st.sampled_from(DTYPES)))
    if kind == 1:
        return draw(st.sampled_from(FORMS))(array)
    if kind == 2:
        return draw(st.sampled_from(PLAIN))
    changed, value = array.copy(), draw(st.sampled_from(NUMBERS))
    if changed.size and (changed.dtype.kind == "f" or isinstance(value, int)):
        changed.flat[draw(st.integers(0, changed.size - 1))] = value
    return changed


def damaged_batch(draw: Draw, batch: train.Batch) -> Any:
    parts = ("x", "target", "count", "lengths")
    field = draw(st.sampled_from((*train.Batch._fields, *parts, *parts[:2], "all", "several")))
    if field == "all":
        return draw(st.sampled_from(((), [], None, tuple(batch), batch._asdict(), "batch", [None], [tuple(batch)])))
    if field == "several":
        return [batch, damaged_batch(draw, batch)]
    value = getattr(batch, field, None)
    is_array = field in ("x", "target", "lengths")
    return changed(batch, **{field: damaged_array(draw, value) if is_array else draw(st.sampled_from(PLAIN))})


def damaged_state(draw: Draw, state: dict[str, Any]) -> Any:
    name = draw(st.sampled_from(sorted(state)))
    kind = draw(st.integers(0, 3))
    if kind == 0:
        return draw(st.sampled_from((*PLAIN, {k: v for k, v in state.items() if k != name}, state | {"more": 0})))
    return state | {name: damaged_array(draw, state[name])}


@pytest.mark.sampled(3)
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_damaged_batch_is_refused_and_changes_nothing_or_means_the_same_everywhere(data: st.DataObject) -> None:
    draw = data.draw
    case = setup(draw(st.sampled_from(sorted(SETUPS))))
    batch: Any = draw(st.sampled_from(case.batches))
    state, rate = (
        None,
        draw(st.sampled_from((None, None, 0.01, *PLAIN, float("inf"), 1e39, 1e200, np.float32(0.1), 1j))),
    )
    if case.state is not None and draw(st.booleans()):
        state = damaged_state(draw, case.state) if draw(st.booleans()) else case.state
    if draw(st.integers(0, 3)):
        batch = damaged_batch(draw, batch)
    calls: tuple[Callable[[int], Any], ...] = (
        lambda n: case.steps[n].step(batch, rate, state),
        lambda n: case.steps[n].gradients(batch, state),
        lambda n: case.evaluations[n](case.steps[n].params, batch),
    )
    call = draw(st.sampled_from(calls))
    found, expected = (_result(call, n) for n in range(2))
    assert isinstance(found, type) == isinstance(expected, type), (found, expected)
    if isinstance(found, type):
        assert found is expected
        unchanged(case.steps[0], case.start)
        return
    if not all(np.isfinite(number).all() for number in _numbers(expected)):
        return  # what NaN and infinities become is for tests of numbers
    for one, other in zip(_numbers(found), _numbers(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(case.steps[0].flat, case.steps[1].flat, rtol=1e-8, atol=1e-8)
    assert case.steps[0].updates == case.steps[1].updates


def _result(call: Callable[[int], Any], number: int) -> Any:
    """What a call returns, or the class of the error of rnnc that it raises."""
    try:
        return call(number)
    except RnncError as error:
        return type(error)


def _numbers(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [number for name in sorted(value) for number in _numbers(value[name])]
    if isinstance(value, tuple):
        return [number for item in value for number in _numbers(item)]
    return [value]


# -- single refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "words"),
    (
        ({"x": np.full((7, 4), 10**9)}, ArgumentError, ("batch.x", f"0..{WORDS - 1}")),
        ({"x": np.full((7, 4), -1)}, ArgumentError, ("batch.x", f"0..{WORDS - 1}")),
        ({"target": np.zeros((7, 3, 1))}, ShapeError, ("batch.target", "(7, 4, 1)", "(7, 3, 1)")),
        ({"target": np.full((7, 4, 1), 0.5)}, ArgumentError, ("batch.target", "whole", "0.5")),
        ({"target": np.full((7, 4, 1), float(CLASSES))}, ArgumentError, ("batch.target", f"0..{CLASSES - 1}")),
        ({"target": np.zeros((7, 4, 1), np.float32)}, TypeError, ("batch.target", "float64", "float32")),
        ({"lengths": np.array([8, 1, 1, 1])}, rnnc.LengthError, ("lengths", "T = 7", "8")),
        ({"lengths": np.array([1.0, 1, 1, 1])}, TypeError, ("lengths", "integers")),
        ({"count": 1}, ArgumentError, ("batch.terms", "15", "1")),
    ),
)
def test_a_batch_that_does_not_fit_is_named(change: Any, error: type[Exception], words: tuple[str, ...]) -> None:
    case = setup("words")
    step, batch = case.steps[0], case.batches[0]
    with raises_saying(error, *words):
        step.step(changed(batch, **change))
    unchanged(step, case.start)


def test_a_state_that_does_not_fit_is_named() -> None:
    case = setup("vectors")
    step = case.steps[0]
    with raises_saying(ShapeError, "state['0.c_l0']", "(4, 5)", "(3, 5)"):
        step.step(case.batches[0], state=case.state | {"0.c_l0": case.state["0.c_l0"][:3]})
    with raises_saying(ArgumentError, "state", "0.c_l0", "carry=True"):
        step.step(case.batches[0], state={})
    unchanged(step, case.start)


def test_a_piece_without_targets_hands_on_its_own_states() -> None:
    """Not those it started from: the pieces after it go on from where the sequence is."""
    model = tagger(bidirectional=False)
    words, classes = np.arange(6) % WORDS, np.array([-100, -100, -100, 0, 1, 2])
    data = train.Sequences(model, "cross_entropy", [(words, classes)])
    step = train.TrainingStep(model, "cross_entropy", SGD(0.0), carry=True, backend="reference")
    state: Any = None
    for window in data.windows(data.batch([0]), 3):
        outcome, state = step.step(window, state=state)
    assert outcome.loss == pytest.approx(step.gradients(data.batch([0]))[0], rel=1e-13)


def test_what_a_step_hands_out_cannot_be_bent() -> None:
    """Its arrays are views; assigning a parameter writes the values, checked; so are counts and the norm."""
    case = setup("words")
    step = case.steps[0]
    step.flat.shape = (-1, 1)
    assert step.flat.ndim == 1
    step.params["2.weight"].shape = (-1,)
    step.slots["m"].shape = (-1, 1)
    step.params["2.bias"] = np.ones(CLASSES)
    step.params["2.bias"] += 1
    np.testing.assert_array_equal(step.params["2.bias"], np.full(CLASSES, 2.0))
    for name, value in (("2.bias", np.ones(2)), ("2.bias", np.ones(CLASSES, np.float32)), ("other", np.ones(1))):
        with pytest.raises(RnncError):
            step.params[name] = value
    for name, wrong in (("updates", -1), ("updates", "x"), ("clip", float("nan"))):
        with pytest.raises(RnncError):
            setattr(step, name, wrong)
    found, expected = step.step(case.batches[0])[0], case.steps[1]
    expected.params["2.bias"] = np.full(CLASSES, 2.0)
    assert found == pytest.approx(expected.step(case.batches[0])[0], rel=1e-12)


def test_tied_parameters_are_refused() -> None:
    """Training would change each on its own."""
    model = rnnc.Sequential(rnnc.Embedding(7, 4), rnnc.GRU(4, 4), rnnc.Linear(4, 7))
    params = model.init(0)
    both = np.zeros((8, 4), np.float32)
    for weight, table in ((params["0.weight"], params["0.weight"]), (both[1:], both[:-1])):
        with raises_saying(ParameterError, "params: ", "share memory", ".copy()"):
            train.TrainingStep(
                model, "cross_entropy", SGD(0.1), params=params | {"2.weight": weight, "0.weight": table}
            )
    train.TrainingStep(model, "cross_entropy", SGD(0.1), params=params | {"2.weight": params["0.weight"].copy()})


@pytest.mark.parametrize(
    "call",
    (
        lambda data: data.batch([6]),
        lambda data: data.batch([-1]),
        lambda data: data.batch([]),
        lambda data: data.batch([0.5]),
        lambda data: data.batch([[0]]),
        lambda data: data.batch(None),
        lambda data: data.batch([0], first=-1),
        lambda data: list(data.windows(data.batch([0]), 0)),
        lambda data: list(data.windows(None, 2)),
        lambda data: train.batches([3, "x"], 2, 0, 0),
        lambda data: train.batches([3, 4], 0, 0, 0),
        lambda data: train.batches([3, 4], 2, -1, 0),
        lambda data: train.right(np.zeros((1, 1, 3)), data.batch([0])),
        lambda data: train.right(np.zeros((1, 1, 3)), None),
        lambda data: train.Sequences(rnnc.GRU(3, 4), "mse", [1]),
        lambda data: train.Sequences(data.model, "nope", [1]),
        lambda data: train.TrainingStep(rnnc.GRU(3, 4), "mse", SGD(0.1)),  # type: ignore[arg-type]
        lambda data: train.TrainingStep(data.model, "mse", SGD(0.1), on_nonfinite="ignore"),
        lambda data: train.TrainingStep(data.model, "mse", SGD(0.1), carry=1),  # type: ignore[arg-type]
        lambda data: train.Evaluation(None, "mse"),  # type: ignore[arg-type]
    ),
)
def test_wrong_arguments_are_errors_of_rnnc(call: Any) -> None:
    with pytest.raises((ArgumentError, ArgumentTypeError)):
        call(setup("words").data)


# -- steps without a finite result --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("optimizer", "dtype", "table", "threads", "clip"),
    (
        (Adam(0.01), "float32", True, 2, None),
        (AdamW(0.01), "float64", False, 1, 1.0),
        (SGD(0.1, 0.9), "float32", False, 3, None),
        (SGD(0.1), "float64", True, 2, None),
    ),
)
def test_a_step_that_overflows_changes_nothing(
    optimizer: Optimizer, dtype: str, table: bool, threads: int, clip: float | None, backend: str
) -> None:
    """Wherever the overflow is: an infinite norm, one whose square the dtype cannot hold, no number at all."""
    model, fitting, wild = overflowing(dtype, table)
    options = {"clip": clip, "backend": backend, "threads": threads if backend == "llvm" else None}
    step = train.TrainingStep(model, "mse", optimizer, **options)  # type: ignore[arg-type]
    assert backend != "llvm" or isinstance(step._trainer, LlvmTrainer)
    step.step(fitting)
    before = snapshot(step)
    if clip is None:
        with raises_saying(NonFiniteError, "norm", "overflow", "learning rate", "clip="):
            step.step(wild, 1e10)
        unchanged(step, before)
    infinite = changed(wild, target=wild.target * np.array(1e5, dtype))
    for batch in (infinite, [fitting, infinite], [infinite, fitting]):
        with raises_saying(NonFiniteError, "overflow"):
            step.step(batch)
        unchanged(step, before)
    skipping = train.TrainingStep(model, "mse", optimizer, on_nonfinite="skip", **options)  # type: ignore[arg-type]
    outcomes = [skipping.step(batch)[0] for batch in (fitting, infinite, fitting)]
    assert (skipping.updates, skipping.skipped) == (2, 1) and not np.isfinite(outcomes[1]).all()
    step.step(fitting)
    assert step.flat.tobytes() == skipping.flat.tobytes()


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from((Adam(0.01), SGD(0.1, 0.9), SGD(0.1))),
    st.floats(-40, 40),
    st.sampled_from((0.0, 1e-3, 1.0, 1e10, 1e19)),
    st.sampled_from((None, 1.0, 1e10)),
)
def test_parameters_and_slots_are_finite_after_any_step(
    optimizer: Optimizer, size: float, rate: float, clip: float | None
) -> None:
    """A step is made and leaves finite numbers, or it changes nothing. The loss is finite where a square is not."""
    model = rnnc.Sequential(rnnc.RNN(4, 5, nonlinearity="relu"), rnnc.Linear(5, 3))
    key = f"{optimizer}"
    if key not in _steps:
        _steps[key] = train.TrainingStep(model, "cross_entropy", optimizer, threads=1)
    step = _steps[key]
    for name, array in model.init(0).items():
        step.params[name] = array
    for slot in step.slots.values():
        slot[...] = 0
    step.clip = clip
    x = np.random.default_rng(0).standard_normal((5, 4)) * 10.0**size
    pairs = [(np.clip(x, -3e38, 3e38).astype(np.float32), np.arange(5) % 3)]
    batch = train.Sequences(model, "cross_entropy", pairs).batch([0])
    for _ in range(3):
        before = snapshot(step)
        try:
            step.step(batch, rate)
        except NonFiniteError:
            unchanged(step, before)
        assert np.isfinite(step.flat).all() and all(np.isfinite(slot).all() for slot in step.slots.values())


_steps: dict[str, train.TrainingStep] = {}


def test_the_message_tells_data_from_states_parameters_and_overflow() -> None:
    case = setup("vectors")
    step, batch = case.steps[0], case.batches[0]
    x, target = batch.x.copy(), batch.target.copy()
    x[1, 0, 2] = np.nan
    target[0, 3, 1] = np.inf
    for damaged, word in ((changed(batch, x=x), "batch.x"), (changed(batch, target=target), "batch.target")):
        with raises_saying(NonFiniteError, word, "the data is not finite"):
            step.step(damaged)
    with raises_saying(NonFiniteError, "state['0.c_l0']", "inf"):
        step.step(batch, state=case.state | {"0.c_l0": np.full((4, 5), np.inf)})
    unchanged(step, case.start)
    step.params["1.bias"][2] = np.nan
    with raises_saying(NonFiniteError, "the parameter '1.bias'", "nan"):
        step.step(batch)


def test_rates_that_the_dtype_cannot_hold_are_refused() -> None:
    model = tagger("float32")
    with raises_saying(ArgumentError, "learning_rate", "float32", "1e+39"):
        train.TrainingStep(model, "cross_entropy", SGD(1e39))
    with raises_saying(ArgumentError, "weight_decay", "float32"):
        train.TrainingStep(model, "cross_entropy", AdamW(0.1, weight_decay=1e39))
    train.TrainingStep(tagger(), "cross_entropy", SGD(1e39), backend="reference")


def test_fit_skips_an_overflow_and_says_so() -> None:
    """One sequence of four overflows in each epoch; the others train."""
    model, _, _ = overflowing("float64", False)
    pairs = series()[:4]
    pairs[2] = (pairs[2][0], pairs[2][1] * 1e160)
    options: dict[str, Any] = {"loss": "mse", "epochs": 2, "batch_size": 1, "progress": False, "backend": "reference"}
    with raises_saying(NonFiniteError, "epoch 1", "overflow"):
        train.fit(model, pairs, **options)
    trained = train.fit(model, pairs, on_nonfinite="skip", **options)
    assert [line.skipped for line in trained.history] == [1, 1] and trained.updates == 6
    assert all(np.isfinite(line.loss) for line in trained.history)
    assert all(np.isfinite(array).all() for array in trained.params.values())
    with raises_saying(NonFiniteError, "epoch 1", "all 1 updates were skipped"):
        train.fit(model, pairs[2:3], on_nonfinite="skip", **options)
