"""Second order: rnnc.hvp, and graphs differentiated twice, against PyTorch and against differences of gradients.

In every ragged batch x, its tangent, the adjoint of the output and its tangent hold NaN past the end of each row.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rnnc.backends.reference.interpreter import evaluate_bind, run_graph, run_program
from rnnc.ir.autodiff import jvp, vjp
from rnnc.ir.computation import Computation
from rnnc.ir.graph import Graph
from rnnc.ir.lower import lower
from tests.cases import Case
from tests.derivative_oracles import (
    SMALL,
    TORCH_CELLS,
    Point,
    TorchCall,
    UserCase,
    arguments,
    as_result,
    assert_points_agree,
    assert_same_points,
    compiled,
    difference,
    direction,
    feeds,
    flat_gradients,
    gradients_of,
    inner,
    moved,
    numpy_point,
    primal,
    pull,
    read,
    returned,
    second,
    seeds,
    size_of_terms,
    torch_point,
)
from tests.matrix import allowed
from tests.networks import USERS
from tests.pairwise import covering

SECOND_ORDER = {"float32": 1e-5, "float64": 1e-12}
SIZES: dict[str, Any] = {"steps": (1, 2, 4), "batch": (1, 3, None), "input_size": (3,), "hidden_size": (5,)}


def torch_cases() -> list[Case]:
    choices = covering({**SMALL, **SIZES, "cell": TORCH_CELLS}, 2, allowed)
    return [Case(**choice, seed=seed) for seed, choice in enumerate(choices)]


def other_cases() -> list[Case]:
    """A GRU PyTorch does not have, and the cells of users: each cell with all values of the other options."""
    options = {**SMALL, **SIZES, "dtype": ("float64",)}
    own = [UserCase(**choice) for choice in covering({**options, "cell": tuple(USERS), "num_layers": (1,)}, 1, allowed)]
    own += [
        UserCase("simple_recurrent_unit", 2, dtype="float64", steps=3),
        UserCase("independent_rnn", 2, True, steps=2),
    ]
    return [Case("gru_before", 2, True, dtype="float64", hidden_size=4, lengths="mixed"), *own]


TORCH = torch_cases()
OTHERS = other_cases()


# ------------------------------------------------------------------------------------------ hvp


@pytest.mark.sampled(3)
@pytest.mark.parametrize("case", TORCH[::3], ids=str)
def test_hvp_is_pytorchs_double_backward(case: Case, backend: str) -> None:
    """With changing adjoints: H v + J' t, where v is the direction and t the adjoints' tangent."""
    pytest.importorskip("torch", reason="PyTorch is the oracle here")
    adjoints, changing, along = seeds(case, 1), seeds(case, 3), direction(case, 2)
    gradients, changes = second(case, backend, adjoints, along, changing)
    call = TorchCall(case)
    first = call.gradients(torch_point(adjoints), create_graph=True)
    product = gradients_of(sum((first[n] * t).sum() for n, t in torch_point(along).items()), call.arguments)
    turned = call.gradients(torch_point(changing))
    tolerance = SECOND_ORDER[case.dtype]
    assert_points_agree(gradients, numpy_point(first), tolerance, case.dtype)
    assert_points_agree(changes, numpy_point({n: product[n] + turned[n] for n in product}), tolerance, case.dtype)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("case", OTHERS[::2], ids=str)
def test_hvp_is_the_difference_of_gradients(case: Case, backend: str) -> None:
    """Of the reference backend's, whatever computes the hvp: other backends' gradients are held elsewhere."""
    case = replace(case, dtype="float64")
    adjoints, changing, along = seeds(case, 1), seeds(case, 3), direction(case, 2)
    gradients, changes = second(case, backend, adjoints, along, changing)
    assert_points_agree(gradients, pull(case, "reference", adjoints), SECOND_ORDER["float64"])

    def gradients_at(point: Point) -> Point:
        return pull(case, "reference", {n: point["d:" + n] for n in adjoints}, {n: point[n] for n in along})

    at = primal(case) | {"d:" + n: value for n, value in adjoints.items()}
    toward = along | {"d:" + n: value for n, value in changing.items()}
    assert_points_agree(changes, difference(gradients_at, at, toward), 1e-8)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("case", TORCH[1::9] + OTHERS[::4], ids=str)
def test_the_hessian_is_symmetric(case: Case, backend: str) -> None:
    adjoints, u, v = seeds(case, 1), direction(case, 2), direction(case, 4)
    (_, along_u), (_, along_v) = (second(case, backend, adjoints, d) for d in (u, v))
    one, other = inner(along_u, v), inner(along_v, u)
    assert abs(one - other) <= SECOND_ORDER[case.dtype] * size_of_terms(along_u, v)


@pytest.mark.parametrize("lengths", ("none", "mixed"))
def test_what_is_left_out_is_zeros(lengths: str, backend: str) -> None:
    case = Case("lstm", bidirectional=True, dtype="float64", steps=3, hidden_size=3, lengths=lengths, seed=5)
    f, counts = compiled("hvp", case.spec(), backend), case.row_lengths
    at, (d_output, d_state) = arguments(case), as_result(case, seeds(case, 1))
    (_, _, t_state), zeros = arguments(case, direction(case, 2)), arguments(case, moved(primal(case), primal(case), -1))
    short = f(at, (d_output, None), (None, None, t_state), lengths=counts)
    nothing = tuple(np.zeros_like(d) for d in d_state)
    long = f(at, (d_output, nothing), (*zeros[:2], t_state), (np.zeros_like(d_output), nothing), lengths=counts)
    for one, other in zip(short, long, strict=True):
        assert_same_points(flat_gradients(case, one), flat_gradients(case, other))
    none = f(at, (None, None), (None, None, None), lengths=counts)
    assert not any(value.any() for part in none for value in flat_gradients(case, part).values())


def test_the_derivative_along_nothing_but_the_adjoints_is_another_gradient(backend: str) -> None:
    case = Case("gru", bidirectional=True, dtype="float64", hidden_size=4, lengths="mixed", seed=6)
    still = moved(primal(case), primal(case), -1)
    changing = seeds(case, 3)
    _, changes = second(case, backend, seeds(case, 1), still, changing)
    assert_points_agree(changes, pull(case, backend, changing), 1e-14)


def test_an_empty_batch(backend: str) -> None:
    case = Case("lstm", dtype="float64", batch=0, hidden_size=3, seed=7)
    for part in second(case, backend, seeds(case, 1), direction(case, 2)):
        assert {name: value.shape for name, value in part.items()} == {n: v.shape for n, v in primal(case).items()}
        assert not any(value.any() for value in part.values())


# ------------------------------------------------------------------------------------------ reverse over reverse


def twice(case: Case, steps: int, lengths: bool) -> Graph:
    """The graph of <gradients, v> differentiated with respect to arguments and adjoints; v is called v_d_..."""
    first = gradient_graph(case, steps, lengths)
    seeded = {name: "v_" + name for name in first.outputs}
    adjoints = tuple(returned(case, seeds(case, 1), "d:"))
    return only("dd_", vjp(first, (*read(case, primal(case)), *adjoints), seeded, prefix="dd_"))


def gradient_graph(case: Case, steps: int, lengths: bool) -> Graph:
    return only("d:", vjp(lower(case.spec().stack(), steps, lengths=lengths), tuple(read(case, primal(case)))))


def only(prefix: str, graph: Graph) -> Graph:
    graph.outputs = {name: output for name, output in graph.outputs.items() if name.startswith(prefix)}
    return graph


def assert_agree(found: Point, expected: Point) -> None:
    """An output that depends on nothing is left out."""
    assert set(found) <= set(expected)
    assert not any(value.any() for name, value in expected.items() if name not in found)
    assert_points_agree(found, {name: expected[name] for name in found}, 1e-12)


REVERSE = [
    Case("rnn_tanh", 2, True, dtype="float64", steps=4, hidden_size=3, lengths="mixed"),
    Case("gru", 1, True, dtype="float64", steps=4, hidden_size=3),
    Case("gru", 2, dtype="float64", steps=3, hidden_size=3, lengths="mixed"),
    Case("lstm", 2, dtype="float64", steps=4, hidden_size=3, lengths="mixed"),
    Case("lstm_projected", 1, True, bias=False, dtype="float64", steps=1, hidden_size=4),
]


@pytest.mark.parametrize("case", REVERSE, ids=str)
def test_a_graph_differentiated_twice_is_pytorchs_double_backward(case: Case) -> None:
    """Unrolled over the steps of the case, and rolled from three."""
    pytest.importorskip("torch", reason="PyTorch is the oracle here")
    adjoints, along = seeds(case, 1), direction(case, 2)
    call, varied = TorchCall(case), torch_point(adjoints, varies=True)
    first = call.gradients(varied, create_graph=True)
    product = sum((first[n] * t).sum() for n, t in torch_point(along).items())
    expected = read(case, numpy_point(gradients_of(product, call.arguments)), "dd_")
    expected |= returned(case, numpy_point(gradients_of(product, varied)), "dd_d:")
    ragged = case.row_lengths is not None
    given = feeds(case, read(case, primal(case)), returned(case, adjoints, "d:"), read(case, along, "v_d:"))
    assert_agree(run_graph(twice(case, case.steps, ragged), given), expected)
    program = Computation(lambda steps, lengths: twice(case, steps, lengths)).program(lengths=ragged)
    assert_agree(run_program(program, evaluate_bind(program, given), given, case.steps), expected)


@pytest.mark.parametrize("cell", USERS)
def test_reverse_over_reverse_is_forward_over_reverse(cell: str) -> None:
    """And the derivative with respect to the adjoints is forward mode alone."""
    case = UserCase(cell, dtype="float64", steps=3, input_size=2, hidden_size=4, lengths="mixed", seed=8)
    at, adjoints, along = read(case, primal(case)), returned(case, seeds(case, 1), "d:"), direction(case, 2)
    found = run_graph(twice(case, 3, True), feeds(case, at, adjoints, read(case, along, "v_d:")))
    given = feeds(case, at, adjoints, read(case, along, "t:"))
    over_reverse = run_graph(jvp(gradient_graph(case, 3, True), tuple(at)), given)
    forward_mode = run_graph(jvp(lower(case.spec().stack(), 3, lengths=True), tuple(at)), given)
    expected = {"dd_" + n.removeprefix("t:d:"): value for n, value in over_reverse.items() if n.startswith("t:d:")}
    expected |= {"dd_d:" + n.removeprefix("t:"): value for n, value in forward_mode.items() if n.startswith("t:")}
    assert set(found) == set(expected)
    assert_points_agree(found, expected, 1e-12)
