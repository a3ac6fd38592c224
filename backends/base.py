"""What a backend is, to the front.

    backend.compile(computation) -> Code        the stages and their texts; no parameters
    code.bind(parameters)        -> Bound       what stays the same from call to call, packed once
    bound.start(inputs, outputs) -> Tape        one call: the computation, or its first half
    tape.finish(inputs, outputs)                the second half, any number of times

All arrays are of the backend's library (`rnnc.backends.arrays`). One on a GPU queues its work on the library's current
stream and waits for nothing.
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
    """What the first half of a call left for the second. May be finished any number of times."""

    def finish(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        """Runs the second half: its inputs, and arrays for its outputs, by name."""


@dataclass(frozen=True)
class StateArray:
    """An array of the user's that holds states: `initial[n]` and `final[n]` are its n-th slab (B, width).

    stacked: (slabs, B, width); otherwise there is one slab, and the array is (B, width).
    key: under which a dict of states holds it.
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
    states: the arrays of a state. container: how the user holds them, None (he gives none), "bare" (a single array),
    "tuple", or "dict".
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
    """Code with the parameters that stay the same. May be called from many threads at once."""

    def start(
        self,
        inputs: Mapping[str, Array],
        outputs: Mapping[str, Array],
        steps: int,
        batch: int,
        lengths: Array | None,
    ) -> Tape:
        """Runs the computation, or its first half. The caller has checked everything; T and B are at least 1.

        inputs: name -> array, for every input of the computation (of its first half) that is not bound. A value of one
        row per sequence, such as an initial state, may be left out; it is zeros then.
        outputs: name -> array to fill, for every output.
        A value of each step is (T, B, N), aligned, with any strides; one without a step is C-contiguous. Inputs are not
        changed; parameters and x may change once this returns.
        lengths: (B,) int64, each in 0..T, contiguous; None = all T. Outputs of steps past a row's length become zero.
        """

    def quick(self, call: PlainCall) -> Callable[[object, object], Any] | None:
        """A quick way in, if there is one: (x, state) -> the results of a plain call.

        The function returns None, having done nothing, unless its arguments are plain: a batched x with the right
        dtype, sizes and element strides, and state None or C-contiguous arrays of their sizes.
        """


class Code(Protocol):
    """A compiled computation. May be bound any number of times."""

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the backend's own stages, after "lowered", "optimized" and "rolled", which all share."""

    def text(self, stage: str) -> str:
        """What one of these stages made."""

    def explain(self) -> str:
        """Which paths were taken and why, for a reader."""

    def saved_bytes(self, steps: int, batch: int) -> int:
        """Bytes the first half keeps for the second."""

    def bind(self, parameters: Mapping[str, Array]) -> Bound:
        """Packs some parameters: full name -> array, C-contiguous and never written to from here on.

        Those that are not among them are given in each call, and packed there.
        """


class Backend(Protocol):
    """A backend: a module with these functions, and `arrays`, an ArrayLibrary, unless that is NumPy.

    A module that can round the operands of matrix products lists how in `OPERANDS`; its `compile` then takes
    `operands`, one of them.
    """

    def compile(self, computation: Computation, *, threads: int | None, **options: str) -> Code:
        """Compiles for any number of steps and any batch. threads: None = RNNC_NUM_THREADS, or all cores."""

    def compile_update(self, graph: Graph) -> Update:
        """Compiles the equations of an optimiser (`rnnc.optimizers.update_graph`)."""

    def compile_noise(self, dtype: str) -> Noise:
        """The source of masks for dropout and zoneout."""
