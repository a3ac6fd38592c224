"""Checkpoints: safetensors files that are replaced atomically, and refused if a byte of them has changed.

A file is written beside its final place, flushed to the disk, and then renamed over the old one. Whenever the process
or the machine stops, either the old or the new file is there. Parameters have their own names, so that other programs
can read them; the names of other arrays begin with "optimizer.SLOT." or "best.". Data that is not an array is JSON in
the metadata. A digest of all bytes of the file stands before the JSON; the digest's own bytes count as zeros.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rnnc.checking import checks
from rnnc.checking.arrays import as_array
from rnnc.ir.errors import ArgumentError, ArgumentTypeError, CheckpointError, DtypeError, NonFiniteError
from rnnc.train.extras import load

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

KEY = "rnnc"
"""The name of the only entry of the metadata. safetensors writes several entries in any order, and checkpoints with
the same content must have the same bytes."""
DIGITS = 32
"""The number of hexadecimal digits of a digest."""
BESIDES = ("optimizer.", "best.")
"""The prefixes of names of arrays that are not parameters."""


class Checkpoint(NamedTuple):
    """The content of a file: arrays by name, and plain data."""

    arrays: dict[str, Array]
    data: dict[str, Any]


def check_path(path: object) -> Path:
    """The path with links resolved. Raises CheckpointError if something other than a regular file is there."""
    text = os.fspath(path) if isinstance(path, (str, os.PathLike)) else path
    if not isinstance(text, str):
        raise ArgumentTypeError(f"checkpoint: expected a str or a pathlib.Path, got {checks.came(path)}")
    if not text or "\0" in text or not _encodable(text):
        raise CheckpointError(f"checkpoint: {text!r} cannot be the name of a file")
    with _named(text):
        place = Path(os.path.realpath(text))
        if place.exists() and not place.is_file():
            raise CheckpointError(f"checkpoint: {text!r} is {'a folder' if place.is_dir() else 'no regular file'}")
    return place


def prepare(path: str | os.PathLike[str]) -> None:
    """Makes the folder of a checkpoint. Raises MissingExtra or CheckpointError if no file can be written there."""
    load("safetensors.numpy", "checkpoints")
    place = check_path(path)
    with _named(path), _draft(place) as (handle, _):
        os.close(handle)


def write(path: str | os.PathLike[str], arrays: Mapping[str, Array], data: Mapping[str, Any]) -> None:
    """Writes a checkpoint, atomically.

    arrays: finite floating-point numbers in native byte order. data: plain data that JSON can hold.
    Raises NonFiniteError if a number is not finite, and CheckpointError if the file cannot be written. An old file is
    unchanged then.
    """
    safetensors = load("safetensors.numpy", "checkpoints")
    place = check_path(path)
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise NonFiniteError(
                f"checkpoint: {name!r} holds numbers that are not finite; {os.fspath(path)!r} was not written"
            )
    metadata = {KEY: f"{'0' * DIGITS} {json.dumps(data)}"}
    compact = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    content = bytearray(safetensors.save(compact, metadata=metadata))
    start, stop = _place_of_digest(content) or (0, 0)
    content[start:stop] = _digest(content, start, stop)
    with _named(path), _draft(place) as (handle, draft):
        with open(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, place)
        _sync_folder(place.parent)


def read(path: str | os.PathLike[str]) -> Checkpoint:
    """The checkpoint in a file. Raises CheckpointError if there is none, or if the file is damaged."""
    safetensors = load("safetensors", "checkpoints")
    place = check_path(path)
    shown = repr(os.fspath(path))
    try:
        content = place.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"checkpoint: there is no file {shown}") from None
    except OSError as error:
        raise CheckpointError(f"checkpoint: {shown} cannot be read: {error.strerror}") from error
    found = _place_of_digest(content)
    if found is None:
        raise CheckpointError(
            f"checkpoint: {shown} is damaged, or was not written by this version of rnnc: it has no digest; "
            "safetensors.numpy.load_file reads parameters of other programs"
        )
    start, stop = found
    if _digest(content, start, stop) != content[start:stop]:
        raise CheckpointError(f"checkpoint: {shown} is damaged: its digest is not that of its content")
    try:
        arrays = load("safetensors.numpy", "checkpoints").load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        data = json.loads(header["__metadata__"][KEY][DIGITS:])
    except (safetensors.SafetensorError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise CheckpointError(f"checkpoint: {shown} is no readable safetensors file: {error}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"checkpoint: {shown} holds no record of rnnc")
    return Checkpoint({name: np.require(array, requirements=["A", "W"]) for name, array in arrays.items()}, data)


def save_parameters(path: str | os.PathLike[str], params: Mapping[str, Array]) -> None:
    """Writes parameters to a safetensors file, each under its own name. An existing file is replaced atomically.

    params: name -> array of any shape, float32 or float64, all numbers finite.
    Raises ArgumentTypeError, ArgumentError (for a name that checkpoints reserve), DtypeError, NonFiniteError,
    CheckpointError (an ArgumentError) if the file cannot be written, and MissingExtra without safetensors.
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
    Raises CheckpointError (an ArgumentError) if the file does not exist, is damaged or was not written by rnnc, and
    MissingExtra without safetensors.
    """
    return {k: a for k, a in read(path).arrays.items() if not k.startswith(BESIDES)}


def _digest(content: bytes | bytearray, start: int, stop: int) -> bytes:
    """The digest of all bytes of a file, with those at start..stop, the digest's own, taken as "0" digits."""
    found = hashlib.blake2b(digest_size=DIGITS // 2)
    for part in (memoryview(content)[:start], b"0" * (stop - start), memoryview(content)[stop:]):
        found.update(part)
    return found.hexdigest().encode()


def _place_of_digest(content: bytes | bytearray) -> tuple[int, int] | None:
    """The bounds of the digest in a file, or None. It lies in the header, whose size the first eight bytes give."""
    size = int.from_bytes(content[:8], "little")
    pattern = f'"{KEY}":"([0-9a-f]{{{DIGITS}}}) '.encode()
    found = re.search(pattern, content[8 : 8 + min(size, len(content))])
    return None if found is None else (8 + found.start(1), 8 + found.end(1))


@contextmanager
def _draft(place: Path) -> Iterator[tuple[int, Path]]:
    """A context with an open file beside the final place, which is removed at the end unless it was renamed."""
    place.parent.mkdir(parents=True, exist_ok=True)
    draft = place.with_name(f".rnnc-{os.getpid()}-{os.urandom(4).hex()}.tmp")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        yield handle, draft
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def _named(path: str | os.PathLike[str]) -> Iterator[None]:
    """A context in which an OSError becomes a CheckpointError that names the path."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"checkpoint: {os.fspath(path)!r} cannot be used: {error.strerror or error}") from error


def _encodable(text: str) -> bool:
    try:
        os.fsencode(text)
    except UnicodeError:
        return False
    return True


def _sync_folder(folder: Path) -> None:
    """Flushes the rename itself to the disk, on systems where a folder can be opened."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
