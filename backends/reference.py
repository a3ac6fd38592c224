"""The reference backend: the rolled Program, interpreted with NumPy. The oracle of all others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property

import numpy as np

from rnnc.backends.interpreter import Execution, evaluate_bind, run_program
from rnnc.backends.noise import compile_noise
from rnnc.backends.updates import compile_update
from rnnc.ir import names
from rnnc.ir.computation import Computation, members, split
from rnnc.ir.errors import BackendError
from rnnc.ir.lower import Stack
from rnnc.ir.ops import BATCH, Array
from rnnc.ir.pipeline import rolled_program
from rnnc.ir.program import Program, Statement

__all__ = ["compile", "compile_function", "compile_noise", "compile_update"]

EXPLANATION = "reference: the rolled program is interpreted value by value with NumPy; nothing is fused or packed.\n"


def compile(stack: Stack, *, threads: int | None) -> ReferenceExecutable:
    """Rolls the stack; `threads` does not matter here, NumPy's own libraries decide."""
    return ReferenceExecutable(stack)


def compile_function(computation: Computation, *, threads: int | None) -> ReferenceFunction:
    """Rolls the computation; `threads` does not matter here."""
    return ReferenceFunction(computation)


class ReferenceExecutable:
    """A Program and its interpreter."""

    stages: tuple[str, ...] = ()

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.dense = rolled_program(stack)

    @cached_property
    def ragged(self) -> Program:
        """The program that masks rows past their length; made when lengths are first given."""
        return rolled_program(self.stack, lengths=True)

    def bind(self, parameters: Mapping[str, Array]) -> ReferenceRunner:
        return ReferenceRunner(self, dict(parameters))

    def text(self, stage: str) -> str:
        raise BackendError(f"stage: the reference backend has no stage {stage!r} of its own")

    def explain(self) -> str:
        return EXPLANATION


class ReferenceRunner:
    """A Program with its parameters."""

    def __init__(self, executable: ReferenceExecutable, parameters: dict[str, Array]) -> None:
        self._executable = executable
        self._parameters = parameters

    def plain_call(self, batch_first: bool) -> None:
        """No quick way: every call is checked and interpreted in Python."""

    def run(
        self,
        x: Array,
        states: tuple[Array, ...] | None,
        lengths: Array | None,
        output: Array,
        finals: tuple[Array, ...],
    ) -> None:
        """See `rnnc.backends.base.Runner.run`."""
        stack = self._executable.stack
        steps, batch = x.shape[:2]
        feeds = {names.X: x} | _initial_states(stack, states, batch)
        if lengths is not None:
            feeds[names.VALID] = _valid(lengths, steps)
        program = self._executable.dense if lengths is None else self._executable.ragged
        results = run_program(program, evaluate_bind(program, self._parameters), feeds, steps)
        output[...] = results[names.OUTPUT]
        for final, name in zip(finals, stack.states, strict=True):
            for slab, layer in enumerate(stack.flat):
                final[slab] = results[names.final(name, layer.suffix)]


class ReferenceFunction:
    """A computation and its interpreter."""

    stages: tuple[str, ...] = ()

    def __init__(self, computation: Computation) -> None:
        self.computation = computation
        self.dense = computation.program()

    @cached_property
    def ragged(self) -> Program:
        """The program that masks rows past their length; made when lengths are first given."""
        return self.computation.program(lengths=True)

    def text(self, stage: str) -> str:
        raise BackendError(f"stage: the reference backend has no stage {stage!r} of its own")

    def explain(self) -> str:
        return EXPLANATION

    def saved_bytes(self, steps: int, batch: int) -> int:
        """The interpreter keeps every value over time of the first part."""
        first = split(self.dense, self.computation.late)[0] if self.computation.late else []
        widths = [math.prod(int(s) for s in f.shape if s != BATCH) for s in first for f in members(s) if f.timed]
        return steps * batch * sum(widths) * np.dtype(self.dense.dtype).itemsize

    def start(
        self,
        inputs: Mapping[str, Array],
        outputs: Mapping[str, Array],
        steps: int,
        batch: int,
        lengths: Array | None,
    ) -> ReferenceTape:
        """See `rnnc.backends.base.Function.start`."""
        program = self.dense if lengths is None else self.ragged
        feeds = {name: np.array(array) for name, array in inputs.items()}
        if lengths is not None:
            feeds[names.VALID] = _valid(lengths, steps)
        first, second = split(program, self.computation.late)
        execution = Execution(program, evaluate_bind(program, feeds), steps)
        execution.feed(feeds)
        execution.run(first)
        for name, array in outputs.items():
            array[...] = execution.output(name)
        return ReferenceTape(execution, second)


class ReferenceTape:
    """An execution that stopped where the second part begins."""

    def __init__(self, execution: Execution, rest: list[Statement]) -> None:
        self._execution = execution
        self._rest = rest

    def finish(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        """See `rnnc.backends.base.Tape.finish`."""
        execution = self._execution.copy()
        execution.feed(inputs)
        execution.run(self._rest)
        for name, array in outputs.items():
            array[...] = execution.output(name)


def _valid(lengths: Array, steps: int) -> Array:
    """The mask (T, B, 1) of steps before each row's end."""
    return np.asarray(np.arange(steps)[:, None, None] < lengths[None, :, None])


def _initial_states(stack: Stack, states: tuple[Array, ...] | None, batch: int) -> dict[str, Array]:
    feeds = {}
    for slab, layer in enumerate(stack.flat):
        for number, (name, width) in enumerate(layer.states.items()):
            given = None if states is None else states[number][slab]
            feeds[names.initial(name, layer.suffix)] = np.zeros((batch, width), stack.dtype) if given is None else given
    return feeds
