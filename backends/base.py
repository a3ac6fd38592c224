"""What a backend is, to the front: `compile` makes an Executable, `bind` a Runner, `run` computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

from rnnc.ir.lower import Stack

Array = NDArray[Any]


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
        lengths: (B,) int64, each in 0..T, contiguous; None = all T.
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


class Backend(Protocol):
    """A backend: a module with this function."""

    def compile(self, stack: Stack, *, threads: int | None) -> Executable:
        """Compiles for any number of steps and any batch. threads: None = RNNC_NUM_THREADS, or all cores."""
