"""The cuda backend: a computation becomes CUDA C for NVIDIA GPUs, and runs there by CuPy.

    compiled.py   Code: plan -> commands and kernels -> PTX, and its texts
    code.py       all kernels of a plan, and the host's commands
    schedule/     what a chip has; how recurrences are laid on it; where weights stay
    emit/         CUDA C: of one phase at one row and unit, of kernels, of what every unit begins with
    run/          from CuPy's arrays to launches: the device, calls, training
    tools/        NVRTC without a GPU
    emulator/     the same source on the CPU (`emulated.py` is the backend of it)

Compiling, the texts of all stages and `explain()` need neither a GPU nor CuPy; binding parameters or calling does.
"""

from __future__ import annotations

from typing import Any

from rnnc.backends.arrays import CuPyArrays
from rnnc.backends.cuda.compiled import CudaCode
from rnnc.backends.cuda.emit.tensor_products import KINDS
from rnnc.backends.cuda.run.device import CupyDevice
from rnnc.backends.cuda.run.training import CudaNoise, CudaUpdate
from rnnc.backends.cuda.schedule.chip import Chip
from rnnc.ir.computation import Computation
from rnnc.ir.graph import Graph

__all__ = [
    "OPERANDS",
    "CudaCode",
    "arrays",
    "compile",
    "compile_noise",
    "compile_update",
]


def _cupy() -> Any:
    """CuPy, if there is a GPU; else a BackendError that says what is missing."""
    from rnnc.backends.cuda.run.availability import require_gpu

    require_gpu()
    import cupy

    return cupy


arrays = CuPyArrays(_cupy)
"""The library of the arrays that this backend takes and returns."""


OPERANDS = tuple(KINDS)


def compile(
    computation: Computation, *, threads: int | None = None, operands: str | None = None, chip: Chip | None = None
) -> CudaCode:
    """Compiles a computation for the GPU at hand, or for a chip; `threads` are the CPU's and do not matter."""
    return CudaCode(computation, chip or _chip(), CupyDevice, operands)


def compile_update(graph: Graph) -> CudaUpdate:
    """Compiles the equations of an optimiser."""
    return CudaUpdate(graph, CupyDevice)


def compile_noise(dtype: str) -> CudaNoise:
    """Compiles the masks of dropout and zoneout."""
    return CudaNoise(dtype, CupyDevice)


def _chip() -> Chip:
    """The GPU at hand; without one, the chip that RNNC_CUDA_CHIP names."""
    from rnnc.backends.cuda.run.availability import gpu_status
    from rnnc.backends.cuda.schedule.chip import chip_of, of_device
    from rnnc.ir import settings

    return of_device() if gpu_status().usable else chip_of(settings.cuda_chip())
