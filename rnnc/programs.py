"""`compile`: a spec -> Program (the compiled stages, without parameters) -> Model (bound to parameters)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, overload

from rnnc.checking import checks
from rnnc.checking.arguments import explained
from rnnc.checking.parameters import bind_parameters
from rnnc.checking.renaming import Names
from rnnc.compiled import Compiled, CompileOptions
from rnnc.computations import forward
from rnnc.copies import Unchanging
from rnnc.ir.errors import ArgumentError, ArgumentTypeError
from rnnc.plain_data import PlainData
from rnnc.specs import SPECS, Spec

if TYPE_CHECKING:
    from rnnc.ir.computation import Computation
    from rnnc.model import Model


class Program(Compiled, Unchanging):
    """A compiled spec: all stages from the equations to the machine code, without parameters. `bind` adds them.

    A pickle holds the spec and the options; it is compiled again when it is loaded.
    """

    def __init__(self, spec: Spec, options: CompileOptions, edited: tuple[str, str] | None = None) -> None:
        """edited: a stage and the text from which it is compiled (`with_stage`)."""
        super().__init__(_computation(spec, edited), options)
        self.spec = spec
        self._edited = edited

    def __repr__(self) -> str:
        return f"Program({self.spec!r}, backend={self.backend!r}, stages={self.stages})"

    @explained
    def bind(self, params: Mapping[str, Any], *, names: Names | None = None) -> Model:
        """A Model that holds a copy of `params`, packed for the backend.

        params: name -> array, exactly the names and shapes of `spec.parameter_shapes()`, in the spec's dtype: NumPy
            arrays, torch tensors (a module's state_dict()), or other objects with __array__ or DLPack, on the CPU. With
            backend "cuda" they may also be on the GPU.
        names: what the model's parameters are called in `params`, where not by their names: see `rnnc.rename`.
        Raises ParameterError, ShapeError, DtypeError or ArgumentTypeError, and BackendError if the backend cannot run
        on this machine.
        """
        from rnnc.model import Model

        return Model(self, bind_parameters(self.spec, params, self._arrays, names))

    @explained
    def with_stage(self, stage: str, text: str) -> Program:
        """The same program, compiled from the text of a stage, such as one that was printed by `ir` and then changed.

            text = program.ir("rolled")
            faster = program.with_stage("rolled", text.replace("tanh(", "relu("))

        stage: "lowered", one of `passes`, "optimized" or "rolled"; graphs have 3 steps. text: with the inputs and
            outputs of the spec. The result takes no lengths, because the text says nothing of them.
        Raises ArgumentError, and IRError (with the line or the node) if the text is no graph, no program, or breaks a
        rule of theirs.
        """
        if not isinstance(text, str):
            raise ArgumentTypeError(f"text: expected the text of a stage, got {checks.came(text)}")
        return Program(self.spec, self._options, (stage, text))

    def __reduce__(self) -> tuple[Any, ...]:
        if self._edited is not None:
            return Program, (self.spec, self._options, self._edited)
        return partial(compile, **self._options.arguments), (self.spec,)


def _computation(spec: Spec, edited: tuple[str, str] | None) -> Computation:
    if edited is None:
        return forward(spec)
    from rnnc.ir import edited as texts

    return texts.edited(*edited, forward(spec))


@overload
def compile(
    spec: Spec,
    params: None = None,
    *,
    backend: str = ...,
    threads: int | None = ...,
    matmul: str | None = ...,
    weights: str | None = ...,
    activations: str | None = ...,
    names: None = None,
) -> Program: ...


@overload
def compile(
    spec: Spec,
    params: Mapping[str, Any],
    *,
    backend: str = ...,
    threads: int | None = ...,
    matmul: str | None = ...,
    weights: str | None = ...,
    activations: str | None = ...,
    names: Names | None = ...,
) -> Model: ...


@explained
def compile(
    spec: Spec,
    params: Mapping[str, Any] | None = None,
    *,
    backend: str = "llvm",
    threads: int | None = None,
    matmul: str | None = None,
    weights: str | None = None,
    activations: str | None = None,
    names: Names | None = None,
) -> Program | Model:
    """Compiles a spec for any number of steps and any batch size, and returns a Program, or a Model if given `params`.

    spec: `rnnc.RNN(...)`, `rnnc.GRU(...)`, `rnnc.LSTM(...)` or `rnnc.Recurrent(cell, ...)`.
    params: name -> array, as in `Program.bind`. With them, the result is `compile(spec, ...).bind(params)`.
    backend: "llvm" (machine code for this CPU), "cuda" (CUDA C for a GPU, which is needed from `bind` on; arrays are
        CuPy's), "cuda-emulated" (the same CUDA C on this CPU, for tests) or "reference" (NumPy: slow, easy to read).
    threads: the most threads a call may use. Default RNNC_NUM_THREADS, or else all cores that the process may use.
    matmul: "float16", "bfloat16" or "tf32", the format to which matrix products round their operands, for a GPU's
        tensor cores. Their sums, and everything else, remain float32. Default: no rounding. Only "cuda" has it.
    weights: "bfloat16" or "int8", the format in which matrices of float32 are stored, and read in each call: rounded
        once, when they are bound, to a half or a quarter of the bytes (docs/narrow-weights.md). Default: as they are.
    activations: with weights "int8", "int8" or "float32". Default: "int8", which is faster; each row is then rounded
        before it is multiplied, in each call.
    names: what the parameters are called in `params`, where not by their own names: see `rnnc.rename`.
    Raises ArgumentError, ArgumentTypeError, BackendError (an unknown backend, or one that this machine lacks), and what
    `Program.bind` raises.
    """
    program = Program(check_spec(spec), CompileOptions.of(backend, threads, matmul, weights, activations))
    if params is None:
        if names is not None:
            raise ArgumentError("names: they are those of params, which is not given; pass both, or names to bind")
        return program
    return program.bind(params, names=names)


def check_spec(spec: object) -> Spec:
    """The spec. Raises ArgumentTypeError, with a hint, for any other object."""
    if not isinstance(spec, tuple(SPECS.values())):
        raise ArgumentTypeError(
            f"spec: expected rnnc.RNN, GRU, LSTM or Recurrent, got {checks.came(spec)}{_hint(spec)}"
        )
    assert isinstance(spec, Spec)
    return spec


def _hint(spec: object) -> str:
    """What to do about another object in the place of a spec."""
    if isinstance(spec, type):
        return "; give it its sizes first"
    if isinstance(spec, Mapping):
        return "; the spec comes before the parameters"
    return "; call its own compile(params)" if isinstance(spec, PlainData) else ""
