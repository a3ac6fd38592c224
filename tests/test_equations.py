"""What can be written in equations: Python's and NumPy's syntax means on values what it means on arrays, or says why
not; the functions of rnnc.ir.equations compile on all backends, with derivatives of both orders."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rnnc
from rnnc.backends.reference.interpreter import run_graph
from rnnc.ir import equations as eq
from rnnc.ir.autodiff import jvp, vjp
from rnnc.ir.equations import Value
from rnnc.ir.errors import ArgumentTypeError, MissingNameError
from rnnc.ir.graph import Graph, Node
from rnnc.ir.lower import Names
from rnnc.ir.ops import OPS, Kind
from rnnc.losses import Loss, add_loss
from tests.refusals import raises_saying

Array = np.ndarray[Any, Any]
N = 6

# ------------------------------------------------------------------------------ the same text on arrays and on values

SPELLINGS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "v ** 2": lambda v, w, m: v**2,
    "v ** 3": lambda v, w, m: v**3,
    "v ** 0": lambda v, w, m: v**0,
    "v ** -1": lambda v, w, m: v**-1,
    "v ** 0.5": lambda v, w, m: v**0.5,
    "v ** 2.5": lambda v, w, m: v**2.5,
    "v ** w": lambda v, w, m: v**w,
    "2 ** v": lambda v, w, m: 2**v,
    "abs(v)": lambda v, w, m: abs(v),
    "-v, +v": lambda v, w, m: -v + (+w),
    "v += w": lambda v, w, m: _increased(v, w),
    "sum([v, w])": lambda v, w, m: sum([v, w]),
    "v > 0": lambda v, w, m: (v > 0) * w,
    "v < w": lambda v, w, m: (v < w) * 1.0,
    "v >= w": lambda v, w, m: (v >= w) * 1.0,
    "0 <= v": lambda v, w, m: (0 <= v) * 1.0,
    "v == w": lambda v, w, m: (v == w) * 1.0,
    "v != w": lambda v, w, m: (v != w) * 1.0,
    "masks": lambda v, w, m: (((v > 0) & (w > 0)) | ~(v < 1)) * 2.0 + ((v > 0) ^ (w > 0)) * 1.0,
    "v @ m": lambda v, w, m: v @ m,
    "v @ m.T.T": lambda v, w, m: v @ m.T.T,
    "m.T @ m": lambda v, w, m: v[:, :4] @ (m.T @ m),
    "v[:, 1:3]": lambda v, w, m: v[:, 1:3],
    "v[..., 2:]": lambda v, w, m: v[..., 2:],
    "v[:, -2:]": lambda v, w, m: v[:, -2:],
    "m[1:5, 0:2]": lambda v, w, m: v[:, 1:5] @ m[1:5, 0:2],
    "m[2:]": lambda v, w, m: v[:, 2:] @ m[2:],
    "float32 left": lambda v, w, m: np.float32(1.5) * v - np.float64(2) / w,
    "integers": lambda v, w, m: np.int64(2) - v + np.array(0.5) * w,
    "scalar compare": lambda v, w, m: (np.float64(0.5) > v) * 1.0,
    "round": lambda v, w, m: np.rint(v) + np.floor(w) + np.ceil(v * 3) + np.trunc(w * 3),
    "np.tanh": lambda v, w, m: np.tanh(v) + np.exp(np.minimum(w, 1)) + np.sqrt(np.abs(v)) + np.log1p(np.square(w)),
    "np.sin": lambda v, w, m: np.sin(v) * np.cos(w) + np.sign(v) + np.expm1(-np.abs(w)),
    "np.maximum": lambda v, w, m: np.maximum(v, 0) + np.minimum(w, v) + np.reciprocal(w) + np.power(np.abs(v), 1.5),
    "np.where": lambda v, w, m: np.where(v > w, v, 0.0),
    "np.clip": lambda v, w, m: np.clip(v, -0.5, 0.5) + w.clip(0, 1),
    "np.concatenate": lambda v, w, m: np.concatenate([v, w[:, 0:2]], axis=-1),
    "np.sum": lambda v, w, m: np.sum(v, axis=-1, keepdims=True) + w.mean(-1, keepdims=True),
    "np.max": lambda v, w, m: np.max(v, axis=1, keepdims=True) - w.min(axis=-1, keepdims=True),
    "np.matmul": lambda v, w, m: np.matmul(v, m) * 1.0,
    "v[:, None, :]": lambda v, w, m: (v[:, :, None] - w[:, None, :]).sum(axis=2, keepdims=False),
    "v[..., None]": lambda v, w, m: (v[..., None] * w[..., None, :]).max(axis=1, keepdims=False),
    "reshape": lambda v, w, m: (v.reshape(-1, 2, 3) + w[:, 0:2, None]).reshape(-1, 6),
    "reshape twice": lambda v, w, m: (v.reshape(-1, 2, 3) * 2).reshape((-1, 3, 2)).min(axis=2, keepdims=False),
    "mean of an axis": lambda v, w, m: v.reshape(-1, 3, 2).mean(axis=1, keepdims=True).reshape(-1, 2),
    "three axes": lambda v, w, m: (
        v.reshape(-1, 3, 1, 2) + w.reshape(-1, 1, 2, 3)[:, :, :, :, None].max(axis=3, keepdims=False)
    ).reshape(-1, 12),
    "matrices of rows": lambda v, w, m: np.matmul(v.reshape(-1, 2, 3), w.reshape(-1, 3, 2)).reshape(-1, 4),
    "matrices of heads": lambda v, w, m: (v.reshape(-1, 2, 1, 3) @ w.reshape(-1, 2, 3, 1)).reshape(-1, 2),
    "first axis cut": lambda v, w, m: v.reshape(-1, 3, 2)[:, 1:].reshape(-1, 4),
    "joined": lambda v, w, m: np.concatenate([v.reshape(-1, 2, 3), w[:, None, 3:]], axis=1).reshape(-1, 9),
    "a mask of axes": lambda v, w, m: np.where(v[:, :, None] > w[:, None, :], 1.0, w[:, None]).sum(
        axis=1, keepdims=False
    ),
    "np.logical_and": lambda v, w, m: np.where(np.logical_and(v > 0, np.less(w, v)), v, w),
}


def _increased(v: Any, w: Any) -> Any:
    total = v * 1
    total = total + w
    total += v
    return total


def symbols(graph: Graph, step: int | None = 0) -> tuple[Value, Value, Value]:
    v, w = (Value(graph, graph.input(name, ("B", N), step)) for name in "vw")
    return v, w, Value(graph, graph.input("m", (N, 4)))


def run(write: Callable[[Any, Any, Any], Value], v: Array, w: Array, m: Array, dtype: str = "float64") -> Array:
    graph = Graph(dtype, 1)
    made = write(*symbols(graph))
    node = made.as_numbers().node
    graph.outputs["y"] = (node,)
    return run_graph(graph, {"v": v[None], "w": w[None], "m": m})["y"][0]


def meant(write: Callable[[Any, Any, Any], Any], *arrays: Array) -> Array:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return np.asarray(write(*arrays))


NUMBERS = st.floats(-9, 9, width=32) | st.sampled_from(
    [0.0, -0.0, 1.0, -1.0, 0.5, -2.0, 3.0, math.inf, -math.inf, math.nan]
)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("text", SPELLINGS)
@settings(max_examples=40)
@given(numbers=st.lists(NUMBERS, min_size=4 * N, max_size=4 * N))
def test_what_numpy_means_is_what_values_mean(text: str, numbers: list[float]) -> None:
    v, w = np.array(numbers).reshape(2, 2, N)
    m = np.random.default_rng(0).standard_normal((N, 4))
    found, expected = run(SPELLINGS[text], v, w, m), meant(SPELLINGS[text], v, w, m)
    assert found.shape == expected.shape
    if "**" in text:  # -infinity to the 0.5: the root of it
        expected = np.where(np.isinf(v) & (text == "v ** 0.5") & (v < 0), np.nan, expected)
    np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-13)


@given(a=st.floats(-50, 50), b=st.floats(-9, 9).filter(lambda b: abs(b) > 0.01))
def test_mod_is_numpys_up_to_the_rounding_of_a(a: float, b: float) -> None:
    v, w = np.full((1, N), a), np.full((1, N), b)
    found = run(lambda v, w, m: v % w, v, w, np.zeros((N, 4)))[0, 0]
    distance = abs(found - np.mod(a, b))
    assert min(distance, abs(distance - abs(b))) <= 1e-14 * max(1.0, abs(a))
    assert found == 0 or np.sign(found) == np.sign(b) or abs(found) <= 1e-14 * abs(a)
    assert abs(run(lambda v, w, m: v // w, v, w, np.zeros((N, 4)))[0, 0] - np.floor_divide(a, b)) in (0, 1)


def test_split_cuts_units_and_rows_of_parameters() -> None:
    graph = Graph("float64", 1)
    v, _, m = symbols(graph)
    assert [part.shape for part in v.split([1, 2, 3])] == [("B", 1), ("B", 2), ("B", 3)]
    assert [part.shape for part in v.split(np.int64(2))] == [("B", 3), ("B", 3)]  # type: ignore[arg-type]
    assert [part.shape for part in m.split(3)] == [(2, 4)] * 3
    assert [part.shape for part in m.split([1, 3], axis=1)] == [(6, 1), (6, 3)]
    assert eq.concat(m, m, axis=0).shape == (12, 4)
    assert eq.concat([m, m]).shape == (6, 8)


class HalfSquared(Loss):
    """The square of the first half of the output, summed."""

    name = "half"

    def row(self, output: Value, target: Value) -> Value:
        half = output.split(2)[0] - output[:, :2] + output[..., :2]
        return half.sum() * half.mean() + 0 * target

    def target_width(self, size: int) -> int:
        return 1


@pytest.mark.parametrize("step", (0, None))
def test_split_in_a_loss_cuts_the_units_also_behind_a_readout(step: int | None) -> None:
    graph = Graph("float64", 1)
    output: Node = graph.input("z", ("B", 4), step)
    graph.outputs["output"] = (output,) if step == 0 else output
    add_loss(graph, HalfSquared())
    z = np.arange(12.0).reshape(3, 4)
    target = np.zeros((3, 1))
    feeds = {"z": z, "target": target} if step is None else {"z": z[None], "target": target[None]}
    found = run_graph(graph, feeds)["loss"]
    np.testing.assert_allclose(found, [(z[:, :2].sum(1) * z[:, :2].mean(1)).sum()])


# ------------------------------------------------------------------------------------------- what is refused, and how

V, W, M = symbols(Graph("float32", 1))


def torch() -> Any:
    """PyTorch; a test that asks for it is skipped where there is none."""
    return pytest.importorskip("torch")


REFUSED: list[tuple[Callable[[], Any], tuple[str, ...]]] = [
    (lambda: bool(V > 0), ("truth value", "where(condition, a, b)")),
    (lambda: 0 < V < 1, ("truth value",)),
    (lambda: max(V, W), ("truth value", "maximum(v, w)")),
    (lambda: V in (W, V), ("truth value",)),
    (lambda: W in V, ("`in`", "v == w")),
    (lambda: len(V), ("length", "v.shape")),
    (lambda: list(V), ("iterated", "v.split(n)")),
    (lambda: V.__setitem__(0, W), ("never changes", "concat")),
    (lambda: V == None, ("None", "is None")),  # noqa: E711
    (lambda: V + None, ("None", "is None")),
    (lambda: V + "1", ("add", "str")),
    (lambda: V * True, ("mul", "bool")),
    (lambda: V * 1j, ("mul", "complex")),
    (lambda: 10**400 * V, ("1329 bits", "float32")),
    (lambda: np.ones(6) * V, ("(6,)", "parameter")),
    (lambda: V * np.ones(6), ("(6,)", "parameter")),
    (lambda: V * torch().ones(1), ("mul", "Tensor")),
    (lambda: torch().ones(1) * V, ("mul", "Tensor")),
    (lambda: torch().tanh(V), ("torch's tanh", "write tanh(v)")),
    (lambda: torch().arctan(V), ("torch's arctan",)),
    (lambda: math.tanh(V), ("math.tanh", "rnnc.ir.equations")),
    (lambda: int(V), ("floor(v)",)),
    (lambda: range(V), ("Python integers",)),  # type: ignore[call-overload]
    (lambda: round(V, 2), ("round(v * 10) / 10",)),
    (lambda: np.arctan(V), ("np.arctan", "tanh")),
    (lambda: np.linalg.norm(V), ("np.norm",)),
    (lambda: np.add.reduce(V), ("np.add.reduce", "v.sum()")),
    (lambda: np.tanh(V, out=np.ones(1)), ("'out'",)),
    (lambda: np.clip(V, 0, 1, dtype="f"), ("clip", "dtype")),
    (lambda: np.concatenate([V, W]), ("axis 0", "axis -1")),
    (lambda: np.asarray(V), ("NumPy array",)),
    (lambda: np.array([V, W]), ("NumPy array",)),
    (lambda: V[0], ("v[0]", "v[:, i:i+1]")),
    (lambda: V[1:3], ("v[1:3]", "v[:, a:b]")),
    (lambda: V[:, ::2], ("v[:, ::2]", "step")),
    (lambda: V[V > 0], ("where(condition",)),
    (lambda: V[None], ("None", "batch")),
    (lambda: V.reshape(2, 3), ("v.reshape(2, 3)", "batch", "-1")),
    (lambda: V.reshape(-1, 4, 2), ("v.reshape(-1, 4, 2)", "product 6")),
    (lambda: V[:, :, None] + V[:, :4, None], ("'B', 6, 1", "'B', 4, 1", "axis -2")),
    (lambda: V.reshape(-1, 2, 3) + V, ("'B', 2, 3", "None")),
    (lambda: V.reshape(-1, 2, 3).sum(axis=0), ("v.sum(axis=0)", "rows are independent")),
    (lambda: V.reshape(-1, 2, 3)[:, :, 1:3], ("only the first", "before v.reshape")),
    (lambda: V.reshape(-1, 2, 3) @ V.reshape(-1, 2, 3), ("('B', 2, 3)", "(B, K, N)")),
    (lambda: eq.linear(V.reshape(-1, 2, 3), M), ("v.reshape(-1, m * n)", "matvec")),
    (lambda: eq.matvec(V, W), ("matvec", "(B, M, N)")),
    (lambda: eq.outer(V, 2.0), ("outer", "float")),  # type: ignore[arg-type]
    (lambda: eq.concat(V.reshape(-1, 2, 3), V.reshape(-1, 2, 3)), ("concat", "axis=1")),
    (lambda: V.reshape(-1, 6, 1) * M.reshape(8, 3), ("'B', 6, 1", "(8, 3)", "axis -2")),
    (lambda: V[:, 3:3], ("3:3", "no element")),
    (lambda: V[:, :, 0:1], ("3 indices",)),
    (lambda: V[:, 0.5:2], ("0.5:2", "float")),  # type: ignore[misc]
    (lambda: V.split(4), ("split(4)", "divisible")),
    (lambda: V.split(0), ("split(0)",)),
    (lambda: V.split(2.0), ("float",)),  # type: ignore[arg-type]
    (lambda: V.split([1, 2]), ("[1, 2]", "6")),
    (lambda: V.split(2, axis=0), ("axis 0", "rows are independent")),
    (lambda: V.T, ("batch axis", "v @ w.T")),
    (lambda: V @ W, ("(B, K) @ (K, N)", "total(v * w)")),
    (lambda: V @ M.T, ("linear(x, w)",)),
    (lambda: V @ np.ones((6, 2)), ("parameter",)),
    (lambda: np.ones((2, 6)) @ V, ("parameter",)),
    (lambda: V & W, ("masks",)),
    (lambda: eq.where(V, V, W), ("mask", "v != 0")),  # type: ignore[arg-type]
    (lambda: V.sum(axis=0), ("axis=0", "rows are independent")),
    (lambda: M.sum(), ("(6, 4)", "axis=-1")),
    (lambda: V.max(keepdims=False), ("keepdims",)),
    (lambda: V.sum(dtype="f"), ("dtype",)),
    (lambda: V.tanh(), ("'tanh'", "write tanh(v)")),
    (lambda: eq.concat(), ("concat", "nothing")),
    (lambda: eq.concat(V, 1.0), ("concat", "float")),  # type: ignore[arg-type]
    (lambda: eq.concat(V, M[:, 0:1].T[0:1]), ("concat",)),
]


@pytest.mark.parametrize(("write", "words"), REFUSED, ids=[" ".join(words)[:40] for _, words in REFUSED])
def test_what_cannot_be_written_says_what_to_write(write: Callable[[], Any], words: Sequence[str]) -> None:
    with raises_saying(rnnc.RnncError, *words):
        write()


def test_a_name_that_is_not_there_is_an_attribute_error_too() -> None:
    names = Names("parameter", {"weight": V})
    assert getattr(names, "bias", None) is None and not hasattr(names, "bias")
    assert not hasattr(V, "foo") and getattr(V, "foo", 1) == 1
    with raises_saying(MissingNameError, "weight_hi", "weight"):
        _ = names.weight_hi


def test_values_are_keys_by_identity() -> None:
    assert len({V, W, V}) == 2 and {V: 1}[V] == 1


# --------------------------------------------------------------------------------------------- the functions, compiled

Part = Callable[[Value, Value, SimpleNamespace], Value]

GROUPS: dict[str, list[Part]] = {
    "functions": [
        lambda z, x, p: eq.sin(3 * z) * eq.cos(z),
        lambda z, x, p: (abs(z) + 0.1) ** p.vector,
        lambda z, x, p: eq.tanh(z) ** 2 + abs(eq.tanh(z)) ** 2.5 + 2 ** eq.tanh(z),
        lambda z, x, p: eq.softplus(z) + eq.elu(z) + eq.log1p(z * z) + eq.expm1(eq.tanh(z)),
        lambda z, x, p: eq.gelu_tanh(z) + eq.silu(z) + eq.leaky_relu(z),
        lambda z, x, p: eq.gelu(3 * z),
        lambda z, x, p: eq.clip(z, -0.5, 0.5) + eq.hard_sigmoid(z) + eq.hard_tanh(z * 0.3),
    ],
    "steps and masks": [
        lambda z, x, p: eq.floor(z * 3) * z + eq.ceil(z) + eq.rint(z) * z + eq.sign(z) * eq.tanh(z),
        lambda z, x, p: z % 0.7 + round(z) * 0.1,
        lambda z, x, p: eq.one_hot(eq.argmax(z), 8) * z + 0.1 * eq.argmax(x) * z,
        lambda z, x, p: eq.where((z >= 0) & (z <= 1), z, 0.5 * eq.tanh(z)) + (z != 0) * z,
        lambda z, x, p: ((z > 0) ^ (x[:, 0:1] > 0)) * eq.tanh(z) + ~(z > 0) * 0.5,
        lambda z, x, p: eq.where(p.vector > 0, eq.tanh(z), z * 0.1),  # a mask of a parameter
    ],
    "units": [
        lambda z, x, p: eq.softmax(z) + eq.log_softmax(z) * 0.1,
        lambda z, x, p: eq.tanh(z - z.max()) + eq.tanh(z - eq.smallest(z)) + z.sum() * 0.1 + z.mean(),
        lambda z, x, p: eq.concat(z[:, 3:], z[:, :3]) + eq.concat(*z.split([1, 2, 5])[::-1]),
    ],
    "matrices": [
        lambda z, x, p: z @ p.square + z @ p.square.T + eq.linear(z, p.square.T) + eq.linear(z, p.square),
        lambda z, x, p: eq.linear(z, p.square.T + p.weight_hh),
        lambda z, x, p: eq.linear(z[:, 2:5], p.square[:, 1:4]) + z[..., 4:] @ p.square[4:],
        lambda z, x, p: eq.linear(z, eq.softmax(p.square)) + eq.linear(z, eq.softmax(p.square.T).T),
        lambda z, x, p: z + eq.concat(p.vector[4:], p.vector[:4]),
    ],
    "grids": [
        lambda z, x, p: eq.concat(eq.matvec(grid(z), z[:, 4:]), eq.vecmat(z[:, 1:3], grid(z)), z[:, :2]),
        lambda z, x, p: (eq.softmax(grid(z)) * eq.outer(z[:, 3:5], p.vector[:4])).reshape(-1, 8),
        lambda z, x, p: (grid(z) * p.vector.reshape(2, 4) + grid(z).max(axis=1)).reshape(-1, 8),
        lambda z, x, p: (z[:, :, None] * eq.tanh(p.square) + p.vector[:, None] * p.vector).mean(axis=2, keepdims=False),
        lambda z, x, p: eq.concat(*[(grid(z) @ z.reshape(-1, 4, 2)).reshape(-1, 4)] * 2),
        lambda z, x, p: eq.where(grid(z) > p.vector[2:6], grid(z), grid(z).mean(axis=1)).reshape(-1, 8) % 0.7,
        lambda z, x, p: eq.concat(grid(z)[:, 1:], grid(z).split(2, axis=1)[0], axis=1).reshape(-1, 8) * 0.5,
        lambda z, x, p: (
            (z.reshape(-1, 2, 2, 2)[..., None] - z[:, None, None, None, 6:])
            .min(axis=3)
            .mean(axis=-1)
            .reshape(-1, 4)
            .sum()
            * z
        ),
    ],
}


def grid(z: Value) -> Value:
    """(B, 8) as (B, 2, 4)."""
    return z.reshape(-1, 2, 4)


@dataclass(frozen=True)
class Written(rnnc.Cell):
    """h = tanh(the sum of some expressions of z = W x + U h + vector)."""

    name: ClassVar[str] = "written"
    group: str

    def parameters(self, input_size: int, hidden_size: int, bias: bool) -> dict[str, tuple[int, ...]]:
        square = (hidden_size, hidden_size)
        shapes = {"weight_ih": (hidden_size, input_size), "weight_hh": square, "square": square}
        return shapes | {"vector": (hidden_size,)}

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> tuple[Value, dict[str, Value]]:
        z = eq.linear(x, p.weight_ih) + eq.linear(state.h, p.weight_hh) + p.vector + 0.1 * eq.linear(state.h, p.square)
        h = eq.tanh(0.3 * sum((part(z, x, p) for part in GROUPS[self.group]), 0 * z))
        return h, {"h": h}


def results(group: str, backend: str) -> dict[str, Array]:
    """Output, gradients, and how the gradients change along a direction, of a ragged batch."""
    spec = rnnc.Recurrent(Written(group), 5, 8, dtype="float64")
    rng, params = np.random.default_rng(0), spec.init(seed=1)
    x, d_output = rng.standard_normal((4, 3, 5)), rng.standard_normal((4, 3, 8))
    along = {name: rng.standard_normal(value.shape) for name, value in params.items()}
    found = {"output": rnnc.compile(spec, params, backend=backend)(x, lengths=[4, 2, 3])[0]}
    directions = ((params, x, None), (d_output, None), (along, rng.standard_normal(x.shape), None))
    (d_params, d_x, _), (t_params, t_x, _) = rnnc.hvp(spec, backend=backend)(*directions, lengths=[4, 2, 3])
    for name in params:
        found |= {f"d_{name}": d_params[name], f"t_{name}": t_params[name]}
    return found | {"d_x": d_x, "t_x": t_x}


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("group", "compiled"),
    [*((group, "llvm") for group in GROUPS), ("functions", "cuda-emulated"), ("steps and masks", "cuda-emulated")],
)
def test_everything_compiles_with_derivatives_of_both_orders(group: str, compiled: str) -> None:
    expected, found = results(group, "reference"), results(group, compiled)
    for name, value in expected.items():
        assert np.isfinite(value).all(), name
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-11 * max(1.0, np.abs(value).max()), err_msg=name)


def test_every_elementwise_op_can_be_written() -> None:
    """An op of the table that no public function and no operator reaches could not be used in a cell."""
    graph = Graph("float64", 1)
    v, w, _ = symbols(graph)
    for name in eq.__all__:
        function = getattr(eq, name)
        for operands in ((v,), (v, w), (v > 0, v, w)):
            try:
                function(*operands)
                break
            except (TypeError, ValueError):
                continue
    _ = v**w, v + w, v - w, v / w, -v, abs(v)
    grid = v.reshape(-1, 2, int(v.shape[-1]) // 2)
    _ = grid.sum(axis=1), grid.max(axis=1)
    reached = {node.op for node in graph.nodes}
    assert {op.name for op in OPS.values() if op.kind in (Kind.ELEMENTWISE, Kind.REDUCE)} <= reached


def test_the_table_names_the_numpy_function_of_an_op() -> None:
    graph = Graph("float64", 1)
    v, w, _ = symbols(graph)
    for op in OPS.values():
        if op.kind is Kind.ELEMENTWISE and isinstance(op.meaning, np.ufunc):
            made = op.meaning(*(v, w)[: op.meaning.nin])
            assert isinstance(made, Value) and made.node.op == op.name
    with pytest.raises(ArgumentTypeError):
        np.hypot(v, w)


# ------------------------------------------------------------------------------------------------ gradients of powers


def derivatives(a: Array, b: Array) -> dict[str, Array]:
    graph = Graph("float64", 1)
    x, y = (graph.input(name, (a.size,)) for name in "ab")
    graph.outputs["y"] = graph.add("power", (x, y))
    first = vjp(graph, ["a", "b"])
    feeds = {"a": a, "b": b, "d:y": np.ones(a.size)}
    second = run_graph(jvp(first, ["a"]), feeds | {"t:a": np.ones(a.size)})
    return run_graph(first, feeds) | second


def test_gradients_of_powers_at_the_edges() -> None:
    """As PyTorch's: 0 for an exponent of 0, and 0 towards the exponent at a base of 0. Second order is no NaN there."""
    a = np.array([0.0, 0.0, 0.0, 2.0, -2.0, -2.0, 0.0])
    b = np.array([0.0, 1.0, 2.0, 0.0, 3.0, 2.0, 3.5])
    found = derivatives(a, b)
    np.testing.assert_array_equal(found["d:a"], [0.0, 1.0, 0.0, 0.0, 12.0, -4.0, 0.0])
    np.testing.assert_allclose(found["d:b"], [0.0, 0.0, 0.0, math.log(2), math.nan, math.nan, 0.0])
    np.testing.assert_allclose(found["t:d:a"], [0.0, 0.0, 2.0, 0.0, -12.0, 2.0, 0.0])
    t = [torch().tensor(v, requires_grad=True) for v in (a, b)]
    torch().pow(*t).sum().backward()
    for name, tensor in zip("ab", t, strict=True):
        np.testing.assert_allclose(found["d:" + name], tensor.grad.numpy())
