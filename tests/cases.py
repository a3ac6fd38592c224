"""A case of the test matrix: a network, the sizes of a call and its data, and what they should give.

Parameters are made here, in PyTorch's layout, and not by `spec.init`: a spec that lays them out otherwise cannot
bind them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import rnnc
from tests import oracle

Array = NDArray[Any]

CELLS = ("rnn_tanh", "rnn_relu", "gru", "gru_before", "lstm", "lstm_projected")
GATES = {"rnn_tanh": 1, "rnn_relu": 1, "gru": 3, "gru_before": 3, "lstm": 4, "lstm_projected": 4}
STEPS: dict[str, oracle.Step] = {
    "rnn_tanh": oracle.rnn_tanh,
    "rnn_relu": oracle.rnn_relu,
    "gru": oracle.gru,
    "gru_before": oracle.gru_before,
    "lstm": oracle.lstm,
    "lstm_projected": oracle.lstm,
}
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}
ROUNDING = 1e-6
"""Of float32, where the same sums may be taken in another order."""


class Result(NamedTuple):
    """An output and the last states, in the order of the cell."""

    output: Array
    states: tuple[Array, ...]


@dataclass(frozen=True)
class Case:
    """`batch` None is an unbatched call. `lengths`: none, mixed (with 0 and T among them), full, empty (all 0)."""

    cell: str = "lstm"
    num_layers: int = 1
    bidirectional: bool = False
    bias: bool = True
    batch_first: bool = False
    dtype: str = "float32"
    steps: int = 7
    batch: int | None = 3
    input_size: int = 5
    hidden_size: int = 33
    lengths: str = "none"
    initial: bool = True
    seed: int = 0

    def __str__(self) -> str:
        """What differs from the defaults, for a test's name."""
        changed = [(f.name, getattr(self, f.name)) for f in fields(self) if getattr(self, f.name) != f.default]
        return "-".join(f"{name}={value}" for name, value in changed) or "default"

    # ------------------------------------------------------------------------------------------ the network

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def width(self) -> int:
        """Of h, and of one direction's output."""
        return self.hidden_size - self.hidden_size // 3 - 1 if self.cell == "lstm_projected" else self.hidden_size

    @property
    def state_widths(self) -> tuple[tuple[str, int], ...]:
        h = ("h", self.width)
        return (h, ("c", self.hidden_size)) if self.cell.startswith("lstm") else (h,)

    def spec(self) -> Any:
        options: dict[str, Any] = {
            "num_layers": self.num_layers,
            "bias": self.bias,
            "batch_first": self.batch_first,
            "bidirectional": self.bidirectional,
            "dtype": self.dtype,
        }
        make: dict[str, Callable[..., Any]] = {"rnn": rnnc.RNN, "gru": rnnc.GRU, "lstm": rnnc.LSTM}
        family, _, variant = self.cell.partition("_")
        if family == "rnn":
            options["nonlinearity"] = variant
        if variant == "before":
            options["reset_after"] = False
        if variant == "projected":
            options["proj_size"] = self.width
        return make[family](self.input_size, self.hidden_size, **options)

    def network(self) -> oracle.Network:
        return oracle.Network(STEPS[self.cell], self.state_widths, self.width, self.num_layers, self.bidirectional)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Parameter shapes, in PyTorch's order."""
        shapes: dict[str, tuple[int, ...]] = {}
        rows = GATES[self.cell] * self.hidden_size
        for layer in range(self.num_layers):
            width = self.input_size if layer == 0 else self.directions * self.width
            for suffix in (f"_l{layer}", f"_l{layer}_reverse")[: self.directions]:
                shapes["weight_ih" + suffix] = (rows, width)
                shapes["weight_hh" + suffix] = (rows, self.width)
                if self.bias:
                    shapes["bias_ih" + suffix] = (rows,)
                    shapes["bias_hh" + suffix] = (rows,)
                if self.cell == "lstm_projected":
                    shapes["weight_hr" + suffix] = (self.width, self.hidden_size)
        return shapes

    # ------------------------------------------------------------------------------------------ the data

    @cached_property
    def _random(self) -> dict[str, Any]:
        """Everything random, drawn once; x is (T, B, I) here, whatever batch_first says."""
        rng = np.random.default_rng(self.seed)
        rows = 1 if self.batch is None else self.batch
        bound = 1.0 / np.sqrt(self.hidden_size)
        params = {k: rng.uniform(-bound, bound, shape).astype(self.dtype) for k, shape in self.shapes().items()}
        x = rng.standard_normal((self.steps, rows, self.input_size)).astype(self.dtype)
        count = self.num_layers * self.directions
        states = {k: rng.uniform(-1, 1, (count, rows, w)).astype(self.dtype) for k, w in self.state_widths}
        return {"params": params, "x": x, "states": states, "lengths": self._draw_lengths(rng, rows)}

    def _draw_lengths(self, rng: np.random.Generator, rows: int) -> NDArray[np.int64] | None:
        if self.lengths == "none":
            return None
        if self.lengths == "mixed":
            lengths = rng.integers(0, self.steps, rows, endpoint=True)
            lengths[:2] = (0, self.steps) if rows > 1 else (self.steps + 1) // 2
            return rng.permutation(lengths)
        return np.full(rows, {"full": self.steps, "empty": 0}[self.lengths], np.int64)

    @property
    def params(self) -> dict[str, Array]:
        return dict(self._random["params"])

    @property
    def x(self) -> Array:
        x: Array = self._random["x"]
        if self.batch is None:
            return x[:, 0]
        return np.ascontiguousarray(x.swapaxes(0, 1)) if self.batch_first else x

    @property
    def row_lengths(self) -> NDArray[np.int64] | None:
        lengths: NDArray[np.int64] | None = self._random["lengths"]
        return lengths

    @property
    def state(self) -> Any:
        """The initial state as a caller gives it: None, one array, or a tuple."""
        if not self.initial:
            return None
        states = tuple(v[:, 0] if self.batch is None else v for v in self._random["states"].values())
        return states if len(states) > 1 else states[0]

    # ------------------------------------------------------------------------------------------ the results

    def expected(self) -> Result:
        """The oracle's, in the shapes the caller should see."""
        data = self._random
        initial = data["states"] if self.initial else None
        output, states = oracle.run(self.network(), data["params"], data["x"], initial, data["lengths"])
        if self.batch is None:
            return Result(output[:, 0], tuple(v[:, 0] for v in states.values()))
        return Result(output.swapaxes(0, 1) if self.batch_first else output, tuple(states.values()))

    def call(self, model: Callable[..., Any]) -> Result:
        return as_result(model(self.x, self.state, lengths=self.row_lengths))


def as_result(returned: tuple[Array, Any]) -> Result:
    output, state = returned
    return Result(output, state if isinstance(state, tuple) else (state,))


def error(found: Array, expected: Array) -> float:
    """Largest error, relative to the largest magnitude expected.

    A small network's few values may all cancel to nearly 0, where no relative precision is left to ask for: they
    are measured against 0.1.
    """
    if found.shape != expected.shape:
        raise AssertionError(f"shape {found.shape}, expected {expected.shape}")
    if expected.size == 0:
        return 0.0
    worst = float(np.max(np.abs(found.astype(np.float64) - expected)))
    return worst / max(float(np.max(np.abs(expected))), 0.1) if np.isfinite(worst) else np.inf


def worst_error(found: Result, expected: Result) -> float:
    """Over the output and every state."""
    pairs = zip((found.output, *found.states), (expected.output, *expected.states), strict=True)
    return max(error(a, b) for a, b in pairs)


def assert_close(found: Result, expected: Result, dtype: str) -> None:
    for array in (found.output, *found.states):
        assert array.dtype == np.dtype(dtype)
    worst = worst_error(found, expected)
    assert worst <= TOLERANCE[dtype], f"relative error {worst:.3g} exceeds {TOLERANCE[dtype]:g}"


def arrays(result: Result) -> tuple[Array, ...]:
    return (result.output, *result.states)


def assert_same(a: Result, b: Result) -> None:
    """Bit for bit."""
    for left, right in zip(arrays(a), arrays(b), strict=True):
        np.testing.assert_array_equal(left, right)


def compiled(case: Case, backend: str) -> Callable[..., Any]:
    """The case's network with its parameters, ready to be called."""
    model: Callable[..., Any] = rnnc.compile(case.spec(), case.params, backend=backend)
    return model


def other_sizes(base: Case, steps: int, batch: int, lengths: str) -> Case:
    """Another call of the same network: the seed gives the same parameters, whatever the sizes."""
    other = replace(base, steps=steps, batch=batch, lengths=lengths)
    for name, value in base.params.items():
        np.testing.assert_array_equal(other.params[name], value)
    return other
