"""The reference backend: the rolled Program, interpreted with NumPy. The oracle of all others."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np

from rnnc.backends.interpreter import evaluate_bind, run_program
from rnnc.ir.errors import BackendError
from rnnc.ir.lower import Stack
from rnnc.ir.ops import Array
from rnnc.ir.pipeline import rolled_program
from rnnc.ir.program import Program


def compile(stack: Stack, *, threads: int | None) -> ReferenceExecutable:
    """Rolls the stack; `threads` does not matter here, NumPy's own libraries decide."""
    return ReferenceExecutable(stack)


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
        return "reference: the rolled program is interpreted value by value with NumPy; nothing is fused or packed.\n"


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
        feeds = {"x": x} | _initial_states(stack, states, batch)
        if lengths is not None:
            feeds["valid"] = np.arange(steps)[:, None, None] < lengths[None, :, None]
        program = self._executable.dense if lengths is None else self._executable.ragged
        results = run_program(program, evaluate_bind(program, self._parameters), feeds, steps)
        output[...] = results["output"]
        for final, name in zip(finals, stack.states, strict=True):
            for slab, layer in enumerate(stack.flat):
                final[slab] = results[f"{name}_n{layer.suffix}"]


def _initial_states(stack: Stack, states: tuple[Array, ...] | None, batch: int) -> dict[str, Array]:
    feeds = {}
    for slab, layer in enumerate(stack.flat):
        for number, (name, width) in enumerate(layer.states.items()):
            given = None if states is None else states[number][slab]
            feeds[f"{name}_0{layer.suffix}"] = np.zeros((batch, width), stack.dtype) if given is None else given
    return feeds
