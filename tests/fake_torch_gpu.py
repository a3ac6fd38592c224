"""A GPU of PyTorch's that is none: tensors on the device "fakegpu", which the CuPy of tests/fake_cupy.py shares.

`install` registers the device for good, so it is for a process of its own. PyTorch's autograd treats its tensors as
those of a GPU: backward runs in the device's own thread, and no operator mixes them with tensors of the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from rnnc.torch.nn import places
from tests.fake_cupy import FakeCupyArray, FakeGpu

DEVICE = "fakegpu"
STREAM = 7


class FakeGpuTensor(torch.Tensor):
    """A tensor on the device. host: the tensor of the CPU that has its numbers."""

    host: Any

    @staticmethod
    def __new__(cls, host: Any) -> Any:
        made = torch._C._acc.create_empty_tensor(host.shape, host.dtype)
        made.__class__ = cls
        made.host = host
        return made

    def __init__(self, host: Any) -> None:
        """`__new__` has done it: PyTorch makes tensors without calling this."""

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self.device.index

    def __dlpack__(self, *, stream: int | None = None) -> np.ndarray[Any, Any]:
        assert not self.requires_grad and stream is not None
        host: np.ndarray[Any, Any] = self.host.numpy()
        return host


def _host(value: Any) -> Any:
    if isinstance(value, torch.device):
        return torch.device("cpu")
    return value.host if isinstance(value, FakeGpuTensor) else value


def _device(value: Any) -> Any:
    return FakeGpuTensor(value) if isinstance(value, torch.Tensor) else value


def _run(operator: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """An operator of PyTorch on the numbers. Tensors of the CPU among its arguments are single numbers."""
    every = torch.utils._pytree.tree_leaves((arguments, options))
    assert all(not isinstance(a, torch.Tensor) or isinstance(a, FakeGpuTensor) or not a.dim() for a in every), operator
    return tree_map(_device, operator(*tree_map(_host, arguments), **tree_map(_host, options)))


def _copy_from(source: Any, target: Any, non_blocking: bool = False) -> Any:
    _host(target).copy_(_host(source))
    return target


_LIBRARIES: list[Any] = []
"""PyTorch forgets what a library has registered when it goes."""


def install(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device, and in its place on the stream STREAM, rnnc's backend "cuda" on `gpu`."""
    _setup_privateuseone_for_python_backend(DEVICE)
    every, aten = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    every.fallback(_run, dispatch_key="PrivateUse1")
    for name in ("detach", "alias"):
        aten.impl(name, lambda tensor: FakeGpuTensor(tensor.host), "PrivateUse1")
    aten.impl("_copy_from", _copy_from, "PrivateUse1")
    for name in ("empty.memory_format", "empty_strided"):
        made = torch.empty_strided if name == "empty_strided" else torch.empty
        aten.impl(name, lambda *sizes, made=made, dtype=None, **_: _device(made(*sizes, dtype=dtype)), "PrivateUse1")
    _LIBRARIES.extend((every, aten))

    @contextmanager
    def current(device: Any) -> Iterator[None]:
        assert device.type == DEVICE
        yield

    def tensor(array: Any) -> Any:
        assert type(array) is FakeCupyArray and gpu.stream.ptr == STREAM
        return FakeGpuTensor(torch.from_numpy(array._host))

    gpu.install(monkeypatch)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=STREAM))
    monkeypatch.setattr(torch.cuda, "device", current)
    monkeypatch.setattr(torch, "from_dlpack", tensor)
    monkeypatch.setattr(places, "GPUS", {DEVICE})
