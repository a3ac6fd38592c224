"""compile: a spec -> Program (the compiled stages, without parameters) -> Model (bound to parameters)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, overload

from rnnc import checks
from rnnc.arguments import explained
from rnnc.copies import Unchanging
from rnnc.ir.errors import ArgumentError, ArgumentTypeError
from rnnc.parameters import bind_parameters
from rnnc.plain_data import PlainData
from rnnc.specs import SPECS, Spec

if TYPE_CHECKING:
    from rnnc.backends.arrays import ArrayLibrary
    from rnnc.backends.base import Executable
    from rnnc.model import Model

SHARED_STAGES = ("lowered", "optimized", "rolled")
"""The stages before any backend; the first two show as many unrolled steps as one asks for."""


class Program(Unchanging):
    """A compiled spec: every stage between the equations and the machine code, and `bind`.

    A pickle of it holds the spec and the options, and is compiled where it is read.
    """

    def __init__(
        self,
        spec: Spec,
        backend: str,
        threads: int | None,
        matmul: str | None,
        executable: Executable,
        arrays: ArrayLibrary,
    ) -> None:
        self.spec = spec
        self.backend = backend
        self._options = (threads, matmul)
        self._executable = executable
        self._arrays = arrays

    def __repr__(self) -> str:
        return f"Program({self.spec!r}, backend={self.backend!r}, stages={self.stages})"

    @property
    def stages(self) -> tuple[str, ...]:
        """The names `ir` takes, in the order of the pipeline."""
        return SHARED_STAGES + tuple(self._executable.stages)

    @explained
    def ir(self, stage: str, steps: int = 3) -> str:
        """The text of a stage. "lowered" and "optimized" show `steps` unrolled time steps, the others loops."""
        steps = checks.integer("steps", steps, 1)
        if stage not in self.stages:
            hint = checks.suggestion(stage, self.stages) if isinstance(stage, str) else ""
            names = ", ".join(self.stages)
            raise ArgumentError(f"stage: backend {self.backend!r} has {names}; got {checks.came(stage)}{hint}")
        if stage in SHARED_STAGES:
            return shared_stage(self.spec, stage, steps)
        return self._executable.text(stage)

    def explain(self) -> str:
        """Which paths the backend took for this spec, and why it did not take faster ones."""
        return self._executable.explain()

    @explained
    def bind(self, params: Mapping[str, Any]) -> Model:
        """A Model that holds a copy of `params`, packed for the backend.

        params: name -> array, exactly the names and shapes of `spec.parameter_shapes()` in the spec's dtype; NumPy
            arrays, torch tensors (a state_dict() as it is), or anything with __array__ or DLPack, on the CPU. With
            backend "cuda" they may be on the GPU, too.
        Raises ParameterError, ShapeError or DtypeError; BackendError if the backend cannot run on this machine.
        """
        from rnnc.model import Model

        given = bind_parameters(self.spec, params, self._arrays)
        return Model(self, given, self._executable.bind(given), self._arrays)

    def __reduce__(self) -> tuple[Any, ...]:
        return _compiled, (self.spec, self.backend, *self._options)


@overload
def compile(
    spec: Spec, params: None = None, *, backend: str = ..., threads: int | None = ..., matmul: str | None = ...
) -> Program: ...


@overload
def compile(
    spec: Spec, params: Mapping[str, Any], *, backend: str = ..., threads: int | None = ..., matmul: str | None = ...
) -> Model: ...


@explained
def compile(
    spec: Spec,
    params: Mapping[str, Any] | None = None,
    *,
    backend: str = "llvm",
    threads: int | None = None,
    matmul: str | None = None,
) -> Program | Model:
    """Compiles a spec for any number of steps and any batch size.

    spec: `rnnc.RNN(...)`, `rnnc.GRU(...)`, `rnnc.LSTM(...)` or `rnnc.Recurrent(cell, ...)`.
    params: if given, the result is `compile(spec, ...).bind(params)`, a Model; otherwise a Program.
    backend: "llvm" (machine code for this CPU), "cuda" (CUDA C for a GPU, which is needed from `bind` on; arrays are
        CuPy's), "cuda-emulated" (the same CUDA C on this CPU, for tests) or "reference" (NumPy, slow, easy to read).
    threads: how many threads a call may use; default RNNC_NUM_THREADS, or else all cores the process may use.
    matmul: "float16", "bfloat16" or "tf32": what matrix products round their operands to, for a GPU's tensor cores;
        they still add up, and all else is computed, in float32. Default: the spec's dtype. Only "cuda" has it.
    """
    threads = check_target(spec, backend, threads)
    from rnnc import backends

    options = backends.options(backend, matmul)
    executable = backends.get(backend).compile(spec.stack(), threads=threads, **options)
    program = Program(spec, backend, threads, matmul, executable, backends.arrays_of(backend))
    return program if params is None else program.bind(params)


def _compiled(spec: Spec, backend: str, threads: int | None, matmul: str | None) -> Program:
    """What a pickle of a Program calls."""
    return compile(spec, backend=backend, threads=threads, matmul=matmul)


def check_target(spec: object, backend: object, threads: object) -> int | None:
    """Checks what to compile, and for what; returns the number of threads."""
    from rnnc import backends

    if not isinstance(spec, tuple(SPECS.values())):
        raise ArgumentTypeError(
            f"spec: expected rnnc.RNN, GRU, LSTM or Recurrent, got {checks.came(spec)}{_hint(spec)}"
        )
    backends.check_name(backend)
    return None if threads is None else checks.integer("threads", threads, 1)


def _hint(spec: object) -> str:
    """What was meant by something else in a spec's place."""
    if isinstance(spec, type):
        return "; give it its sizes first"
    if isinstance(spec, Mapping):
        return "; the spec comes before the parameters"
    return "; call its own compile(params)" if isinstance(spec, PlainData) else ""


def shared_stage(spec: Spec, stage: str, steps: int) -> str:
    """The text of a stage that comes before any backend, over `steps` time steps where it is unrolled.

    "optimized" begins with what each pass did, as comments.
    """
    from rnnc.ir.lower import lower
    from rnnc.ir.pipeline import optimized_graph, rolled_program
    from rnnc.ir.text import print_graph

    stack = spec.stack()
    if stage == "rolled":
        return rolled_program(stack).text()
    if stage == "lowered":
        return print_graph(lower(stack, steps))
    graph, records = optimized_graph(stack, steps)
    return "".join(f"# {record}\n" for record in records) + "\n" + print_graph(graph)
