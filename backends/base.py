"""The protocol of a backend.

    backend.compile(computation) -> Code        the stages and their texts; no parameters
    code.bind(parameters)        -> Bound       parameters that stay the same from call to call, packed once
    bound.start(inputs, outputs) -> Tape        one call: the computation, or its first half
    tape.finish(inputs, outputs)                the second half, any number of times

All arrays belong to the backend's library (`rnnc.backends.arrays`). A backend for a GPU queues its work on the
library's current stream, and returns before it is done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from rnnc.backends.arrays import Array
    from rnnc.backends.call_forms import PlainCall
    from rnnc.backends.training.noise import Noise
    from rnnc.backends.training.protocol import Update
    from rnnc.ir.computation import Computation
    from rnnc.ir.graph import Graph


class Tape(Protocol):
    """The values that the first half of a call keeps for the second. It may be finished any number of times."""

    def finish(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        """Runs the second half. inputs, outputs: its inputs, and arrays to fill with its outputs, by name."""


class QuickTape(Tape, Protocol):
    """The tape of a quick first half."""

    def quick(self, *arguments: object) -> Any:
        """Runs the second half, and returns its results; None if the arguments are not plain."""


class QuickHalves(Protocol):
    """The quick calls of a computation with two halves."""

    def start(self, *arguments: object) -> Any:
        """Runs the first half. Returns its results and a QuickTape, as one tuple; None if an argument is not plain."""

    def xla(self) -> XlaHalves:
        """The same calls, for programs that XLA compiles."""


class XlaSite(NamedTuple):
    """A call by XLA: all of it but the addresses of its buffers.

    address: what the handler is given as the attribute "site". kept_bytes: the size of the buffer that the first half
    makes. owned: what the address leads to.
    """

    address: int
    kept_bytes: int
    owned: tuple[object, ...]


class XlaHalves(Protocol):
    """The two halves as calls of XLA's foreign function interface. Each runs on the thread that calls it.

    Buffers are C-contiguous, and begin with a cache line. Those of the first half are the arrays of its arguments, one
    group after the other; its results are those of the call, then the kept buffer. Those of the second half are the
    kept buffer and the arrays of its arguments; its results are those gradients that are their own `owner`, then the
    kept buffer once more, which must be the same memory.
    """

    @property
    def handler(self) -> int:
        """The address of the handler, an XLA_FFI_Handler."""

    def owner(self, name: str) -> str:
        """The gradient that is the same array as this one, such as that of the first of two biases that are added."""

    def first(self, steps: int, batch: int) -> XlaSite:
        """The first half, for a number of steps and rows, each at least 1."""

    def second(self, steps: int, batch: int) -> XlaSite:
        """The second half."""


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

    def quick(self, call: PlainCall, outcomes: Array) -> Callable[..., Any] | None:
        """The function of quick calls, whose arguments and results are those of a plain call; None if there is none.

        The function does nothing and returns None unless its arguments are plain: in the very containers that `call`
        names, with the right dtype and sizes. Arrays of up to three axes may have any strides.
        Two more arguments are optional, and may be None: lengths, as for `start`, and arrays to write into: those of
        the first result, or a tuple with those of each.
        outcomes: an int64 array, in which the function counts its calls: one number for each of
            `call_forms.OUTCOMES`.
        """

    def real_time(self, call: PlainCall, fixed: Mapping[str, Array], outcomes: Array) -> Callable[..., Any] | None:
        """As `quick`, for calls of the sizes of `call` that must never wait: the function allocates no memory but in
        its first call, takes no lock, keeps the interpreter's, and uses one thread. None if there is none.

        fixed: arrays with a row per sequence, C-contiguous, that every call reads, or writes to, in place.
        """

    def quick_halves(self, first: PlainCall, second: PlainCall, outcomes: Array) -> QuickHalves | None:
        """The quick calls of the two halves, if no parameters are bound: they are arguments of the first.

        None if there are none. outcomes: as in `quick`.
        """


class SectionTime(NamedTuple):
    """The time of a section of profiled code, such as a phase, over all its runs.

    kind: "copies", "hoisted" (products of many steps at once), "step", "sums" or "wait" (for threads). site: the
    layers and directions whose equations it computes. ticks: see `CallCounters.now`. runs: how often it ran. rows: the
    rows of all runs. flops: multiplications and additions of matrix products in all runs. weight_bytes: the weights
    that each run reads.
    """

    name: str
    kind: str
    site: str
    ticks: int
    runs: int
    rows: int
    flops: int
    weight_bytes: int


class TimedRun(NamedTuple):
    """One run of a section, from one tick to another. thread: a number that runs on the same part of a batch share."""

    section: str
    begin: int
    end: int
    thread: int


class CallCounters(Protocol):
    """What profiled code counts in its calls."""

    def now(self) -> int:
        """The time, in ticks of a steady clock."""

    def clear(self) -> None:
        """Forgets what was counted."""

    def read(self) -> tuple[Sequence[SectionTime], Sequence[TimedRun]]:
        """All sections, and the first runs one by one, since the last clearing."""


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
