"""The safetensors format (https://github.com/huggingface/safetensors): arrays by name, and texts by name.

A file is the size of its header (8 bytes, little-endian), the header (JSON: name -> dtype, shape, place), and the
numbers of all arrays, without gaps. Nothing in it is executed, and all of a header is checked before an array is made.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rnnc.checking import checks
from rnnc.files.narrow import BFLOAT16, Stored
from rnnc.ir.errors import ArgumentError
from rnnc.plain_data import read_json

if TYPE_CHECKING:
    import mmap

    from numpy.typing import NDArray

    from rnnc.files.named import NamedFile

    Array = NDArray[Any]
    Memory = bytearray | mmap.mmap

__all__ = ["TensorFile", "header_of", "header_size", "laid_out"]

METADATA = "__metadata__"
WIDTH = 8
"""Bytes of the size before the header; the header is padded with spaces to a multiple of it."""

DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": BFLOAT16, "C64": "complex64",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
"""The format's names of dtypes -> NumPy's."""
NAMES = {name: code for code, name in DTYPES.items()}


class Extent(NamedTuple):
    """An entry of a header. start, stop: its place among the numbers, in bytes."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class TensorFile:
    """A file in memory, or mapped. first: where the numbers begin. texts: its metadata."""

    file: NamedFile
    memory: Memory
    first: int
    tensors: dict[str, Extent]
    texts: dict[str, str]

    @classmethod
    def of(cls, file: NamedFile, memory: Memory) -> TensorFile:
        """Raises the file's error unless all of its bytes are a header and the arrays that it describes."""
        first = header_size(memory)
        if first is None:
            raise file.refusal("is damaged, or no safetensors file: its size does not fit its header")
        try:
            header = read_json("header", memory[WIDTH:first])
        except ArgumentError as error:
            raise file.refusal(f"is damaged, or no safetensors file: {error}") from error
        if not isinstance(header, dict):
            raise file.refusal(f"is damaged, or no safetensors file: its header is {checks.came(header)}")
        texts = header.pop(METADATA, {})
        if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
            raise file.refusal(f"is damaged: its metadata is {checks.came(texts)}, expected texts by name")
        tensors = {name: _tensor(file, name, entry) for name, entry in header.items()}
        _check_places(file, tensors, len(memory) - first)
        return cls(file, memory, first, tensors, texts)

    def check_length(self) -> None:
        """Raises the file's error if a mapped file is shorter by now: to read beyond its end would end the process."""
        if not isinstance(self.memory, bytearray) and self.memory.size() < len(self.memory):
            raise self.file.refusal("was cut short after it was opened; write files anew, as save does")

    def bytes_of(self, name: str) -> memoryview:
        """The bytes of an array."""
        tensor = self.tensors[name]
        return memoryview(self.memory)[self.first + tensor.start : self.first + tensor.stop]

    def stored(self, name: str) -> Stored:
        """An array, without a copy where its address is aligned. It may be written to; the file does not change."""
        tensor = self.tensors[name]
        dtype = np.dtype("uint16" if tensor.dtype == BFLOAT16 else tensor.dtype).newbyteorder("<")
        array = np.frombuffer(self.bytes_of(name), dtype).reshape(tensor.shape)
        return Stored(np.require(array, requirements=["A", "W"]), tensor.dtype)


def header_size(memory: Memory) -> int | None:
    """Bytes up to the first number; None if the memory is too short for what its first bytes say."""
    first = WIDTH + int.from_bytes(memory[:WIDTH], "little")
    return first if WIDTH < first <= len(memory) else None


def laid_out(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """The arrays as a file holds them, in its order: wide ones first, so that all addresses are aligned."""
    compact = {name: np.ascontiguousarray(array, array.dtype.newbyteorder("<")) for name, array in arrays.items()}
    return dict(sorted(compact.items(), key=lambda item: -item[1].itemsize))


def header_of(arrays: Mapping[str, Array], texts: Mapping[str, str]) -> bytearray:
    """The first bytes of a file of these arrays, which follow in this order."""
    edges = pairwise(accumulate((array.nbytes for array in arrays.values()), initial=0))
    header: dict[str, Any] = {METADATA: dict(texts)}
    for (name, array), place in zip(arrays.items(), edges, strict=True):
        header[name] = {"dtype": NAMES[array.dtype.name], "shape": array.shape, "data_offsets": place}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % WIDTH)
    return bytearray(len(text).to_bytes(WIDTH, "little") + text)


def _tensor(file: NamedFile, name: str, entry: object) -> Extent:
    """A checked entry of the header."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise file.refusal(f"is damaged: {checks.shown(name)} is {checks.came(entry)}")
    dtype, shape, place = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise file.refusal(f"cannot be read: {checks.shown(name)} is {checks.shown(dtype)}; rnnc reads {list(DTYPES)}")
    if not (_sizes(shape) and _sizes(place) and len(place) == 2):
        raise file.refusal(f"is damaged: {checks.shown(name)} has shape {checks.shown(shape)}, place {place!r:.60}")
    width = 2 if DTYPES[dtype] == BFLOAT16 else np.dtype(DTYPES[dtype]).itemsize
    if place[1] - place[0] != math.prod(shape) * width:
        raise file.refusal(f"is damaged: {checks.shown(name)}, {dtype} {checks.shown(shape)}, has the place {place}")
    return Extent(DTYPES[dtype], tuple(shape), *place)


MOST_AXES = 32
"""More axes than any array of weights has; NumPy takes 64."""


def _sizes(value: object) -> bool:
    """Whether a value is a list of sizes."""
    fits = isinstance(value, list) and len(value) <= MOST_AXES
    return fits and all(type(size) is int and 0 <= size < 2**62 for size in value)  # type: ignore[attr-defined]


def _check_places(file: NamedFile, tensors: Mapping[str, Extent], size: int) -> None:
    """The arrays lie one behind the other, from the first byte to the last, so that none reads what is another's."""
    end = 0
    for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.start, tensor.stop)):
        if tensor.start != end:
            raise file.refusal("is damaged: its arrays overlap, or leave a gap")
        end = tensor.stop
    if end != size:
        raise file.refusal(f"is damaged or cut short: its arrays are {end} bytes, the file has {size}")
