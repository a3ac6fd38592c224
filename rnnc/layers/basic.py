"""Layers of every kind of network: tables, matrices, dropout."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.cells import Shape
from rnnc.checking import checks
from rnnc.checking.arguments import explained_class
from rnnc.ir.equations import Value, linear
from rnnc.ir.errors import ArgumentTypeError
from rnnc.layers.base import Layer, Noise, size
from rnnc.specs import SPECS, Spec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rnnc.ir.stacks import Direction

    Array = NDArray[Any]

__all__ = ["Dropout", "Embedding", "LearnedStart", "Linear", "Regularized"]


@explained_class
@dataclass(frozen=True)
class Embedding(Layer):
    """A table of vectors, one per number: integers (T, B) -> (T, B, size), as torch.nn.Embedding.

    It reads an input of the network. Its gradient is sparse: a training step reads, differentiates and updates the rows
    that its batch names, and no others.

    num_embeddings: rows of the table. size: width of a row.
    padding_index: a row that starts at zeros and is never changed, or None.
    """

    num_embeddings: int
    size: int
    padding_index: int | None = None

    def __post_init__(self) -> None:
        size(self, "num_embeddings")
        size(self, "size")
        if self.padding_index is not None:
            self._set("padding_index", checks.integer("padding_index", self.padding_index, 0, self.num_embeddings - 1))

    def output_width(self, *widths: int) -> int:
        return self.size

    @property
    def output_size(self) -> int:
        """Width of what comes out."""
        return self.size

    def parameter_shapes(self) -> dict[str, Shape]:
        return {"weight": (self.num_embeddings, self.size)}

    def init(self, rng: np.random.Generator) -> dict[str, Array]:
        """Normal with mean 0 and deviation 1."""
        weight = rng.standard_normal((self.num_embeddings, self.size))
        if self.padding_index is not None:
            weight[self.padding_index] = 0
        return {"weight": weight}


@explained_class
@dataclass(frozen=True)
class Dropout(Layer):
    """Each number becomes 0 with probability p, or else is divided by 1 - p; in training only.

    Srivastava et al. 2014, "Dropout: a simple way to prevent neural networks from overfitting".

    p: in [0, 1).
    variational: one mask for all steps of a sequence (Gal & Ghahramani 2016, "A theoretically grounded application of
        dropout in recurrent neural networks") instead of a new one at each step.
    """

    p: float
    variational: bool = False

    def __post_init__(self) -> None:
        self._set("p", checks.probability("p", self.p))
        self._set("variational", checks.flag("variational", self.variational))

    def noise(self, *widths: int) -> dict[str, Noise]:
        return {"mask": Noise(widths[0], self.p, self.variational)}

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> Value:
        return x if p.mask is None else x * p.mask


@explained_class
@dataclass(frozen=True)
class Linear(Layer):
    """y = W x + b at each step, or once behind a readout, as torch.nn.Linear.

    input_size, output_size: widths of x and y. bias: whether there is a b.
    """

    input_size: int
    output_size: int
    bias: bool = True

    def __post_init__(self) -> None:
        size(self, "input_size")
        size(self, "output_size")
        self._set("bias", checks.flag("bias", self.bias))

    def parameter_shapes(self) -> dict[str, Shape]:
        shapes: dict[str, Shape] = {"weight": (self.output_size, self.input_size)}
        return shapes | {"bias": (self.output_size,)} if self.bias else shapes

    def init(self, rng: np.random.Generator) -> dict[str, Array]:
        """Uniform in [-1/sqrt(n), 1/sqrt(n)], n = input_size."""
        bound = 1 / math.sqrt(self.input_size)
        return {name: rng.uniform(-bound, bound, shape) for name, shape in self.parameter_shapes().items()}

    @property
    def width(self) -> int | None:
        return self.input_size

    def output_width(self, *widths: int) -> int:
        return self.output_size

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> Value:
        return linear(x, p.weight, p.bias if self.bias else None)


@explained_class
@dataclass(frozen=True)
class LearnedStart(Layer):
    """A recurrent spec whose states start at parameters, the same for every sequence, instead of zeros.

    Of each direction and state there is one more parameter, "start_h_l0", "start_h_l0_reverse", ..., of the state's
    width; it starts at zeros. In a stream, a state of zeros, or none, is the beginning of a sequence.

    spec: `rnnc.RNN`, `GRU`, `LSTM`, `Recurrent`, or such a one with noise (`Regularized`).
    """

    spec: Spec | Regularized

    def __post_init__(self) -> None:
        if not isinstance(self.spec, (*SPECS.values(), Regularized)):
            expected = "expected rnnc.RNN, GRU, LSTM, Recurrent or Regularized"
            raise ArgumentTypeError(f"spec: {expected}, got {checks.came(self.spec)}")

    @property
    def bare(self) -> Spec:
        """The spec without its noise."""
        return self.spec.spec if isinstance(self.spec, Regularized) else self.spec

    def starts(self, direction: Direction) -> dict[str, str]:
        """State -> the parameter that it starts at, of a direction."""
        return {state: f"start_{state}{direction.suffix}" for state in direction.states}

    def parameter_shapes(self) -> dict[str, Shape]:
        found = self.bare.parameter_shapes()
        for direction in self.bare.stack().flat:
            found |= {base: (direction.states[state],) for state, base in self.starts(direction).items()}
        return found

    def init(self, rng: np.random.Generator) -> dict[str, Array]:
        found = self.bare.init(rng)
        return found | {n: np.zeros(shape) for n, shape in self.parameter_shapes().items() if n not in found}

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {"spec": self.spec.to_dict()}


@explained_class
@dataclass(frozen=True)
class Regularized(Layer):
    """A recurrent spec with noise on its states in training. Works around any cell, the cell itself does not know.

    spec: `rnnc.RNN`, `GRU`, `LSTM` or `Recurrent`.
    recurrent_dropout: in [0, 1): dropout of the states where they enter a matrix product, one mask per sequence (Gal &
        Ghahramani 2016). What passes a state on by other ways, such as a gate, sees it whole.
    zoneout: in [0, 1): each unit of each state keeps its old value with this probability (Krueger et al. 2017,
        "Zoneout: regularizing RNNs by randomly preserving hidden activations"); in inference every unit takes the
        expectation, zoneout * old + (1 - zoneout) * new.
    variational: the spec's own `dropout`, between its layers, draws one mask per sequence instead of one per step.
    """

    spec: Spec
    recurrent_dropout: float = 0.0
    zoneout: float = 0.0
    variational: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.spec, tuple(SPECS.values())):
            raise ArgumentTypeError(f"spec: expected rnnc.RNN, GRU, LSTM or Recurrent, got {checks.came(self.spec)}")
        self._set("recurrent_dropout", checks.probability("recurrent_dropout", self.recurrent_dropout))
        self._set("zoneout", checks.probability("zoneout", self.zoneout))
        self._set("variational", checks.flag("variational", self.variational))

    def parameter_shapes(self) -> dict[str, Shape]:
        return self.spec.parameter_shapes()

    def init(self, rng: np.random.Generator) -> dict[str, Array]:
        return self.spec.init(rng)

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {"spec": self.spec.to_dict()}
