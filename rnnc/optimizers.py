"""Optimisers: how parameters follow their gradients, as equations over vectors of any length.

A backend compiles the equations (`update_graph`); the flat arrays they run over belong to `rnnc.train.TrainingStep`.
Rows of an embedding that a batch does not name are left alone, and so are their slots: SGD without momentum is not
changed by that; with momentum, Adam and AdamW it is the "lazy" form, that of torch.optim.SparseAdam.
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
    """Base of optimisers. A subclass says which slots it keeps and how one update goes.

    learning_rate: >= 0. With 0, slots follow the gradients and parameters stay as they are.
    """

    learning_rate: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "learning_rate", checks.number("learning_rate", self.learning_rate))

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the vectors kept between updates; they start at zeros."""
        return ()

    def scalars(self, update: int, learning_rate: float) -> dict[str, float]:
        """The numbers of update 1, 2, ..., by name."""
        return {"learning_rate": learning_rate}

    def update(self, p: Value, g: Value, slots: Values, scalars: Values) -> tuple[Value, Values]:
        """The equations: the new parameters and slots."""
        raise NotImplementedError


@explained_class
@dataclass(frozen=True)
class SGD(Optimizer):
    """Gradient descent:  m' = momentum m + g,  p' = p - learning_rate m',  as torch.optim.SGD.

    nesterov: p' = p - learning_rate (g + momentum m') (Sutskever et al. 2013, "On the importance of initialization and
        momentum in deep learning").
    weight_decay: weight_decay * p is added to g.
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
    """Kingma & Ba 2015, "Adam: a method for stochastic optimization", as torch.optim.Adam.

        m' = beta1 m + (1 - beta1) g,  v' = beta2 v + (1 - beta2) g^2
        p' = p - learning_rate (m' / (1 - beta1^t)) / (sqrt(v' / (1 - beta2^t)) + epsilon)

    weight_decay: weight_decay * p is added to g.
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
    """`Adam` with decoupled weight decay: p is first shrunk by learning_rate * weight_decay, as torch.optim.AdamW.

    Loshchilov & Hutter 2019, "Decoupled weight decay regularization".
    """

    weight_decay: float = 1e-2

    decoupled: ClassVar[bool] = True


def update_graph(optimizer: Optimizer, dtype: str) -> Graph:
    """One update of a vector, as a graph without time; the vector's length is the batch size.

    Inputs: "p", "g" and the slots, (B,); the scalars of `Optimizer.scalars` and "scale", the factor of a clipped
    gradient, (1,). Outputs: "p" and the slots.
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
    """ArgumentError unless the names of slots and scalars are identifiers, and differ from each other and from ours."""
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
    """What an update returned: "p" and the slots, numbers (B,)."""
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
    """An update runs over many elements side by side, of which none knows of the others."""
    for node in graph.nodes:
        if node.spec.kind not in (Kind.LEAF, Kind.ELEMENTWISE):
            raise IRError(f"{node}: the update of an optimiser is elementwise, {node.op} is not")


def check_optimizer(value: object, dtype: str = "float64") -> Optimizer:
    """An optimiser, not its class, whose numbers the dtype can hold."""
    if not isinstance(value, Optimizer):
        hint = "; call it to make one" if isinstance(value, type) else ""
        expected = "expected such as rnnc.optimizers.Adam(1e-3)"
        raise ArgumentTypeError(f"optimizer: {expected}, got {checks.came(value)}{hint}")
    for field in fields(value):
        if isinstance(number := getattr(value, field.name), float):
            check_rate(field.name, number, dtype)
    return value


def check_rate(name: str, value: object, dtype: str) -> float:
    """A number >= 0 that leaves updates room in the dtype."""
    rate, most = checks.number(name, value), largest(dtype)
    if rate > most:
        raise ArgumentError(f"{name}: expected at most {most:.3g}, the root of what {dtype} can hold, got {rate:.3g}")
    return rate


def largest(dtype: str, rate: float = 1.0) -> float:
    """The largest norm of gradients that an update at this rate may be made from.

    Its square, which Adam keeps, and its product with the rate stay far within what the dtype can hold, so that neither
    parameters nor slots overflow.
    """
    return math.sqrt(float(np.finfo(dtype).max)) / max(rate, 1.0)
