"""Exported code, called here through ctypes with memory that is poisoned before each call."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rnnc.backends.llvm.portable.emission import emit
from rnnc.backends.llvm.portable.interface import STATE_HEADER, CInterface, PortableObject
from rnnc.backends.llvm.portable.machines import machine
from rnnc.exporting.linking.shared_object import shared_object
from rnnc.exporting.network import portable

Array = Any
POISON = 0xFF


def exported(
    model: Any, target: str = "x86-64-v2", *, weights: str = "embedded", kind: str | None = None, small: bool = False
) -> PortableObject:
    return emit(portable(model, "net", weights=weights, kind=kind), machine(target), small=small)


class Library:
    """A library of this machine, with the functions of its interface on arrays."""

    def __init__(self, made: PortableObject, folder: Path) -> None:
        path = folder / "libnet.so"
        path.write_bytes(shared_object([made.content], path.name))
        self.api: CInterface = made.interface
        self.functions = ctypes.CDLL(str(path))
        self.weights = None if made.weights is None else aligned(made.weights)

    def call(self, name: str, *arguments: Any, result: Any = ctypes.c_int) -> Any:
        function = getattr(self.functions, f"net_{name}")
        function.restype = result
        return function(
            *(pointer(a) if a is None or isinstance(a, np.ndarray) else ctypes.c_size_t(a) for a in arguments)
        )

    def new_state(self) -> Array:
        size = self.call("state_size", result=ctypes.c_size_t)
        assert size == self.api.state_bytes
        state = np.full(size, POISON, np.uint8)
        weights = () if self.weights is None else (self.weights,)
        assert self.call("reset", state, *weights) == 0
        return state

    def scratch(self, *sizes: int, name: str = "scratch_size") -> Array:
        return np.full(self.call(name, *sizes, result=ctypes.c_size_t), POISON, np.uint8)

    def outputs(self, frames: int) -> list[Array]:
        """Arrays of NaN, (frames, width) each."""
        return [np.full((frames, port.width), np.nan, port.dtype) for port in self.api.outputs]

    def steps(self, inputs: Sequence[Array], state: Array) -> list[Array]:
        """All frames of one stream, step by step."""
        results = []
        room = STATE_HEADER * -(-(self.api.saved_bytes + 8) // STATE_HEADER)
        for n in range(len(inputs[0])):
            state[room:] = POISON
            outputs = self.outputs(1)
            assert self.call("step", state, *(np.ascontiguousarray(x[n : n + 1]) for x in inputs), *outputs) == 0
            results.append(outputs)
        return [np.concatenate(each) for each in zip(*results, strict=True)]

    def run(self, inputs: Sequence[Array], state: Array) -> list[Array]:
        """All frames of one stream at once."""
        frames = len(inputs[0])
        outputs = self.outputs(frames)
        assert self.call("run", state, frames, *inputs, *outputs, self.scratch(frames)) == 0
        return outputs

    def numbers(self, state: Array) -> Mapping[str, Array]:
        """The numbers of a state, by the names of the network."""
        found, place = {}, STATE_HEADER
        for port in self.api.states:
            found[port.label] = state[place : place + port.bytes].view(port.dtype)
            place += port.bytes
        return found


def pointer(array: Array | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if array is None else array.ctypes.data)


def aligned(content: bytes) -> Array:
    """A copy of some bytes at a multiple of 64."""
    block = np.zeros(len(content) + 64, np.uint8)
    start = -block.ctypes.data % 64
    block[start : start + len(content)] = np.frombuffer(content, np.uint8)
    return block[start : start + len(content)]
