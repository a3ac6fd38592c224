"""Where the tensors of a module are: in this machine's memory, or on a GPU. Each place reads and returns them there.

On a GPU, tensors become CuPy's arrays through DLPack and results become tensors in the same way, without a copy. All
work is queued on PyTorch's current stream.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.dlpack import to_dlpack

from rnnc.checking.arrays import as_array
from rnnc.ir.errors import ArgumentTypeError

__all__ = ["HOST", "TensorPlace", "place_of"]


class TensorPlace(Protocol):
    """A place of tensors. backend: that which computes there."""

    backend: str

    def __hash__(self) -> int:
        """A place is a key of what is compiled for it."""

    def missing(self) -> str:
        """What is missing to compute there, and what to do; an empty text if nothing is."""

    def entered(self) -> AbstractContextManager[None]:
        """A context in which arrays of this place are made and computed with.

        Raises BackendUnavailable if something is missing for that.
        """

    def array(self, name: str, tensor: Any) -> Any:
        """A view of a tensor's memory. name: for messages.

        Raises ArgumentTypeError for a tensor that lies elsewhere, or that the array library cannot read.
        """

    def parameter(self, name: str, tensor: Any) -> Any:
        """`array` of a parameter, whose memory can be resized afterwards, as FullyShardedDataParallel does."""

    def tensor(self, array: Any) -> Any:
        """An array of this place as a tensor, without a copy."""


class Host:
    """This machine's memory: NumPy's arrays, and the backend "llvm"."""

    backend = "llvm"
    tensor = staticmethod(torch.from_numpy)
    _entered = nullcontext()

    def missing(self) -> str:
        """See `TensorPlace.missing`."""
        return ""

    def entered(self) -> AbstractContextManager[None]:
        """See `TensorPlace.entered`."""
        return self._entered

    def array(self, name: str, tensor: Any) -> Any:
        """See `TensorPlace.array`."""
        try:
            return tensor.detach().numpy() if tensor.requires_grad else tensor.numpy()
        except (AttributeError, RuntimeError, TypeError):  # another device, bfloat16, a sparse tensor, no tensor at all
            return as_array(name, tensor.detach() if hasattr(tensor, "detach") else tensor)

    def parameter(self, name: str, tensor: Any) -> Any:
        """See `TensorPlace.parameter`. `Tensor.numpy` would pin the memory's size for good."""
        if type(tensor) in (torch.nn.Parameter, torch.Tensor) and tensor.is_cpu:
            try:
                return np.from_dlpack(_Exported(tensor.detach()))
            except (BufferError, RuntimeError):  # bfloat16, no memory of its own: the message is `array`'s
                pass
        return self.array(name, tensor)


class _Exported:
    """A tensor in this machine's memory, for np.from_dlpack. Tensor.__dlpack__ takes 3 us, this 0.5 us."""

    def __init__(self, tensor: Any) -> None:
        self._tensor = tensor

    def __dlpack__(self, **_: Any) -> Any:
        return to_dlpack(self._tensor)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0


class Gpu:
    """A GPU: CuPy's arrays, and the backend "cuda".

    device: of PyTorch, with its number.
    """

    backend = "cuda"

    def __init__(self, device: Any) -> None:
        self.device = device

    def missing(self) -> str:
        """See `TensorPlace.missing`."""
        from rnnc.backends.cuda.run.availability import gpu_status

        status = gpu_status()
        return "" if status.usable else status.reason

    @contextmanager
    def entered(self) -> Iterator[None]:
        """See `TensorPlace.entered`. PyTorch's current stream is CuPy's, too, and the GPU is the current one."""
        cupy = _arrays().xp
        stream = torch.cuda.current_stream(self.device).cuda_stream
        with torch.cuda.device(self.device), cupy.cuda.Device(self.device.index), cupy.cuda.ExternalStream(stream):
            yield

    def array(self, name: str, tensor: Any) -> Any:
        """See `TensorPlace.array`."""
        if isinstance(tensor, torch.Tensor):
            if tensor.device != self.device:
                how = f"pass {name}.to({str(self.device)!r}), or move the module to one device"
                raise ArgumentTypeError(f"{name}: it is on {tensor.device}, the parameters are on {self.device}; {how}")
            try:
                return _arrays().adopt(tensor.detach())
            except (BufferError, RuntimeError, TypeError, ValueError) as error:  # a sparse tensor
                raise ArgumentTypeError(f"{name}: CuPy cannot read this {tensor.dtype} tensor: {error}") from error
        return as_array(name, tensor, _arrays())

    parameter = array

    def tensor(self, array: Any) -> Any:
        """See `TensorPlace.tensor`."""
        return torch.from_dlpack(array)


def _arrays() -> Any:
    from rnnc.backends import cuda

    return cuda.arrays


HOST = Host()
GPUS = {"cuda"}
"""The kinds of devices, in PyTorch's words, that `Gpu` runs on."""


def place_of(tensor: Any) -> TensorPlace:
    """The place of a module's first parameter. Another kind of device is refused when an array is made there."""
    return HOST if tensor.is_cpu or tensor.device.type not in GPUS else _gpu(tensor.device)


@cache
def _gpu(device: Any) -> Gpu:
    return Gpu(device)
