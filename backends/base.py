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


STEPS, BATCH = "T", "B"
"""The sizes of a plain call's arrays that differ from call to call: the number of steps, and of sequences."""


@dataclass(frozen=True)
class CallArray:
    """An array of a plain call, in the user's layout.

    shape: its sizes, some of them STEPS and BATCH. An array with STEPS has three axes, of which the first two may be
        in either order; or it has two, and holds integers (`tables`).
    names: the arrays of the computation that lie in it. Several are slabs, one after the other along the first axis.
    key: its name in a dict.
    tables: for integers, the tables whose rows they number, by the name of these rows in the computation.
    """

    shape: tuple[int | str, ...]
    names: tuple[str, ...] = ()
    key: str = ""
    tables: tuple[tuple[str, Array], ...] = ()


@dataclass(frozen=True)
class CallGroup:
    """An argument, or a result, of a plain call.

    container: how it holds its arrays: "bare" (it is its only array), "tuple", "dict", or "none" (it is None).
    optional: the argument may be None. Its arrays are then zeros.
    """

    container: str
    arrays: tuple[CallArray, ...] = ()
    optional: bool = False


@dataclass(frozen=True)
class PlainCall:
    """A call in the user's layout, (argument, ...) -> (result, ...). A single result is returned without a tuple."""

    arguments: tuple[CallGroup, ...]
    results: tuple[CallGroup, ...]


class QuickTape(Tape, Protocol):
    """The tape of a quick first half."""

    def quick(self, *arguments: object) -> Any:
        """Runs the second half, and returns its results; None if the arguments are not plain."""


class QuickHalves(Protocol):
    """The quick calls of a computation with two halves."""

    def start(self, *arguments: object) -> Any:
        """Runs the first half. Returns its results and a QuickTape, as one tuple; None if an argument is not plain."""


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

    def quick(self, call: PlainCall) -> Callable[..., Any] | None:
        """The function of quick calls, whose arguments and results are those of a plain call; None if there is none.

        The function does nothing and returns None unless its arguments are plain: in the very containers that `call`
        names, with the right dtype and sizes. Arrays with STEPS have element strides and a contiguous last axis, all
        others are C-contiguous.
        """

    def quick_halves(self, first: PlainCall, second: PlainCall) -> QuickHalves | None:
        """The quick calls of the two halves, if no parameters are bound: they are arguments of the first.

        None if there are none.
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
    `operands`, one of these. A module that can store weights in narrow formats lists these in `WEIGHTS`. Its `compile`
    then takes `product`, a `rnnc.backends.products.ProductFormat`; all weights are then bound.
    """

    def compile(self, computation: Computation, *, threads: int | None, **options: Any) -> Code:
        """The code of a computation, for any number of steps and any batch size.

        threads: the most threads of a call; None = RNNC_NUM_THREADS, or all cores.
        """

    def compile_update(self, graph: Graph) -> Update:
        """The compiled equations of an optimiser (`rnnc.optimizers.update_graph`)."""

    def compile_noise(self, dtype: str) -> Noise:
        """The source of masks for dropout and zoneout."""
