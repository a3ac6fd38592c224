"""Derivatives of a spec or network: `vjp` (reverse mode), `jvp` (forward mode) and `hvp` (forward over reverse).

Each compiles once, for any number of steps, batch size and lengths, and returns a function of parameters, x and state.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import cached_property, partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.array_names import ArrayNames, by_name, gradients_of
from rnnc.backends import fresh
from rnnc.checking import checks
from rnnc.checking.arguments import explained
from rnnc.checking.calls import Call, Signature
from rnnc.checking.parameters import read_parameters
from rnnc.checking.wrt import EVERY, check_wrt
from rnnc.compiled import Compiled, CompileOptions
from rnnc.computations import DERIVATIVES, names_of
from rnnc.copies import Unchanging
from rnnc.ir import names
from rnnc.ir.errors import ArgumentError, ArgumentTypeError
from rnnc.layered import Layered
from rnnc.plain_calls import plain_vjp
from rnnc.programs import check_spec
from rnnc.pullback import Pullback, clear
from rnnc.quick import Calls, Tally, plain_lengths, way_in
from rnnc.segments import Remat, SegmentedTape, check_remat, segment_size
from rnnc.specs import Spec

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from rnnc.backends.arrays import Array
    from rnnc.backends.base import QuickHalves, Tape
    from rnnc.backends.call_forms import PlainCall
    from rnnc.ir.computation import Computation

    State = Array | tuple[Array, ...]
    Params = Mapping[str, Array]
    Gradients = tuple[dict[str, Array], Array, State]

__all__ = ["hvp", "jvp", "vjp"]


@explained
def vjp(
    spec: Spec | Layered,
    *,
    backend: str = "llvm",
    threads: int | None = None,
    matmul: str | None = None,
    remat: Remat = None,
    wrt: Collection[str] = EVERY,
) -> VJP:
    """Reverse mode: returns a compiled function whose calls also return a pullback.

        f = rnnc.vjp(spec)
        (output, state), pullback = f(params, x, state, lengths=None)
        d_params, d_x, d_state = pullback(d_output, d_state)

    spec: a recurrent spec, `rnnc.Graph` or `rnnc.Sequential`.
    backend, threads, matmul: as in `rnnc.compile`. With `matmul`, sums over time always round to "tf32", because small
        gradients would underflow in float16.
    remat: None keeps the values of all steps for the pullback (`explain` and `saved_bytes` show how much). "sqrt" keeps
        only the states of every sqrt(T)-th step, in memory that grows like sqrt(T), and recomputes the rest at the cost
        of one more forward pass. A number of steps sets the size of these segments. Only for specs without a reverse
        direction.
    wrt: the arguments that the pullback computes gradients of, some of "params", "x" and "state". It returns None for
        the others, whose work is left out: a training step of an LSTM's first layer needs no d_x, a third to a sixth
        of the backward pass.
    Raises ArgumentError, ArgumentTypeError or BackendError. `VJP.__call__` gives the arguments of f.
    """
    options, chosen = CompileOptions.of(backend, threads, matmul), check_wrt(wrt)
    if isinstance(spec, Layered):
        if remat is not None:
            raise ArgumentError("remat: a network has none; expected None")
        found: VJP = _of_networks().NetworkVJP(spec, options, wrt=chosen)
        return found
    return VJP(check_spec(spec), options, remat, chosen)


@explained
def jvp(
    spec: Spec | Layered,
    *,
    backend: str = "llvm",
    threads: int | None = None,
    matmul: str | None = None,
) -> JVP:
    """Forward mode: returns a compiled function that also computes the derivative along a direction.

        f = rnnc.jvp(spec)
        (output, state), (t_output, t_state) = f((params, x, state), (t_params, t_x, t_state), lengths=None)

    spec: a recurrent spec, `rnnc.Graph` or `rnnc.Sequential`. backend, threads, matmul: as in `rnnc.compile`.
    Raises ArgumentError, ArgumentTypeError or BackendError. `JVP.__call__` gives the arguments of f.
    """
    options = CompileOptions.of(backend, threads, matmul)
    if isinstance(spec, Layered):
        found: JVP = _of_networks().NetworkJVP(spec, options)
        return found
    return JVP(check_spec(spec), options)


@explained
def hvp(
    spec: Spec | Layered,
    *,
    backend: str = "llvm",
    threads: int | None = None,
    matmul: str | None = None,
) -> HVP:
    """Second order: returns a compiled function of gradients and their derivative along a direction.

        f = rnnc.hvp(spec)
        gradients, tangents = f((params, x, state), (d_output, d_state), (t_params, t_x, t_state),
                                (t_d_output, t_d_state), lengths=None)

    gradients = (d_params, d_x, d_state) is the result of a pullback for d_output and d_state. tangents is the
    derivative of all three along (t_params, t_x, t_state). If d_output and d_state are fixed, it is the product of the
    Hessian of <d_output, output> + <d_state, state> with the direction. For another loss of output and state, pass its
    gradient as d_output and d_state, and the derivative of that gradient along the direction as t_d_output and
    t_d_state (default: zeros).

    spec: a recurrent spec, `rnnc.Graph` or `rnnc.Sequential`. backend, threads, matmul: as in `rnnc.compile`.
    Raises ArgumentError, ArgumentTypeError or BackendError. `HVP.__call__` gives the arguments of f.

    It is forward mode over reverse mode: each of the two passes of a gradient has a tangent pass beside it, and nothing
    is kept between calls. Reverse over reverse (differentiating a `vjp` graph again, `rnnc.ir.autodiff`) needs the same
    arithmetic, but keeps the values of both passes, and runs two more loops backward.
    """
    options = CompileOptions.of(backend, threads, matmul)
    if isinstance(spec, Layered):
        found: HVP = _of_networks().NetworkHVP(spec, options)
        return found
    return HVP(check_spec(spec), options)


def _of_networks() -> ModuleType:
    """The module of networks' derivatives. It is imported when needed, so that users of specs alone do not load it."""
    from rnnc.networks import derivatives

    return derivatives


class Derivative(Compiled, Unchanging):
    """The common base of the three: a compiled function, its texts, and the checks of its arguments.

    A pickle holds the spec and the options; it is compiled again when it is loaded.
    """

    _kind: str

    def __init__(self, spec: Spec | Layered, options: CompileOptions) -> None:
        super().__init__(self._differentiated(spec), options)
        self.spec: Any = spec
        self._shapes = spec.parameter_shapes()
        if isinstance(spec, Spec):
            self._names = ArrayNames.of(spec)
            self._signature = Signature.of(spec, self._arrays)
        self._bound = self._code.bind({})

    def _differentiated(self, spec: Spec | Layered) -> Computation:
        return DERIVATIVES[self._kind](spec)

    def __repr__(self) -> str:
        return f"rnnc.{self._kind}({self.spec!r}, backend={self.backend!r})"

    def _profiled_call(self) -> Callable[[], Callable[..., Any]]:
        function, arguments = self.__reduce__()
        return lambda: function(*arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(_FUNCTIONS[self._kind], **self._options.arguments), (self.spec,)

    def saved_bytes(self, steps: int, batch: int) -> int:
        """The number of bytes kept between a call and its pullback, inputs included; 0 without a pullback."""
        return self._code.saved_bytes(steps, batch)

    # ---- arrays by name

    def _call(self, params: object, x: object, state: object, lengths: object) -> Call:
        """The checked arguments of a call, without the parameters, which `_primal` checks."""
        if isinstance(x, Mapping) and not isinstance(params, Mapping):
            raise ArgumentTypeError("params, x: they are in each other's place; parameters come first, then x")
        return self._signature.check(x, state, lengths, None)

    def _primal(self, params: object, call: Call) -> dict[str, Array]:
        """The inputs of the forward pass, by name. Checks the parameters."""
        named = read_parameters(self.spec, params, self._arrays, shapes=self._shapes)
        named[names.X] = call.x
        if call.states is not None:  # a state that is left out is zeros
            named |= by_name(self._names.initial, call.states)
        return named

    def _zeros(self, call: Call) -> tuple[Array, ...]:
        """An initial state of zeros."""
        return tuple(self._arrays.xp.zeros_like(final) for final in call.finals)

    def _results(self, call: Call, prefix: str = "") -> tuple[dict[str, Array], tuple[Array, State]]:
        """New arrays for output and final state: by name, and then in the user's layout."""
        output, finals, result = self._signature.new_result(call)
        return {prefix + names.OUTPUT: output} | by_name(self._names.final, finals, prefix), result

    def _primal_results(self, call: Call) -> dict[str, Array]:
        """The arrays for the results of the forward pass, by name. In the user's layout they are `call.result`."""
        return {names.OUTPUT: call.output} | by_name(self._names.final, call.finals)

    def _gradients(self, call: Call, prefix: str) -> tuple[dict[str, Array], Gradients]:
        """New arrays for the gradients: by name, and then in the user's layout."""
        params = {name: fresh.empty(shape, self.spec.dtype, self._arrays.xp) for name, shape in self._shapes.items()}
        d_x, shown_x = self._signature.new_like_x(call)
        states, state = self._signature.new_states(call)
        named = {prefix + name: array for name, array in params.items()}
        named[prefix + names.X] = d_x
        return named | by_name(self._names.initial, states, prefix), (params, shown_x, state)

    def _gather(self, call: Call, outputs: dict[str, Array], gradients: Gradients, prefix: str) -> None:
        """Completes the gradients of tables, whose rows are looked up by number. A spec has no tables."""

    def _seeds(self, what: str, d_output: object, d_state: object, call: Call, prefix: str) -> dict[str, Array]:
        """The adjoints (or their tangents) of output and final state, by name. None becomes zeros."""
        output, states = self._signature.check_result(what, d_output, d_state, call)
        return {prefix + names.OUTPUT: output} | by_name(self._names.final, states, prefix)

    def _tangents(self, tangents: object, call: Call, prefix: str) -> dict[str, Array]:
        """The direction of params, x and state, by name. None becomes zeros."""
        t_params, t_x, t_state = parts("tangents", tangents, ("params", "x", "state"))
        if t_params is None:
            given = {name: self._arrays.xp.zeros(shape, self.spec.dtype) for name, shape in self._shapes.items()}
        else:
            given = read_parameters(self.spec, t_params, self._arrays, "tangents[0]", self._shapes)
        x = self._signature.check_x("tangents[1]", t_x, call)
        states = self._signature.check_states("tangents[2]", t_state, call)
        named = {prefix + name: array for name, array in given.items()} | {prefix + names.X: x}
        return named | by_name(self._names.initial, states, prefix)

    def _start(self, call: Call, inputs: dict[str, Array], outputs: dict[str, Array]) -> Tape | None:
        """Runs the function. If the batch is empty, it only sets the outputs to zeros."""
        steps, batch = call.x.shape[:2]
        if batch:
            return self._bound.start(inputs, self._computed(outputs), steps, batch, call.lengths)
        clear(outputs)
        return None

    @cached_property
    def _made(self) -> frozenset[str]:
        """The outputs that the code computes. Native calls do not ask, and so need no graph."""
        return frozenset(self._computation.build(1, False).outputs)

    def _computed(self, outputs: dict[str, Array]) -> dict[str, Array]:
        """The outputs that the code computes. The others do not depend on their argument, and are set to zeros."""
        if outputs.keys() <= self._made:
            return outputs
        clear({name: array for name, array in outputs.items() if name not in self._made})
        return {name: array for name, array in outputs.items() if name in self._made}


class VJP(Derivative):
    """The function that `rnnc.vjp` returns: the forward pass, with a pullback."""

    _kind = "vjp"

    def __init__(self, spec: Any, options: CompileOptions, remat: Remat = None, wrt: tuple[str, ...] = EVERY) -> None:
        self.remat, self.wrt = check_remat(spec, remat), wrt
        super().__init__(spec, options)

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(vjp, remat=self.remat, wrt=self.wrt, **self._options.arguments), (self.spec,)

    def _profiled_call(self) -> Callable[[], Callable[..., Any]]:
        made = super()._profiled_call()

        def both() -> Callable[..., Any]:
            twin = made()

            def call(*arguments: Any, **named: Any) -> None:
                result, pullback = twin(*arguments, **named)
                pullback(result[0])

            return call

        return both

    def _differentiated(self, spec: Spec | Layered) -> Computation:
        # Segments hand the gradient of their first state on to each other.
        computed = self.wrt if self.remat is None else (*self.wrt, "state")
        self._derived = frozenset(gradients_of(names_of(spec), computed))
        return DERIVATIVES["vjp"](spec, computed)

    @explained
    def __call__(
        self, params: Params, x: Array, state: State | None = None, lengths: ArrayLike | None = None
    ) -> tuple[tuple[Array, State], Pullback]:
        """Runs the forward pass, and returns ((output, state), pullback).

        params: name -> array, as in `rnnc.Program.bind`. With backend "cuda", parameters on the host are copied
        to the GPU in every call. x, state, lengths, and the results: as in `rnnc.Model.__call__`.
        Raises ParameterError, ShapeError, DtypeError, LengthError, ArgumentError or ArgumentTypeError.
        """
        if self._halves is not None:
            counts = plain_lengths(lengths)
            try:
                made = self._halves.start(params, x, state, counts)
            except MemoryError:  # the checked call raises it again, with a message
                made = None
            if made is not None:
                output, last, tape = made
                counts = None if counts is None else counts.copy()  # the caller may change them before the second half
                return (output, last), Pullback(self, partial(self._call, {}, x, state, counts), tape, tape)
        self._tally.python += 1
        call = self._call(params, x, state, lengths)
        tape = self._start(call, self._primal(params, call), self._primal_results(call))
        return call.result, Pullback(self, lambda: call, tape)

    def explain(self) -> str:
        """Which paths the backend took, and how a plain call gets there."""
        return super().explain() + way_in(self._halves)

    @property
    def calls(self) -> Calls:
        """How many calls, of this and of its pullbacks, went which way, as `rnnc.Model.calls` has it."""
        return self._tally.calls()

    @cached_property
    def _tally(self) -> Tally:
        return Tally()

    @cached_property
    def _halves(self) -> QuickHalves | None:
        """The quick calls of the two halves, if there are any. They are made when they are first needed."""
        calls = self._plain_calls() if self.remat is None else None
        return None if calls is None else self._bound.quick_halves(*calls, self._tally.outcomes)

    def plain_halves(self) -> tuple[PlainCall, PlainCall, QuickHalves] | None:
        """The calls of the two halves, described and as the backend makes them; None if it has no quick ones."""
        calls = self._plain_calls()
        return None if calls is None or self._halves is None else (*calls, self._halves)

    def _plain_calls(self) -> tuple[PlainCall, PlainCall] | None:
        """The arguments and results of the two halves."""
        return plain_vjp(self.spec, self._shapes, self.wrt)

    def _wanted_gradients(self, call: Any) -> tuple[dict[str, Array], Gradients]:
        """`_gradients`, with only those by name that are computed."""
        named, gradients = self._gradients(call, names.GRADIENT)
        return {name: array for name, array in named.items() if name in self._derived}, gradients

    def saved_bytes(self, steps: int, batch: int) -> int:
        if self.remat is None:
            return super().saved_bytes(steps, batch)
        size = segment_size(self.remat, steps)
        states: int = sum(self.spec.states.values()) * self.spec.num_layers * np.dtype(self.spec.dtype).itemsize
        return super().saved_bytes(size, batch) + -(-steps // size) * batch * states

    def _start(self, call: Call, inputs: dict[str, Array], outputs: dict[str, Array]) -> Tape | None:
        steps, batch = call.x.shape[:2]
        size = segment_size(self.remat, steps)
        if size == steps or not batch:
            return super()._start(call, inputs, outputs)
        links = dict(zip(sum(self._names.final, ()), sum(self._names.initial, ()), strict=True))
        xp = self._arrays.xp
        inputs = by_name(self._names.initial, self._zeros(call)) | inputs  # segments hand states on
        arrays = (links, self._names.params, inputs, outputs)
        return SegmentedTape(self._bound, xp, *arrays, steps, batch, call.lengths, size)


class JVP(Derivative):
    """The function that `rnnc.jvp` returns: the forward pass, with its derivative along a direction."""

    _kind = "jvp"

    @explained
    def __call__(
        self,
        primals: tuple[Params, Array, State | None],
        tangents: tuple[Params | None, Array | None, State | None],
        *,
        lengths: ArrayLike | None = None,
    ) -> tuple[tuple[Array, State], tuple[Array, State]]:
        """Returns ((output, state), (t_output, t_state)), where the latter are the derivatives along the tangents.

        primals: (params, x, state), as in `VJP.__call__`. state may be None.
        tangents: (t_params, t_x, t_state), shaped like the primals. Each may be None, which stands for zeros.
        Raises ParameterError, ShapeError, DtypeError, LengthError, ArgumentError or ArgumentTypeError.
        """
        params, x, state = parts("primals", primals, ("params", "x", "state"))
        call = self._call(params, x, state, lengths)
        varied, tangent = self._results(call, names.TANGENT)
        inputs = self._primal(params, call) | self._tangents(tangents, call, names.TANGENT)
        self._start(call, inputs, self._primal_results(call) | varied)
        return call.result, tangent


class HVP(Derivative):
    """The function that `rnnc.hvp` returns: gradients, with their derivative along a direction."""

    _kind = "hvp"

    @explained
    def __call__(
        self,
        primals: tuple[Params, Array, State | None],
        seeds: tuple[Array | None, State | None],
        tangents: tuple[Params | None, Array | None, State | None],
        seed_tangents: tuple[Array | None, State | None] = (None, None),
        *,
        lengths: ArrayLike | None = None,
    ) -> tuple[Gradients, Gradients]:
        """Returns (gradients, their derivative along the tangents), each of them (d_params, d_x, d_state).

        primals, tangents: as in `JVP.__call__`. seeds: (d_output, d_state), as in `Pullback.__call__`.
        seed_tangents: (t_d_output, t_d_state), the derivatives of the seeds, with the same shapes; None for zeros.
        Raises ParameterError, ShapeError, DtypeError, LengthError, ArgumentError or ArgumentTypeError.
        """
        params, x, state = parts("primals", primals, ("params", "x", "state"))
        d_output, d_state = parts("seeds", seeds, ("d_output", "d_state"))
        t_d_output, t_d_state = parts("seed_tangents", seed_tangents, ("t_d_output", "t_d_state"))
        call = self._call(params, x, state, lengths)
        inputs = self._primal(params, call) | self._seeds("seeds", d_output, d_state, call, names.GRADIENT)
        inputs |= self._tangents(tangents, call, names.TANGENT)
        inputs |= self._seeds("seed_tangents", t_d_output, t_d_state, call, names.tangent(names.GRADIENT))
        outputs, gradients = self._gradients(call, names.GRADIENT)
        varied, changes = self._gradients(call, names.tangent(names.GRADIENT))
        self._start(call, inputs, outputs | varied)
        self._gather(call, outputs, gradients, names.GRADIENT)
        self._gather(call, varied, changes, names.tangent(names.GRADIENT))
        return gradients, changes


_FUNCTIONS: dict[str, Callable[..., object]] = {"vjp": vjp, "jvp": jvp, "hvp": hvp}


def parts(name: str, value: object, parts: tuple[str, ...]) -> tuple[Any, ...]:
    """The value as a tuple with one item per name in `parts`. Raises ArgumentError or ArgumentTypeError."""
    if not isinstance(value, (tuple, list)):
        raise ArgumentTypeError(f"{name}: expected a tuple ({', '.join(parts)}), got {checks.came(value)}")
    if len(value) != len(parts):
        raise ArgumentError(f"{name}: expected {len(parts)} items ({', '.join(parts)}), got {len(value)}")
    return tuple(value)
