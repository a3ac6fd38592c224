"""Compiled: the common base of compiled objects, with their stages and texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rnnc.checking import checks
from rnnc.checking.arguments import explained
from rnnc.ir.errors import ArgumentError

if TYPE_CHECKING:
    from rnnc.backends.arrays import ArrayLibrary
    from rnnc.backends.base import Code
    from rnnc.ir.computation import Computation


@dataclass(frozen=True)
class CompileOptions:
    """The options of a compilation: the arguments `backend`, `threads` and `matmul` of `rnnc.compile`, checked."""

    backend: str
    threads: int | None = None
    matmul: str | None = None

    @staticmethod
    def of(backend: object, threads: object, matmul: str | None) -> CompileOptions:
        """The checked options. Raises BackendError, ArgumentError or ArgumentTypeError."""
        from rnnc import backends

        name = backends.check_name(backend)
        count = None if threads is None else checks.integer("threads", threads, 1)
        backends.options(name, matmul)  # raises for operands that the backend does not have
        return CompileOptions(name, count, matmul)

    def compile(self, computation: Computation) -> Code:
        """The code of a computation, for any number of steps and any batch size."""
        from rnnc import backends

        options = backends.options(self.backend, self.matmul)
        backend = backends.get(self.backend)
        if not computation.in_parts:
            return backend.compile(computation, threads=self.threads, **options)
        from rnnc.backends.parts import CodeInParts

        return CodeInParts(
            computation, lambda part: backend.compile(part, threads=self.threads, **options), self.arrays
        )

    @property
    def arrays(self) -> ArrayLibrary:
        """The library of the arrays of calls."""
        from rnnc import backends

        return backends.arrays_of(self.backend)

    @property
    def arguments(self) -> dict[str, Any]:
        """The same options as arguments of `rnnc.compile`."""
        return {"backend": self.backend, "threads": self.threads, "matmul": self.matmul}


class Compiled:
    """Base of Program, Model, Network, the derivatives, TrainingStep and Evaluation: the stages of a computation."""

    def __init__(self, computation: Computation, options: CompileOptions, code: Code | None = None) -> None:
        """code: the backend's code for the computation, if it is already compiled."""
        self._computation = computation
        self._options = options
        self._code = options.compile(computation) if code is None else code
        self._arrays = options.arrays

    @property
    def backend(self) -> str:
        """The name of the backend."""
        return self._options.backend

    @property
    def stages(self) -> tuple[str, ...]:
        """The names of the stages, which `ir` takes, in the order of the pipeline."""
        from rnnc.ir.pipeline import SHARED_STAGES

        return (*SHARED_STAGES, *self._code.stages)

    @explained
    def ir(self, stage: str, steps: int = 3) -> str:
        """The text of a stage.

        stage: one of `stages`. steps: >= 1, the number of unrolled time steps in "lowered" and "optimized"; the other
        stages have loops. Raises ArgumentError or ArgumentTypeError.
        """
        from rnnc.ir.pipeline import PIPELINE, SHARED_STAGES, Artefacts

        steps = checks.integer("steps", steps, 1)
        if stage not in self.stages:
            hint = checks.suggestion(stage, self.stages) if isinstance(stage, str) else ""
            names = ", ".join(self.stages)
            raise ArgumentError(f"stage: backend {self.backend!r} has {names}; got {checks.came(stage)}{hint}")
        if stage in SHARED_STAGES:
            return Artefacts(PIPELINE, self._computation, steps=steps).text(stage)
        return self._code.text(stage)

    def explain(self) -> str:
        """A text that says which paths the backend took, and why it did not take faster ones."""
        return self._code.explain()
