"""A backend whose arrays are not NumPy's: everything that comes in or goes out is on its device, and nothing waits.

The device is that of tests/fake_device.py: rnnc's own `CuPyArrays` over a module that stands in for CuPy. The backend
there checks the arrays it gets, and computes with the reference backend, so that results are equal bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

import rnnc
from rnnc import backends
from rnnc.backends.arrays import NUMPY, CuPyArrays
from rnnc.checking.arrays import as_array
from tests import fake_device, test_decoding
from tests.cases import CELLS, Case
from tests.fake_device import FakeArray, FakeTensor
from tests.refusals import raises_saying

F32 = np.float32
CASE = Case("lstm", num_layers=2, bidirectional=True, steps=4, batch=3, input_size=5, hidden_size=6)


@pytest.fixture(autouse=True)
def fake_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(backends.MODULES, "fake", "tests.fake_device")


def up(value: Any) -> Any:
    """The same with all arrays on the device."""
    if isinstance(value, np.ndarray):
        return FakeArray(value.copy())
    if isinstance(value, dict):
        return {name: up(item) for name, item in value.items()}
    return tuple(map(up, value)) if isinstance(value, tuple) else value


def leaves(value: Any) -> list[Any]:
    """All arrays of a result."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else None
    return [value] if items is None else [leaf for item in items for leaf in leaves(item)]


def assert_same(found: Any, expected: Any) -> None:
    """Bit for bit, and all of it on the device."""
    pairs = list(zip(leaves(found), leaves(expected), strict=True))
    assert pairs
    for array, numbers in pairs:
        assert type(array) is FakeArray and type(numbers) is np.ndarray
        np.testing.assert_array_equal(array._host, numbers)
        assert array.dtype == numbers.dtype


@cache
def derivative(transform: str, spec: Any, backend: str, **options: Any) -> Any:
    """A compiled derivative."""
    return getattr(rnnc, transform)(spec, backend=backend, **options)


@cache
def program(spec: Any, backend: str) -> Any:
    return rnnc.compile(spec, backend=backend)


def models(case: Case) -> list[Any]:
    """The case on the fake device, and on the reference backend."""
    return [program(case.spec(), backend).bind(case.params) for backend in ("fake", "reference")]


# ------------------------------------------------------------------------------------------ calls of a model


@pytest.mark.parametrize("initial", (False, True))
@pytest.mark.parametrize("layout", ("time_first", "batch_first", "unbatched"))
@pytest.mark.parametrize("cell", CELLS)
def test_a_call_takes_and_returns_arrays_of_the_device(cell: str, layout: str, initial: bool) -> None:
    batch = None if layout == "unbatched" else 3
    case = replace(CASE, cell=cell, batch=batch, batch_first=layout == "batch_first", initial=initial)
    model, expected = models(case)
    assert_same(model(up(case.x), up(case.state)), expected(case.x, case.state))


def test_an_empty_batch() -> None:
    case = replace(CASE, batch=0)
    model, expected = models(case)
    assert_same(model(up(case.x), up(case.state)), expected(case.x, case.state))


@pytest.mark.parametrize("turn", (lambda a: a[::-1], lambda a: a[:, ::2], lambda a: a.swapaxes(0, 1)))
def test_any_strides(turn: Callable[[Any], Any]) -> None:
    model, expected = models(CASE)
    x = turn(np.zeros((4, 4, 5), F32) + np.arange(16, dtype=F32).reshape(4, 4, 1))
    state = tuple(np.asfortranarray(np.ones((4, x.shape[1], 6), F32)) for _ in range(2))
    device_state = tuple(map(FakeArray, state))
    assert not device_state[0].flags.c_contiguous
    assert_same(model(FakeArray(x), device_state), expected(x, state))


@pytest.mark.parametrize(
    "form",
    (
        lambda numbers: numbers.tolist(),
        lambda numbers: numbers,
        lambda numbers: numbers.astype(np.uint8),
        up,
        lambda numbers: up(numbers.astype(np.int32)),
        lambda numbers: FakeArray(np.repeat(numbers, 2)[::2]),
        FakeTensor,
    ),
)
def test_lengths_of_the_host_or_of_the_device(form: Callable[[Any], Any]) -> None:
    case = replace(CASE, lengths="mixed")
    model, expected = models(case)
    lengths = case.row_lengths
    assert_same(model(up(case.x), up(case.state), lengths=form(lengths)), expected(case.x, case.state, lengths=lengths))


@pytest.mark.parametrize("lengths", (3, np.array(3), FakeArray(np.array(3)), FakeArray(np.array([3]))))
def test_a_length_of_an_unbatched_call(lengths: Any) -> None:
    case = replace(CASE, batch=None)
    model, expected = models(case)
    assert_same(model(up(case.x), lengths=lengths), expected(case.x, lengths=3))


@pytest.mark.parametrize(
    ("steps", "lengths", "meant"),
    (
        (4, np.array([-3, 5, 2]), [0, 4, 2]),
        (4, np.array([2**63, 0, 2**64 - 1], np.uint64), [4, 0, 4]),
        (300, np.array([-128, 127, 3], np.int8), [0, 127, 3]),
    ),
)
def test_lengths_on_the_device_are_clipped(steps: int, lengths: Any, meant: list[int]) -> None:
    """To refuse them, one would have to wait for them."""
    case = replace(CASE, steps=steps)
    model, expected = models(case)
    device = up(lengths)
    assert_same(model(up(case.x), lengths=device), expected(case.x, lengths=meant))
    np.testing.assert_array_equal(device._host, lengths)


def test_lengths_on_the_host_are_checked() -> None:
    with raises_saying(rnnc.LengthError, "lengths: ", "T = 4", "5", "row 1"):
        models(CASE)[0](up(CASE.x), lengths=[4, 5, 1])


def test_out_is_filled_and_returned() -> None:
    model, expected = models(CASE)
    output, state = up(np.zeros((4, 3, 16), F32)), up((np.zeros((4, 3, 6), F32),) * 2)
    view = output[:, :, 2:-2]
    result = model(up(CASE.x), up(CASE.state), out=(view, state))
    assert result[0] is view and result[1] is state
    assert_same(result, expected(CASE.x, CASE.state))
    assert not output._host[..., :2].any() and not output._host[..., -2:].any()
    alone, fresh = model(up(CASE.x), out=view)
    assert alone is view
    assert_same((alone, fresh), expected(CASE.x))


def test_tensors_of_another_library_are_read_in_place() -> None:
    model, expected = models(CASE)
    state = tuple(map(FakeTensor, CASE.state))
    assert_same(model(FakeTensor(CASE.x), state), expected(CASE.x, CASE.state))
    tensor = FakeTensor(CASE.x)
    assert np.shares_memory(as_array("x", tensor, fake_device.arrays)._host, tensor._host)  # type: ignore[attr-defined]


def test_parameters_of_either_side_are_copied() -> None:
    given: dict[str, Any] = dict(CASE.params)
    forms = (
        up,
        FakeTensor,
        lambda a: FakeTensor(a, "cpu"),
        np.asfortranarray,
        lambda a: FakeArray(np.asfortranarray(a)),
    )
    params = {name: forms[number % len(forms)](array) for number, (name, array) in enumerate(given.items())}
    model = rnnc.compile(CASE.spec(), params, backend="fake")
    expected = models(CASE)[1](CASE.x, CASE.state)
    assert_same(model(up(CASE.x), up(CASE.state)), expected)
    for array in params.values():
        (array if isinstance(array, np.ndarray) else array._host)[...] = np.nan
    assert_same(model(up(CASE.x), up(CASE.state)), expected)


# ------------------------------------------------------------------------------------------ derivatives


def derivatives(case: Case, backend: str, move: Callable[[Any], Any], params: Any, lengths: Any) -> dict[str, Any]:
    """What vjp (with and without remat), jvp and hvp return, for arguments moved to where the backend is."""
    spec = case.spec()
    x, state = move(case.x), move(case.state)
    (result, pullback), seeds = derivative("vjp", spec, backend)(params, x, state, lengths), (x, state)
    output, last = result
    found = {"primal": result, "pullback": pullback(output, last), "zeros": pullback(), "one": pullback(None, last)}
    started, pullback = derivative("vjp", spec, backend)(params, x, None, lengths)
    found["no state"] = (started, pullback(output, last))
    if not case.bidirectional:
        for remat in ("sqrt", 1):
            segmented = derivative("vjp", spec, backend, remat=remat)(params, x, state, lengths)
            found[f"remat {remat}"] = (segmented[0], segmented[1](output, last), segmented[1]())
    primals, none = (params, *seeds), (None, None, None)
    along = derivative("jvp", spec, backend)
    found["jvp"] = (along(primals, primals, lengths=lengths), along(primals, none, lengths=lengths))
    second = derivative("hvp", spec, backend)
    found["hvp"] = (
        second(primals, (output, last), primals, (output, None), lengths=lengths),
        second(primals, (None, last), none, lengths=lengths),
    )
    return found


@pytest.mark.sampled(4)
@pytest.mark.parametrize("lengths", (None, "host", "device"))
@pytest.mark.parametrize("layout", ("time_first", "batch_first", "unbatched"))
def test_derivatives(layout: str, lengths: str | None) -> None:
    cell = "gru" if layout == "batch_first" else "lstm"
    batch = None if layout == "unbatched" else 3
    case = replace(CASE, cell=cell, batch=batch, batch_first=layout == "batch_first", bidirectional=cell == "gru")
    counts = None if lengths is None else np.array([2]) if batch is None else np.array([4, 0, 3])
    given = up(counts) if lengths == "device" else counts
    expected = derivatives(case, "reference", lambda a: a, case.params, counts)
    for params in (case.params, up(case.params)) if lengths is None else (up(case.params),):
        found = derivatives(case, "fake", up, params, given)
        for name, value in expected.items():
            assert_same(found[name], value)


def test_derivatives_of_an_empty_batch() -> None:
    case = replace(CASE, batch=0)
    expected = derivatives(case, "reference", lambda a: a, case.params, None)
    assert_same(derivatives(case, "fake", up, case.params, None), expected)


# ------------------------------------------------------------------------------------------ networks

NETWORKS = {
    "every": rnnc.Sequential(rnnc.GRU(3, 4), rnnc.Linear(4, 2)),
    "batch_first": rnnc.Sequential(rnnc.LSTM(3, 4, 2, batch_first=True), rnnc.Linear(4, 2)),
    "last": rnnc.Sequential(rnnc.GRU(3, 4, bidirectional=True), rnnc.Linear(8, 2), readout="last"),
    "mean": rnnc.Sequential(rnnc.GRU(3, 4), rnnc.Linear(4, 2), readout="mean"),
    "embedding": rnnc.Sequential(rnnc.Embedding(7, 3), rnnc.GRU(3, 4), rnnc.Linear(4, 2)),
}


def data_of(name: str) -> Any:
    """Five steps of three rows, laid out as the network reads them."""
    random = np.random.default_rng(0)
    if name == "embedding":
        return random.integers(0, 7, (5, 3))
    return random.standard_normal((3, 5, 3) if name == "batch_first" else (5, 3, 3)).astype(F32)


@pytest.mark.parametrize("lengths", (None, [3, 0, 2], FakeArray(np.array([3, 0, 2]))))
@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name: str, lengths: Any) -> None:
    model, x = NETWORKS[name], data_of(name)
    params = model.init(0)
    counts = lengths._host if isinstance(lengths, FakeArray) else lengths
    expected = model.compile(params, backend="reference")
    for given in (params, up(params)):
        network = model.compile(given, backend="fake")
        assert_same(network(up(x), lengths=lengths), expected(x, lengths=counts))


@pytest.mark.parametrize("name", ("every", "batch_first", "embedding"))
def test_sequences_in_pieces(name: str) -> None:
    model, x = NETWORKS[name], data_of(name)
    network, expected = (model.compile(model.init(0), backend=backend) for backend in ("fake", "reference"))
    first, last = network.advance(up(x)), expected.advance(x)
    assert_same(first, last)
    assert_same(network.advance(up(x), first[1]), expected.advance(x, last[1]))
    with raises_saying(rnnc.ArgumentTypeError, "state['", "the GPU", "pass cupy.asarray(state["):
        network.advance(up(x), last[1])


def test_numbers_on_the_device_are_clipped_to_the_table() -> None:
    model = NETWORKS["embedding"]
    network = model.compile(model.init(0), backend="fake")
    expected = model.compile(model.init(0), backend="reference")
    for dtype in (np.int64, np.int8, np.uint8):
        found = network(FakeArray(np.array([[-1, 6], [7, 100]]).astype(dtype)))
        meant = np.array([[6 if dtype is np.uint8 else 0, 6], [6, 6]])
        assert_same(found, expected(meant))


# ------------------------------------------------------------------------------------------ refusals


def misaligned(*shape: int) -> FakeArray:
    count = int(np.prod(shape))
    return FakeArray(np.zeros(4 * count + 1, np.uint8)[1:].view(F32).reshape(shape))


def zeros(*shape: int, dtype: Any = F32) -> FakeArray:
    return FakeArray(np.zeros(shape, dtype))


STATE = (zeros(4, 3, 6), zeros(4, 3, 6))
ELSEWHERE = ("GPU 1", "current one is 0", "cupy.cuda.Device(1)")
REFUSALS: list[tuple[dict[str, Any], type[Exception], tuple[str, ...]]] = [
    ({"x": CASE.x}, rnnc.ArgumentTypeError, ("x: ", "on cpu", "runs on the GPU", "pass cupy.asarray(x)")),
    ({"x": FakeTensor(CASE.x, "cpu")}, rnnc.ArgumentTypeError, ("x: ", "runs on the GPU", "pass value.cuda()")),
    ({"x": FakeTensor(CASE.x, "meta")}, rnnc.ArgumentTypeError, ("x: ", "meta", "runs on the GPU")),
    ({"x": [[[0.0] * 5] * 3] * 4}, rnnc.ArgumentTypeError, ("x: ", "CuPy array", "list", "cupy.asarray(value")),
    ({"x": None}, rnnc.ArgumentTypeError, ("x: ", "CuPy array", "None")),
    ({"x": np.ma.zeros((4, 3, 5), F32)}, rnnc.ArgumentTypeError, ("x: ", "masked")),
    ({"x": zeros(4, 3, 4)}, rnnc.ShapeError, ("x: ", "I = 5", "(4, 3, 4)")),
    ({"x": zeros(4, 3, 5, dtype="float64")}, rnnc.DtypeError, ("x: ", "float32", "float64")),
    ({"x": misaligned(4, 3, 5)}, rnnc.ArgumentError, ("x: ", "not aligned")),
    ({"x": FakeArray(CASE.x, device=1)}, rnnc.ArgumentError, ("x: ", *ELSEWHERE)),
    ({"state": CASE.state}, rnnc.ArgumentTypeError, ("state[0]: ", "on cpu", "pass cupy.asarray(state[0])")),
    ({"state": (STATE[0], CASE.state[1])}, rnnc.ArgumentTypeError, ("state[1]: ", "on cpu")),
    ({"state": STATE[0]}, rnnc.ArgumentTypeError, ("state", "(h, c)", "(4, 3, 6)")),
    ({"state": (STATE[0], misaligned(4, 3, 6))}, rnnc.ArgumentError, ("state: ", "not aligned")),
    ({"state": (STATE[0], FakeArray(CASE.state[1], 1))}, rnnc.ArgumentError, ("state: ", *ELSEWHERE)),
    ({"lengths": up(np.array([4, 4]))}, rnnc.ShapeError, ("lengths: ", "(3,)", "(2,)")),
    ({"lengths": up(np.array([4.0, 4.0, 4.0]))}, rnnc.DtypeError, ("lengths: ", "integers", "float64")),
    ({"lengths": FakeArray(np.array([4, 4, 4]), 1)}, rnnc.ArgumentError, ("lengths: ", *ELSEWHERE)),
    ({"out": np.zeros((4, 3, 12), F32)}, rnnc.ArgumentTypeError, ("out: ", "CuPy array to write into", "(4, 3, 12)")),
    ({"out": misaligned(4, 3, 12)}, rnnc.ArgumentError, ("out: ", "not aligned")),
    ({"out": FakeArray(np.zeros((4, 3, 12), F32), 1)}, rnnc.ArgumentError, ("out: ", *ELSEWHERE)),
    ({"out": FakeArray(np.broadcast_to(F32(0), (4, 3, 12)))}, rnnc.ArgumentError, ("out: ", "lie at one place")),
    ({"out": (zeros(4, 3, 12), (STATE[0],) * 2)}, rnnc.ArgumentError, ("out: ", "shares memory", "another array")),
    ({"out": (zeros(4, 3, 12), (STATE[0], zeros(6, 3, 4).swapaxes(0, 2)))}, rnnc.ArgumentError,
     ("out[1]", "C-contiguous", "cupy.empty")),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "error", "words"), REFUSALS)
def test_refused_calls(wrong: dict[str, Any], error: type[Exception], words: tuple[str, ...]) -> None:
    with raises_saying(error, *words):
        models(CASE)[0](**{"x": up(CASE.x), **wrong})


def test_out_may_lie_between_the_elements_of_x_but_not_on_them() -> None:
    spec = rnnc.GRU(6, 6)
    model = rnnc.compile(spec, spec.init(), backend="fake")
    both = zeros(4, 3, 12)
    model(both[:, :, :6], out=both[:, :, 6:])
    with raises_saying(rnnc.ArgumentError, "out: ", "shares memory", "x or state"):
        model(both[:, :, :6], out=both[:, :, 5:11])


@pytest.mark.parametrize("value", (np.zeros((4, 3, 12), F32), FakeTensor(np.zeros((4, 3, 12), F32), "cpu")))
def test_refused_adjoints_and_tangents(value: Any) -> None:
    primals = (CASE.params, up(CASE.x), up(CASE.state))
    pullback = rnnc.vjp(CASE.spec(), backend="fake")(*primals)[1]
    with raises_saying(rnnc.ArgumentTypeError, "d_output: ", "on cpu", "runs on the GPU"):
        pullback(value)
    with raises_saying(rnnc.ArgumentTypeError, "d_state[0]: ", "on cpu", "runs on the GPU"):
        pullback(None, CASE.state)
    with raises_saying(rnnc.ArgumentTypeError, "tangents[1]: ", "pass cupy.asarray(tangents[1])"):
        rnnc.jvp(CASE.spec(), backend="fake")(primals, (None, CASE.x, None))


@pytest.mark.parametrize(
    ("array", "error", "words"),
    (
        (np.zeros(24), rnnc.DtypeError, ("float32", "float64")),
        (np.zeros(24, object), rnnc.DtypeError, ("float32", "object")),
        (up(np.zeros(24)), rnnc.DtypeError, ("float32", "float64")),
        (zeros(23), rnnc.ShapeError, ("(24,)", "(23,)")),
        (misaligned(24), rnnc.ArgumentError, ("not aligned",)),
        ([0.0] * 24, rnnc.ArgumentTypeError, ("NumPy array", "list")),
        (FakeTensor(np.zeros(24, F32), "meta"), rnnc.ArgumentTypeError, ("meta", "the GPU")),
    ),
)
def test_refused_parameters(array: Any, error: type[Exception], words: tuple[str, ...]) -> None:
    with raises_saying(error, "params['bias_ih_l0']: ", *words):
        rnnc.compile(CASE.spec(), CASE.params | {"bias_ih_l0": array}, backend="fake")


@pytest.mark.parametrize("name", ("reference", "llvm"))
def test_backends_on_the_cpu_refuse_arrays_of_a_device(name: str) -> None:
    model = rnnc.compile(CASE.spec(), CASE.params, backend=name)
    x = up(CASE.x)
    for arguments, argument in (
        ({"x": x}, "x"),
        ({"x": CASE.x, "state": up(CASE.state)}, "state[0]"),
        ({"x": CASE.x, "lengths": up(np.array([4, 4, 4]))}, "lengths"),
    ):
        with raises_saying(rnnc.ArgumentTypeError, f"{argument}: ", "device 0", "runs on the CPU; pass value.get()"):
            model(**arguments)
    with raises_saying(rnnc.ArgumentTypeError, "x: ", "cuda", "runs on the CPU; pass value.cpu()"):
        model(FakeTensor(CASE.x))
    with raises_saying(rnnc.ArgumentTypeError, "out: ", "NumPy array to write into", "(4, 3, 12)"):
        model(CASE.x, out=zeros(4, 3, 12))
    with raises_saying(rnnc.ArgumentTypeError, "params['weight_ih_l0']: ", "pass value.get()"):
        rnnc.compile(CASE.spec(), up(CASE.params), backend=name)


# ------------------------------------------------------------------------------------------ the library itself


def test_the_module_is_loaded_when_a_device_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling, printing and refusing wrong names need none."""

    def load() -> Any:
        raise rnnc.BackendError("no driver")

    monkeypatch.setattr(fake_device, "arrays", CuPyArrays(load))
    spec = CASE.spec()
    program = rnnc.compile(spec, backend="fake")
    assert program.ir("rolled") and program.explain()
    f = rnnc.vjp(spec, backend="fake")
    assert f.ir("rolled") and f.saved_bytes(3, 4)
    with raises_saying(rnnc.ParameterError, "missing"):
        program.bind({})
    for use in (
        lambda: program.bind(CASE.params),
        lambda: program.bind(up(CASE.params)),
        lambda: f(CASE.params, CASE.x),
        lambda: rnnc.jvp(spec, backend="fake")((CASE.params, CASE.x, None), (None, None, None)),
        lambda: NETWORKS["every"].compile(NETWORKS["every"].init(0), backend="fake"),
    ):
        with raises_saying(rnnc.BackendError, "no driver"):
            use()


def test_every_backend_names_its_library() -> None:
    assert backends.arrays_of("reference") is NUMPY
    assert backends.arrays_of("llvm") is NUMPY
    assert backends.arrays_of("fake") is fake_device.arrays


@pytest.mark.parametrize("library", (NUMPY, fake_device.arrays))
def test_to_the_host_and_back(library: Any) -> None:
    array = library.from_host(CASE.x)
    assert type(array) is library.array_type
    np.testing.assert_array_equal(library.to_host(array), CASE.x)
    copy = library.keep(array)
    assert not library.share_memory(array, copy) and library.share_memory(array, array[1:])
    assert not library.share_memory(array[:0], array)


@pytest.mark.parametrize("choice", [rnnc.Greedy(), rnnc.Sample(), rnnc.Beam(2)])
def test_a_decoder_on_the_device(choice: Any) -> None:
    network = test_decoding.attending(choice)
    p, (x, lengths) = test_decoding.parameters(network), test_decoding.words()
    expected = network.compile(p, backend="reference")(x, lengths=lengths)
    made = network.compile(p, backend="fake")
    assert_same(tuple(made(FakeArray(x), lengths=lengths)), tuple(expected))
    assert_same(tuple(made(FakeArray(x), lengths=FakeArray(lengths))), tuple(expected))
