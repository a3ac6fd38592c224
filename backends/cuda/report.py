"""What a reader is shown of code for a GPU: its stages, and `explain`."""

from __future__ import annotations

from rnnc.backends.cuda.chip import Chip
from rnnc.backends.cuda.code import Code, Wave
from rnnc.backends.cuda.kernel import TIMED
from rnnc.backends.cuda.text import BYTES
from rnnc.backends.planning.keeping import kept_buffers
from rnnc.ir.errors import BackendError


class Stages:
    """The backend's own stages, of whatever has code for a chip."""

    code: Code
    chip: Chip
    stages: tuple[str, ...] = ("plan", "commands", "cuda", "ptx")

    def text(self, stage: str) -> str:
        """The plan, the host's commands, the translation unit, or what NVRTC makes of it. BackendError for another."""
        match stage:
            case "plan":
                return self.code.plan.text()
            case "commands":
                return self.code.commands_text()
            case "cuda":
                return self.code.source()
            case "ptx":
                from rnnc.backends.cuda.toolkit import ptx

                return ptx(self.code.source(), self.chip.arch)
        raise BackendError(f"stage: got {stage!r}, the cuda backend has {', '.join(map(repr, self.stages))}")

    def explain(self) -> str:
        """The chip, what is kept between both parts, and the way of each recurrence."""
        chip = self.chip
        operands = f", matrix products of {self.code.operands}" if self.code.operands else ""
        lines = [f"chip {chip.name} ({chip.arch}): {chip.sms} multiprocessors; {self.code.dtype}{operands}"]
        if kept := [b for b in kept_buffers(self.code.plan) if b.space in TIMED]:
            size = sum(b.width for b in kept) * BYTES[self.code.dtype]
            listed = ", ".join(f"{b.name} {b.width}" for b in kept)
            lines.append(f"saved for the second part: {size:,} bytes a row of each step ({listed})")
        for wave in (c for c in (*self.code.first, *self.code.second) if isinstance(c, Wave)):
            lines.append(
                f"wavefront: {len(wave.stages)} layers side by side, each a chunk of steps behind the one below"
            )
        lines += [way.line() for way in self.code.ways]
        lines += [
            f"kernel {k.name}: {k.threads} threads, {k.shared:,} bytes of shared memory" for k in self.code.kernels
        ]
        return "\n".join(lines) + "\n"
