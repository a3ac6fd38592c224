"""Arguments that do not fit a signature, and what only claims to be an array: errors of rnnc's that say what to do."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rnnc
from rnnc import losses, optimizers, schedules
from tests.refusals import raises_saying

SPEC = rnnc.LSTM(3, 4)
PARAMS = SPEC.init(seed=0)
NET = rnnc.Sequential(rnnc.GRU(3, 4), rnnc.Linear(4, 2))
X = np.zeros((5, 2, 3), np.float32)
STATE = (np.zeros((1, 2, 4), np.float32),) * 2
MODEL = rnnc.compile(SPEC, PARAMS, backend="reference")
NETWORK = NET.compile(NET.init(), backend="reference")
VJP = rnnc.vjp(SPEC, backend="reference")
BACK = VJP(PARAMS, X)[1]


# ---- signatures


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: rnnc.LSTM(3, 4, bidirectionnal=True), ("LSTM takes no argument 'bidirectionnal'", "'bidirectional'?")),
        (lambda: rnnc.GRU(3, 4, units=4), ("GRU takes no argument 'units'", "did you mean 'hidden_size'?")),
        (lambda: rnnc.RNN(3, 4, activation="relu"), ("RNN", "'activation'", "did you mean 'nonlinearity'?")),
        (lambda: rnnc.GRU(3, 4, foo=1), ("GRU takes no argument 'foo'; it takes input_size, hidden_size",)),
        (lambda: rnnc.LSTM(3), ("LSTM needs hidden_size",)),
        (lambda: rnnc.LSTM(3, 4, input_size=3), ("LSTM: input_size is given twice",)),
        (lambda: rnnc.GRU(*range(20)), ("GRU takes input_size, hidden_size, ", "by place, got 20",)),
        (lambda: rnnc.Recurrent(rnnc.cells.GRUCell(), 3), ("Recurrent needs hidden_size",)),
        (lambda: rnnc.cells.ElmanCell(nonlinearty="relu"), ("ElmanCell", "did you mean 'nonlinearity'?")),
        (lambda: rnnc.Linear(in_features=3, output_size=4), ("Linear", "did you mean 'input_size'?")),
        (lambda: rnnc.Embedding(3, 4, padding_idx=0), ("Embedding", "did you mean 'padding_index'?")),
        (lambda: rnnc.Dropout(), ("Dropout needs p",)),
        (lambda: rnnc.Regularized(SPEC, zone_out=0.1), ("Regularized", "did you mean 'zoneout'?")),
        (lambda: rnnc.Sequential(SPEC, read_out="last"), ("Sequential", "did you mean 'readout'?")),
        (lambda: optimizers.Adam(lr=1e-3), ("Adam takes no argument 'lr'", "did you mean 'learning_rate'?")),
        (lambda: optimizers.AdamW(betas=(0.9, 0.99)), ("AdamW", "did you mean 'beta1'?")),
        (lambda: optimizers.SGD(weight_decy=0.1), ("SGD", "did you mean 'weight_decay'?")),
        (lambda: schedules.StepDecay(3, gamma=0.1), ("StepDecay", "did you mean 'factor'?")),
        (lambda: losses.CrossEntropy(ignore_idx=3), ("CrossEntropy", "did you mean 'ignore_index'?")),
        (lambda: rnnc.compile(SPEC, device="cuda"), ("compile takes no argument 'device'", "did you mean 'backend'?")),
        (lambda: rnnc.compile(SPEC, PARAMS, "llvm"), ("compile takes spec, params by place", "backend=", "by name")),
        (lambda: rnnc.compile(), ("compile needs spec",)),
        (lambda: rnnc.compile(SPEC, backend="reference").bind(weights=PARAMS), ("Program.bind", "'params'?")),
        (lambda: rnnc.vjp(SPEC, num_threads=2), ("vjp", "did you mean 'threads'?")),
        (lambda: NET.compile(), ("Sequential.compile needs params",)),
        (lambda: MODEL(X, STATE, [5, 5]), ("Model takes x, state by place, got 3", "give lengths= and out= by name")),
        (lambda: MODEL(X, hx=STATE), ("Model takes no argument 'hx'; did you mean 'state'?",)),
        (lambda: MODEL(X, length=[5, 5]), ("Model takes no argument 'length'; did you mean 'lengths'?",)),
        (lambda: rnnc.train.fit(NET, [], learning_rate=1e-3), ("fit", "did you mean 'optimizer'?")),
        (lambda: NETWORK(X, [5, 5]), ("Network takes x by place, got 2 arguments; give lengths= by name",)),
        (lambda: NETWORK.advance(X, hx={}), ("Network.advance", "did you mean 'state'?")),
        (lambda: VJP(PARAMS, X, h_0=STATE), ("VJP", "did you mean 'state'?")),
        (lambda: BACK(d_ouput=X), ("Pullback", "did you mean 'd_output'?")),
    ],
)  # fmt: skip
def test_arguments_that_do_not_fit(call: Callable[[], Any], words: tuple[str, ...]) -> None:
    with raises_saying(rnnc.ArgumentTypeError, *words):
        call()


def test_signatures_can_be_read_and_other_type_errors_pass() -> None:
    assert list(inspect.signature(rnnc.LSTM).parameters)[:3] == ["input_size", "hidden_size", "num_layers"]
    expected = "spec params backend threads matmul weights activations names"
    assert " ".join(inspect.signature(rnnc.compile).parameters) == expected
    assert list(inspect.signature(MODEL).parameters) == ["x", "state", "lengths", "out"]

    class Cell(rnnc.Cell):
        name = "cell"

        def states(self, hidden_size: int) -> dict[str, int]:
            return {"h": hidden_size + None}  # type: ignore[operator]

    with pytest.raises(TypeError, match="unsupported operand") as caught:
        rnnc.Recurrent(Cell(), 3, 4)
    assert not isinstance(caught.value, rnnc.RnncError)


@pytest.mark.parametrize("f", [VJP, lambda p, x: rnnc.jvp(SPEC, backend="reference")((p, x, None), (None,) * 3)])
def test_parameters_and_x_in_each_others_place(f: Callable[..., Any]) -> None:
    with raises_saying(rnnc.ArgumentTypeError, "params, x", "each other's place"):
        f(X, PARAMS)


@pytest.mark.parametrize(
    ("spec", "words"), [(PARAMS, "the spec comes before"), (NET, "its own compile"), (rnnc.LSTM, "its sizes first")]
)
def test_something_else_in_a_specs_place(spec: Any, words: str) -> None:
    with raises_saying(rnnc.ArgumentTypeError, "spec: expected", words):
        rnnc.compile(spec)


@pytest.mark.parametrize("value", ["lvm", "", None, 3, [], {}])
def test_a_backend_that_is_none_is_an_argument_error_everywhere(value: Any) -> None:
    for call in (
        lambda: rnnc.compile(SPEC, backend=value),
        lambda: rnnc.vjp(SPEC, backend=value),
        lambda: NET.compile(NET.init(), backend=value),
    ):
        kind = rnnc.ArgumentError if isinstance(value, str) else rnnc.ArgumentTypeError
        with raises_saying(kind, "backend: expected 'reference', 'llvm'", repr(value)):
            call()


@pytest.mark.parametrize("value", ["float12", "float16", 3, np.zeros(2)])
def test_operands_that_a_backend_has_not(value: Any) -> None:
    with raises_saying(rnnc.ArgumentError, "matmul: expected None", "'llvm'"):
        rnnc.compile(SPEC, matmul=value)


def test_a_missing_parameter_is_suggested_only_if_it_fits() -> None:
    spec = rnnc.GRU(3, 4)
    params: dict[str, Any] = spec.init()
    hh = params.pop("weight_hh_l0")
    with raises_saying(rnnc.ParameterError, "unknown 'weight_hh' (did you mean 'weight_hh_l0'?)"):
        rnnc.compile(spec, params | {"weight_hh": hh}, backend="reference")
    for other in ({"weight_ih_l1": params["weight_ih_l0"]}, {"weight_hh": hh.T}):
        with pytest.raises(rnnc.ParameterError, match="missing 'weight_hh_l0'.*unknown") as caught:
            rnnc.compile(spec, params | other, backend="reference")
        assert "did you mean" not in str(caught.value)


def test_every_public_name_is_listed() -> None:
    assert set(rnnc.__all__) <= set(dir(rnnc))
    assert {"Sequential", "train", "optimizers", "losses", "__version__"} <= set(dir(rnnc))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: schedules.Constant(-1.0), "factor: expected a number >= 0, got -1.0"),
        (lambda: schedules.Constant("1"), "factor: expected a number >= 0, got '1' (str)"),
        (lambda: schedules.StepDecay(0), "epochs: expected a number > 0, got 0"),
        (lambda: schedules.Cosine("3"), "epochs: expected a number > 0, got '3'"),
        (lambda: schedules.Cosine(3, float("nan")), "final: expected a number >= 0, got nan"),
        (lambda: schedules.OneCycle(3, rise=1.5), "rise: expected a number between 0 and 1, got 1.5"),
        (lambda: schedules.LinearWarmup(1, then=schedules.Cosine), "then: expected a schedule such as Cosine(10)"),
        (lambda: schedules.LinearWarmup(1, then=None), "then: expected a schedule"),
        (lambda: schedules.ReduceOnPlateau(patience=1.5), "patience: expected an integer"),
        (lambda: schedules.ReduceOnPlateau(factor=10**400), "factor: expected a number"),
        (lambda: rnnc.LSTM(10**5000, 4), "input_size: expected an integer <= 2147483647, got <int>"),
    ],
)  # fmt: skip
def test_numbers_of_specs_and_schedules(make: Callable[[], Any], words: str) -> None:
    with raises_saying(rnnc.RnncError, words):
        make()


# ---- what claims to be an array


def fail(error: type[BaseException]) -> Any:
    raise error("from the object")


def pretender(**attributes: Any) -> Any:
    """An object with these attributes; a function is a property."""
    made = {name: property(value) if callable(value) else value for name, value in attributes.items()}
    return type("Pretender", (), {"__array__": lambda self, *a, **k: np.zeros(3)} | made)()


def with_array(function: Callable[[], Any]) -> Any:
    return type("Pretender", (), {"__array__": lambda self, *a, **k: function()})()


INTERFACE = {"version": 3, "shape": X.shape, "typestr": "<f4"}
PRETENDERS = [
    *(with_array(lambda error=error: fail(error)) for error in (IndexError, KeyError, ZeroDivisionError, RuntimeError)),
    *(with_array(lambda value=value: value) for value in (None, 3, [1.0], "x")),
    *(pretender(__array_interface__=INTERFACE | {"data": data}) for data in (3, (1,), ("a", False), (0, False), b"1")),
    pretender(__array_interface__=INTERFACE | {"data": bytes(120), "strides": (2**40, 12, 4)}),
    pretender(__array_interface__=INTERFACE | {"data": bytes(120), "offset": -8}),
    pretender(__array_interface__=INTERFACE | {"shape": 3}),
    pretender(__array_interface__=INTERFACE | {"shape": (-1, 2, 3), "data": bytes(120)}),
    pretender(__array_interface__={}),
    pretender(__array_interface__=lambda self: fail(IndexError)),
    pretender(__array__=lambda self: fail(ValueError)),
    pretender(__cuda_array_interface__=lambda self: fail(OSError), __array__=None),
    pretender(__cuda_array_interface__=3, __array__=None),
    pretender(__dlpack__=3, __array__=None),
    pretender(__dlpack__=lambda self: lambda **k: 3, __dlpack_device__=lambda self: lambda: (1, 0), __array__=None),
    pretender(__dlpack__=lambda self: lambda **k: fail(OSError), __array__=None),
    pretender(__dlpack__=lambda self: lambda **k: 3, __dlpack_device__=lambda self: lambda: (), __array__=None),
    pretender(device=lambda self: fail(OSError), __array_interface__=3),
    np.ndarray,
    np.float32,
    type(pretender()),
]


@pytest.mark.parametrize("value", PRETENDERS, ids=range(len(PRETENDERS)))
def test_what_only_claims_to_be_an_array(value: Any) -> None:
    calls: tuple[Callable[[], Any], ...] = (
        lambda: MODEL(value),
        lambda: MODEL(X, (value, value)),
        lambda: MODEL(X, value),
        lambda: MODEL(X, lengths=value),
        lambda: MODEL(X, lengths=[value, 1]),
        lambda: MODEL(X, out=value),
        lambda: NETWORK(value),
        lambda: VJP(PARAMS, value),
        lambda: BACK(value),
        lambda: rnnc.compile(SPEC, PARAMS | {"bias_ih_l0": value}, backend="reference"),
    )
    for call in calls:
        with pytest.raises(rnnc.RnncError):
            call()


def test_a_class_in_an_arrays_place_is_no_array() -> None:
    with raises_saying(rnnc.ArgumentTypeError, "x: expected a NumPy array", "numpy.ndarray", "(type)"):
        MODEL(np.ndarray)  # type: ignore[arg-type]


def test_a_buffer_that_holds_its_array_is_read() -> None:
    value = pretender(__array_interface__=INTERFACE | {"data": X.tobytes()})
    np.testing.assert_array_equal(MODEL(value)[0], MODEL(X)[0])


errors = st.sampled_from([ValueError, IndexError, KeyError, AttributeError, OverflowError, BufferError, RecursionError])
values = st.none() | st.integers() | st.text(max_size=2) | st.just(()) | st.just(X.shape) | st.binary(max_size=9)
interfaces = st.dictionaries(st.sampled_from(["shape", "typestr", "strides", "version", "descr"]), values)
NAMES = ("__array__", "__array_interface__", "__cuda_array_interface__", "__dlpack__", "__dlpack_device__", "device")


@given(
    st.dictionaries(st.sampled_from([*NAMES, "dtype", "requires_grad", "shape"]), values | interfaces | errors),
    st.booleans(),
)
def test_objects_of_any_kind_in_an_arrays_place(attributes: dict[str, Any], called: bool) -> None:
    """Attributes of any value, or that raise when they are asked for or called: an error of rnnc's, whichever."""
    made: dict[str, Any] = {}
    for name, value in attributes.items():
        if isinstance(value, type):
            made[name] = (lambda self, *a, e=value, **k: fail(e)) if called else property(lambda self, e=value: fail(e))
        else:
            made[name] = (lambda self, *a, v=value, **k: v) if called else value
    value = type("Pretender", (), made)()
    for call in (lambda: MODEL(value), lambda: MODEL(X, lengths=value), lambda: MODEL(X, (value, value))):
        with pytest.raises(rnnc.RnncError):
            call()


def test_a_tensor_that_requires_gradients_is_refused_by_name(backend: str) -> None:
    torch = pytest.importorskip("torch")
    model, f = rnnc.compile(SPEC, PARAMS, backend=backend), rnnc.vjp(SPEC, backend=backend)
    x, state = torch.zeros(5, 2, 3), torch.zeros(1, 2, 4)
    model(x, (state, state))
    grad = x.clone().requires_grad_()
    weight = {"weight_ih_l0": torch.nn.Parameter(torch.zeros(16, 3))}
    pullback = f(PARAMS, X)[1]
    calls: dict[str, Callable[[], Any]] = {
        "x: ": lambda: model(grad),
        "state[0]: ": lambda: model(x, (state.clone().requires_grad_(), state)),
        "params['weight_ih_l0']: ": lambda: rnnc.compile(SPEC, PARAMS | weight, backend=backend),
        "d_output: ": lambda: pullback(torch.zeros(5, 2, 4, requires_grad=True)),
    }
    for name, call in calls.items():
        with raises_saying(rnnc.ArgumentTypeError, name, "requires gradients", "detach()", "rnnc.vjp"):
            call()
    with raises_saying(rnnc.ArgumentTypeError, "params['weight_ih_l0']: ", "requires gradients"):
        f(PARAMS | weight, X)
    with raises_saying(rnnc.ArgumentTypeError, "x: ", "bfloat16", "pass value.float()"):
        model(x.bfloat16())
