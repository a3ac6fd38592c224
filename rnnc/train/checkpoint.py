"""Checkpoints: files of arrays and plain data that are replaced atomically, and refused if they have changed.

They are files of `rnnc.files.sealed`. Parameters have their own names, so that other programs can read them; the names
of other arrays begin with "optimizer.SLOT." or "best.".
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rnnc.checking import checks
from rnnc.checking.arrays import as_array
from rnnc.files.named import NamedFile
from rnnc.files.sealed import BESIDES, Sealed
from rnnc.files.sealed import write as write_sealed
from rnnc.ir.errors import ArgumentError, ArgumentTypeError, CheckpointError, DtypeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]


class Checkpoint(NamedTuple):
    """The content of a file: arrays by name, and plain data."""

    arrays: dict[str, Array]
    data: dict[str, Any]


def check_path(path: object) -> Path:
    """The path with links resolved. Raises CheckpointError if something other than a regular file is there."""
    return _named(path).place


def prepare(path: str | os.PathLike[str]) -> None:
    """Makes the folder of a checkpoint. Raises CheckpointError if no file can be written there."""
    _named(path).check_writable()


def write(path: str | os.PathLike[str], arrays: Mapping[str, Array], data: Mapping[str, Any]) -> None:
    """Writes a checkpoint, atomically.

    arrays: finite floating-point numbers. data: plain data that JSON can hold.
    Raises NonFiniteError if a number is not finite, and CheckpointError if the file cannot be written. An old file is
    unchanged then.
    """
    write_sealed(_named(path), arrays, data)


def content(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a file. Raises CheckpointError if there is none."""
    return bytes(_named(path).read())


def parsed(path: str | os.PathLike[str], content: bytes) -> Checkpoint:
    """The checkpoint in the bytes of a file. Raises CheckpointError, which names the file, if they are damaged."""
    found = _checked(_named(path), bytearray(content))
    return Checkpoint({name: stored.array for name, stored in found.stored().items()}, found.data)


def save_parameters(path: str | os.PathLike[str], params: Mapping[str, Array]) -> None:
    """Writes parameters to a safetensors file, each under its own name. An existing file is replaced atomically.

    params: name -> array of any shape, float32 or float64, all numbers finite.
    Raises ArgumentTypeError, ArgumentError (for a name that checkpoints reserve), DtypeError, NonFiniteError, and
    CheckpointError (an ArgumentError) if the file cannot be written.
    """
    if not isinstance(params, Mapping):
        raise ArgumentTypeError(f"params: expected a mapping of names to arrays, got {checks.came(params)}")
    arrays: dict[str, Array] = {}
    for name, value in params.items():
        if not isinstance(name, str) or name.startswith((*BESIDES, "__")):
            raise ArgumentError(f"params: {name!r} cannot be the name of a parameter in a file")
        array = as_array(f"params[{name!r}]", value)
        if array.dtype.name not in checks.DTYPES:
            raise DtypeError(f"params[{name!r}]: expected float32 or float64, got {array.dtype}")
        arrays[name] = array.astype(array.dtype.newbyteorder("="), copy=False)
    write(path, arrays, {})


def load_parameters(path: str | os.PathLike[str]) -> dict[str, Array]:
    """The parameters in a file of `save_parameters` or in a checkpoint of `fit`: name -> array, in the dtype saved.

    From a checkpoint of `fit` these are the parameters after its last update, not those of the best epoch.
    `rnnc.load` reads files of other programs, too.
    Raises CheckpointError (an ArgumentError) if the file does not exist, is damaged or was not written by rnnc.
    """
    return {name: stored.array for name, stored in _read(path).parameters().items()}


def _read(path: object) -> Sealed:
    """The content of a file, checked, in memory of its own."""
    file = _named(path)
    return _checked(file, file.read())


def _checked(file: NamedFile, content: bytearray) -> Sealed:
    found = Sealed.of(file, content)
    found.check()
    return found


def _named(path: object) -> NamedFile:
    return NamedFile.of(path, "checkpoint", CheckpointError)
