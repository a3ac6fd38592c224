"""Zip files that may be damaged or hostile: members are listed, and refused by size, before one is read."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rnnc.files.named import NamedFile

__all__ = ["check_size", "opened_archive"]

MOST_BYTES = 1 << 30
MOST_RATIO = 200
"""An archive of more than MOST_BYTES, unpacked, is refused if that is MOST_RATIO times its size. Weights shrink by a
tenth; what grows a thousandfold was made to fill a memory."""


@contextmanager
def opened_archive(file: NamedFile, kind: str) -> Iterator[zipfile.ZipFile]:
    """A context with the archive, in which whatever goes wrong with it becomes the file's error."""
    with file.opened(), file.parsed(kind), zipfile.ZipFile(file.place) as archive:
        yield archive


def check_size(file: NamedFile, members: list[zipfile.ZipInfo]) -> None:
    """Raises the file's error for members that together are far too large for their archive."""
    unpacked, packed = sum(member.file_size for member in members), file.place.stat().st_size
    if unpacked > MOST_BYTES and unpacked > MOST_RATIO * packed:
        raise file.refusal(f"is refused: it has {packed} bytes, which claim to unpack to {unpacked}")
