"""The check that this process can use an NVIDIA GPU: a driver, a device, and a CuPy that fits the driver.

The driver is called by ctypes first, so that the check takes a fraction of a millisecond on a machine without one, and
does not import CuPy.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import sys
from dataclasses import dataclass
from typing import Any

from rnnc.ir.errors import BackendUnavailable

_HELP = "backend='llvm' computes on the CPU, backend='cuda-emulated' runs the same CUDA C there for tests"
_EXTRAS = (12, 13)
"""The major versions of CUDA with a build of CuPy that rnnc can use."""


@dataclass(frozen=True)
class Status:
    """The result of the check. usable: True if kernels can be launched.

    reason: the name of the device, or what is missing and what to do.
    """

    usable: bool
    reason: str


def require_gpu() -> None:
    """Raises BackendUnavailable, which says what is missing, unless a GPU can be used."""
    status = gpu_status()
    if not status.usable:
        raise BackendUnavailable(f"backend 'cuda': {status.reason}; {_HELP}")


@functools.cache
def gpu_status() -> Status:
    """The result of the check, which is made once per process. It raises nothing and prints nothing."""
    try:
        return Status(True, _device_name(_driver_version()))
    except _Missing as missing:
        return Status(False, str(missing))


class _Missing(Exception):
    """Something is missing for the use of a GPU, as the message says."""


def _driver_version() -> int:
    """The newest CUDA version of the driver, such as 13020 for 13.2. Raises _Missing without a driver or a device."""
    driver = _load_driver()
    if status := driver.cuInit(0):
        raise _Missing(_init_trouble(driver, status))
    count, version = ctypes.c_int(), ctypes.c_int()
    if driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        raise _Missing(_NO_DEVICE)
    driver.cuDriverGetVersion(ctypes.byref(version))
    return version.value


_NO_DEVICE = "the NVIDIA driver finds no GPU (does CUDA_VISIBLE_DEVICES hide it, or a container?)"
_ERROR_NO_DEVICE = 100


def _init_trouble(driver: Any, status: int) -> str:
    if status == _ERROR_NO_DEVICE:
        return _NO_DEVICE
    name = ctypes.c_char_p()
    driver.cuGetErrorName(status, ctypes.byref(name))
    text = (name.value or b"unknown error").decode()
    return f"the NVIDIA driver does not start: cuInit failed with {text} ({status}); does nvidia-smi work?"


def _load_driver() -> Any:
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        return ctypes.CDLL(name)
    except OSError:
        raise _Missing(f"no NVIDIA driver ({name} is not found); install the driver of your GPU") from None


def _device_name(driver: int) -> str:
    """The name of the current device. driver: its CUDA version. Raises _Missing without a CuPy that fits it."""
    # CuPy raises many kinds of errors if one of its libraries is missing or does not fit. All mean the same here.
    try:
        runtime: Any = importlib.import_module("cupy").cuda.runtime
        built = int(runtime.runtimeGetVersion())
    except Exception as error:
        raise _Missing(f"CuPy cannot be imported ({_first_line(error)}); {_advice(driver)}") from None
    if built // 1000 > driver // 1000:
        raise _Missing(
            f"CuPy is built for CUDA {_version(built)}, the driver serves CUDA up to {_version(driver)}; "
            f"pip uninstall cupy-cuda{built // 1000}x, then {_advice(driver)}, or install a newer driver"
        )
    try:
        name = runtime.getDeviceProperties(runtime.getDevice())["name"]
    except Exception as error:
        raise _Missing(f"CuPy cannot use the GPU ({_first_line(error)})") from None
    return name.decode() if isinstance(name, bytes) else str(name)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _advice(driver: int) -> str:
    major = min(driver // 1000, _EXTRAS[-1])
    if major < _EXTRAS[0]:
        newest = f"pip install 'rnnc[cuda{_EXTRAS[-1]}]'"
        return f"install a newer driver (this one serves only CUDA {_version(driver)}), then {newest}"
    return f"pip install 'rnnc[cuda{major}]'"


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"
