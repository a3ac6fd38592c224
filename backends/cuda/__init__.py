"""The cuda backend: a computation becomes CUDA C for NVIDIA GPUs, and CuPy runs it there.

    compiled.py   Code: plan -> commands and kernels -> PTX, and its texts
    code.py       all kernels of a plan, and the commands of the host
    schedule/     the chips; the layouts of recurrences on them; the memory of weights
    emit/         CUDA C: of one phase at one row and unit, of kernels, of the prelude
    run/          from CuPy's arrays to launches: the device, calls, training
    tools/        NVRTC without a GPU
    emulator/     the same source on the CPU (`emulated.py` is its backend)

Compiling, the texts of all stages and `explain()` need neither a GPU nor CuPy. Binding parameters and calling do.
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
    """The module cupy. Raises BackendUnavailable, which says what is missing, if no GPU can be used."""
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
    """The code of a computation for a chip, by default the current GPU. `threads` is for CPUs, and has no effect."""
    return CudaCode(computation, chip or _chip(), CupyDevice, operands)


def compile_update(graph: Graph) -> CudaUpdate:
    """The compiled equations of an optimiser."""
    return CudaUpdate(graph, CupyDevice)


def compile_noise(dtype: str) -> CudaNoise:
    """The compiled source of masks for dropout and zoneout."""
    return CudaNoise(dtype, CupyDevice)


def _chip() -> Chip:
    """The current GPU, or if there is none, the chip that RNNC_CUDA_CHIP names."""
    from rnnc.backends.cuda.run.availability import gpu_status
    from rnnc.backends.cuda.schedule.chip import chip_of, of_device
    from rnnc.ir import settings

    return of_device() if gpu_status().usable else chip_of(settings.cuda_chip())
