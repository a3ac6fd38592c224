"""Compiled: the common base of compiled objects, with their stages and texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from rnnc.checking import checks
from rnnc.checking.arguments import explained
from rnnc.ir import settings
from rnnc.ir.errors import ArgumentError, ArgumentTypeError

if TYPE_CHECKING:
    from os import PathLike

    from rnnc.backends.arrays import ArrayLibrary
    from rnnc.backends.base import Code
    from rnnc.backends.products import ProductFormat
    from rnnc.backends.tables import NarrowTable
    from rnnc.explanation import Explanation
    from rnnc.ir.computation import Computation
    from rnnc.ir.pipeline import Artefacts
    from rnnc.profiling import Profile


class CompileOptions(NamedTuple):
    """The options of a compilation: the arguments of `rnnc.compile` besides spec and parameters, checked."""

    backend: str
    threads: int | None = None
    matmul: str | None = None
    weights: str | None = None
    activations: str | None = None

    @staticmethod
    def of(
        backend: object,
        threads: object,
        matmul: str | None,
        weights: str | None = None,
        activations: str | None = None,
    ) -> CompileOptions:
        """The checked options. Raises BackendError, ArgumentError or ArgumentTypeError."""
        from rnnc import backends

        name = backends.check_name(backend)
        count = None if threads is None else checks.integer("threads", threads, 1)
        options = CompileOptions(name, count, matmul, weights, activations)
        if weights is not None or activations is not None:
            _check_formats(weights, activations)
        backends.options(name, matmul, options.product)  # raises for formats that the backend does not have
        return options

    @property
    def product(self) -> ProductFormat:
        """The format of products with weights."""
        from rnnc.backends.products import INT8, ProductFormat

        activations = INT8 if self.weights == INT8 and self.activations in (None, INT8) else None
        return ProductFormat(self.weights, activations)

    def compile(self, computation: Computation) -> Code:
        """The code of a computation, for any number of steps and any batch size."""
        from rnnc import backends

        options = backends.options(self.backend, self.matmul, self.product)
        backend = backends.get(self.backend)
        if settings.profile():
            from rnnc.profiling import at_exit

            at_exit()
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
        given = {"backend": self.backend, "threads": self.threads, "matmul": self.matmul}
        return given if self.weights is None else given | {"weights": self.weights, "activations": self.activations}


def _check_formats(weights: object, activations: object) -> None:
    """Raises ArgumentError or ArgumentTypeError for formats that there are not, or not together."""
    from rnnc.backends.products import INT8, WEIGHTS

    if weights not in (None, *WEIGHTS):
        kind = ArgumentError if isinstance(weights, str) else ArgumentTypeError
        hint = "; the numbers of the weights are params" if isinstance(weights, Mapping) else ""
        raise kind(f"weights: expected None, {' or '.join(map(repr, WEIGHTS))}, got {checks.came(weights)}{hint}")
    if activations not in (None, INT8, "float32"):
        kind = ArgumentError if isinstance(activations, str) else ArgumentTypeError
        raise kind(f"activations: expected None, {INT8!r} or 'float32', got {checks.came(activations)}")
    if activations is not None and weights is None or activations == INT8 and weights != INT8:
        raise ArgumentError(
            f"activations: {activations!r} goes with narrow weights"
            f"{', int8 ones' if activations == INT8 else ''}; got weights={weights!r}; give weights={INT8!r} with it"
        )


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

    @property
    def passes(self) -> tuple[str, ...]:
        """The names of the passes between "lowered" and "optimized", in order. `ir` takes them, too."""
        from rnnc.ir.passes import PASS_NAMES

        return PASS_NAMES

    @explained
    def ir(self, stage: str, steps: int = 3) -> str:
        """The text of a stage.

        stage: one of `stages`; or one of `passes`, for the graph after it. steps: >= 1, the number of unrolled time
        steps in graphs; "rolled" and the stages after it have loops. Raises ArgumentError or ArgumentTypeError.
        """
        steps = checks.integer("steps", steps, 1)
        if stage in (*self.passes, *self.stages[: -len(self._code.stages) or None]):
            return self._artefacts(steps).text(stage)
        if stage in self._code.stages:
            return self._code.text(stage)
        hint = checks.suggestion(stage, (*self.stages, *self.passes)) if isinstance(stage, str) else ""
        names = ", ".join(self.stages)
        raise ArgumentError(f"stage: backend {self.backend!r} has {names}, and passes; got {checks.came(stage)}{hint}")

    def _artefacts(self, steps: int) -> Artefacts:
        """The artefacts of the stages that all backends share."""
        from rnnc.ir.pipeline import PIPELINE, Artefacts

        return Artefacts(PIPELINE, self._computation, steps=steps)

    def profile(self, *arguments: Any, seconds: float = 0.2, **named: Any) -> Profile:
        """Where the time of a call goes: the time of each phase in machine code, in text, as data, as a Chrome trace.

            print(model.profile(x))

        arguments, named: those of a call, such as x and lengths. The call of a `rnnc.vjp` is followed by its pullback.
        seconds: for how long calls are repeated, at least three times; results are per call.
        The call is compiled once more, with counters, so nothing slows down the other calls of this object. Its
        parameters are shared. Raises ArgumentError on another backend than "llvm", and what the call raises.
        """
        from rnnc.profiling import profiled

        return profiled(self, arguments, named, seconds)

    def _profiled_call(self) -> Callable[[], Callable[..., Any]] | None:
        """Makes a twin of this object, and returns the function whose calls are profiled; None if it has no calls."""
        return None

    @explained
    def explanation(self) -> Explanation:
        """What `explain` says as data, with the limits of this machine: which phases there are, how they are computed,
        whether reading weights or arithmetic limits each, and what is outside of a fast path.

            print(model.explanation())

        The machine is measured once, in some 0.2 s. Raises ArgumentError on another backend than "llvm".
        """
        from rnnc.explanation import explained_as_data

        return explained_as_data(self, self._layer_names())

    def report(self, path: str | PathLike[str] | None = None, *, steps: int = 4, profile: Profile | None = None) -> str:
        """One HTML file that shows this model, and needs no network: the unrolled network as a picture whose boxes are
        shown at every stage, from equations to machine code; the passes; buffers and their lifetimes; what limits each
        phase; and, with a profile, where the time goes.

            model.report("report.html", profile=model.profile(x))

        path: the file; default: none, only the text is returned. steps: of the picture. profile: of `profile`.
        Raises ArgumentError on another backend than "llvm", or for what is no model or network.
        """
        from rnnc.report import report

        model = self._drawn()
        if model is None:
            raise ArgumentError(f"report: {type(self).__name__} has no picture; report a model, network or derivative")
        return report(self, model, path, steps=steps, profile=profile, layers=self._layer_names())

    def _drawn(self) -> Any:
        """The spec or network of layers that pictures show; None if there is none."""
        return getattr(self, "spec", None) or getattr(self, "model", None)

    def _layer_names(self) -> tuple[str, ...]:
        """The names of the layers, by the numbers of their sites; empty if they have none but these."""
        return ()

    def explain(self) -> str:
        """A text that says which paths the backend took, and why it did not take faster ones."""
        return self._code.explain()

    def _explained_weights(self, params: Mapping[str, Any]) -> str:
        """The lines of `explain` about the error of narrow weights."""
        if self._options.weights is None:
            return ""
        from rnnc.quantization import explained_weights

        return explained_weights(self._computation, params, self._options.product, self._narrow_tables())

    def _narrow_tables(self) -> Mapping[str, NarrowTable]:
        """The tables whose rows are looked up, by the names of their parameters, if weights are narrow."""
        return {}
