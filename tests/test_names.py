"""Names are free: whatever a user calls states, parameters, constants and slots, the numbers are the same."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rnnc
from rnnc import train
from rnnc.ir import names
from rnnc.ir.autodiff import jvp, vjp
from rnnc.ir.equations import Value, linear, sigmoid, tanh, total
from rnnc.ir.lower import lower
from rnnc.ir.text import parse_graph, print_graph
from rnnc.losses import Loss, MeanSquaredError
from tests.refusals import raises_saying
from tests.training_data import series


@dataclass(frozen=True)
class Called(rnnc.Cell):
    """A gated cell of two states and three parameters with names of one's choice."""

    states_: tuple[str, ...]
    parameters_: tuple[str, ...]
    name: ClassVar[str] = "called"

    def parameters(self, input_size: int, hidden_size: int, bias: bool) -> dict[str, tuple[int, ...]]:
        shapes = ((hidden_size, input_size), (hidden_size, hidden_size), (hidden_size,))
        return dict(zip(self.parameters_, shapes, strict=True))

    def states(self, hidden_size: int) -> dict[str, int]:
        return dict.fromkeys(self.states_, hidden_size)

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> tuple[Value, dict[str, Value]]:
        w, u, b = (getattr(p, name) for name in self.parameters_)
        old = [getattr(state, name) for name in self.states_]
        gate = sigmoid(linear(x, w, b) + linear(old[0], u))
        new = [gate * tanh(old[-1]) + b, *(tanh(gate) - value for value in old[1:])]
        return gate * new[0], dict(zip(self.states_, new, strict=True))


PLAIN = Called(("h", "c"), ("w", "u", "b"))
PIECES = ("d", "t", "h", "c", "h_0", "h_n", "x", "output", "valid", "loss", "scale", "target", "step", "row", "steps")
NAMES = st.builds(
    lambda before, name, after: before + name + after,
    st.sampled_from(("", "d_", "t_", "d_t_", "_", "mask_1_")),
    st.sampled_from((*PIECES, "weight_ih", "self", "what", "_what", "class", "é")),
    st.sampled_from(("", "_0", "_n", "_l0", "_0_l0", "_n_l0_reverse", "_")),
)


def point(cell: Called) -> tuple[rnnc.Recurrent, dict[str, Any], Any, Any]:
    spec = rnnc.Recurrent(cell, 2, 3, dtype="float64")
    random = np.random.default_rng(0)
    params = {name: random.standard_normal(shape) for name, shape in spec.parameter_shapes().items()}
    state = tuple(random.standard_normal((1, 2, 3)) for _ in cell.states_)
    return spec, params, random.standard_normal((3, 2, 2)), state if len(state) > 1 else state[0]


@cache
def derivatives(cell: Called, backend: str) -> list[np.ndarray]:
    """All that vjp, jvp and hvp give, dicts in the order of the declarations."""
    spec, params, x, state = point(cell)
    lengths = np.array([3, 2])
    primal, second = rnnc.vjp(spec, backend=backend)(params, x, state, lengths)
    adjoints, along = (primal[0], primal[1]), (params, x, state)
    third = rnnc.jvp(spec, backend=backend)((params, x, state), along, lengths=lengths)
    fourth = rnnc.hvp(spec, backend=backend)((params, x, state), adjoints, along, adjoints, lengths=lengths)
    return list(flat((primal, second(*adjoints), third, fourth)))


def flat(value: Any) -> list[np.ndarray]:
    if isinstance(value, dict):
        value = list(value.values())
    return [array for part in value for array in flat(part)] if isinstance(value, (list, tuple)) else [value]


def check_same_as_plain(cell: Called, backend: str) -> None:
    plain = Called(PLAIN.states_[: len(cell.states_)], PLAIN.parameters_)
    for found, expected in zip(derivatives(cell, backend), derivatives(plain, backend), strict=True):
        np.testing.assert_array_equal(found, expected)


COLLISIONS = (
    Called(("d",), ("d_weight", "d_0", "x")),
    Called(("h", "d_h"), ("d_h", "h_0", "h_n")),
    Called(("h", "t_h"), ("_what", "self", "valid")),
)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("cell", COLLISIONS, ids=lambda cell: "-".join(cell.states_))
def test_names_that_look_like_derived_ones(cell: Called, backend: str) -> None:
    check_same_as_plain(cell, backend)


@pytest.mark.sampled(2)
@settings(max_examples=8)
@given(st.lists(NAMES, min_size=1, max_size=2, unique=True), st.lists(NAMES, min_size=3, max_size=3, unique=True))
def test_no_name_changes_a_number(states: Sequence[str], parameters: Sequence[str]) -> None:
    cell = Called(tuple(states), tuple(parameters))
    check_same_as_plain(cell, "reference")
    graph = lower(point(cell)[0].stack(), 2, lengths=True)
    inputs = list(dict.fromkeys(n.attr("name") for n in graph.nodes if n.op == "input" and n.dtype != "bool"))
    twice = jvp(vjp(graph, inputs), inputs)
    assert parse_graph(print_graph(twice)) == twice
    assert len(inputs) == 1 + len(states) + 3


@given(st.lists(NAMES, min_size=2, max_size=6, unique=True))
def test_a_derived_name_is_no_users_name_and_stands_for_one_thing(users: list[str]) -> None:
    suffixes = ("_l0", "_l1", "_l0_reverse")
    made = [user + suffix for user in users for suffix in suffixes]
    moments = [moment(user, s) for user in users for s in suffixes for moment in (names.initial, names.final)]
    plain = [*made, *moments, names.X, names.OUTPUT, names.VALID, names.TARGET, names.LOSS]
    derived = [change(name) for name in plain for change in (names.gradient, names.tangent)]
    derived += [names.tangent(names.gradient(name)) for name in plain]
    assert len({*plain, *derived}) == len(plain) + len(derived)
    assert not any(name.isidentifier() for name in (*moments, *derived))


def test_no_file_but_one_makes_or_reads_a_derived_name() -> None:
    """Roles are data: outside of ir/names.py no code puts a mark before a name, or looks for one."""
    from tests.test_house import ROOT, files

    spelt = re.compile(r'"[dt][_:]"|"[dt]_\{|_0\{|_n\{|startswith\("[dt][_:]|\.0\{|\.n\{')
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in files("ir", "rnnc", "backends")
        if path != ROOT / "ir" / "names.py"
        for line in path.read_text(encoding="utf-8").splitlines()
        if spelt.search(line)
    ]
    assert not found, "\n".join(found)


# -- training --------------------------------------------------------------------------------------------


def trained(
    loss: Loss | str, optimizer: Any, cell: Called = PLAIN, readout: str = "every", **options: Any
) -> list[Any]:
    """All parameters after one step of a network with every kind of mask; the numbers of layers are in all names."""
    layer = rnnc.Regularized(rnnc.Recurrent(cell, 4, 3, dtype="float64"), zoneout=0.5, recurrent_dropout=0.5)
    model = rnnc.Sequential(layer, rnnc.Linear(3, 3), readout=readout)
    step = train.TrainingStep(model, loss, optimizer, **options)
    pairs = [(x, y if readout == "every" else y[0]) for x, y in series(lengths=(3, 1))]
    step.step(train.Sequences(model, step.loss, pairs).batch(np.arange(2)))
    return list(step.params.values())


@pytest.mark.parametrize("readout", ("every", "mean"))
def test_a_network_of_such_names_trains_like_a_plain_one(readout: str, backend: str) -> None:
    cell = Called(("scale", "d_loss"), ("target", "loss", "x"))
    adam = rnnc.optimizers.Adam(0.1)
    found = trained("mse", adam, cell, readout, backend=backend)
    for one, other in zip(found, trained("mse", adam, PLAIN, readout, backend=backend), strict=True):
        np.testing.assert_array_equal(one, other)


@dataclass(frozen=True)
class Weighted(MeanSquaredError):
    """Squares, weighted by a constant with a name of one's choice."""

    constant: str = "weights"

    def row(self, output: Value, target: Value) -> Value:
        weights = Value(output.graph, output.graph.input(self.constant, (3,)))
        return total((output - target) * (output - target) * weights)

    def constants(self, size: int, dtype: str) -> dict[str, np.ndarray]:
        return {self.constant: np.arange(size, dtype=dtype)}


@dataclass(frozen=True)
class Momentum(rnnc.optimizers.Optimizer):
    """Gradient descent with a slot of one's choice."""

    slot: str = "m"

    @property
    def slots(self) -> tuple[str, ...]:
        return (self.slot,)

    def update(self, p: Value, g: Value, slots: Any, scalars: Any) -> Any:
        moved = 0.5 * slots[self.slot] + g
        return p - scalars["learning_rate"] * moved, {self.slot: moved}


@pytest.mark.parametrize("name", ("loss", "d_loss", "steps", "sum3"))
def test_constants_and_slots_have_any_name(name: str, backend: str) -> None:
    given = {"readout": "last", "backend": backend}
    found = trained(Weighted(name), Momentum(0.1, name), **given)
    for one, other in zip(found, trained(Weighted(), Momentum(0.1), **given), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", ("x", "target", "valid", "mask_1", "recurrent_mask_0_h_l0", "0.w_l0", "d:loss", ""))
def test_a_constant_that_would_be_another_input_is_refused(name: str) -> None:
    model = rnnc.Sequential(
        rnnc.Regularized(rnnc.Recurrent(PLAIN, 4, 3), recurrent_dropout=0.5), rnnc.Dropout(0.5), rnnc.Linear(3, 3)
    )
    with raises_saying(rnnc.ArgumentError, "Weighted", repr(name), "name"):
        train.TrainingStep(model, Weighted(name), rnnc.optimizers.SGD(0.1), backend="reference")


@pytest.mark.parametrize("slot", ("p", "g", "scale", "learning_rate", "a slot"))
def test_a_slot_that_would_be_another_vector_is_refused(slot: str) -> None:
    with raises_saying(rnnc.ArgumentError, "Momentum", repr(slot), "'scale'"):
        trained("mse", Momentum(0.1, slot), backend="reference")
