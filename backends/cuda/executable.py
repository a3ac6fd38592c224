"""A stack of layers compiled for a GPU, and the same with its parameters on the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

from rnnc.backends.cuda.chip import Chip
from rnnc.backends.cuda.compiled import Compiled
from rnnc.backends.cuda.device import Array, Device
from rnnc.backends.cuda.function import collect, give, give_lengths, parameters
from rnnc.backends.cuda.run import Loaded, Run, Values
from rnnc.backends.cuda.schedule import Wish
from rnnc.backends.planning.plan import Plan
from rnnc.backends.planning.planner import plan
from rnnc.ir.lower import Stack
from rnnc.ir.names import OUTPUT, X, final, initial
from rnnc.ir.pipeline import rolled_program


class CudaExecutable(Compiled):
    """A compiled stack. Nothing asks for the GPU before `bind`."""

    def __init__(
        self,
        stack: Stack,
        chip: Chip,
        device: Callable[[], Device],
        operands: str | None = None,
        wish: Wish | None = None,
    ) -> None:
        self.stack = stack
        super().__init__(chip, device, operands, wish)

    def _plan(self, lengths: bool) -> Plan:
        return plan(rolled_program(self.stack, lengths=lengths))

    def bind(self, parameters: Mapping[str, Array]) -> CudaRunner:
        """See `rnnc.backends.base.Executable.bind`."""
        return CudaRunner(self, parameters)


class CudaRunner:
    """A compiled stack with its parameters packed on the device."""

    def __init__(self, executable: CudaExecutable, given: Mapping[str, Array]) -> None:
        self._executable = executable
        self._given = {name: executable.device.xp.ascontiguousarray(array) for name, array in given.items()}
        self._dense = self._bound(executable.dense)

    @cached_property
    def _ragged(self) -> tuple[Loaded, Values, Sequence[Array]]:
        return self._bound(self._executable.ragged)

    def _bound(self, loaded: Loaded) -> tuple[Loaded, Values, Sequence[Array]]:
        values = parameters(loaded, self._given)
        packed = loaded.pack(values)
        loaded.make(values)
        loaded.device.settle()
        return loaded, values, packed

    def plain_call(self, batch_first: bool) -> None:
        """No quick way in: a launch costs more than a call's checks."""

    def run(
        self,
        x: Array,
        states: tuple[Array, ...] | None,
        lengths: Array | None,
        output: Array,
        finals: tuple[Array, ...],
    ) -> None:
        """See `rnnc.backends.base.Runner.run`."""
        loaded, values, packed = self._dense if lengths is None else self._ragged
        run = Run(loaded, values, packed, x.shape[0], x.shape[1])
        stack = self._executable.stack
        inputs, outputs = {X: x}, {OUTPUT: output}
        for slab, layer in enumerate(stack.flat):
            for number, name in enumerate(stack.states):
                outputs[final(name, layer.suffix)] = finals[number][slab]
                if states is not None:
                    inputs[initial(name, layer.suffix)] = states[number][slab]
        for name, place in loaded.code.plan.row_inputs:
            if name not in inputs:
                inputs[name] = run.device.xp.zeros((run.batch, place.buffer.width), stack.dtype)
        give(run, inputs, copy=False)
        if lengths is not None:
            give_lengths(run, lengths)
        collect(run, outputs, late=False)
