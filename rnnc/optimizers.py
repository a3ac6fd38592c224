"""Optimisers: updates of parameters from their gradients, as elementwise equations over vectors of any length.

A backend compiles the equations (`update_graph`). `rnnc.train.TrainingStep` owns the flat arrays that they update. Rows
of an embedding that a batch does not use are not updated, and neither are their slots. This changes nothing for SGD
without momentum. With momentum, for Adam and for AdamW it is the "lazy" form of torch.optim.SparseAdam.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np

from rnnc.checking import checks
from rnnc.checking.arguments import explained_class
from rnnc.ir.equations import Value, sqrt
from rnnc.ir.errors import ArgumentError, ArgumentTypeError, IRError
from rnnc.ir.graph import Graph
from rnnc.ir.locating import located
from rnnc.ir.names import CLIPPING, SLOPE, UPDATED
from rnnc.ir.ops import Kind
from rnnc.ir.shape_rules import BATCH

__all__ = ["SGD", "Adam", "AdamW", "Optimizer"]

Values = Mapping[str, Value]


@explained_class
@dataclass(frozen=True)
class Optimizer:
    """The base of optimisers. A subclass is a frozen dataclass that declares its slots and defines one update.

    learning_rate: >= 0. With 0, slots follow the gradients and parameters do not change.
    """

    learning_rate: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "learning_rate", checks.number("learning_rate", self.learning_rate))

    @property
    def slots(self) -> tuple[str, ...]:
        """The names of the vectors that are kept between updates. They start at zeros."""
        return ()

    def scalars(self, update: int, learning_rate: float) -> dict[str, float]:
        """The numbers that the equations read as `scalars`, by name. update: the number of the update, from 1."""
        return {"learning_rate": learning_rate}

    def update(self, p: Value, g: Value, slots: Values, scalars: Values) -> tuple[Value, Values]:
        """The equations: returns (new p, {slot: new value}).

        p, g and the slots are symbolic vectors of one length: parameters, their clipped gradients, and what the update
        before left. scalars: symbolic numbers, those of the method `scalars`. Only elementwise functions are allowed.
        """
        raise NotImplementedError


@explained_class
@dataclass(frozen=True)
class SGD(Optimizer):
    """Gradient descent, as torch.optim.SGD:  m' = momentum m + g,  p' = p - learning_rate m'.

    nesterov: p' = p - learning_rate (g + momentum m') (Sutskever et al. 2013, "On the importance of initialization and
        momentum in deep learning").
    learning_rate, weight_decay: >= 0. momentum: in [0, 1). weight_decay * p is added to g.
    Raises ArgumentError or ArgumentTypeError.
    """

    learning_rate: float = 0.1
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "momentum", checks.probability("momentum", self.momentum))
        object.__setattr__(self, "nesterov", checks.flag("nesterov", self.nesterov))
        object.__setattr__(self, "weight_decay", checks.number("weight_decay", self.weight_decay))
        if self.nesterov and not self.momentum:
            raise ArgumentError("nesterov: it needs a momentum > 0")

    @property
    def slots(self) -> tuple[str, ...]:
        return ("m",) if self.momentum else ()

    def update(self, p: Value, g: Value, slots: Values, scalars: Values) -> tuple[Value, Values]:
        if self.weight_decay:
            g = g + self.weight_decay * p
        if not self.momentum:
            return p - scalars["learning_rate"] * g, {}
        m = self.momentum * slots["m"] + g
        direction = g + self.momentum * m if self.nesterov else m
        return p - scalars["learning_rate"] * direction, {"m": m}


@explained_class
@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam, as torch.optim.Adam (Kingma & Ba 2015, "Adam: a method for stochastic optimization").

        m' = beta1 m + (1 - beta1) g,  v' = beta2 v + (1 - beta2) g^2
        p' = p - learning_rate (m' / (1 - beta1^t)) / (sqrt(v' / (1 - beta2^t)) + epsilon)

    learning_rate, epsilon, weight_decay: >= 0. beta1, beta2: in [0, 1). weight_decay * p is added to g.
    Raises ArgumentError or ArgumentTypeError.
    """

    learning_rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0

    decoupled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("beta1", "beta2"):
            object.__setattr__(self, name, checks.probability(name, getattr(self, name)))
        for name in ("epsilon", "weight_decay"):
            object.__setattr__(self, name, checks.number(name, getattr(self, name)))

    @property
    def slots(self) -> tuple[str, ...]:
        return ("m", "v")

    def scalars(self, update: int, learning_rate: float) -> dict[str, float]:
        corrections = {"m_scale": 1 / (1 - self.beta1**update), "v_scale": 1 / (1 - self.beta2**update)}
        return {"learning_rate": learning_rate} | corrections

    def update(self, p: Value, g: Value, slots: Values, scalars: Values) -> tuple[Value, Values]:
        rate = scalars["learning_rate"]
        if self.weight_decay and self.decoupled:
            p = p - rate * (self.weight_decay * p)
        elif self.weight_decay:
            g = g + self.weight_decay * p
        m = self.beta1 * slots["m"] + (1 - self.beta1) * g
        v = self.beta2 * slots["v"] + (1 - self.beta2) * (g * g)
        p = p - (rate * scalars["m_scale"]) * m / (sqrt(v * scalars["v_scale"]) + self.epsilon)
        return p, {"m": m, "v": v}


@explained_class
@dataclass(frozen=True)
class AdamW(Adam):
    """`Adam` with decoupled weight decay, as torch.optim.AdamW: first p' = p - learning_rate * weight_decay * p.

    Loshchilov & Hutter 2019, "Decoupled weight decay regularization". The arguments are those of `Adam`.
    """

    weight_decay: float = 1e-2

    decoupled: ClassVar[bool] = True


def update_graph(optimizer: Optimizer, dtype: str) -> Graph:
    """The graph of one update. It has no time, and the length of the vectors is its batch size.

    Inputs: "p", "g" and the slots, (B,); the scalars of `Optimizer.scalars`, and "scale", the factor that clips the
    gradients, (1,). Outputs: "p" and the slots. Raises ArgumentError, ArgumentTypeError or IRError for an update that
    does not fit its declarations.
    """
    numbers = optimizer.scalars(1, optimizer.learning_rate)
    _check_names(optimizer, (*optimizer.slots, *numbers))
    graph = Graph(dtype, 1)
    p, g = (Value(graph, graph.input(name, (BATCH,))) for name in (UPDATED, SLOPE))
    slots = {name: Value(graph, graph.input(name, (BATCH,))) for name in optimizer.slots}
    names = (CLIPPING, *numbers)
    scalars = {name: Value(graph, graph.input(name, (1,))) for name in names}
    with located(optimizer.update):
        made = _made(optimizer, optimizer.update(p, g * scalars[CLIPPING], slots, scalars))
        _check_elementwise(graph)
    graph.outputs = {name: value.node for name, value in made.items()}
    return graph


def _check_names(optimizer: Optimizer, names: Sequence[str]) -> None:
    """Raises ArgumentError unless names of slots and scalars are identifiers, all different and none of ours."""
    for position, name in enumerate(names):
        if (
            not isinstance(name, str)
            or not name.isidentifier()
            or name in (UPDATED, SLOPE, CLIPPING, *names[:position])
        ):
            raise ArgumentError(
                f"optimizer {type(optimizer).__name__}: a slot or scalar cannot be called {name!r}; expected an "
                "identifier that no other one has, and not 'p', 'g' or 'scale'"
            )


def _made(optimizer: Optimizer, returned: object) -> dict[str, Value]:
    """The values that an update returned, by name: "p" and the slots, (B,). Raises an error if they do not fit."""
    who = f"optimizer {type(optimizer).__name__}: update"
    if not isinstance(returned, tuple) or len(returned) != 2 or not isinstance(returned[1], Mapping):
        raise ArgumentTypeError(f"{who} must return (p, {{slot: value}}), it returned {checks.came(returned)}")
    values = {UPDATED: returned[0], **returned[1]}
    if set(values) != {UPDATED, *optimizer.slots}:
        raise ArgumentError(f"{who} returned the slots {list(returned[1])}, it declared {list(optimizer.slots)}")
    for name, value in values.items():
        if not isinstance(value, Value) or value.shape != (BATCH,):
            came = f"shape {value.shape}" if isinstance(value, Value) else checks.came(value)
            raise ArgumentTypeError(f"{who}: {name}: expected a symbolic value as long as the parameters, got {came}")
    return {name: value.as_numbers() for name, value in values.items()}


def _check_elementwise(graph: Graph) -> None:
    """Raises IRError for an op that is not elementwise, because an update computes each element alone."""
    for node in graph.nodes:
        if node.spec.kind not in (Kind.LEAF, Kind.ELEMENTWISE):
            raise IRError(f"{node}: the update of an optimiser is elementwise, {node.op} is not")


def check_optimizer(value: object, dtype: str = "float64") -> Optimizer:
    """The optimiser. Raises ArgumentTypeError for another object, and ArgumentError if a number is too large."""
    if not isinstance(value, Optimizer):
        hint = "; call it to make one" if isinstance(value, type) else ""
        expected = "expected such as rnnc.optimizers.Adam(1e-3)"
        raise ArgumentTypeError(f"optimizer: {expected}, got {checks.came(value)}{hint}")
    for field in fields(value):
        if isinstance(number := getattr(value, field.name), float):
            check_rate(field.name, number, dtype)
    return value


def check_rate(name: str, value: object, dtype: str) -> float:
    """The value as a float, from 0 to the square root of the dtype's largest number, so that no update overflows."""
    rate, most = checks.number(name, value), largest(dtype)
    if rate > most:
        raise ArgumentError(f"{name}: expected at most {most:.3g}, the root of what {dtype} can hold, got {rate:.3g}")
    return rate


def largest(dtype: str, rate: float = 1.0) -> float:
    """The largest norm of gradients from which an update at this rate is made.

    Its square, which Adam keeps, and its product with the rate are below the dtype's largest number, so that neither
    slots nor parameters overflow.
    """
    return math.sqrt(float(np.finfo(dtype).max)) / max(rate, 1.0)
