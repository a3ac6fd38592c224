"""Attention over all states of an encoder, for the steps of a `rnnc.Decoder`."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

from rnnc.cells import Shape
from rnnc.checking import checks
from rnnc.checking.arguments import explained_class
from rnnc.ir.equations import Value, exp, largest, linear, matvec, total, vecmat, where
from rnnc.ir.errors import ArgumentError
from rnnc.layers.base import Layer, size

__all__ = ["Attention"]

KINDS = ("general", "dot")
LEAST = -1e30
"""Stands for the score of a state that a row does not have; finite, so that a row without states has no NaN."""


@explained_class
@dataclass(frozen=True)
class Attention(Layer):
    """The mean of an encoder's states, weighted by a softmax over the row's own of their scores with what it reads.

    Luong, Pham and Manning 2015, "Effective approaches to attention-based neural machine translation". For a query q
    and a state m, the score is m . W q ("general"), or m . q ("dot"). Zeros for a row without states. `rnnc.Decoder`
    says whose states it reads: memory={"name of this layer": "output of the encoder"}.

    query_size: the width of what it reads. memory_size: the width of the states, and of the result.
    """

    query_size: int
    memory_size: int
    score: str = "general"

    def __post_init__(self) -> None:
        size(self, "query_size")
        size(self, "memory_size")
        self._set("score", checks.choice("score", self.score, KINDS))
        if self.score == "dot" and self.query_size != self.memory_size:
            raise ArgumentError(
                f"score: 'dot' multiplies vectors of one size; query_size is {self.query_size}, memory_size "
                f"{self.memory_size}"
            )

    @property
    def width(self) -> int | None:
        return self.query_size

    @property
    def memory(self) -> int | None:
        return self.memory_size

    def output_width(self, *widths: int) -> int:
        return self.memory_size

    def parameter_shapes(self) -> dict[str, Shape]:
        return {"weight": (self.memory_size, self.query_size)} if self.score == "general" else {}

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> Value:
        query = linear(x, p.weight) if self.score == "general" else x
        scores = where(p.valid, matvec(p.memory, query), LEAST)
        powers = where(p.valid, exp(scores - largest(scores)), 0.0)
        mean: Value = vecmat(powers, p.memory) / where(total(powers) > 0.0, total(powers), 1.0)
        return mean
