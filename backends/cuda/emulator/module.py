"""A translation unit compiled for the CPU, whose kernels are launched on NumPy arrays."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rnnc.backends.cuda.emulator import source as cuda
from rnnc.backends.cuda.emulator.errors import EmulatorError
from rnnc.backends.cuda.emulator.toolchain import Diagnostics, toolchain
from rnnc.backends.locks import new_lock

SHARED_LIMIT = 227 * 1024
"""The largest shared memory of a block on any chip, in bytes."""

_VALUES = {"f": "float32", "d": "float64", "b": "int8", "h": "int16", "i": "int32", "l": "int64"}
_VALUES |= {"B": "uint8", "H": "uint16", "I": "uint32", "L": "uint64"}
_MESSAGE_BYTES = 4096
_ORDERS = 2**32

# The runtime's state is global, so kernels run one at a time in a process. They do not hold the interpreter's lock.
_running = new_lock()


@dataclass(frozen=True)
class KernelParameter:
    """A parameter of a kernel: a pointer ('*', or 'c' to const) or a value ('='), and the letter of its type."""

    kind: str
    letter: str

    def __str__(self) -> str:
        name = _VALUES.get(self.letter, "anything")
        return name if self.kind == "=" else f"{'const ' * (self.kind == 'c')}{name}*"

    def problem(self, argument: object) -> str | None:
        """The reason why an argument does not fit; None if it does."""
        if self.kind == "=":
            fits = isinstance(argument, np.generic) and argument.dtype.name == _VALUES.get(self.letter)
            return None if fits else f"expected a NumPy scalar {self}, got {_described(argument)}"
        if argument is None:
            return None
        if not isinstance(argument, np.ndarray):
            return f"expected an array or None for {self}, got {_described(argument)}"
        if self.kind == "*" and not argument.flags.writeable:
            return f"expected an array that can be written for {self}, got a read-only one"
        return None if self._points_to(argument.dtype) else f"expected an array for {self}, got {_described(argument)}"

    def _points_to(self, dtype: np.dtype[Any]) -> bool:
        """True if the parameter can point to elements of a dtype.

        Bytes, on either side, are raw memory. Signs of integers are not compared, and neither are types of 16 bits.
        """
        if self.letter in "vbB" or dtype == np.uint8:
            return True
        wanted = np.dtype(_VALUES[self.letter])
        if wanted.itemsize == 2:
            return dtype.itemsize == 2
        return dtype == wanted or (wanted.kind in "iu" and dtype.kind in "iu" and dtype.itemsize == wanted.itemsize)


def _described(argument: object) -> str:
    if isinstance(argument, np.ndarray):
        return f"an array of {argument.dtype}"
    return f"{type(argument).__name__} {argument!r}"


@dataclass(frozen=True)
class EmulatedKernel:
    """A kernel. entry: the address of its function. threads: the most threads of a block that it allows, or None."""

    entry: int
    parameters: tuple[KernelParameter, ...]
    threads: int | None


class EmulatedModule:
    """A translation unit of CUDA C, compiled for the CPU.

    Kernels are `extern "C" __global__ void name(parameters)`, where a parameter is a pointer or a number. All shared
    memory must be dynamic. A spin loop must call __nanosleep. Threads may launch at the same time; the launches run one
    after the other.

    Raises EmulatorError if there is no C++ compiler, or if the source does not compile; the error then has the
    compiler's messages and the lines of CUDA C that they refer to.
    """

    def __init__(self, source: str, *, shared_limit: int = SHARED_LIMIT) -> None:
        """Compiles the source. shared_limit: the largest shared memory of a launch, in bytes per block."""
        self.source = source
        self._shared_limit = shared_limit
        tools = toolchain()
        try:
            unit = cuda.translate(source)
            self._library = tools.unit(unit.text)
        except cuda.SourceError as error:
            raise EmulatorError(str(error)) from None
        except Diagnostics as error:
            text = cuda.explain(error.text, source)
            raise EmulatorError(f"{tools.compiler} does not compile the CUDA C:\n{text}") from None
        self._context = _function(self._library, "rnnc_context", ctypes.c_void_p)()
        self._kernels = {name: self._kernel(name, threads) for name, threads in unit.kernels.items()}
        self._run = _launcher(tools.runtime())

    @property
    def kernels(self) -> tuple[str, ...]:
        """The names of the kernels, in the order of the source."""
        return tuple(self._kernels)

    def launch(
        self,
        name: str,
        grid: int | Sequence[int],
        block: int | Sequence[int],
        shared: int = 0,
        arguments: Sequence[object] = (),
        cooperative: bool = False,
        order: int = 0,
        patience: float = 10.0,
    ) -> None:
        """Runs a kernel to its end, without the interpreter's lock.

        grid, block: the numbers of blocks and of threads per block, along up to three axes.
        shared: bytes of shared memory per block. They are NaN at the start of a block.
        arguments: an array is passed as a pointer to its first element, None as a null pointer, NumPy scalars by value.
        cooperative: True to run all blocks at the same time; otherwise they run one after the other.
        order: the order of threads and blocks: 0 ascending, 1 descending, any other number the seed of a shuffle.
        patience: the seconds of processor time that a thread may run without waiting for others. Linux only.

        Raises EmulatorError for arguments that do not fit the kernel, and for launches on which a GPU would hang or
        have undefined behaviour: diverging barriers, deadlock, writes outside shared memory, faults. The message then
        names block, thread and line.
        """
        kernel = self._kernels.get(name)
        if kernel is None:
            raise EmulatorError(f"no kernel {name!r} in this module; it has {', '.join(self._kernels) or 'none'}")
        sizes = (*_sizes(name, "grid", grid), *_sizes(name, "block", block))
        self._check(name, kernel, sizes, shared, order)
        values = _values(name, kernel, arguments)
        message = ctypes.create_string_buffer(_MESSAGE_BYTES)
        pointers = (ctypes.c_void_p * len(values))(*(value.ctypes.data for value in values))
        dimensions = (ctypes.c_uint * 6)(*sizes)
        with _running:
            failed = self._run(
                *(self._context, kernel.entry, pointers, dimensions, shared),
                *(int(cooperative), order, patience, message, _MESSAGE_BYTES),
            )
        if failed:
            raise EmulatorError(f"{name}: {message.value.decode(errors='replace')}")

    def _kernel(self, name: str, threads: int | None) -> EmulatedKernel:
        letters = _function(self._library, f"rnnc_signature_{name}", ctypes.c_char_p)().decode()
        half = len(letters) // 2
        parameters = tuple(
            KernelParameter(kind, letter) for kind, letter in zip(letters[:half], letters[half:], strict=True)
        )
        entry = ctypes.cast(getattr(self._library, f"rnnc_call_{name}"), ctypes.c_void_p).value
        assert entry is not None
        return EmulatedKernel(entry, parameters, threads)

    def _check(self, name: str, kernel: EmulatedKernel, sizes: tuple[int, ...], shared: int, order: int) -> None:
        blocks, threads = math.prod(sizes[:3]), math.prod(sizes[3:])
        if blocks >= 2**31:
            raise EmulatorError(f"{name}: {blocks} blocks; the most is {2**31 - 1}")
        if kernel.threads is not None and threads > kernel.threads:
            raise EmulatorError(f"{name}: {threads} threads in a block; its __launch_bounds__ allow {kernel.threads}")
        if not 0 <= shared <= self._shared_limit:
            raise EmulatorError(f"{name}: {shared} bytes of shared memory; the most is {self._shared_limit}")
        if not 0 <= order < _ORDERS:
            raise EmulatorError(f"{name}: order: expected 0 to {_ORDERS - 1}, got {order}")


def _sizes(name: str, what: str, size: int | Sequence[int]) -> tuple[int, int, int]:
    given = (size,) if isinstance(size, int) else tuple(size)
    if not 1 <= len(given) <= 3 or not all(0 < n < 2**31 for n in given):
        raise EmulatorError(f"{name}: {what}: expected one to three positive numbers, got {size!r}")
    x, y, z = (*given, 1, 1)[:3]
    return x, y, z


def _values(name: str, kernel: EmulatedKernel, arguments: Sequence[object]) -> list[np.ndarray[Any, Any]]:
    """An array with the bits of each argument. A pointer is an address."""
    if len(arguments) != len(kernel.parameters):
        expected = ", ".join(map(str, kernel.parameters))
        raise EmulatorError(f"{name}: {len(kernel.parameters)} arguments expected ({expected}), got {len(arguments)}")
    values = []
    for number, (parameter, argument) in enumerate(zip(kernel.parameters, arguments, strict=True)):
        problem = parameter.problem(argument)
        if problem is not None:
            raise EmulatorError(f"{name}: argument {number}: {problem}")
        if parameter.kind == "=":
            values.append(np.array([argument]))
        else:
            address = argument.ctypes.data if isinstance(argument, np.ndarray) else 0
            values.append(np.array([address], np.uint64))
    return values


def _function(library: ctypes.CDLL, name: str, result: Any) -> Any:
    function = getattr(library, name)
    function.restype = result
    return function


def _launcher(runtime: ctypes.CDLL) -> Any:
    launch = _function(runtime, "rnnc_emulator_launch", ctypes.c_int)
    pointer = ctypes.c_void_p
    launch.argtypes = [pointer, pointer, pointer, pointer, ctypes.c_size_t, ctypes.c_int, ctypes.c_uint]
    launch.argtypes += [ctypes.c_double, ctypes.c_char_p, ctypes.c_size_t]
    return launch
