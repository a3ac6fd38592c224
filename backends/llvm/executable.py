"""What the llvm backend's `compile` returns: machine code without weights, and all its texts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from rnnc.backends.interpreter import evaluate_bind
from rnnc.backends.llvm.driver import Interface, Slot, emit_driver
from rnnc.backends.llvm.entry import CallShape, emit_entry
from rnnc.backends.llvm.jit import compile_assembly
from rnnc.backends.llvm.report import Stages, phase_lines
from rnnc.backends.llvm.runner import LlvmRunner
from rnnc.backends.llvm.target import Target, host
from rnnc.backends.planning.planner import plan
from rnnc.ir import settings
from rnnc.ir.lower import Stack
from rnnc.ir.names import OUTPUT, X, final, initial
from rnnc.ir.ops import Array
from rnnc.ir.pipeline import rolled_program
from rnnc.ir.ragged import check_rows_end


def compile(stack: Stack, *, threads: int | None = None, target: Target | None = None) -> LlvmExecutable:
    """Compiles a stack for this machine, or for a target that it can run."""
    return LlvmExecutable(stack, threads, target or host())


class LlvmExecutable(Stages):
    """A compiled stack."""

    def __init__(self, stack: Stack, threads: int | None, target: Target) -> None:
        self.stack = stack
        self.target = target
        self.threads = threads or settings.threads()
        self.program = rolled_program(stack)
        self.plan = plan(self.program)
        self.interface = Interface((X, OUTPUT), _slots(stack))
        module, self.layout, self._packed = emit_driver(self.plan, self.interface, target)
        emit_entry(module, _call_shape(stack, self.interface))
        self.assembly_text = module.text()
        self.code = compile_assembly(self.assembly_text, target)

    @cached_property
    def flops_per_row(self) -> int:
        """Multiplications and additions of the matmuls, for one step of one sequence."""
        feeds = [(phase, feed) for _, phase in self.plan.phases() for feed in phase.feeds]
        return max(1, sum(2 * feed.inner * len(feed.blocks) * phase.width for phase, feed in feeds))

    def bind(self, parameters: Mapping[str, Array]) -> LlvmRunner:
        """Evaluates what depends on parameters alone, and packs it."""
        arena = self.layout.pack(evaluate_bind(self.program, parameters))
        return LlvmRunner(self, arena)

    @cached_property
    def ragged(self) -> bool:
        """That padding need not be computed, proved when lengths are first given. Raises IRError if it cannot be."""
        check_rows_end(rolled_program(self.stack, lengths=True))
        return True

    def explain(self) -> str:
        """The target, and the tile and loops of each phase."""
        lines = [
            f"target {self.target.name}: vectors of {self.target.lanes(self.stack.dtype)} {self.stack.dtype}",
            f"work: {self.flops_per_row:,} floating-point operations of matmuls for one step of one sequence; "
            f"{self.layout.size * self.layout.dtype.itemsize // 1024:,} KiB of packed weights",
            "threads: a large batch is split by rows; a batch of one runs on the calling thread",
        ]
        return "\n".join(lines + phase_lines(self._packed)) + "\n"


def _call_shape(stack: Stack, interface: Interface) -> CallShape:
    last = stack.layers[-1]
    widths = tuple(stack.flat[0].states.values())
    output_size = len(last) * last[0].output_size
    return CallShape(interface.fields, stack.dtype, stack.input_size, output_size, len(stack.flat), widths)


def _slots(stack: Stack) -> dict[str, Slot]:
    """Names of initial and final states -> where they are in the caller's arrays."""
    slots = {}
    for slab, layer in enumerate(stack.flat):
        for number, state in enumerate(stack.states):
            slots[initial(state, layer.suffix)] = Slot(f"initial{number}", slab)
            slots[final(state, layer.suffix)] = Slot(f"final{number}", slab)
    return slots
