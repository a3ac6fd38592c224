"""Every argument of every public name, wrong in each way: the class of the exception, and a message that names the
argument, what came and what was expected.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import FrozenInstanceError, dataclass, replace
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

import rnnc
from rnnc.ir.equations import Value, concat, linear, tanh
from tests.cases import Case
from tests.user_cells import MinimalGatedUnit

SPECS: Mapping[str, Callable[..., Any]] = {
    "RNN": rnnc.RNN,
    "GRU": rnnc.GRU,
    "LSTM": rnnc.LSTM,
    "Recurrent": lambda *args, **options: rnnc.Recurrent(MinimalGatedUnit(), *args, **options),
}
each_spec = pytest.mark.parametrize("make", SPECS.values(), ids=SPECS)


def refuses(error: type[Exception], *words: str) -> Any:
    """The exception, whose message holds each of the words, in this order."""
    return pytest.raises(error, match="(?s)" + ".*".join(map(re.escape, words)))


def test_every_class_is_one_of_rnncs_and_one_of_pythons() -> None:
    values = (rnnc.ArgumentError, rnnc.ShapeError, rnnc.ParameterError, rnnc.LengthError, rnnc.IRError)
    types = (rnnc.ArgumentTypeError, rnnc.DtypeError)
    assert all(issubclass(error, rnnc.RnncError) and issubclass(error, ValueError) for error in values)
    assert all(issubclass(error, rnnc.RnncError) and issubclass(error, TypeError) for error in types)
    assert issubclass(rnnc.BackendError, rnnc.RnncError) and issubclass(rnnc.BackendError, RuntimeError)
    assert issubclass(rnnc.BackendUnavailable, rnnc.BackendError)


# ------------------------------------------------------------------------------------------ specs


@each_spec
@pytest.mark.parametrize("name", ("input_size", "hidden_size", "num_layers"))
@pytest.mark.parametrize(
    ("value", "error", "came"),
    (
        (0, rnnc.ArgumentError, "0"),
        (-3, rnnc.ArgumentError, "-3"),
        (2**40, rnnc.ArgumentError, str(2**40)),
        (2.0, rnnc.ArgumentTypeError, "2.0"),
        ("8", rnnc.ArgumentTypeError, "'8'"),
        (None, rnnc.ArgumentTypeError, "None"),
        (True, rnnc.ArgumentTypeError, "True"),
        ((4, 5), rnnc.ArgumentTypeError, "(4, 5)"),
        (np.array([4, 5]), rnnc.ArgumentTypeError, "array([4, 5])"),
    ),
)
def test_sizes(make: Callable[..., Any], name: str, value: Any, error: type[Exception], came: str) -> None:
    with refuses(error, name, "expected", "integer", came):
        make(**{"input_size": 4, "hidden_size": 5, name: value})


@each_spec
@pytest.mark.parametrize("name", ("bias", "batch_first", "bidirectional"))
@pytest.mark.parametrize("value", (2, 1, 0.0, "yes", None, [True]))
def test_flags(make: Callable[..., Any], name: str, value: Any) -> None:
    with refuses(rnnc.ArgumentTypeError, name, "True or False", repr(value)):
        make(4, 5, **{name: value})


@each_spec
@pytest.mark.parametrize("value", (1.0, -0.1, 7, float("nan"), float("inf")))
def test_dropout_out_of_range(make: Callable[..., Any], value: float) -> None:
    with refuses(rnnc.ArgumentError, "dropout", "[0, 1)", str(value)):
        make(4, 5, dropout=value)


@each_spec
@pytest.mark.parametrize("value", ("0.5", None, True, [0.5], 1j))
def test_dropout_of_another_type(make: Callable[..., Any], value: Any) -> None:
    with refuses(rnnc.ArgumentTypeError, "dropout", "number", repr(value)):
        make(4, 5, dropout=value)


@each_spec
@pytest.mark.parametrize("value", ("float16", "double", "f4", np.int32, np.dtype("float16"), ">f4", None, float, 32))
def test_dtypes(make: Callable[..., Any], value: Any) -> None:
    with refuses(rnnc.DtypeError, "dtype", "'float32'", "'float64'", "got"):
        make(4, 5, dtype=value)


@pytest.mark.parametrize(
    ("value", "error"), (("sigmoid", rnnc.ArgumentError), (None, rnnc.ArgumentTypeError), (np.tanh, TypeError))
)
def test_nonlinearity(value: Any, error: type[Exception]) -> None:
    with refuses(error, "nonlinearity", "'tanh'", "'relu'", repr(value)):
        rnnc.RNN(4, 5, nonlinearity=value)


@pytest.mark.parametrize("value", (5, 6, 100, -1))
def test_a_projection_is_narrower_than_the_state(value: int) -> None:
    with refuses(rnnc.ArgumentError, "proj_size", "expected", str(value)):
        rnnc.LSTM(4, 5, proj_size=value)


@pytest.mark.parametrize("value", (2.0, "2", None, True))
def test_a_projection_is_an_integer(value: Any) -> None:
    with refuses(rnnc.ArgumentTypeError, "proj_size", "integer", repr(value)):
        rnnc.LSTM(4, 5, proj_size=value)


@pytest.mark.parametrize("value", (1, "after", None))
def test_reset_after(value: Any) -> None:
    with refuses(rnnc.ArgumentTypeError, "reset_after", "True or False", repr(value)):
        rnnc.GRU(4, 5, reset_after=value)


@pytest.mark.parametrize("value", (MinimalGatedUnit, "lstm", None, 4, object()))
def test_cell_is_an_instance_of_a_cell(value: Any) -> None:
    with refuses(rnnc.ArgumentTypeError, "cell", "rnnc.Cell"):
        rnnc.Recurrent(value, 4, 5)


def test_pytorchs_positional_order_is_kept_and_a_slip_in_it_is_noticed() -> None:
    assert rnnc.LSTM(4, 5, 2, False, True, 0.5, True) == rnnc.LSTM(
        4, 5, num_layers=2, bias=False, batch_first=True, dropout=0.5, bidirectional=True
    )
    with refuses(rnnc.ArgumentError, "nonlinearity", "'elu'"):
        rnnc.RNN(4, 5, 2, "elu")  # type: ignore[arg-type]


@each_spec
def test_a_spec_cannot_be_changed(make: Callable[..., Any]) -> None:
    spec = make(4, 5)
    with pytest.raises(FrozenInstanceError):
        spec.hidden_size = 6
    with refuses(rnnc.ArgumentError, "hidden_size", "0"):
        replace(spec, hidden_size=0)


@each_spec
@pytest.mark.parametrize(
    ("value", "error"),
    ((-1, rnnc.ArgumentError), (1.5, rnnc.ArgumentTypeError), ("x", rnnc.ArgumentTypeError), (None, TypeError)),
)
def test_seeds(make: Callable[..., Any], value: Any, error: type[Exception]) -> None:
    with refuses(error, "seed", "expected", str(value)):
        make(4, 5).init(seed=value)


# ------------------------------------------------------------------------------------------ plain data


@pytest.mark.parametrize(
    ("data", "error", "words"),
    (
        ([], rnnc.ArgumentTypeError, ("data", "dict", "[]")),
        ({"type": "LTSM", "input_size": 4, "hidden_size": 5}, rnnc.ArgumentError, ("type", "'LSTM'", "'LTSM'")),
        ({"input_size": 4, "hidden_size": 5}, rnnc.ArgumentTypeError, ("type", "None")),
        ({"type": "GRU", "input_size": 4}, rnnc.ArgumentError, ("GRU", "hidden_size")),
        ({"type": "GRU", "input_size": 4, "hiden_size": 5}, rnnc.ArgumentError, ("hiden_size", "GRU", "hidden_size")),
        ({"type": "GRU", "input_size": 4, "hidden_size": "5"}, rnnc.ArgumentTypeError, ("hidden_size", "'5'")),
        ({"type": "Recurrent", "cell": 3, "input_size": 4, "hidden_size": 5}, rnnc.ArgumentTypeError, ("cell", "3")),
        (
            {"type": "Recurrent", "cell": {"type": "os:getcwd"}, "input_size": 4, "hidden_size": 5},
            rnnc.ArgumentError,
            ("cell", "os:getcwd"),
        ),
        (
            {"type": "Recurrent", "cell": {"type": "no_such_module:X"}, "input_size": 4, "hidden_size": 5},
            rnnc.ArgumentError,
            ("no_such_module",),
        ),
    ),
)
def test_data_of_a_spec(data: Any, error: type[Exception], words: tuple[str, ...]) -> None:
    with refuses(error, *words):
        rnnc.Spec.from_dict(data)
    with refuses(error, *words):
        rnnc.Spec.from_json(json.dumps(data))


def test_json_that_is_none() -> None:
    with refuses(rnnc.ArgumentError, "text", "JSON"):
        rnnc.Spec.from_json("{")


def test_the_data_of_another_spec() -> None:
    with refuses(rnnc.ArgumentError, "GRU", "LSTM"):
        rnnc.GRU.from_dict(rnnc.LSTM(4, 5).to_dict())


# ------------------------------------------------------------------------------------------ compile and bind


@pytest.mark.parametrize("value", (None, "LSTM", rnnc.LSTM, {}, 3, MinimalGatedUnit()))
def test_what_is_compiled_is_a_spec(value: Any) -> None:
    with refuses(rnnc.ArgumentTypeError, "spec", "rnnc.RNN, GRU, LSTM or Recurrent", "got"):
        rnnc.compile(value)


@pytest.mark.parametrize(
    ("value", "error"), (("lvm", rnnc.BackendError), (None, rnnc.ArgumentTypeError), (3, rnnc.ArgumentTypeError))
)
def test_backends(value: Any, error: type[Exception]) -> None:
    with refuses(error, "backend", "'llvm'", str(value)):
        rnnc.compile(rnnc.GRU(4, 5), backend=value)


@pytest.mark.parametrize(
    ("value", "error"),
    ((0, rnnc.ArgumentError), (-1, rnnc.ArgumentError), (1.5, rnnc.ArgumentTypeError), ("2", rnnc.ArgumentTypeError)),
)
def test_threads(value: Any, error: type[Exception], backend: str) -> None:
    with refuses(error, "threads", "integer", str(value)):
        rnnc.compile(rnnc.GRU(4, 5), backend=backend, threads=value)


def test_the_setting_of_threads_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("0", "-2", "many", "1.5"):
        monkeypatch.setenv("RNNC_NUM_THREADS", value)
        with refuses(rnnc.ArgumentError, "RNNC_NUM_THREADS", value):
            rnnc.compile(rnnc.GRU(4, 5), backend="llvm")


def bind(params: Any, backend: str) -> Any:
    return rnnc.compile(rnnc.GRU(4, 5, num_layers=2), params, backend=backend)


def good_params() -> dict[str, Any]:
    return rnnc.GRU(4, 5, num_layers=2).init(seed=0)


@pytest.mark.parametrize("value", ([1, 2], "weights", 7, np.zeros(3)))
def test_parameters_come_as_a_mapping(value: Any, backend: str) -> None:
    with refuses(rnnc.ArgumentTypeError, "params", "mapping", type(value).__name__):
        bind(value, backend)


def test_a_missing_parameter(backend: str) -> None:
    params = good_params()
    del params["bias_hh_l1"]
    with refuses(rnnc.ParameterError, "params", "missing", "'bias_hh_l1'", "(15,)"):
        bind(params, backend)
    with refuses(rnnc.ParameterError, "params", "missing", "'weight_ih_l0'"):
        bind({}, backend)


def test_an_unknown_parameter(backend: str) -> None:
    with refuses(rnnc.ParameterError, "params", "unknown", "'weight_ih_l2'"):
        bind({**good_params(), "weight_ih_l2": np.zeros((15, 5), np.float32)}, backend)
    with refuses(rnnc.ParameterError, "params", "unknown", "3"):
        bind({**good_params(), 3: np.zeros(1)}, backend)


def test_a_misspelt_parameter_brings_the_right_name(backend: str) -> None:
    params = good_params()
    params["wieght_ih_l0"] = params.pop("weight_ih_l0")
    with refuses(rnnc.ParameterError, "missing", "'weight_ih_l0'", "unknown", "'wieght_ih_l0'", "did you mean"):
        bind(params, backend)


def test_parameters_of_a_whole_model_under_a_prefix(backend: str) -> None:
    params = {"encoder." + name: value for name, value in good_params().items()}
    params["decoder.weight"] = np.zeros(3, np.float32)
    with refuses(rnnc.ParameterError, "'encoder.'", "removeprefix"):
        bind(params, backend)


@pytest.mark.parametrize(
    ("shape", "words"),
    (((15,), ()), ((15, 3), ()), ((12, 4), ()), ((15, 4, 1), ()), ((), ()), ((4, 15), ("transpose",))),
)
def test_a_parameter_of_another_shape(shape: tuple[int, ...], words: tuple[str, ...], backend: str) -> None:
    with refuses(rnnc.ShapeError, "params['weight_ih_l0']", "(15, 4)", str(shape), *words):
        bind({**good_params(), "weight_ih_l0": np.zeros(shape, np.float32)}, backend)


@pytest.mark.parametrize("dtype", ("float64", "float16", "int32", ">f4", "complex64", "bool"))
def test_a_parameter_of_another_dtype(dtype: str, backend: str) -> None:
    value = np.zeros((15, 4), dtype)
    with refuses(rnnc.DtypeError, "params['weight_ih_l0']", "float32", str(value.dtype), "astype"):
        bind({**good_params(), "weight_ih_l0": value}, backend)


@pytest.mark.parametrize("value", ([[0.0] * 4] * 15, None, 1.0, "zeros"))
def test_a_parameter_that_is_no_array(value: Any, backend: str) -> None:
    with refuses(rnnc.ArgumentTypeError, "params['weight_ih_l0']", "NumPy array", type(value).__name__):
        bind({**good_params(), "weight_ih_l0": value}, backend)


def test_a_masked_array_would_lose_its_mask(backend: str) -> None:
    value = np.ma.masked_invalid(np.zeros((15, 4), np.float32))
    with refuses(rnnc.ArgumentTypeError, "params['weight_ih_l0']", "masked"):
        bind({**good_params(), "weight_ih_l0": value}, backend)


# ------------------------------------------------------------------------------------------ stages


def test_stages(backend: str) -> None:
    program = rnnc.compile(rnnc.GRU(4, 5), backend=backend)
    with refuses(rnnc.ArgumentError, "stage", "lowered", "rolled", "'roled'", "did you mean 'rolled'"):
        program.ir("roled")
    with refuses(rnnc.RnncError, "stage", "None"):
        program.ir(None)  # type: ignore[arg-type]
    for steps, error in ((0, rnnc.ArgumentError), (-1, rnnc.ArgumentError), (2.5, rnnc.ArgumentTypeError)):
        with refuses(error, "steps", "integer", str(steps)):
            program.ir("lowered", steps=steps)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------ calls

CALL = Case("lstm", num_layers=2, bidirectional=True, steps=4, batch=3, input_size=5, hidden_size=6)
F32 = np.float32


def zeros(*shape: int, dtype: Any = F32) -> Any:
    return np.zeros(shape, dtype)


@pytest.fixture(scope="module")
def model(backend: str) -> Any:
    return rnnc.compile(CALL.spec(), CALL.params, backend=backend)


BATCH_STATE = (zeros(4, 3, 6), zeros(4, 3, 6))
X = CALL.x


@pytest.mark.parametrize(
    ("x", "error", "words"),
    (
        (zeros(4, 3, 4), rnnc.ShapeError, ("(T, B, I)", "I = 5", "(4, 3, 4)")),
        (zeros(4, 3, 5, 1), rnnc.ShapeError, ("(T, B, I)", "(4, 3, 5, 1)")),
        (zeros(5), rnnc.ShapeError, ("(T, I)", "(5,)")),
        (zeros(), rnnc.ShapeError, ("(T, I)", "()")),
        (zeros(0, 3, 5), rnnc.ShapeError, ("at least one time step", "(0, 3, 5)")),
        (zeros(0, 5), rnnc.ShapeError, ("at least one time step", "(0, 5)")),
        (zeros(4, 3, 5, dtype="float64"), rnnc.DtypeError, ("float32", "float64", "astype")),
        (zeros(4, 3, 5, dtype=">f4"), rnnc.DtypeError, ("float32", ">f4")),
        (zeros(4, 3, 5, dtype="int64"), rnnc.DtypeError, ("float32", "int64")),
        (zeros(4, 3, 5, dtype=object), rnnc.DtypeError, ("float32", "object")),
        ([[[0.0] * 5] * 3] * 4, rnnc.ArgumentTypeError, ("NumPy array", "list")),
        (None, rnnc.ArgumentTypeError, ("NumPy array", "None")),
        (1.0, rnnc.ArgumentTypeError, ("NumPy array", "1.0")),
        ("x", rnnc.ArgumentTypeError, ("NumPy array", "'x'")),
        (np.ma.masked_less(zeros(4, 3, 5), 1), rnnc.ArgumentTypeError, ("masked",)),
    ),
)
def test_x(model: Any, x: Any, error: type[Exception], words: tuple[str, ...]) -> None:
    with refuses(error, "x: ", *words):
        model(x)


def test_x_of_a_batch_first_model_is_named_so(backend: str) -> None:
    case = replace(CALL, batch_first=True)
    model = rnnc.compile(case.spec(), case.params, backend=backend)
    with refuses(rnnc.ShapeError, "x: ", "(B, T, I)", "(4, 3, 7)"):
        model(zeros(4, 3, 7))
    with refuses(rnnc.ShapeError, "x: ", "at least one time step", "(3, 0, 5)"):
        model(zeros(3, 0, 5))


@pytest.mark.parametrize(
    ("state", "error", "words"),
    (
        (zeros(4, 3, 6), rnnc.ArgumentTypeError, ("state", "(h, c)", "(4, 3, 6)")),
        ((zeros(4, 3, 6),), rnnc.ArgumentError, ("state", "2", "1")),
        ((zeros(4, 3, 6),) * 3, rnnc.ArgumentError, ("state", "2", "3")),
        ((), rnnc.ArgumentError, ("state", "2", "0")),
        ((zeros(4, 2, 6), zeros(4, 3, 6)), rnnc.ShapeError, ("state[0]", "(4, 3, 6)", "(4, 2, 6)")),
        ((zeros(4, 3, 6), zeros(3, 4, 6)), rnnc.ShapeError, ("state[1]", "(4, 3, 6)", "(3, 4, 6)")),
        ((zeros(4, 3, 6), zeros(4, 6)), rnnc.ShapeError, ("state[1]", "(4, 3, 6)", "(4, 6)")),
        ((zeros(4, 3, 6), zeros(2, 3, 6)), rnnc.ShapeError, ("state[1]", "num_layers * D", "(2, 3, 6)")),
        ((zeros(4, 3, 6), None), rnnc.ArgumentTypeError, ("state[1]", "NumPy array", "None")),
        ((zeros(4, 3, 6, dtype="float64"), zeros(4, 3, 6)), rnnc.DtypeError, ("state[0]", "float32", "float64")),
        ("state", rnnc.ArgumentTypeError, ("state", "'state'")),
        (0, rnnc.ArgumentTypeError, ("state", "0")),
    ),
)
def test_state(model: Any, state: Any, error: type[Exception], words: tuple[str, ...]) -> None:
    with refuses(error, *words):
        model(X, state)


def test_state_of_an_unbatched_call_has_no_batch_axis(model: Any) -> None:
    with refuses(rnnc.ShapeError, "state[0]", "(4, 6)", "(4, 1, 6)"):
        model(X[:, 0], (zeros(4, 1, 6), zeros(4, 1, 6)))


@pytest.mark.parametrize(
    ("lengths", "error", "words"),
    (
        ([4, 5, 1], rnnc.LengthError, ("0 <= length <= T = 4", "5", "row 1")),
        ([4, 0, -1], rnnc.LengthError, ("0 <= length <= T = 4", "-1", "row 2")),
        (np.array([2**63, 0, 0], np.uint64), rnnc.LengthError, (str(2**63), "row 0")),
        ([4, 4], rnnc.ShapeError, ("(3,)", "(2,)")),
        (4, rnnc.ShapeError, ("(3,)", "()")),
        ([[4, 4, 4]], rnnc.ShapeError, ("(3,)", "(1, 3)")),
        ([], rnnc.ShapeError, ("(3,)", "(0,)")),
        ([4.0, 4.0, 4.0], rnnc.DtypeError, ("integers", "float64")),
        (np.array([True, True, True]), rnnc.DtypeError, ("integers", "bool")),
        ([4, None, 4], rnnc.DtypeError, ("integers", "object")),
        ([4, "3", 4], rnnc.DtypeError, ("integers",)),
        ([4, [3], 4], rnnc.ArgumentError, ("integers",)),
        ("444", rnnc.ArgumentTypeError, ("'444'",)),
        ({4, 3, 2}, rnnc.ArgumentTypeError, ("set",)),
    ),
)
def test_lengths(model: Any, lengths: Any, error: type[Exception], words: tuple[str, ...]) -> None:
    with refuses(error, "lengths: ", *words):
        model(X, lengths=lengths)


def test_lengths_of_an_unbatched_call(model: Any) -> None:
    with refuses(rnnc.LengthError, "lengths: ", "T = 4", "5"):
        model(X[:, 0], lengths=5)
    with refuses(rnnc.ShapeError, "lengths: ", "unbatched", "(2,)"):
        model(X[:, 0], lengths=[4, 4])


def frozen(array: Any) -> Any:
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("out", "error", "words"),
    (
        (zeros(4, 3, 6), rnnc.ShapeError, ("out: ", "(4, 3, 12)", "(4, 3, 6)")),
        (zeros(3, 4, 12), rnnc.ShapeError, ("out: ", "(4, 3, 12)", "(3, 4, 12)")),
        (zeros(4, 3, 12, dtype="float64"), rnnc.DtypeError, ("out: ", "float32", "float64")),
        (frozen(zeros(4, 3, 12)), rnnc.ArgumentError, ("out: ", "not writable")),
        (np.zeros(577, np.uint8)[1:].view(F32).reshape(4, 3, 12), rnnc.ArgumentError, ("out: ", "not aligned")),
        ([1, 2, 3], rnnc.ArgumentError, ("out: ", "(output, state)", "3")),
        ("out", rnnc.ArgumentTypeError, ("out: ", "NumPy array", "'out'")),
        ((zeros(4, 3, 12), zeros(4, 3, 6)), rnnc.ArgumentTypeError, ("out[1]", "(h, c)")),
        ((zeros(4, 3, 12), (zeros(4, 3, 6), None)), rnnc.ArgumentTypeError, ("out[1]", "NumPy array", "None")),
        ((None, BATCH_STATE), rnnc.ArgumentTypeError, ("out[0]", "NumPy array", "None")),
        ((zeros(4, 3, 12), (zeros(4, 3, 6), zeros(4, 3, 5))), rnnc.ShapeError, ("out[1][1]", "(4, 3, 6)", "5")),
        ((zeros(4, 3, 12), (zeros(4, 3, 6), zeros(6, 3, 4).T)), rnnc.ArgumentError, ("out[1]", "C-contiguous")),
        ((zeros(4, 3, 12), (frozen(zeros(4, 3, 6)), zeros(4, 3, 6))), rnnc.ArgumentError, ("out[1]", "not writable")),
        ((zeros(4, 3, 12), (zeros(4, 3, 6),) * 2), rnnc.ArgumentError, ("out: ", "shares memory", "another array")),
    ),
)
def test_out(model: Any, out: Any, error: type[Exception], words: tuple[str, ...]) -> None:
    with refuses(error, *words):
        model(X, out=out)


def test_out_that_overlaps_what_is_read(backend: str) -> None:
    spec = rnnc.GRU(6, 6)
    model = rnnc.compile(spec, spec.init(seed=0), backend=backend)
    x, h = zeros(4, 3, 6), zeros(1, 3, 6)
    with refuses(rnnc.ArgumentError, "out: ", "shares memory", "x or state"):
        model(x, out=x)
    with refuses(rnnc.ArgumentError, "out: ", "shares memory", "x or state"):
        model(x, h, out=(zeros(4, 3, 6), h))


def test_an_output_that_overlaps_itself(backend: str) -> None:
    """Stride 0: several elements would be written to one place."""
    spec = rnnc.GRU(6, 6)
    model = rnnc.compile(spec, spec.init(seed=0), backend=backend)
    output = np.lib.stride_tricks.as_strided(zeros(4, 1, 6), (4, 3, 6), (24, 0, 4))
    with refuses(rnnc.ArgumentError, "out: "):
        model(zeros(4, 3, 6), out=output)


def test_a_tensor_that_is_not_on_the_cpu(backend: str) -> None:
    torch = pytest.importorskip("torch")
    spec = rnnc.GRU(6, 6)
    model = rnnc.compile(spec, spec.init(seed=0), backend=backend)
    with refuses(rnnc.ArgumentTypeError, "x: ", "meta", "CPU"):
        model(torch.zeros(4, 3, 6, device="meta"))
    with refuses(rnnc.ArgumentTypeError, "x: ", "bfloat16"):
        model(torch.zeros(4, 3, 6, dtype=torch.bfloat16))


@pytest.mark.parametrize(
    "call",
    (
        lambda model: model(),
        lambda model: model(X, None, [4, 4, 4]),
        lambda model: model(X, h_0=None),
        lambda model: model(X, x=X),
    ),
)
def test_arguments_that_do_not_exist(model: Any, call: Callable[[Any], Any]) -> None:
    """Python's own TypeError: lengths and out are given by name."""
    with pytest.raises(TypeError):
        call(model)


def test_arguments_by_name(model: Any) -> None:
    by_name = model(x=X, state=CALL.state, lengths=None, out=None)[0]
    np.testing.assert_array_equal(by_name, model(X, CALL.state)[0])


def test_a_refused_call_leaves_the_model_and_its_arguments_usable(model: Any) -> None:
    expected = CALL.expected()
    output = np.full(expected.output.shape, 7, F32)
    with pytest.raises(rnnc.LengthError):
        model(X, lengths=[9, 9, 9], out=output)
    assert (output == 7).all()
    np.testing.assert_allclose(model(X, CALL.state)[0], expected.output, rtol=1e-4, atol=1e-6)


# ------------------------------------------------------------------------------------------ cells


@dataclass(frozen=True)
class Broken(rnnc.Cell):
    """A cell with one mistake, named by `mistake`."""

    name: ClassVar[str] = "broken"
    mistake: str = ""

    def states(self, hidden_size: int) -> dict[str, int]:
        widths: dict[str, Any] = {
            "no state": {},
            "state width": {"h": 0},
            "state name": {"h 0": hidden_size},
        }
        found: dict[str, int] = widths.get(self.mistake, {"h": hidden_size})
        return found

    def parameters(self, input_size: int, hidden_size: int, bias: bool) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, Any] = {"weight_ih": (hidden_size, input_size), "weight_hh": (hidden_size, hidden_size)}
        if self.mistake == "parameter shape":
            shapes["weight_ih"] = 4
        if self.mistake == "parameter name":
            shapes["h_0"] = (hidden_size,)
        return shapes

    def output_size(self, hidden_size: int) -> int:
        return 0 if self.mistake == "output size" else hidden_size

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> tuple[Value, dict[str, Value]]:
        h = tanh(linear(x, p.weight_ih) + linear(state.h, p.weight_hh))
        match self.mistake:
            case "unknown state":
                return h, {"h": h, "c": h}
            case "missing state":
                return h, {}
            case "shape of state":
                return h, {"h": concat(h, h)}
            case "shape of output":
                return h.split(2)[0], {"h": h}
            case "shapes do not match":
                return linear(x, p.weight_hh), {"h": h}
            case "split":
                return h.split(7)[0], {"h": h}
            case "branch on a value":
                return h if h else x, {"h": h}
            case "unknown parameter":
                return linear(h, p.weight_ho), {"h": h}
            case "returns one thing":
                return h  # type: ignore[return-value]
            case "returns a number":
                return 1.0, {"h": h}  # type: ignore[return-value]
            case "operand":
                return h + "1", {"h": h}  # type: ignore[operator]
        return h, {"h": h}


@pytest.mark.parametrize(
    ("mistake", "words"),
    (
        ("no state", ("Broken", "state")),
        ("state width", ("Broken", "state h", "0")),
        ("state name", ("Broken", "h 0")),
        ("parameter shape", ("Broken", "weight_ih", "4")),
        ("parameter name", ("Broken", "h_0")),
        ("output size", ("Broken", "output_size", "0")),
    ),
)
def test_a_cell_that_declares_something_unusable(mistake: str, words: tuple[str, ...]) -> None:
    with refuses(rnnc.RnncError, *words):
        rnnc.Recurrent(Broken(mistake), 4, 6)


@pytest.mark.parametrize(
    ("mistake", "words"),
    (
        ("unknown state", ("'c'", "'h'")),
        ("missing state", ("[]", "'h'")),
        ("shape of state", ("state 'h'", "12", "6")),
        ("shape of output", ("output", "3", "6")),
        ("shapes do not match", ("4", "6")),
        ("split", ("split(7)", "6")),
        ("branch on a value", ("truth value", "select")),
        ("unknown parameter", ("weight_ho",)),
        ("returns one thing", ("output",)),
        ("returns a number", ("output",)),
        ("operand", ("add", "str")),
    ),
)
def test_equations_that_do_not_fit_their_declarations(mistake: str, words: tuple[str, ...], backend: str) -> None:
    """The size of x and of h differ (4 and 6), so that shapes that merely happen to fit do not hide a mistake."""
    with refuses(rnnc.RnncError, *words):
        rnnc.compile(rnnc.Recurrent(Broken(mistake), 4, 6), backend=backend)


def test_a_cell_without_a_mistake_compiles(backend: str) -> None:
    spec = rnnc.Recurrent(Broken(), 4, 6)
    assert rnnc.compile(spec, spec.init(seed=0), backend=backend)(zeros(2, 1, 4))[0].shape == (2, 1, 6)


def test_a_cell_without_equations(backend: str) -> None:
    class Empty(rnnc.Cell):
        name = "empty"

    with pytest.raises((rnnc.RnncError, NotImplementedError), match="Empty"):
        rnnc.compile(rnnc.Recurrent(Empty(), 4, 5), backend=backend)
