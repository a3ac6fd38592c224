"""Tensors of a file as arrays. Data outside the file is read from the model's own folder, and from nowhere else."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.ir.errors import OnnxError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import TensorProto

    Array = NDArray[Any]

__all__ = ["Folder", "array_of", "raw_array"]


class Folder:
    """The folder of a model that came from a path."""

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def bytes_of(self, label: str, name: str, offset: int, length: int) -> bytes:
        """A part of a file beside the model. Raises OnnxError for a file elsewhere, and for one that is too short."""
        if self.path is None:
            raise OnnxError(f"{label}: its data lies in the file {name!r}; give from_onnx the path of the model")
        home = self.path.resolve()
        path = (home / name).resolve()
        if not name or not path.is_relative_to(home) or not path.is_file():
            expected = f"expected a file in the model's own folder, {home}"
            raise OnnxError(f"{label}: its data should lie in {name!r}; {expected}")
        if offset + length > path.stat().st_size:
            raise OnnxError(f"{label}: expected {length} bytes in {name!r} at {offset}, it has {path.stat().st_size}")
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(length)


def array_of(tensor: TensorProto, label: str, folder: Folder) -> Array:
    """The tensor's numbers, which nobody writes to. Raises OnnxError if it is damaged or of another dtype."""
    array = raw_array(tensor, label, folder)
    if array.dtype.kind not in "fiub":
        raise OnnxError(f"{label}: expected numbers, got {array.dtype}")
    array.setflags(write=False)
    return array


def raw_array(tensor: TensorProto, label: str, folder: Folder) -> Array:
    """The tensor in whatever dtype it has, bfloat16 and texts included. Raises OnnxError if it is damaged."""
    from onnx import TensorProto, numpy_helper

    outside = tensor.data_location == TensorProto.EXTERNAL
    try:
        return _external(tensor, label, folder) if outside else numpy_helper.to_array(tensor)
    except OnnxError:
        raise
    except Exception as error:  # numpy_helper raises whatever NumPy does
        raise OnnxError(f"{label}: damaged: {error}") from None


def _external(tensor: TensorProto, label: str, folder: Folder) -> Array:
    from onnx import helper

    place = {entry.key: entry.value for entry in tensor.external_data}
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type)).newbyteorder("<")
    shape = tuple(tensor.dims)
    size = math.prod(shape) * dtype.itemsize
    offset, length = int(place.get("offset", 0)), int(place.get("length", size))
    if min(shape, default=0) < 0 or offset < 0 or length != size:
        raise OnnxError(f"{label}: expected {size} bytes of data for shape {shape}, the file says {length} at {offset}")
    data = folder.bytes_of(label, place.get("location", ""), offset, length)
    return np.frombuffer(data, dtype).reshape(shape).astype(dtype.newbyteorder("="))
