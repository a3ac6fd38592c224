"""The cuda backend's Code, Bound and Tape: a computation compiled for a GPU, its texts, its calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rnnc.backends.call_forms import PlainCall
from rnnc.backends.cuda.code import GpuCode, Wavefront, generate
from rnnc.backends.cuda.emit.kernel import TIMED
from rnnc.backends.cuda.emit.text import BYTES
from rnnc.backends.cuda.run.calls import collect, give, give_lengths, values_of
from rnnc.backends.cuda.run.device import Array, Device
from rnnc.backends.cuda.run.execution import Loaded, Run, Values
from rnnc.backends.cuda.schedule.chip import Chip
from rnnc.backends.cuda.schedule.layouts import Restriction
from rnnc.backends.planning.keeping import kept_buffers
from rnnc.backends.planning.planner import plan
from rnnc.ir.computation import Computation
from rnnc.ir.pipeline import PIPELINE, Artefacts, Stage, own_stages
from rnnc.ir.program import is_parameter

Arrays = Mapping[str, Array]


@dataclass(frozen=True)
class _Given:
    """The further inputs of this backend's stages, besides the computation."""

    chip: Chip
    operands: str | None
    restriction: Restriction | None


def _generate(made: Artefacts) -> GpuCode:
    given: _Given = made.given
    return generate(made["plan"], given.chip, given.operands, given.restriction)


def _ptx(made: Artefacts) -> str:
    from rnnc.backends.cuda.tools.nvrtc import ptx

    return ptx(made["cuda"], made.given.chip.arch)


STAGES = (
    *PIPELINE,
    Stage("plan", lambda made: plan(made["rolled"], made.computation.late), lambda planned: str(planned.text())),
    Stage("commands", _generate, GpuCode.commands_text),
    Stage("cuda", lambda made: made["commands"].source(), str),
    Stage("ptx", _ptx, str),
)
"""The pipeline of this backend, in order."""


class CudaCode:
    """See `rnnc.backends.base.Code`. It holds code without and with lengths. Compiling needs no GPU.

    operands: the format of operands for tensor cores, or None. restriction: see
    `rnnc.backends.cuda.schedule.layouts.Restriction`.
    """

    stages = own_stages(STAGES)

    def __init__(
        self,
        computation: Computation,
        chip: Chip,
        device: Callable[[], Device],
        operands: str | None = None,
        restriction: Restriction | None = None,
    ) -> None:
        self.computation = computation
        self.chip = chip
        self.operands = operands
        self._device = device
        self._restriction = restriction
        self._artefacts = self._generate(lengths=False)
        self.code: GpuCode = self._artefacts["commands"]

    def _generate(self, lengths: bool) -> Artefacts:
        """The artefacts of the pipeline. lengths: True for code that masks rows past their length."""
        given = _Given(self.chip, self.operands, self._restriction)
        return Artefacts(STAGES, self.computation, lengths=lengths, given=given)

    @cached_property
    def device(self) -> Device:
        """The device. Raises BackendUnavailable if there is none."""
        return self._device()

    @cached_property
    def dense(self) -> Loaded:
        """The code for batches without lengths."""
        return Loaded(self.code, self.device)

    @cached_property
    def ragged(self) -> Loaded:
        """The code that masks rows past their length. It is made when lengths are first given."""
        return Loaded(self._generate(lengths=True)["commands"], self.device)

    def bind(self, parameters: Arrays) -> CudaBound:
        """See `rnnc.backends.base.Code.bind`. Needs the GPU if there are parameters to pack."""
        return CudaBound(self, parameters)

    def saved_bytes(self, steps: int, batch: int) -> int:
        """See `rnnc.backends.base.Code.saved_bytes`."""
        widths = sum(buffer.width for buffer in kept_buffers(self.code.plan) if buffer.space in TIMED)
        return steps * batch * widths * np.dtype(self.code.dtype).itemsize

    # ---- texts

    def text(self, stage: str) -> str:
        """The plan, the host's commands, the translation unit, or its PTX by NVRTC."""
        return self._artefacts.text(stage)

    def explain(self) -> str:
        """The chip, the values kept between both halves, wavefronts, layouts of recurrences, and kernels."""
        chip = self.chip
        operands = f", matrix products of {self.code.operands}" if self.code.operands else ""
        lines = [f"chip {chip.name} ({chip.arch}): {chip.sms} multiprocessors; {self.code.dtype}{operands}"]
        if kept := [b for b in kept_buffers(self.code.plan) if b.space in TIMED]:
            size = sum(b.width for b in kept) * BYTES[self.code.dtype]
            listed = ", ".join(f"{b.name} {b.width}" for b in kept)
            lines.append(f"saved for the second half: {size:,} bytes per row of a step ({listed})")
        for wave in (c for c in (*self.code.first, *self.code.second) if isinstance(c, Wavefront)):
            lines.append(
                f"wavefront: {len(wave.stages)} layers side by side, each a chunk of steps behind the one below"
            )
        lines += [layout.line() for layout in self.code.layouts]
        lines += [
            f"kernel {k.name}: {k.threads} threads, {k.shared:,} bytes of shared memory" for k in self.code.kernels
        ]
        return "\n".join(lines) + "\n"


class CudaBound:
    """See `rnnc.backends.base.Bound`. If all parameters are bound, they are packed on the device now."""

    def __init__(self, code: CudaCode, given: Arrays) -> None:
        self._code = code
        wanted = {f.name for f in code.code.plan.program.inputs if is_parameter(f)}
        self._given = {name: code.device.xp.ascontiguousarray(array) for name, array in given.items()}
        self._whole = bool(given) and wanted <= given.keys()
        if self._whole:
            self._dense  # noqa: B018 - packs now, not within the first call

    @cached_property
    def _dense(self) -> tuple[Loaded, Values, list[Array]]:
        return self._packed(self._code.dense)

    @cached_property
    def _ragged(self) -> tuple[Loaded, Values, list[Array]]:
        return self._packed(self._code.ragged)

    def _packed(self, loaded: Loaded) -> tuple[Loaded, Values, list[Array]]:
        values = values_of(loaded, self._given)
        packed = loaded.pack(values)
        loaded.make(values)
        loaded.device.settle()
        return loaded, values, packed

    def quick(self, call: PlainCall, outcomes: Array) -> None:
        """None: there is no quick call, because a launch costs more than the checks of a call."""

    def real_time(self, call: PlainCall, fixed: Arrays, outcomes: Array) -> None:
        """None, as `quick`."""

    def quick_halves(self, first: PlainCall, second: PlainCall, outcomes: Array) -> None:
        """None, as `quick`."""

    def start(self, inputs: Arrays, outputs: Arrays, steps: int, batch: int, lengths: Array | None) -> CudaTape:
        """See `rnnc.backends.base.Bound.start`. Arrays, and lengths too, are on the device."""
        if self._whole:
            loaded, values, packed = self._dense if lengths is None else self._ragged
        else:
            loaded = self._code.dense if lengths is None else self._code.ragged
            values = values_of(loaded, {**self._given, **inputs})
            packed = loaded.pack(values)
        run = Run(loaded, values, packed, steps, batch)
        give(run, inputs, late=False)
        if lengths is not None:
            give_lengths(run, lengths)
        collect(run, outputs, late=False)
        return CudaTape(run)


class CudaTape:
    """See `rnnc.backends.base.Tape`. It holds the buffers that the first half keeps on the device."""

    def __init__(self, run: Run) -> None:
        run.drop(kept_buffers(run.code.plan))
        self._run = run

    def finish(self, inputs: Arrays, outputs: Arrays) -> None:
        """See `rnnc.backends.base.Tape.finish`."""
        run = self._run.copy()
        give(run, inputs, late=True)
        collect(run, outputs, late=True)
