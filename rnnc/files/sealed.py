"""rnnc's own safetensors files: a record beside the arrays, a digest of the header, and a sum of each array.

The metadata has one entry, "rnnc": the number of this form of files, the digest, and the record as JSON. The digest
(BLAKE2b) is that of all bytes up to the first number, its own digits taken as zeros. The record holds the sum (CRC-32)
of the bytes of each array. So the header of a file of any size is checked when it is opened, and its numbers when they
are needed: 1.5 GB per second here, where a BLAKE2b of them would take five times as long.

Digest and sums find damage, not forgery: whoever can write a file can write a right digest.
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.files.narrow import Stored
from rnnc.files.tensors import TensorFile, header_of, header_size, laid_out
from rnnc.ir.errors import NonFiniteError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rnnc.files.named import NamedFile
    from rnnc.files.tensors import Memory

    Array = NDArray[Any]

__all__ = ["BESIDES", "MODEL", "Sealed", "is_sealed", "write"]

KEY = "rnnc"
"""The name of the only entry of the metadata."""
FORMAT = 1
"""The number of this form of files."""
DIGITS = 32
"""The number of hexadecimal digits of a digest."""
SUMS = "sums"
"""The entry of the record with the arrays' sums."""
MODEL = "model"
"""The entry of the record that a model file has: the architecture."""
BESIDES = ("optimizer.", "best.")
"""The prefixes of names of arrays that are not parameters, in files of other kinds."""

SEAL = re.compile(f'"{KEY}":"(?P<format>[0-9]{{1,9}}) (?P<digest>[0-9a-f]{{{DIGITS}}}) '.encode())
OLDEST = re.compile(f'"{KEY}":"[0-9a-f]{{{DIGITS}}} '.encode())
"""What the files of rnnc before the first numbered form begin with."""
MARKS = (f'"{KEY}":"'.encode(), f'\\"{SUMS}\\": {{'.encode())
"""What a header of rnnc's has in two places, so that a damaged one is not taken for one of another program."""


@dataclass(frozen=True)
class Sealed:
    """A file whose header is as it was written. data: its record, without the sums."""

    tensors: TensorFile
    data: dict[str, Any]
    sums: dict[str, int]

    @classmethod
    def of(cls, file: NamedFile, memory: Memory) -> Sealed:
        """Raises the file's error if it has no digest, is of another form, or if its header is damaged."""
        _check_digest(file, memory)
        tensors = TensorFile.of(file, memory)
        try:
            data = json.loads(
                tensors.texts[KEY].split(" ", 2)[2]
            )  # which may hold infinite losses, as Python's JSON can
        except (ValueError, KeyError, IndexError, RecursionError) as error:
            raise file.refusal(f"is damaged: {error}") from error
        sums = data.pop(SUMS, None) if isinstance(data, dict) else None
        if not isinstance(sums, dict) or sums.keys() != tensors.tensors.keys():
            raise file.refusal("holds no record of rnnc")
        return cls(tensors, data, sums)

    def check(self) -> None:
        """Reads all numbers. Raises the file's error if one has changed since the file was written."""
        self.tensors.check_length()
        for name, written in self.sums.items():
            if zlib.crc32(self.tensors.bytes_of(name)) != written:
                raise self.tensors.file.refusal(f"is damaged: the numbers of {name!r} are not those that were written")

    def stored(self) -> dict[str, Stored]:
        """The arrays, by name, as `TensorFile.stored` gives them. They are not checked."""
        return {name: self.tensors.stored(name) for name in self.sums}

    def parameters(self) -> dict[str, Stored]:
        """Those of the arrays that are parameters."""
        return {n: stored for n, stored in self.stored().items() if MODEL in self.data or not n.startswith(BESIDES)}


def is_sealed(memory: Memory) -> bool:
    """Whether rnnc wrote a safetensors file, of whatever form."""
    header = memory[: header_size(memory) or 0]
    return any(mark in header for mark in MARKS)


def write(file: NamedFile, arrays: Mapping[str, Array], data: Mapping[str, Any]) -> None:
    """Writes a file, atomically.

    arrays: finite numbers. data: plain data that JSON can hold. Raises NonFiniteError if a number is not finite, and
    the file's error if it cannot be written. An old file is unchanged then.
    """
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            what = f"{name!r} holds numbers that are not finite; {file.shown!r} was not written"
            raise NonFiniteError(f"{file.what}: {what}")
    compact = laid_out(arrays)
    parts = {name: array.reshape(-1).view(np.uint8).data for name, array in compact.items()}
    record = {**data, SUMS: {name: zlib.crc32(parts[name]) for name in arrays}}
    header = header_of(compact, {KEY: f"{FORMAT} {'0' * DIGITS} {json.dumps(record)}"})
    found = SEAL.search(header)
    assert found is not None
    header[found.start("digest") : found.end("digest")] = _digest(header, found)
    with file.replaced() as out:
        out.write(header)
        for part in parts.values():
            out.write(part)


def _check_digest(file: NamedFile, memory: Memory) -> None:
    size = header_size(memory)
    if size is None:
        raise file.refusal("is damaged, or no file of rnnc: its size does not fit its header")
    header = bytearray(memory[:size])
    found = SEAL.search(header)
    if found is None and OLDEST.search(header):
        raise file.refusal("was written by an older rnnc, whose files had another form; read it with that version")
    if found is None:
        raise file.refusal("is damaged, or was not written by rnnc: it has no digest; rnnc.load reads arrays of others")
    if int(found["format"]) != FORMAT:
        raise file.refusal(f"is of form {int(found['format'])}, this rnnc reads form {FORMAT}; use a newer rnnc")
    if _digest(header, found) != found["digest"]:
        raise file.refusal("is damaged: the digest of its header is not that of its content")


def _digest(header: bytearray, found: re.Match[bytes]) -> bytes:
    """The digest of a header, with those digits taken as zeros that stand where its own belong."""
    blank = header.copy()
    blank[found.start("digest") : found.end("digest")] = b"0" * DIGITS
    return hashlib.blake2b(blank, digest_size=DIGITS // 2).hexdigest().encode()
