"""Derivatives by other means, and the calls they are held against: PyTorch's autograd, and differences.

A `Point` holds arrays by name, in float64 or in the dtype of the case, in the layout of the caller: what a network
reads (each parameter, "x", each state by its name), or what it returns ("output", each state). Of a ragged batch the
padding of a point is 0, so that inner products ignore it; what is passed to rnnc has NaN there, which must reach
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

import rnnc
from tests import oracle
from tests.cases import CELLS, TOLERANCE, Array, Case, error
from tests.matrix import NO_WORK, OPTIONS, allowed
from tests.networks import USERS
from tests.pairwise import covering

if TYPE_CHECKING:
    import torch

BACKENDS = ("reference", "llvm")
"""The backends of tests that choose cases for each; `tests.test_cuda_matrix` has its own choice."""

TORCH_CELLS = tuple(cell for cell in CELLS if cell != "gru_before")
GROUPS = ("params", "x", "state")
Point = dict[str, Array]


# ------------------------------------------------------------------------------------------ the cases


@dataclass(frozen=True)
class UserCase(Case):
    """A case of a cell that a user wrote, by its name in `tests.networks.USERS`."""

    cell: str = "layer_norm_lstm"
    hidden_size: int = 6

    def spec(self) -> Any:
        return rnnc.Recurrent(
            USERS[self.cell],
            self.input_size,
            self.hidden_size,
            self.num_layers,
            bias=self.bias,
            batch_first=self.batch_first,
            bidirectional=self.bidirectional,
            dtype=self.dtype,
        )

    @property
    def state_widths(self) -> tuple[tuple[str, int], ...]:
        return tuple(self.spec().states.items())

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return dict(self.spec().parameter_shapes())


SMALL: Mapping[str, Sequence[Any]] = {
    **OPTIONS,
    "num_layers": (1, 2),
    "steps": (1, 2, 5),
    "batch": (1, 3, None),
    "input_size": (4,),
    "hidden_size": (9,),
}
"""Sizes are the matrix's to vary; here other options are, and a backend may compile each size anew."""


def user_cases() -> list[Case]:
    """All pairs of options for the cells of users."""
    choices = covering({**SMALL, "cell": tuple(USERS)}, 2, allowed)
    for empty in NO_WORK:
        choices += covering({**SMALL, "cell": tuple(USERS)[:2], **empty}, 1, allowed)
    return [UserCase(**choice, seed=seed) for seed, choice in enumerate(choices)]


def small_cases(cells: Sequence[str] = CELLS) -> list[Case]:
    """All pairs of options of the matrix at small sizes."""
    return [Case(**choice, seed=seed) for seed, choice in enumerate(covering({**SMALL, "cell": cells}, 2, allowed))]


# ------------------------------------------------------------------------------------------ points


def primal(case: Case) -> Point:
    """What the call reads; an initial state that is not given is zeros."""
    return case.params | {"x": clear(case, case.x)} | states_of(case, replace(case, initial=True), case.initial)


def states_of(case: Case, given: Case, filled: bool) -> Point:
    states = given.state if isinstance(given.state, tuple) else (given.state,)
    names = [name for name, _ in case.state_widths]
    return {name: state if filled else np.zeros_like(state) for name, state in zip(names, states, strict=True)}


def direction(case: Case, seed: int, *groups: str) -> Point:
    """A direction of the given kinds of arguments (default: all), zero in the others; each kind has length 1."""
    rng = np.random.default_rng((case.seed, seed))
    point = {name: rng.standard_normal(value.shape) for name, value in primal(case).items()}
    point["x"] = clear(case, point["x"])
    for group in GROUPS:
        names = [name for name in point if kind(case, name) == group]
        size = np.sqrt(sum(np.sum(point[name] ** 2) for name in names)) or 1.0
        for name in names:
            point[name] *= (not groups or group in groups) / size
    return cast(case, point)


def seeds(case: Case, seed: int) -> Point:
    """Random adjoints of what the call returns."""
    rng = np.random.default_rng((case.seed, seed))
    point = {name: rng.standard_normal(value.shape) for name, value in forward(case, primal(case)).items()}
    point["output"] = clear(case, point["output"])
    return cast(case, point)


def cast(case: Case, point: Point) -> Point:
    """In the dtype of the case, as it will be passed."""
    return {name: value.astype(case.dtype) for name, value in point.items()}


def kind(case: Case, name: str) -> str:
    """Which of the three arguments an array belongs to."""
    if name == "x":
        return "x"
    return "state" if name in dict(case.state_widths) else "params"


def moved(point: Point, along: Point, step: float) -> Point:
    return {name: value.astype(np.float64) + step * along[name] for name, value in point.items()}


def inner(a: Point, b: Point) -> float:
    assert set(a) == set(b)
    return float(sum(np.sum(a[name].astype(np.float64) * b[name]) for name in a))


def size_of_terms(a: Point, b: Point) -> float:
    """What errors of an inner product are relative to; a few terms may all be nearly 0 (see `tests.cases.error`)."""
    return max(float(sum(np.sum(np.abs(a[name].astype(np.float64) * b[name])) for name in a)), 0.1)


def padding(case: Case) -> Array:
    """Which steps lie past the end of their row: (T, B), (B, T) or (T,) as the caller lays x out."""
    if case.row_lengths is None:
        return np.zeros(case.x.shape[:-1], bool)
    past = np.arange(case.steps)[:, None] >= case.row_lengths
    return np.ascontiguousarray(past.T) if case.batch_first else past


def clear(case: Case, array: Array, value: float = 0.0) -> Array:
    """A copy with a value in the padding."""
    result = array.copy()
    result[padding(case)] = value
    return result


def poison(case: Case, array: Array) -> Array:
    return clear(case, array, np.nan)


def assert_points_agree(found: Point, expected: Point, tolerance: float, dtype: str | None = None) -> None:
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert dtype is None or found[name].dtype == np.dtype(dtype), name
        worst = error(found[name], value)
        assert worst <= tolerance, f"{name}: relative error {worst:.3g} exceeds {tolerance:g}"


def assert_same_points(a: Point, b: Point) -> None:
    """Bit for bit."""
    assert set(a) == set(b)
    for name, value in a.items():
        np.testing.assert_array_equal(value, b[name], err_msg=name, strict=True)


def assert_padding_is_zero(case: Case, *arrays: Array) -> None:
    for array in arrays:
        assert not array[padding(case)].any()


# ------------------------------------------------------------------------------------------ rnnc

TRANSFORMS: Mapping[str, Callable[..., Any]] = {"vjp": rnnc.vjp, "jvp": rnnc.jvp, "hvp": rnnc.hvp}


@cache
def compiled(transform: str, spec: rnnc.Spec, backend: str) -> Any:
    """rnnc.vjp, jvp or hvp of a spec."""
    return TRANSFORMS[transform](spec, backend=backend)


def arguments(case: Case, point: Point | None = None) -> tuple[Any, Any, Any]:
    """(params, x, state) at a point, or as the case gives them, state None included; NaN in the padding of x."""
    given = primal(case) if point is None else cast(case, point)
    params = {name: given[name] for name in case.shapes()}
    state = None if point is None and not case.initial else as_state(case, given)
    return params, poison(case, given["x"]), state


def as_state(case: Case, point: Point) -> Any:
    states = tuple(point[name] for name, _ in case.state_widths)
    return states if len(states) > 1 else states[0]


def as_result(case: Case, point: Point) -> tuple[Array, Any]:
    """(output, state), or adjoints of them, in the dtype of the case, with NaN in the padding of the first."""
    given = cast(case, point)
    return poison(case, given["output"]), as_state(case, given)


def flat_states(case: Case, state: Any) -> Point:
    states = state if isinstance(state, tuple) else (state,)
    return {name: value for (name, _), value in zip(case.state_widths, states, strict=True)}


def flat_result(case: Case, result: tuple[Array, Any]) -> Point:
    return {"output": result[0]} | flat_states(case, result[1])


def flat_gradients(case: Case, gradients: tuple[Point, Array, Any]) -> Point:
    d_params, d_x, d_state = gradients
    assert list(d_params) == list(case.shapes())
    return d_params | {"x": d_x} | flat_states(case, d_state)


def pull(case: Case, backend: str, adjoints: Point, at: Point | None = None) -> Point:
    """The gradients rnnc.vjp gives."""
    params, x, state = arguments(case, at)
    _, pullback = compiled("vjp", case.spec(), backend)(params, x, state, lengths=case.row_lengths)
    found = flat_gradients(case, pullback(*as_result(case, adjoints)))
    assert_padding_is_zero(case, found["x"])
    return found


def push(case: Case, backend: str, along: Point, at: Point | None = None) -> tuple[Point, Point]:
    """What rnnc.jvp gives: the results, and their derivative."""
    f = compiled("jvp", case.spec(), backend)
    result, tangent = f(arguments(case, at), arguments(case, along), lengths=case.row_lengths)
    assert_padding_is_zero(case, result[0], tangent[0])
    return flat_result(case, result), flat_result(case, tangent)


def second(
    case: Case,
    backend: str,
    adjoints: Point,
    along: Point,
    adjoints_along: Point | None = None,
    at: Point | None = None,
) -> tuple[Point, Point]:
    """What rnnc.hvp gives: the gradients, and their derivative."""
    f = compiled("hvp", case.spec(), backend)
    changing = () if adjoints_along is None else (as_result(case, adjoints_along),)
    given = (as_result(case, adjoints), arguments(case, along), *changing)
    found = f(arguments(case, at), *given, lengths=case.row_lengths)
    gradients, changes = (flat_gradients(case, g) for g in found)
    assert_padding_is_zero(case, gradients["x"], changes["x"])
    return gradients, changes


# ------------------------------------------------------------------------------------------ graphs


def read(case: Case, point: Point, prefix: str = "") -> Point:
    """A point of arguments by the names of a graph's inputs; the case is batched and time comes first."""
    named = {name: point[name] for name in (*case.shapes(), "x")}
    return {prefix + name: value for name, value in (named | _slabs(case, point, "0")).items()}


def returned(case: Case, point: Point, prefix: str = "") -> Point:
    """A point of results by the names of a graph's outputs."""
    named = {"output": point["output"]} | _slabs(case, point, "n")
    return {prefix + name: value for name, value in named.items()}


def feeds(case: Case, *parts: Point) -> Point:
    """What a graph is run with: NaN in all padding, and the mask a ragged graph reads."""
    found = {name: poison(case, value) if value.ndim == 3 else value for part in parts for name, value in part.items()}
    return found if case.row_lengths is None else found | {"valid": ~padding(case)[..., None]}


def _slabs(case: Case, point: Point, moment: str) -> Point:
    assert case.batch is not None and not case.batch_first
    suffixes = [layer.suffix for layer in case.spec().stack().flat]
    return {f"{n}.{moment}{s}": point[n][i] for n, _ in case.state_widths for i, s in enumerate(suffixes)}


# ------------------------------------------------------------------------------------------ differences


def forward(case: Case, point: Point) -> Point:
    """Results in float64: of the oracle, which knows nothing of rnnc; of a user's cell, the reference backend's."""
    states = {name: point[name] for name, _ in case.state_widths}
    if isinstance(case, UserCase):
        double = replace(case, dtype="float64")
        params, x, state = arguments(double, point)
        model = _program(double.spec()).bind(params)
        return flat_result(case, model(x, state, lengths=case.row_lengths))
    params = {name: point[name] for name in case.shapes()}
    x = point["x"]
    if case.batch is None:
        x, states = x[:, None], {name: value[:, None] for name, value in states.items()}
    elif case.batch_first:
        x = x.swapaxes(0, 1)
    output, states = oracle.run(case.network(), params, x, states, case.row_lengths)
    if case.batch is None:
        return {"output": output[:, 0]} | {name: value[:, 0] for name, value in states.items()}
    return {"output": output.swapaxes(0, 1) if case.batch_first else output} | states


@cache
def _program(spec: rnnc.Spec) -> Any:
    return rnnc.compile(spec, backend="reference")


def difference(f: Callable[[Point], Point], at: Point, along: Point, step: float = 1e-4) -> Point:
    """The derivative along a direction of length about 1: central, of fourth order, good to about 1e-11."""
    near, far = ([f(moved(at, along, sign * n * step)) for sign in (1, -1)] for n in (1, 2))
    return {
        name: (8 * (near[0][name] - near[1][name]) - (far[0][name] - far[1][name])) / (12 * step) for name in near[0]
    }


# ------------------------------------------------------------------------------------------ PyTorch


class TorchCall:
    """The call of a case in PyTorch, in float64: its arguments and its results, for autograd to connect."""

    def __init__(self, case: Case) -> None:
        import torch

        from tests import torch_peer

        torch.set_num_threads(1)  # waiting for other threads takes longer than what there is to compute
        module = torch_peer.module(case, torch.float64)
        point = primal(case)
        leaves = {name: _tensor(point[name]) for name in ("x", *dict(case.state_widths))}
        named = dict(module.named_parameters())
        self.case = case
        self.arguments: dict[str, torch.Tensor] = {name: named[name] for name in case.shapes()} | leaves
        self.results = _results(case, module, leaves)

    def gradients(self, adjoints: Mapping[str, torch.Tensor], create_graph: bool = False) -> dict[str, torch.Tensor]:
        """Those of <adjoints, results>."""
        total = sum((adjoints[name] * value).sum() for name, value in self.results.items())
        return gradients_of(total, self.arguments, create_graph)


def gradients_of(total: Any, wrt: Mapping[str, torch.Tensor], create_graph: bool = False) -> dict[str, torch.Tensor]:
    import torch

    found = torch.autograd.grad(
        total, list(wrt.values()), create_graph=create_graph, retain_graph=True, materialize_grads=True
    )
    return dict(zip(wrt, found, strict=True))


def torch_point(point: Point, *, varies: bool = False) -> dict[str, torch.Tensor]:
    """A point as tensors."""
    return {name: _tensor(value).requires_grad_(varies) for name, value in point.items()}


def numpy_point(point: Mapping[str, torch.Tensor]) -> Point:
    return {name: value.detach().numpy() for name, value in point.items()}


def _tensor(array: Array) -> torch.Tensor:
    import torch

    return torch.from_numpy(np.array(array, np.float64)).requires_grad_()


def _results(case: Case, module: Any, leaves: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """PyTorch packs no row of length 0: such a row's output is zeros, and its state stays."""
    import torch
    from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

    x, states = leaves["x"], {name: leaves[name] for name, _ in case.state_widths}
    if case.row_lengths is None:
        output, last = module(x, as_state(case, states))  # type: ignore[arg-type]
        return flat_result(case, (output, last))  # type: ignore[return-value]
    axis = 0 if case.batch_first else 1
    shape = list(x.shape[:2]) + [case.directions * case.width]
    rows = torch.from_numpy(np.flatnonzero(case.row_lengths))
    if not len(rows):
        return {"output": torch.zeros(shape, dtype=x.dtype, requires_grad=True)} | states
    counts = torch.from_numpy(case.row_lengths)[rows]
    some = as_state(case, {name: value.index_select(1, rows) for name, value in states.items()})  # type: ignore[misc]
    packed = pack_padded_sequence(x.index_select(axis, rows), counts, case.batch_first, enforce_sorted=False)
    output, last = module(packed, some)
    output, _ = pad_packed_sequence(output, case.batch_first, total_length=case.steps)
    after: Any = flat_states(case, last)
    return {"output": torch.zeros(shape, dtype=x.dtype).index_copy(axis, rows, output)} | {
        name: value.index_copy(1, rows, after[name]) for name, value in states.items()
    }


def torch_supports(case: Case) -> bool:
    """PyTorch has only one form of GRU, and no empty batches."""
    return case.cell in TORCH_CELLS and case.batch != 0


FIRST_ORDER = TOLERANCE
"""Relative to the largest gradient of an array."""
