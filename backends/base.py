"""The protocol of a backend.

    backend.compile(computation) -> Code        the stages and their texts; no parameters
    code.bind(parameters)        -> Bound       parameters that stay the same from call to call, packed once
    bound.start(inputs, outputs) -> Tape        one call: the computation, or its first half
    tape.finish(inputs, outputs)                the second half, any number of times

All arrays belong to the backend's library (`rnnc.backends.arrays`). A backend for a GPU queues its work on the
library's current stream, and returns before it is done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from rnnc.backends.arrays import Array
from rnnc.backends.training.noise import Noise
from rnnc.backends.training.protocol import Update
from rnnc.ir.computation import Computation
from rnnc.ir.graph import Graph


class Tape(Protocol):
    """The values that the first half of a call keeps for the second. It may be finished any number of times."""

    def finish(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        """Runs the second half. inputs, outputs: its inputs, and arrays to fill with its outputs, by name."""


@dataclass(frozen=True)
class StateArray:
    """A user's array of states. `initial[n]` and `final[n]` are the names of its n-th slab (B, width).

    stacked: the array is (slabs, B, width). Otherwise it has one slab, and is (B, width).
    key: its name in a dict of states.
    """

    initial: tuple[str, ...]
    final: tuple[str, ...]
    width: int
    stacked: bool
    key: str = ""


@dataclass(frozen=True)
class PlainCall:
    """A call in the user's layout, (x, state) -> output, or (output, state) if `returns_state`.

    x: floats (T, B, input_size), or integers (T, B), rows of `table`; with batch_first (B, T, ...).
    output: (T, B, output_size), likewise, or (B, output_size) if the output has no steps.
    states: the user's arrays of states. container: how a call holds them: None (it has no state), "bare" (a single
    array), "tuple" or "dict".
    """

    input_size: int
    output_size: int
    batch_first: bool
    states: tuple[StateArray, ...]
    container: str | None
    returns_state: bool
    timed_output: bool = True
    table: Array | None = None


class Bound(Protocol):
    """Code with bound parameters. Threads may call it at the same time."""

    def start(
        self,
        inputs: Mapping[str, Array],
        outputs: Mapping[str, Array],
        steps: int,
        batch: int,
        lengths: Array | None,
    ) -> Tape:
        """Runs the computation, or its first half. The caller has checked all arguments; T and B are at least 1.

        inputs: name -> array, for every input of the computation (of its first half) that is not bound. A value with
            one row per sequence, such as an initial state, may be left out; it is then zeros.
        outputs: name -> array to fill, for every output.
        lengths: (B,) int64, each in 0..T, contiguous; None = all T. Outputs of steps past a row's length become zero.

        A timed value is (T, B, N), aligned, with any strides. Other values are C-contiguous. Inputs are not changed.
        The caller may change parameters and x after this returns.
        """

    def quick(self, call: PlainCall) -> Callable[[object, object], Any] | None:
        """The function of quick calls, (x, state) -> the results of a plain call; None if there is none.

        The function does nothing and returns None unless its arguments are plain: a batched x with the right dtype,
        sizes and element strides, and state None or C-contiguous arrays of the right sizes.
        """


class Code(Protocol):
    """A compiled computation. It may be bound any number of times."""

    @property
    def stages(self) -> tuple[str, ...]:
        """The names of the backend's own stages. They follow "lowered", "optimized" and "rolled", which all share."""

    def text(self, stage: str) -> str:
        """The text of one of these stages."""

    def explain(self) -> str:
        """A text that says which paths were taken, and why."""

    def saved_bytes(self, steps: int, batch: int) -> int:
        """The number of bytes that the first half keeps for the second."""

    def bind(self, parameters: Mapping[str, Array]) -> Bound:
        """The code with some parameters, which are packed now. The others are inputs of each call, and packed there.

        parameters: full name -> array, C-contiguous, which nobody may write to any more.
        """


class Backend(Protocol):
    """A backend: a module with these functions, and with `arrays`, an ArrayLibrary, unless that is NumPy.

    A module that can round the operands of matrix products lists their formats in `OPERANDS`. Its `compile` then takes
    `operands`, one of these.
    """

    def compile(self, computation: Computation, *, threads: int | None, **options: str) -> Code:
        """The code of a computation, for any number of steps and any batch size.

        threads: the most threads of a call; None = RNNC_NUM_THREADS, or all cores.
        """

    def compile_update(self, graph: Graph) -> Update:
        """The compiled equations of an optimiser (`rnnc.optimizers.update_graph`)."""

    def compile_noise(self, dtype: str) -> Noise:
        """The source of masks for dropout and zoneout."""
