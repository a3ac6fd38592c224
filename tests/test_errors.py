"""Every argument of every public name, wrong in each way: the class of the exception, and a message that names the
argument, what came and what was expected.

Here specs, compile and bind; calls in test_call_errors.py, a user's equations in test_cell_errors.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import FrozenInstanceError, replace
from typing import Any

import numpy as np
import pytest

import rnnc
from tests.refusals import raises_saying
from tests.user_cells import MinimalGatedUnit

SPECS: Mapping[str, Callable[..., Any]] = {
    "RNN": rnnc.RNN,
    "GRU": rnnc.GRU,
    "LSTM": rnnc.LSTM,
    "Recurrent": lambda *args, **options: rnnc.Recurrent(MinimalGatedUnit(), *args, **options),
}
each_spec = pytest.mark.parametrize("make", SPECS.values(), ids=SPECS)


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
    with raises_saying(error, name, "expected", "integer", came):
        make(**{"input_size": 4, "hidden_size": 5, name: value})


@each_spec
@pytest.mark.parametrize("name", ("bias", "batch_first", "bidirectional"))
@pytest.mark.parametrize("value", (2, 1, 0.0, "yes", None, [True]))
def test_flags(make: Callable[..., Any], name: str, value: Any) -> None:
    with raises_saying(rnnc.ArgumentTypeError, name, "True or False", repr(value)):
        make(4, 5, **{name: value})


@each_spec
@pytest.mark.parametrize("value", (1.0, -0.1, 7, float("nan"), float("inf")))
def test_dropout_out_of_range(make: Callable[..., Any], value: float) -> None:
    with raises_saying(rnnc.ArgumentError, "dropout", "[0, 1)", str(value)):
        make(4, 5, dropout=value)


@each_spec
@pytest.mark.parametrize("value", ("0.5", None, True, [0.5], 1j))
def test_dropout_of_another_type(make: Callable[..., Any], value: Any) -> None:
    with raises_saying(rnnc.ArgumentTypeError, "dropout", "number", repr(value)):
        make(4, 5, dropout=value)


@each_spec
@pytest.mark.parametrize("value", ("float16", "double", "f4", np.int32, np.dtype("float16"), ">f4", None, float, 32))
def test_dtypes(make: Callable[..., Any], value: Any) -> None:
    with raises_saying(rnnc.DtypeError, "dtype", "'float32'", "'float64'", "got"):
        make(4, 5, dtype=value)


@pytest.mark.parametrize(
    ("value", "error"), (("sigmoid", rnnc.ArgumentError), (None, rnnc.ArgumentTypeError), (np.tanh, TypeError))
)
def test_nonlinearity(value: Any, error: type[Exception]) -> None:
    with raises_saying(error, "nonlinearity", "'tanh'", "'relu'", repr(value)):
        rnnc.RNN(4, 5, nonlinearity=value)


@pytest.mark.parametrize("value", (5, 6, 100, -1))
def test_a_projection_is_narrower_than_the_state(value: int) -> None:
    with raises_saying(rnnc.ArgumentError, "proj_size", "expected", str(value)):
        rnnc.LSTM(4, 5, proj_size=value)


@pytest.mark.parametrize("value", (2.0, "2", None, True))
def test_a_projection_is_an_integer(value: Any) -> None:
    with raises_saying(rnnc.ArgumentTypeError, "proj_size", "integer", repr(value)):
        rnnc.LSTM(4, 5, proj_size=value)


@pytest.mark.parametrize("value", (1, "after", None))
def test_reset_after(value: Any) -> None:
    with raises_saying(rnnc.ArgumentTypeError, "reset_after", "True or False", repr(value)):
        rnnc.GRU(4, 5, reset_after=value)


@pytest.mark.parametrize("value", (MinimalGatedUnit, "lstm", None, 4, object()))
def test_cell_is_an_instance_of_a_cell(value: Any) -> None:
    with raises_saying(rnnc.ArgumentTypeError, "cell", "rnnc.Cell"):
        rnnc.Recurrent(value, 4, 5)


def test_pytorchs_positional_order_is_kept_and_a_slip_in_it_is_noticed() -> None:
    assert rnnc.LSTM(4, 5, 2, False, True, 0.5, True) == rnnc.LSTM(
        4, 5, num_layers=2, bias=False, batch_first=True, dropout=0.5, bidirectional=True
    )
    with raises_saying(rnnc.ArgumentError, "nonlinearity", "'elu'"):
        rnnc.RNN(4, 5, 2, "elu")  # type: ignore[arg-type]


@each_spec
def test_a_spec_cannot_be_changed(make: Callable[..., Any]) -> None:
    spec = make(4, 5)
    with pytest.raises(FrozenInstanceError):
        spec.hidden_size = 6
    with raises_saying(rnnc.ArgumentError, "hidden_size", "0"):
        replace(spec, hidden_size=0)


@each_spec
@pytest.mark.parametrize(
    ("value", "error"),
    ((-1, rnnc.ArgumentError), (1.5, rnnc.ArgumentTypeError), ("x", rnnc.ArgumentTypeError), (None, TypeError)),
)
def test_seeds(make: Callable[..., Any], value: Any, error: type[Exception]) -> None:
    with raises_saying(error, "seed", "expected", str(value)):
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
    with raises_saying(error, *words):
        rnnc.Spec.from_dict(data)
    with raises_saying(error, *words):
        rnnc.Spec.from_json(json.dumps(data))


def test_json_that_is_none() -> None:
    with raises_saying(rnnc.ArgumentError, "text", "JSON"):
        rnnc.Spec.from_json("{")


def test_the_data_of_another_spec() -> None:
    with raises_saying(rnnc.ArgumentError, "GRU", "LSTM"):
        rnnc.GRU.from_dict(rnnc.LSTM(4, 5).to_dict())


# ------------------------------------------------------------------------------------------ compile and bind


@pytest.mark.parametrize("value", (None, "LSTM", rnnc.LSTM, {}, 3, MinimalGatedUnit()))
def test_what_is_compiled_is_a_spec(value: Any) -> None:
    with raises_saying(rnnc.ArgumentTypeError, "spec", "rnnc.RNN, GRU, LSTM or Recurrent", "got"):
        rnnc.compile(value)


@pytest.mark.parametrize(
    ("value", "error"), (("lvm", rnnc.BackendError), (None, rnnc.ArgumentTypeError), (3, rnnc.ArgumentTypeError))
)
def test_backends(value: Any, error: type[Exception]) -> None:
    with raises_saying(error, "backend", "'llvm'", str(value)):
        rnnc.compile(rnnc.GRU(4, 5), backend=value)


@pytest.mark.parametrize(
    ("value", "error"),
    ((0, rnnc.ArgumentError), (-1, rnnc.ArgumentError), (1.5, rnnc.ArgumentTypeError), ("2", rnnc.ArgumentTypeError)),
)
def test_threads(value: Any, error: type[Exception], backend: str) -> None:
    with raises_saying(error, "threads", "integer", str(value)):
        rnnc.compile(rnnc.GRU(4, 5), backend=backend, threads=value)


def test_the_setting_of_threads_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("0", "-2", "many", "1.5"):
        monkeypatch.setenv("RNNC_NUM_THREADS", value)
        with raises_saying(rnnc.ArgumentError, "RNNC_NUM_THREADS", value):
            rnnc.compile(rnnc.GRU(4, 5), backend="llvm")


def bind(params: Any, backend: str) -> Any:
    return rnnc.compile(rnnc.GRU(4, 5, num_layers=2), params, backend=backend)


def good_params() -> dict[str, Any]:
    return rnnc.GRU(4, 5, num_layers=2).init(seed=0)


@pytest.mark.parametrize("value", ([1, 2], "weights", 7, np.zeros(3)))
def test_parameters_come_as_a_mapping(value: Any, backend: str) -> None:
    with raises_saying(rnnc.ArgumentTypeError, "params", "mapping", type(value).__name__):
        bind(value, backend)


def test_a_missing_parameter(backend: str) -> None:
    params = good_params()
    del params["bias_hh_l1"]
    with raises_saying(rnnc.ParameterError, "params", "missing", "'bias_hh_l1'", "(15,)"):
        bind(params, backend)
    with raises_saying(rnnc.ParameterError, "params", "missing", "'weight_ih_l0'"):
        bind({}, backend)


def test_an_unknown_parameter(backend: str) -> None:
    with raises_saying(rnnc.ParameterError, "params", "unknown", "'weight_ih_l2'"):
        bind({**good_params(), "weight_ih_l2": np.zeros((15, 5), np.float32)}, backend)
    with raises_saying(rnnc.ParameterError, "params", "unknown", "3"):
        bind({**good_params(), 3: np.zeros(1)}, backend)


def test_a_misspelt_parameter_brings_the_right_name(backend: str) -> None:
    params = good_params()
    params["wieght_ih_l0"] = params.pop("weight_ih_l0")
    with raises_saying(rnnc.ParameterError, "missing", "'weight_ih_l0'", "unknown", "'wieght_ih_l0'", "did you mean"):
        bind(params, backend)


def test_parameters_of_a_whole_model_under_a_prefix(backend: str) -> None:
    params = {"encoder." + name: value for name, value in good_params().items()}
    params["decoder.weight"] = np.zeros(3, np.float32)
    with raises_saying(rnnc.ParameterError, "'encoder.'", "rnnc.take"):
        bind(params, backend)


@pytest.mark.parametrize(
    ("shape", "words"),
    (((15,), ()), ((15, 3), ()), ((12, 4), ()), ((15, 4, 1), ()), ((), ()), ((4, 15), ("transpose",))),
)
def test_a_parameter_of_another_shape(shape: tuple[int, ...], words: tuple[str, ...], backend: str) -> None:
    with raises_saying(rnnc.ShapeError, "params['weight_ih_l0']", "(15, 4)", str(shape), *words):
        bind({**good_params(), "weight_ih_l0": np.zeros(shape, np.float32)}, backend)


@pytest.mark.parametrize("dtype", ("float64", "float16", "int32", ">f4", "complex64", "bool"))
def test_a_parameter_of_another_dtype(dtype: str, backend: str) -> None:
    value = np.zeros((15, 4), dtype)
    with raises_saying(rnnc.DtypeError, "params['weight_ih_l0']", "float32", str(value.dtype), "astype"):
        bind({**good_params(), "weight_ih_l0": value}, backend)


@pytest.mark.parametrize("value", ([[0.0] * 4] * 15, None, 1.0, "zeros"))
def test_a_parameter_that_is_no_array(value: Any, backend: str) -> None:
    with raises_saying(rnnc.ArgumentTypeError, "params['weight_ih_l0']", "NumPy array", type(value).__name__):
        bind({**good_params(), "weight_ih_l0": value}, backend)


def test_a_masked_array_would_lose_its_mask(backend: str) -> None:
    value = np.ma.masked_invalid(np.zeros((15, 4), np.float32))
    with raises_saying(rnnc.ArgumentTypeError, "params['weight_ih_l0']", "masked"):
        bind({**good_params(), "weight_ih_l0": value}, backend)


# ------------------------------------------------------------------------------------------ stages


def test_stages(backend: str) -> None:
    program = rnnc.compile(rnnc.GRU(4, 5), backend=backend)
    with raises_saying(rnnc.ArgumentError, "stage", "lowered", "rolled", "'roled'", "did you mean 'rolled'"):
        program.ir("roled")
    with raises_saying(rnnc.RnncError, "stage", "None"):
        program.ir(None)  # type: ignore[arg-type]
    for steps, error in ((0, rnnc.ArgumentError), (-1, rnnc.ArgumentError), (2.5, rnnc.ArgumentTypeError)):
        with raises_saying(error, "steps", "integer", str(steps)):
            program.ir("lowered", steps=steps)  # type: ignore[arg-type]
