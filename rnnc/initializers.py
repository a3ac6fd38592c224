"""Initializers: functions that make the initial value of a parameter.

    init(shape, generator) -> float64 array of this shape

A cell gives a parameter its initializer: `rnnc.Parameter((hidden_size,), init=rnnc.initializers.Constant(1.0))`. Any
function of (shape, generator) is an initializer. Those below are also values, so that a cell with one as a field has a
form as plain data. Weights are (rows out, columns in). Xavier's and orthogonal ones use the sizes of the whole matrix,
as torch.nn.init does, not those of one gate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnnc.backends.fresh import enough_memory
from rnnc.checking import checks
from rnnc.ir.errors import ArgumentError, ArgumentTypeError

__all__ = [
    "Constant",
    "Initializer",
    "Normal",
    "Ones",
    "Orthogonal",
    "Uniform",
    "XavierNormal",
    "XavierUniform",
    "Zeros",
]

Array = NDArray[Any]
Shape = tuple[int, ...]
Init = Callable[[Shape, "np.random.Generator"], Array]


@dataclass(frozen=True)
class Initializer:
    """The base of the initializers below, which are frozen dataclasses of finite numbers.

    Raises ArgumentError for a field that is not a finite number.
    """

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise ArgumentError(f"{field.name}: expected a finite number, got {checks.came(value)}")
            object.__setattr__(self, field.name, float(value))

    def __call__(self, shape: Shape, rng: np.random.Generator) -> Array:
        """The initial value of a parameter of this shape, in float64."""
        raise NotImplementedError


@dataclass(frozen=True)
class Constant(Initializer):
    """All elements are `value`."""

    value: float

    def __call__(self, shape: Shape, rng: np.random.Generator) -> Array:
        return np.full(shape, self.value)


@dataclass(frozen=True)
class Zeros(Initializer):
    """All elements are 0."""

    def __call__(self, shape: Shape, rng: np.random.Generator) -> Array:
        return np.zeros(shape)


@dataclass(frozen=True)
class Ones(Initializer):
    """All elements are 1."""

    def __call__(self, shape: Shape, rng: np.random.Generator) -> Array:
        return np.ones(shape)


@dataclass(frozen=True)
class Uniform(Initializer):
    """Uniform in [low, high)."""

    low: float
    high: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low > self.high:
            raise ArgumentError(f"low: expected at most high = {self.high}, got {self.low}")

    def __call__(self, shape: Shape, rng: np.random.Generator) -> Array:
        return rng.uniform(self.low, self.high, shape)


@dataclass(frozen=True)
class Normal(Initializer):
    """Normal, with this mean and standard deviation >= 0."""

    mean: float = 0.0
    deviation: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.deviation < 0:
            raise ArgumentError(f"deviation: expected a number >= 0, got {self.deviation}")

    def __call__(self, shape: Shape, rng: np.random.Generator) -> Array:
        return rng.normal(self.mean, self.deviation, shape)


@dataclass(frozen=True)
class Orthogonal(Initializer):
    """A random matrix with orthonormal rows, or columns if there are fewer of them, times `gain`.

    Saxe et al. 2014, "Exact solutions to the nonlinear dynamics of learning in deep linear neural networks".
    """

    gain: float = 1.0

    def __call__(self, shape: Shape, rng: np.random.Generator) -> Array:
        rows, columns = _matrix("Orthogonal", shape)
        q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
        q = q * np.where(np.diagonal(r) < 0, -1.0, 1.0)  # uniform among such matrices
        return np.ascontiguousarray(self.gain * (q if rows >= columns else q.T))


@dataclass(frozen=True)
class XavierUniform(Initializer):
    """Uniform in [-b, b), b = gain sqrt(6 / (rows + columns)).

    Glorot & Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks".
    """

    gain: float = 1.0

    def __call__(self, shape: Shape, rng: np.random.Generator) -> Array:
        bound = self.gain * math.sqrt(6 / sum(_matrix("XavierUniform", shape)))
        return rng.uniform(-abs(bound), abs(bound), shape)


@dataclass(frozen=True)
class XavierNormal(Initializer):
    """Normal, with mean 0 and standard deviation gain sqrt(2 / (rows + columns)); see `XavierUniform`."""

    gain: float = 1.0

    def __call__(self, shape: Shape, rng: np.random.Generator) -> Array:
        return rng.standard_normal(shape) * (self.gain * math.sqrt(2 / sum(_matrix("XavierNormal", shape))))


KINDS: dict[str, type[Initializer]] = {
    kind.__name__: kind for kind in (Constant, Zeros, Ones, Uniform, Normal, Orthogonal, XavierUniform, XavierNormal)
}
NAMED: dict[str, Initializer] = {
    "zeros": Zeros(),
    "ones": Ones(),
    "orthogonal": Orthogonal(),
    "xavier_uniform": XavierUniform(),
    "xavier_normal": XavierNormal(),
}
MATRICES = (Orthogonal, XavierUniform, XavierNormal)
GAINS = {"gain", "gains", "gamma", "scale"}
SHIFTS = {"beta", "shift"}
NORMS = {"norm", "ln", "layernorm", "rmsnorm"}


def check_init(name: str, value: object, shape: Shape) -> Init | None:
    """The initializer for a parameter of this shape, or None for the default.

    value: an initializer, the name of one, a function or None. Raises ArgumentError or ArgumentTypeError.
    """
    if isinstance(value, str):
        value = NAMED[checks.choice(name, value, tuple(NAMED))]
    if isinstance(value, MATRICES):
        _matrix(f"{name}: {type(value).__name__}", shape)
    if value is None or (callable(value) and not isinstance(value, type)):
        return value
    hint = "; call it to make one" if isinstance(value, type) else ""
    raise ArgumentTypeError(
        f"{name}: expected an initializer such as rnnc.initializers.Ones(), a name such as 'ones', or a function of "
        f"(shape, generator), got {checks.came(value)}{hint}"
    )


def default(name: str, shape: Shape, otherwise: Init) -> Init:
    """The initializer of a parameter that declares none.

    A vector starts at 1 if a word of its name is gain, gamma or scale, or if it is the weight of a norm. It starts at 0
    if a word is beta or shift, or if it is the bias of a norm. "_" separates words; norm and ln, for example, name a
    norm. All other parameters start with `otherwise`.
    """
    words = set(name.lower().split("_"))
    if len(shape) != 1:
        return otherwise
    if words & GAINS or (words & NORMS and "weight" in words):
        return Ones()
    if words & SHIFTS or (words & NORMS and "bias" in words):
        return Zeros()
    return otherwise


def started(name: str, init: Init, shape: Shape, rng: np.random.Generator, dtype: str) -> Array:
    """The initial value of a parameter, rounded to the dtype.

    Raises ArgumentError unless the initializer returns finite numbers of the shape.
    """
    with enough_memory(f"the parameter {name} of shape {shape}"):
        values = init(shape, rng)
    try:
        with np.errstate(over="ignore"):
            found = np.asarray(values, dtype=np.float64).astype(dtype)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"init of {name}: no array of numbers: {error}") from error
    if found.shape != shape or not np.isfinite(found).all():
        what = f"shape {found.shape}" if found.shape != shape else "numbers that are not finite"
        raise ArgumentError(f"init of {name}: expected finite numbers of shape {shape}, got {what}")
    return found


def to_dict(init: Initializer) -> dict[str, Any]:
    """The initializer as plain data, such as {"initializer": "Constant", "value": 1.0}."""
    return {"initializer": type(init).__name__} | {f.name: getattr(init, f.name) for f in fields(init)}


def from_dict(data: Mapping[str, Any]) -> Initializer:
    """The initializer that `to_dict` described. Raises ArgumentError or ArgumentTypeError."""
    values = dict(data)
    kind = checks.choice("initializer", values.pop("initializer", None), tuple(KINDS))
    try:
        return KINDS[kind](**values)
    except TypeError as error:
        raise ArgumentError(f"initializer: {kind} cannot be made from {values}: {error}") from error


def _matrix(what: str, shape: Shape) -> tuple[int, int]:
    if len(shape) != 2:
        raise ArgumentError(f"{what} starts matrices, got the shape {shape}")
    return shape[0], shape[1]
