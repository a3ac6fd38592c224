"""What a backend is, to the front: `compile` makes an Executable, `bind` a Runner, `run` computes.

All arrays are of the backend's library (`rnnc.backends.arrays`). One on a GPU queues its work on the library's current
stream and waits for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from rnnc.backends.arrays import Array
from rnnc.backends.noise import Noise
from rnnc.backends.updates import Update
from rnnc.ir.computation import Computation
from rnnc.ir.graph import Graph
from rnnc.ir.lower import Stack


class Runner(Protocol):
    """A compiled stack with its parameters. May be called from many threads at once."""

    def run(
        self,
        x: Array,
        states: tuple[Array, ...] | None,
        lengths: Array | None,
        output: Array,
        finals: tuple[Array, ...],
    ) -> None:
        """Runs all steps. The caller has checked everything; T and B are at least 1.

        x: (T, B, I), aligned, any strides.
        states: (L*D, B, W), C-contiguous, for each state name of the cell; None = zeros.
        lengths: (B,) int64, each in 0..T, contiguous, the call's own; None = all T.
        output: (T, B, D*O), aligned, any strides, to fill.
        finals: (L*D, B, W), C-contiguous, for each state name, to fill.
        """

    def plain_call(self, batch_first: bool) -> Callable[[object, object], Any] | None:
        """A quick way in, if there is one: (x, state) -> (output, state) in the user's layout.

        It returns None, having done nothing, unless its arguments are plain: a batched x with the right dtype,
        sizes and element strides, and state None or C-contiguous arrays.
        """


class Executable(Protocol):
    """A compiled stack, without parameters."""

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the backend's own stages, after "lowered", "optimized" and "rolled", which all share."""

    def text(self, stage: str) -> str:
        """What one of these stages made."""

    def explain(self) -> str:
        """Which paths were taken and why, for a reader."""

    def bind(self, parameters: Mapping[str, Array]) -> Runner:
        """Packs the parameters: full name -> array, checked by the caller, C-contiguous and never written to."""


class Tape(Protocol):
    """What the first part of a call left for the second. May be finished any number of times."""

    def finish(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        """Runs the second part: its inputs, and arrays for its outputs, by name."""


class Function(Protocol):
    """A compiled `Computation`: named arrays in, named arrays out. May be called from many threads at once."""

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the backend's own stages."""

    def text(self, stage: str) -> str:
        """What one of these stages made."""

    def explain(self) -> str:
        """Which paths were taken and why, for a reader."""

    def saved_bytes(self, steps: int, batch: int) -> int:
        """Bytes the first part keeps for the second."""

    def start(
        self,
        inputs: Mapping[str, Array],
        outputs: Mapping[str, Array],
        steps: int,
        batch: int,
        lengths: Array | None,
    ) -> Tape:
        """Runs the computation, or its first part. The caller has checked everything; T and B are at least 1.

        inputs, outputs: name -> array, for every input and output of the computation (of its first part). A value of
        each step is (T, B, N), aligned, with any strides; one without a step is C-contiguous. Inputs are not changed;
        parameters and x may change once this returns.
        lengths: (B,) int64, each in 0..T, contiguous; None = all T. Outputs of steps past a row's length become zero.
        """


class Backend(Protocol):
    """A backend: a module with these functions, and `arrays`, an ArrayLibrary, unless that is NumPy.

    A module that can round the operands of matrix products lists how in `OPERANDS`; its `compile` and
    `compile_function` then take `operands`, one of them.
    """

    def compile_function(self, computation: Computation, *, threads: int | None, **options: str) -> Function:
        """Compiles a computation for any number of steps and any batch."""

    def compile_update(self, graph: Graph) -> Update:
        """Compiles the equations of an optimiser (`rnnc.optimizers.update_graph`)."""

    def compile_noise(self, dtype: str) -> Noise:
        """The source of masks for dropout and zoneout."""

    def compile(self, stack: Stack, *, threads: int | None, **options: str) -> Executable:
        """Compiles for any number of steps and any batch. threads: None = RNNC_NUM_THREADS, or all cores."""
