"""Specs: every argument is checked once, and a spec is a value that prints, hashes and round-trips."""

from __future__ import annotations

import copy
import json
import pickle
import warnings
from dataclasses import FrozenInstanceError, dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rnnc
from rnnc.cells import GRUCell, LSTMCell
from rnnc.ir.equations import Value, linear, tanh

pytestmark = pytest.mark.filterwarnings("ignore:dropout=.* acts between layers")

KINDS = (rnnc.RNN, rnnc.GRU, rnnc.LSTM)


@dataclass(frozen=True)
class Leaky(rnnc.Cell):
    """A cell of this file, with fields of every plain kind."""

    leak: float = 0.5
    widths: tuple[int, ...] = (1, 2)
    label: str | None = None
    name: ClassVar[str] = "leaky"

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> tuple[Value, dict[str, Value]]:
        new = tanh(linear(x, p.weight_ih, p.bias_ih) + linear(state.h, p.weight_hh, p.bias_hh))
        h = self.leak * state.h + (1 - self.leak) * new
        return h, {"h": h}


sizes = st.integers(1, 2**29 - 1)  # four gates still fit
common: dict[str, st.SearchStrategy[Any]] = {
    "input_size": sizes,
    "hidden_size": sizes,
    "num_layers": st.integers(1, 9),
    "bias": st.booleans(),
    "batch_first": st.booleans(),
    "dropout": st.floats(0, 1, exclude_max=True),
    "bidirectional": st.booleans(),
    "dtype": st.sampled_from(["float32", "float64", np.float32, np.dtype("float64")]),
}
leaky = st.builds(
    Leaky,
    leak=st.floats(allow_nan=False, allow_infinity=False),
    widths=st.lists(st.integers()).map(tuple),
    label=st.none() | st.text(),
)
specs = st.one_of(
    st.builds(rnnc.RNN, nonlinearity=st.sampled_from(["tanh", "relu"]), **common),
    st.builds(rnnc.GRU, reset_after=st.booleans(), **common),
    st.builds(rnnc.LSTM, proj_size=st.just(0), **common),
    st.integers(1, 500).flatmap(
        lambda p: st.builds(rnnc.LSTM, proj_size=st.just(p), **common | {"hidden_size": st.integers(p + 1, 900)})
    ),
    st.builds(rnnc.Recurrent, cell=st.sampled_from([GRUCell(), LSTMCell()]) | leaky, **common),
)


@given(specs)
def test_a_spec_round_trips_through_every_form(spec: rnnc.Spec) -> None:
    names = vars(rnnc) | {"Leaky": Leaky, "GRUCell": GRUCell, "LSTMCell": LSTMCell}
    copies = (
        rnnc.Spec.from_dict(spec.to_dict()),
        rnnc.Spec.from_json(spec.to_json()),
        type(spec).from_dict(json.loads(json.dumps(spec.to_dict()))),
        eval(repr(spec), dict(names)),
        pickle.loads(pickle.dumps(spec)),
        copy.deepcopy(spec),
    )
    for other in copies:
        assert other == spec
        assert hash(other) == hash(spec)
        assert type(other) is type(spec)


@given(specs, specs)
def test_specs_are_equal_exactly_when_they_print_alike(a: rnnc.Spec, b: rnnc.Spec) -> None:
    assert (a == b) == (repr(a) == repr(b))


@pytest.mark.parametrize("kind", KINDS)
def test_a_spec_differs_in_each_argument_and_cannot_be_changed(kind: type[rnnc.Spec]) -> None:
    base = kind(3, 4)
    others = {
        "input_size": 5, "hidden_size": 5, "num_layers": 2, "bias": False, "batch_first": True, "dropout": 0.5,
        "bidirectional": True, "dtype": "float64", "nonlinearity": "relu", "reset_after": False, "proj_size": 2,
    }  # fmt: skip
    data = base.to_dict()
    changed = {name: kind.from_dict(data | {name: value}) for name, value in others.items() if name in data}
    assert len({base, *changed.values()}) == len(changed) + 1
    for name in changed:
        with pytest.raises(FrozenInstanceError):
            setattr(base, name, others[name])


def test_arguments_have_pytorchs_order() -> None:
    assert rnnc.RNN(1, 2, 3, "relu", False, True, 0.5, True, "float64").to_dict() == {
        "type": "RNN", "input_size": 1, "hidden_size": 2, "num_layers": 3, "nonlinearity": "relu", "bias": False,
        "batch_first": True, "dropout": 0.5, "bidirectional": True, "dtype": "float64",
    }  # fmt: skip
    expected = {
        "input_size": 1, "hidden_size": 2, "num_layers": 3, "bias": False, "batch_first": True, "dropout": 0.5,
        "bidirectional": True,
    }  # fmt: skip
    gru = rnnc.GRU(1, 2, 3, False, True, 0.5, True, False, "float64")
    lstm = rnnc.LSTM(1, 2, 3, False, True, 0.5, True, 1, "float64")
    assert gru.to_dict() == {"type": "GRU", **expected, "reset_after": False, "dtype": "float64"}
    assert lstm.to_dict() == {"type": "LSTM", **expected, "proj_size": 1, "dtype": "float64"}


def test_numpy_scalars_become_pythons() -> None:
    spec = rnnc.LSTM(np.int64(3), np.uint8(4), bias=np.True_, dropout=np.float32(0.5), dtype=np.float64)  # type: ignore[arg-type]
    assert spec == rnnc.LSTM(3, 4, dropout=0.5, dtype="float64")
    assert [type(v) for v in (spec.input_size, spec.hidden_size, spec.bias, spec.dropout, spec.dtype)] == [
        int, int, bool, float, str,
    ]  # fmt: skip


class FakeTorchDtype:
    def __repr__(self) -> str:
        return "torch.float32"


@pytest.mark.parametrize(
    ("kind", "arguments", "error", "message"),
    [
        (rnnc.LSTM, {"input_size": 0}, rnnc.ArgumentError, "input_size: expected an integer >= 1, got 0"),
        (rnnc.LSTM, {"hidden_size": -3}, rnnc.ArgumentError, "hidden_size: expected an integer >= 1, got -3"),
        (rnnc.GRU, {"hidden_size": 2**31}, rnnc.ArgumentError, "hidden_size: expected an integer <= 2147483647"),
        (rnnc.GRU, {"num_layers": 0}, rnnc.ArgumentError, "num_layers: expected an integer >= 1, got 0"),
        (rnnc.GRU, {"num_layers": True}, rnnc.ArgumentTypeError, r"num_layers: .*got True \(bool\)"),
        (rnnc.GRU, {"num_layers": np.True_}, rnnc.ArgumentTypeError, r"num_layers: .*bool"),
        (rnnc.GRU, {"hidden_size": 4.0}, rnnc.ArgumentTypeError, r"hidden_size: .*got 4.0 \(float\)"),
        (rnnc.GRU, {"hidden_size": "4"}, rnnc.ArgumentTypeError, r"hidden_size: .*got '4' \(str\)"),
        (rnnc.GRU, {"hidden_size": np.arange(3)}, rnnc.ArgumentTypeError, "hidden_size: expected one integer"),
        (rnnc.GRU, {"bias": 1}, rnnc.ArgumentTypeError, "bias: expected True or False, got 1 .*order of the arguments"),
        (rnnc.GRU, {"batch_first": None}, rnnc.ArgumentTypeError, "batch_first: expected True or False, got None"),
        (rnnc.GRU, {"bidirectional": "yes"}, rnnc.ArgumentTypeError, "bidirectional: expected True or False"),
        (rnnc.GRU, {"reset_after": 0.5}, rnnc.ArgumentTypeError, "reset_after: expected True or False"),
        (rnnc.RNN, {"dropout": 1.0}, rnnc.ArgumentError, r"dropout: expected a number in \[0, 1\), got 1.0"),
        (rnnc.RNN, {"dropout": -0.1}, rnnc.ArgumentError, r"dropout: .*got -0.1"),
        (rnnc.RNN, {"dropout": float("nan")}, rnnc.ArgumentError, r"dropout: .*got nan"),
        (rnnc.RNN, {"dropout": False}, rnnc.ArgumentTypeError, r"dropout: .*got False \(bool\)"),
        (rnnc.RNN, {"nonlinearity": "gelu"}, rnnc.ArgumentError, "nonlinearity: expected 'tanh' or 'relu', got 'gelu'"),
        (rnnc.RNN, {"nonlinearity": True}, rnnc.ArgumentTypeError, "nonlinearity: expected 'tanh' or 'relu', got True"),
        (rnnc.LSTM, {"proj_size": 4}, rnnc.ArgumentError, "proj_size: expected less than hidden_size = 4, got 4"),
        (rnnc.LSTM, {"proj_size": -1}, rnnc.ArgumentError, "proj_size: expected an integer >= 0, got -1"),
        (rnnc.LSTM, {"dtype": "float16"}, rnnc.DtypeError, "dtype: expected 'float32', 'float64' .*got 'float16'"),
        (rnnc.LSTM, {"dtype": np.dtype(">f4")}, rnnc.DtypeError, "dtype: "),
        (rnnc.LSTM, {"dtype": np.int32}, rnnc.DtypeError, "dtype: .*int32"),
        (rnnc.LSTM, {"dtype": None}, rnnc.DtypeError, "dtype: .*None"),
        (rnnc.LSTM, {"dtype": FakeTorchDtype()}, rnnc.DtypeError, "write 'float32'"),
    ],
)
def test_a_bad_argument_is_named(
    kind: type[rnnc.Spec], arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        kind(**{"input_size": 3, "hidden_size": 4} | arguments)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ({}, rnnc.ArgumentTypeError, "type: expected 'RNN' or 'GRU' or 'LSTM' or 'Recurrent', got None"),
        ({"type": "Lstm"}, rnnc.ArgumentError, "type: .*got 'Lstm'"),
        ({"type": "LSTM", "input_size": 3}, rnnc.ArgumentError, "LSTM needs hidden_size"),
        ({"type": "LSTM", "hiden_size": 3}, rnnc.ArgumentError, "'hiden_size' is not an .*'hidden_size'"),
        ({"type": "GRU", "proj_size": 3}, rnnc.ArgumentError, "'proj_size' is not an argument of GRU"),
        ([1, 2], rnnc.ArgumentTypeError, "data: expected a dict"),
        ({"type": "Recurrent", "cell": {"type": "no_such_module:X"}}, rnnc.ArgumentError, "needs input_size"),
        ({"type": "Recurrent", "cell": {"type": "no_such_module:X"}, "input_size": 1, "hidden_size": 1},
         rnnc.ArgumentError, "there is no module 'no_such_module'"),
        ({"type": "Recurrent", "cell": {"type": "rnnc.cells:NoCell"}, "input_size": 1, "hidden_size": 1},
         rnnc.ArgumentError, "rnnc.cells has no 'NoCell'"),
        ({"type": "Recurrent", "cell": {"type": "rnnc:LSTM"}, "input_size": 1, "hidden_size": 1},
         rnnc.ArgumentError, "subclass of rnnc.Cell"),
        ({"type": "Recurrent", "cell": {"type": "rnnc.cells:GRUCell", "x": 1}, "input_size": 1, "hidden_size": 1},
         rnnc.ArgumentError, "rnnc.cells:GRUCell cannot be made"),
    ],
)  # fmt: skip
def test_bad_plain_data_is_explained(data: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        rnnc.Spec.from_dict(data, trusted=["no_such_module"])


def test_a_subclass_reads_only_its_own_data() -> None:
    assert rnnc.GRU.from_dict({"input_size": 1, "hidden_size": 2}) == rnnc.GRU(1, 2)
    with pytest.raises(rnnc.ArgumentError, match="GRU.from_dict got the data of a LSTM"):
        rnnc.GRU.from_json(rnnc.LSTM(1, 2).to_json())
    with pytest.raises(rnnc.ArgumentError, match="not JSON"):
        rnnc.GRU.from_json("type = GRU")


def test_a_cell_without_a_name_to_import_has_no_plain_form() -> None:
    class Local(rnnc.Cell):
        name: ClassVar[str] = "local"

    spec = rnnc.Recurrent(Local(), 3, 4)
    assert spec == rnnc.Recurrent(Local(), 3, 4)  # a plain class is equal by value too
    with pytest.raises(rnnc.ArgumentError, match="Local cannot be referred to by name"):
        spec.to_dict()


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"states": {}}, "has no state"),
        ({"states": {"h": 0}}, "the width of state h: expected an integer >= 1"),
        ({"states": {"not a name": 3}}, "'not a name' cannot be the name"),
        ({"parameters": {"__dict__": (3,)}}, "it is Python.s own"),
        ({"parameters": {"w": [3, 4]}}, "the shape of w must be a tuple"),
        ({"parameters": {"w": (3, 0)}}, "a size of w: expected an integer >= 1"),
        ({"parameters": {"w": (3, 4, 5)}}, "the shape of w must be a tuple of 1 to 2 sizes"),
    ],
)
def test_a_cell_that_declares_nonsense_is_refused(declared: dict[str, Any], message: str) -> None:
    class Odd(rnnc.Cell):
        name: ClassVar[str] = "odd"

        def parameters(self, input_size: int, hidden_size: int, bias: bool) -> Any:
            return declared.get("parameters", {})

        def states(self, hidden_size: int) -> Any:
            return declared.get("states", {"h": hidden_size})

    with pytest.raises(rnnc.ArgumentError, match=message):
        rnnc.Recurrent(Odd(), 3, 4)


def test_a_cell_must_be_an_instance() -> None:
    with pytest.raises(rnnc.ArgumentTypeError, match="call the class to make one"):
        rnnc.Recurrent(Leaky, 3, 4)  # type: ignore[arg-type]
    with pytest.raises(rnnc.ArgumentTypeError, match="cell: expected an instance of a subclass of rnnc.Cell"):
        rnnc.Recurrent("gru", 3, 4)  # type: ignore[arg-type]


# ---- parameters


def test_parameters_are_pytorchs() -> None:
    """Names, shapes and order of the state_dict of torch.nn.LSTM(3, 4, 2, bidirectional=True, proj_size=2)."""
    expected = {}
    for layer, width in ((0, 3), (1, 4)):
        for suffix in (f"_l{layer}", f"_l{layer}_reverse"):
            expected |= {"weight_ih" + suffix: (16, width), "weight_hh" + suffix: (16, 2)}
            expected |= {"bias_ih" + suffix: (16,), "bias_hh" + suffix: (16,), "weight_hr" + suffix: (2, 4)}
    spec = rnnc.LSTM(3, 4, 2, bidirectional=True, proj_size=2)
    assert list(spec.parameter_shapes().items()) == list(expected.items())
    without = rnnc.LSTM(3, 4, 2, bidirectional=True, proj_size=2, bias=False).parameter_shapes()
    assert list(without) == [name for name in expected if "bias" not in name]


TORCH_KINDS = [("RNN", {}), ("GRU", {}), ("LSTM", {}), ("LSTM", {"proj_size": 3})]


@pytest.mark.parametrize(("kind", "extra"), TORCH_KINDS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_parameters_match_the_module_of_pytorch(
    kind: str, extra: dict[str, int], bias: bool, bidirectional: bool
) -> None:
    torch = pytest.importorskip("torch")
    options = {"num_layers": 2, "bias": bias, "bidirectional": bidirectional, **extra}
    module = getattr(torch.nn, kind)(6, 5, **options)
    theirs = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    ours = getattr(rnnc, kind)(6, 5, **options).parameter_shapes()
    assert list(ours.items()) == list(theirs.items())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_init_is_uniform_and_repeatable(dtype: str) -> None:
    spec = rnnc.LSTM(40, 25, 2, bidirectional=True, dtype=dtype)
    first, again, other = spec.init(3), spec.init(seed=np.random.default_rng(3)), spec.init(4)
    assert {name: a.shape for name, a in first.items()} == spec.parameter_shapes()
    values = np.concatenate([a.ravel() for a in first.values()])
    assert values.dtype == dtype
    bound = 1 / np.sqrt(25)
    assert np.abs(values).max() <= np.nextafter(np.asarray(bound, dtype), 1, dtype=dtype)
    counts, _ = np.histogram(values, bins=10, range=(-bound, bound))  # flat to 5 standard deviations
    assert np.abs(counts - values.size / 10).max() < 5 * np.sqrt(values.size / 10)
    for name, array in first.items():
        np.testing.assert_array_equal(array, again[name])
        assert not np.array_equal(array, other[name])
    with pytest.raises(rnnc.ArgumentTypeError, match="seed: expected an integer >= 0"):
        spec.init("3")  # type: ignore[arg-type]


def test_the_stack_of_a_spec() -> None:
    stack = rnnc.GRU(3, 4, 2, bias=False, bidirectional=True, dtype="float64").stack()
    assert (stack.input_size, stack.dtype) == (3, "float64")
    layers = [layer for directions in stack.layers for layer in directions]
    assert [(layer.suffix, layer.reverse) for layer in layers] == [
        ("_l0", False), ("_l0_reverse", True), ("_l1", False), ("_l1_reverse", True),
    ]  # fmt: skip
    assert [layer.parameters["weight_ih"] for layer in layers] == [(12, 3), (12, 3), (12, 8), (12, 8)]
    assert {layer.optional for layer in layers} == {("bias_ih", "bias_hh")}
    assert {tuple(layer.states.items()) for layer in layers} == {(("h", 4),)}


@pytest.mark.parametrize("make", KINDS)
def test_dropout_of_one_layer_is_told_to_do_nothing(make: Any) -> None:
    """At the caller's line, as PyTorch does; not with two layers."""
    with pytest.warns(rnnc.RnncWarning, match="dropout=0.9 acts between layers") as caught:
        rnnc.Spec.from_dict(make(3, 4, dropout=0.9).to_dict())
    assert [warning.filename for warning in caught] == [__file__] * 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(3, 4, 2, dropout=0.9)
        make(3, 4)
