"""Decoder: an encoder and the network of a step, which reads its own last choice.

decoder = rnnc.Decoder(
    step=rnnc.Graph(
        inputs={"last": rnnc.NUMBERS},
        layers={
            "table": (rnnc.Embedding(74, 256), "last"),
            "gru": (rnnc.GRU(256, 256), "table"),
            "scores": (rnnc.Linear(256, 74), "gru"),
        },
        outputs="scores",
    ),
    encoder=encoder,
    states={"gru.h": "h"},
    start=2,
    end=3,
    steps=20,
)
numbers, lengths, scores = decoder.compile(params)(x)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from rnnc.cells import Shape
from rnnc.checking import checks
from rnnc.checking.arguments import explained
from rnnc.checking.decoders import check_agree, check_memory, check_states, check_step, read_choice, read_names
from rnnc.compiled import CompileOptions
from rnnc.decoding.choices import Choice, Greedy
from rnnc.decoding.feedback import Feedback
from rnnc.graph import Graph
from rnnc.ir import names
from rnnc.ir.errors import ArgumentTypeError
from rnnc.layered import Layered
from rnnc.plain_data import PlainData

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rnnc.decoding.decoding import Decoding

    Array = NDArray[Any]

__all__ = ["Decoder"]

ENCODER, STEP = "encoder", "step"
"""What the names of parameters begin with."""


@dataclass(frozen=True, init=False, repr=False)
class Decoder(PlainData):
    """An autoregressive network: at each step it chooses a number, which it reads at the next.

    step: the network of a step, a `rnnc.Graph` or `rnnc.Sequential` of one direction. Its one input of integers is the
        number chosen last; its one output, (T, B, V), is the scores of the next. It is the network that is trained by
        teacher forcing.
    start: the number that the first step reads. end: the number after which a row has ended, or None.
    steps: the most steps of a row.
    encoder: a network that a call runs first, or None.
    states: {"layer.state" of the step: output of the encoder}: what a recurrent layer's state starts at, one value per
        sequence, with all its layers side by side, (B, L * N). Other states start at zeros.
    memory: {layer of the step: output of the encoder}: the values per step that a layer such as `rnnc.Attention` reads
        all of, at each step.
    choice: `rnnc.Greedy()`, `rnnc.Sample(temperature, top_k)` or `rnnc.Beam(width)`.

    Parameters are named "step.layer.parameter" and "encoder.layer.parameter".
    Raises ArgumentError, ArgumentTypeError or ShapeError.
    """

    step: Graph
    start: int
    end: int | None
    steps: int
    encoder: Graph | None
    states: dict[str, str]
    memory: dict[str, str]
    choice: Choice

    @explained
    def __init__(
        self,
        step: Layered,
        *,
        start: int,
        end: int | None,
        steps: int,
        encoder: Layered | None = None,
        states: Mapping[str, str] | None = None,
        memory: Mapping[str, str] | None = None,
        choice: Choice | None = None,
    ) -> None:
        step = step.graph() if isinstance(step, Layered) else step
        scores = check_step(step)
        if encoder is not None and not isinstance(encoder, Layered):
            raise ArgumentTypeError(f"encoder: expected a Graph, a Sequential or None, got {checks.came(encoder)}")
        self._set("step", step)
        rows = self.rows
        self._set("encoder", None if encoder is None else encoder.graph())
        self._set("start", checks.integer("start", start, 0, rows - 1))
        self._set("end", None if end is None else checks.integer("end", end, 0, scores - 1))
        self._set("steps", checks.integer("steps", steps, 1))
        self._set("choice", read_choice(choice or Greedy(), scores))
        self._set("states", read_names("states", {} if states is None else states))
        self._set("memory", read_names("memory", {} if memory is None else memory))
        check_agree(step, self.encoder, rows, scores)
        check_states(step, self.encoder, self.states)
        check_memory(step, self.encoder, self.memory)

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return f"Decoder({self.step!r}, encoder={self.encoder!r}, choice={self.choice!r}, steps={self.steps})"

    def __hash__(self) -> int:
        return hash(
            (
                self.step,
                self.encoder,
                self.start,
                self.end,
                self.steps,
                self.choice,
                *self.states.items(),
                *self.memory.items(),
            )
        )

    @property
    def dtype(self) -> str:
        """ "float32" or "float64", of all parameters and all arithmetic."""
        return self.step.dtype

    @property
    def rows(self) -> int:
        """How many numbers the step can read: the rows of its table."""
        shapes = self.step.parameter_shapes()
        return min(shapes[self.step.table_of(name)][0] for name in self.step.tables)

    @property
    def parts(self) -> dict[str, Graph]:
        """The networks, by what the names of their parameters begin with."""
        return ({} if self.encoder is None else {ENCODER: self.encoder}) | {STEP: self.step}

    @property
    def feedback(self) -> Feedback:
        """What is fed back into the step."""
        (fed,) = (name for name, width in self.step.inputs.items() if not width)
        return Feedback(self.step, fed, self.choice, self.end)

    def parameter_shapes(self) -> dict[str, Shape]:
        """Name -> shape of every parameter: "encoder.gru.weight_ih_l0", "step.scores.weight", ..."""
        return {
            names.in_layer(part, name): shape
            for part, network in self.parts.items()
            for name, shape in network.parameter_shapes().items()
        }

    def init(self, seed: int | np.random.Generator = 0) -> dict[str, Array]:
        """New parameters. The same seed gives the same."""
        rng = seed
        if not isinstance(rng, np.random.Generator):
            rng = np.random.default_rng(checks.integer("seed", rng, 0, 2**128))
        return {
            names.in_layer(part, name): array
            for part, network in self.parts.items()
            for name, array in network.init(rng).items()
        }

    @explained
    def compile(
        self,
        params: Mapping[str, Any],
        *,
        backend: str = "llvm",
        threads: int | None = None,
        matmul: str | None = None,
        weights: str | None = None,
        activations: str | None = None,
    ) -> Decoding:
        """The decoder with its parameters: a function of the encoder's inputs (`rnnc.Decoding`).

        params: name -> array, as in `rnnc.Program.bind`. backend, threads, matmul, weights, activations: as in
            `rnnc.compile`.
        Raises ParameterError, ShapeError, DtypeError, BackendError, ArgumentError or ArgumentTypeError.
        """
        from rnnc.decoding.decoding import Decoding

        options = CompileOptions.of(backend, threads, matmul, weights, activations)
        return Decoding(self, params, **options.arguments)

    # ---- plain data

    def to_dict(self) -> dict[str, Any]:
        """The decoder as plain data."""
        return {
            "type": "Decoder",
            "step": self.step.to_dict(),
            "encoder": None if self.encoder is None else self.encoder.to_dict(),
            "states": dict(self.states),
            "memory": dict(self.memory),
            "choice": self.choice.to_dict(),
            "start": self.start,
            "end": self.end,
            "steps": self.steps,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, trusted: Collection[str] = ()) -> Self:
        """The decoder of `to_dict`. trusted: see `rnnc.Spec.from_dict`."""
        from rnnc.decoding.plain import decoder_arguments

        return cls(**decoder_arguments(data, trusted))
