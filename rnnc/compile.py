"""compile: a spec -> Program (the compiled stages, without parameters) -> Model (bound to parameters)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, overload

from rnnc.checking import checks
from rnnc.checking.arguments import explained
from rnnc.checking.parameters import bind_parameters
from rnnc.compiled import Compiled, CompileOptions
from rnnc.computations import forward
from rnnc.copies import Unchanging
from rnnc.ir.errors import ArgumentTypeError
from rnnc.plain_data import PlainData
from rnnc.specs import SPECS, Spec

if TYPE_CHECKING:
    from rnnc.model import Model


class Program(Compiled, Unchanging):
    """A compiled spec: every stage between the equations and the machine code, and `bind`.

    A pickle of it holds the spec and the options, and is compiled where it is read.
    """

    def __init__(self, spec: Spec, options: CompileOptions) -> None:
        super().__init__(forward(spec), options)
        self.spec = spec

    def __repr__(self) -> str:
        return f"Program({self.spec!r}, backend={self.backend!r}, stages={self.stages})"

    @explained
    def bind(self, params: Mapping[str, Any]) -> Model:
        """A Model that holds a copy of `params`, packed for the backend.

        params: name -> array, exactly the names and shapes of `spec.parameter_shapes()` in the spec's dtype; NumPy
            arrays, torch tensors (a state_dict() as it is), or anything with __array__ or DLPack, on the CPU. With
            backend "cuda" they may be on the GPU, too.
        Raises ParameterError, ShapeError or DtypeError; BackendError if the backend cannot run on this machine.
        """
        from rnnc.model import Model

        return Model(self, bind_parameters(self.spec, params, self._arrays))

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(compile, **self._options.arguments), (self.spec,)


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
    program = Program(check_spec(spec), CompileOptions.of(backend, threads, matmul))
    return program if params is None else program.bind(params)


def check_spec(spec: object) -> Spec:
    """The spec. Raises ArgumentTypeError for something else, with what was meant."""
    if not isinstance(spec, tuple(SPECS.values())):
        raise ArgumentTypeError(
            f"spec: expected rnnc.RNN, GRU, LSTM or Recurrent, got {checks.came(spec)}{_hint(spec)}"
        )
    assert isinstance(spec, Spec)
    return spec


def _hint(spec: object) -> str:
    """What was meant by something else in a spec's place."""
    if isinstance(spec, type):
        return "; give it its sizes first"
    if isinstance(spec, Mapping):
        return "; the spec comes before the parameters"
    return "; call its own compile(params)" if isinstance(spec, PlainData) else ""
