"""NumPy's .npz archives, read without pickle, and without trusting the sizes that they claim."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.lib import format as npy

from rnnc.files.archives import check_size, opened_archive
from rnnc.files.narrow import Stored

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rnnc.files.named import NamedFile

__all__ = ["read_npy", "read_npz", "write_npz"]

NPY = ".npy"
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
KINDS = "biufcSU"
"""The kinds of dtypes that are read: numbers and texts. Objects would have to be unpickled."""


def read_npz(file: NamedFile) -> dict[str, Stored]:
    """The arrays of an archive, by name. Raises the file's error if it is damaged or holds objects."""
    found = {}
    with opened_archive(file, ".npz archive") as archive:
        members = [member for member in archive.infolist() if member.filename.endswith(NPY)]
        check_size(file, members)
        for member in members:
            with archive.open(member) as stream:
                array = _array(file, stream, member.file_size, member.filename)
            found[member.filename.removesuffix(NPY)] = Stored.of(array)
    return found


def read_npy(file: NamedFile) -> NDArray[Any]:
    """The array of an .npy file. Raises the file's error if it is damaged or holds objects."""
    with file.opened(), file.parsed(".npy file"), open(file.place, "rb") as stream:
        return _array(file, stream, file.place.stat().st_size, file.place.name)


def write_npz(out: IO[bytes], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Writes an archive, not compressed. (numpy.savez does not take every name.)"""
    with zipfile.ZipFile(out, "w") as archive:
        for name, array in arrays.items():
            with archive.open(name + NPY, "w", force_zip64=True) as stream:
                npy.write_array(stream, array, allow_pickle=False)


def _array(file: NamedFile, stream: IO[bytes], length: int, name: str) -> NDArray[Any]:
    """An array, for which memory is taken only if there are as many bytes as its header says."""
    shape, fortran, dtype = _header(file, stream, name)
    size, held = math.prod(shape) * dtype.itemsize, length - stream.tell()
    if size != held:
        raise file.refusal(f"is damaged: {name!r}: {dtype} {shape} needs {size} bytes, it has {held}")
    data = bytearray(stream.read(size))
    return np.frombuffer(data, dtype, math.prod(shape)).reshape(shape, order="F" if fortran else "C")


def _header(file: NamedFile, stream: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(stream)
    if version not in HEADERS:
        raise file.refusal(f"cannot be read: {name!r} is in version {version} of NumPy's format")
    shape, fortran, dtype = HEADERS[version](stream)
    if dtype.hasobject:
        raise file.refusal(f"cannot be read: {name!r} holds Python objects, and to unpickle them would run code")
    if dtype.kind not in KINDS:
        hint = " (bfloat16, which NumPy lacks, loses its name in such a file)" if dtype == np.dtype("V2") else ""
        raise file.refusal(f"cannot be read: {name!r} is {dtype}, expected numbers{hint}")
    return shape, fortran, dtype
