"""What calls of a model and of a computation have in common: code, its texts, and where it is loaded."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from rnnc.backends.cuda.chip import Chip
from rnnc.backends.cuda.code import Code, Wave, generate
from rnnc.backends.cuda.device import Device
from rnnc.backends.cuda.kernel import TIMED
from rnnc.backends.cuda.run import Loaded
from rnnc.backends.cuda.schedule import Wish
from rnnc.backends.cuda.text import BYTES
from rnnc.backends.planning.keeping import kept_buffers
from rnnc.backends.planning.plan import Plan
from rnnc.ir.errors import BackendError


class Compiled:
    """Code for a chip, without and with lengths, its texts, and the device it is loaded on when it is first needed.

    operands: of matrix products on tensor cores, or None. wish: see `rnnc.backends.cuda.schedule.Wish`.
    """

    stages: tuple[str, ...] = ("plan", "commands", "cuda", "ptx")

    def __init__(
        self, chip: Chip, device: Callable[[], Device], operands: str | None = None, wish: Wish | None = None
    ) -> None:
        self.chip = chip
        self.operands = operands
        self._device = device
        self._wish = wish
        self.code = self._generate(lengths=False)

    def _plan(self, lengths: bool) -> Plan:
        """What code is generated from. lengths: whether it masks rows past their length."""
        raise NotImplementedError

    def _generate(self, lengths: bool) -> Code:
        return generate(self._plan(lengths), self.chip, self.operands, self._wish)

    @cached_property
    def device(self) -> Device:
        """The device; a BackendError if there is none."""
        return self._device()

    @cached_property
    def dense(self) -> Loaded:
        """The code for batches without lengths."""
        return Loaded(self.code, self.device)

    @cached_property
    def ragged(self) -> Loaded:
        """The code that masks rows past their length; made when lengths are first given."""
        return Loaded(self._generate(lengths=True), self.device)

    # ---- texts

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
