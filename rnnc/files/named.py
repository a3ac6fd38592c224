"""Paths of files: checked before they are opened, and named in every message."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from rnnc.checking import checks
from rnnc.ir.errors import ArgumentTypeError, FileError, RnncError

__all__ = ["NamedFile"]


@dataclass(frozen=True)
class NamedFile:
    """A path whose links are resolved, and behind which there is a regular file or none.

    shown: the path as it was given. what: the argument in messages. error: the class of its errors.
    """

    shown: str
    place: Path
    what: str
    error: type[FileError]

    @classmethod
    def of(cls, path: object, what: str = "path", error: type[FileError] = FileError) -> NamedFile:
        """Raises ArgumentTypeError for what is no path, and `error` for one that can be no file's, such as a folder."""
        text = os.fspath(path) if isinstance(path, (str, os.PathLike)) else path
        if not isinstance(text, str):
            raise ArgumentTypeError(f"{what}: expected a str or a pathlib.Path, got {checks.came(path)}")
        if not text or "\0" in text or not _encodable(text):
            raise error(f"{what}: {text!r} cannot be the name of a file")
        named = cls(text, Path(text), what, error)
        with named.opened():
            place = Path(os.path.realpath(text))
            if place.exists() and not place.is_file():
                raise named.refusal(f"is {'a folder' if place.is_dir() else 'no regular file'}")
        return cls(text, place, what, error)

    def refusal(self, why: str) -> FileError:
        """The error that says what is wrong with the file."""
        return self.error(f"{self.what}: {self.shown!r} {why}")

    @contextmanager
    def opened(self) -> Iterator[None]:
        """A context in which an OSError becomes a `refusal`."""
        try:
            yield
        except FileNotFoundError:
            raise self.error(f"{self.what}: there is no file {self.shown!r}") from None
        except OSError as error:
            raise self.refusal(f"cannot be used: {error.strerror or error}") from error

    @contextmanager
    def parsed(self, kind: str) -> Iterator[None]:
        """A context in which whatever a parser raises becomes a `refusal`. kind: what the file should have been."""
        try:
            yield
        except (RnncError, MemoryError):
            raise
        except Exception as error:  # parsers of other packages raise anything
            raise self.refusal(f"is damaged, or no {kind}: {type(error).__name__}: {error}") from error

    def read(self) -> bytearray:
        """All bytes of the file, in memory of its own."""
        with self.opened(), open(self.place, "rb") as file:
            content = bytearray(os.fstat(file.fileno()).st_size)
            return content[: file.readinto(content)]

    def mapped(self) -> mmap.mmap:
        """The file as memory, read from the disk where it is looked at. What is written there stays in this process."""
        with self.opened(), open(self.place, "rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise self.refusal("is empty")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)

    @contextmanager
    def replaced(self) -> Iterator[BinaryIO]:
        """A context with a new file to write to, which takes the place of the old one at the end.

        It lies beside its final place until it is complete and on the disk. Whenever the process or the machine stops,
        either the old or the new file is there; an exception within the context leaves the old one.
        """
        with self.opened(), _draft(self.place) as (handle, draft):
            with open(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, self.place)
            _sync_folder(self.place.parent)

    def check_writable(self) -> None:
        """Makes the folder of the file. Raises `error` if no file can be written there."""
        with self.opened(), _draft(self.place) as (handle, _):
            os.close(handle)


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
