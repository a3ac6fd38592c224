"""The on-disk cache of compiled code. A damaged entry is rebuilt, never trusted. Without a usable folder there is none.

The name of an entry is a digest of everything that decides the code: the module, the target, and the versions of LLVM
and llvmlite. The entry starts with a digest of its name and its contents. It is written under another name and then
renamed, so that concurrent writers and readers only ever see whole entries.

Entries are code that this process will run, so they lie in a folder of their own within `settings.cache_folder()`. The
folder and every entry must belong to this user (or to root), and nobody else may be able to write to them. Both are
opened once, and the checks are made on the open descriptors. Entries are reached through the open folder, so it does
not matter who may rename the folders above it. Windows has neither owners of this kind nor folders that can be opened;
its cache lies within the user's profile.

The time of an entry is that of its last use. If the cache is larger than the user allows, the entries that were not
used for longest are deleted. The cache deletes only files that it has made: those in its own folder, with a name of its
own and its mark at the beginning.
"""

from __future__ import annotations

import os
import pickle
import re
import stat
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar, cast

from rnnc.backends.digests import DIGEST_BYTES, digest
from rnnc.ir import settings
from rnnc.ir.errors import RnncWarning

FOLDER = "objects"
"""The cache's own folder, below the one that the user names."""
KEPT_PART = 0.75
"""The part of the largest size (`settings.cache_bytes`) that is left when a full cache is pruned."""
MOST_BYTES = 1 << 28
"""The largest size of an entry. A larger file is not one."""
DRAFT_SECONDS = 3600.0
"""The age at which a draft is deleted, because its writer must have been killed."""

_MAGIC = b"rnnc object 2\n"
_ENTRY = re.compile(r"[0-9a-f]{64}\.rnnc")
_DRAFT = re.compile(r"[0-9a-f]{64}\.[0-9a-f]{16}\.rnnc-draft")
_OWNED = hasattr(os, "geteuid") and os.open in os.supports_dir_fd
"""True if files have owners on this system, and folders can be opened."""
_O_DIRECTORY = getattr(os, "O_DIRECTORY", 0)
_O_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
_O_NONBLOCK = getattr(os, "O_NONBLOCK", 0)  # without it, opening a named pipe would wait for its other end
_O_BINARY = getattr(os, "O_BINARY", 0)

_told: set[Path] = set()

T = TypeVar("T")


def key(*parts: str) -> str:
    """The name of an entry: a digest of the parts that decide its code."""
    return digest(*(f"{len(part)}:{part}".encode() for part in parts)).hex()


def load(name: str) -> bytes | None:
    """The object code of an entry; None if there is none, or if it is damaged or may be written by others.

    Warns once per folder (RnncWarning) if another user may have written the folder or the entry.
    """
    with suppress(OSError), _opened(make=False) as folder:
        return None if folder is None else folder.load(name)
    return None


def store(name: str, payload: bytes) -> None:
    """Writes an entry. Has no effect if the folder cannot be used. Warns like `load`."""
    with suppress(OSError), _opened(make=True) as folder:
        if folder is not None:
            folder.store(name, payload)
            folder.prune()


class Entry(NamedTuple):
    """A file of the cache. size: in bytes. used: the time of its last use, in seconds since 1970."""

    used: float
    name: str
    size: int


def entries() -> list[Entry]:
    """All entries, those not used for longest first."""
    with suppress(OSError), _opened(make=False) as folder:
        return [] if folder is None else folder.entries()
    return []


def clear() -> int:
    """Deletes all entries, and returns their number."""
    with suppress(OSError), _opened(make=False) as folder:
        return 0 if folder is None else sum(map(folder.delete, folder.entries()))
    return 0


def remembered(name: str, make: Callable[[], T]) -> T:
    """The value of an entry, or that of `make`, which is then stored. Values are pickled.

    A pickle may run code when it is read. So it is as dangerous as machine code, and is guarded in the same way.
    """
    found = load(name)
    if found is not None:
        return cast(T, pickle.loads(found))
    made = make()
    store(name, pickle.dumps(made))
    return made


@contextmanager
def _opened(make: bool) -> Iterator[_Folder | None]:
    """A context with the open folder of entries, or None if there is none that can be trusted. May raise OSError."""
    root = settings.cache_folder()
    if root is None:
        yield None
        return
    path = root / FOLDER
    if make:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
    if not _OWNED:
        yield _Folder(path, None)
        return
    if path.is_symlink():
        _tell(path, f"{path} is a symbolic link")
        yield None
        return
    descriptor = os.open(path, os.O_RDONLY | _O_DIRECTORY | _O_NOFOLLOW)
    try:
        fault = _fault(os.fstat(descriptor))
        if fault:
            _tell(path, f"{path} {fault}")
        yield None if fault else _Folder(path, descriptor)
    finally:
        os.close(descriptor)


class _Folder:
    """An open folder of entries. Without a descriptor, its files are reached by their full paths."""

    def __init__(self, path: Path, descriptor: int | None) -> None:
        self._path = path
        self._descriptor = descriptor

    def load(self, name: str) -> bytes | None:
        """The payload of an entry; None if it is damaged, or if others may have written it."""
        with self._reading(f"{name}.rnnc") as file:
            if file is None:
                return None
            found, payload = file.read(DIGEST_BYTES), file.read()
        if found != _digest(name, payload):
            return None
        with suppress(OSError):  # the user may read the folder only
            os.utime(self._place(f"{name}.rnnc"), dir_fd=self._descriptor, follow_symlinks=not _OWNED)
        return payload

    def store(self, name: str, payload: bytes) -> None:
        """Writes an entry, atomically."""
        draft, entry, where = f"{name}.{os.urandom(8).hex()}.rnnc-draft", f"{name}.rnnc", self._descriptor
        descriptor = self._open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(_MAGIC + _digest(name, payload) + payload)
            os.replace(self._place(draft), self._place(entry), src_dir_fd=where, dst_dir_fd=where)
        except BaseException:
            self._remove(draft)
            raise

    def prune(self) -> None:
        """Deletes drafts of killed writers, and of a full cache the entries that were not used for longest."""
        for file in self._files(_DRAFT):
            if file.used < time.time() - DRAFT_SECONDS:
                self._remove(file.name)
        files, most = sorted(self._files(_ENTRY)), settings.cache_bytes()
        total = sum(file.size for file in files)
        if total > most:
            for file in files:
                if total <= KEPT_PART * most:
                    break
                if self.delete(file):
                    total -= file.size

    def entries(self) -> list[Entry]:
        """All entries, those not used for longest first."""
        return [file for file in sorted(self._files(_ENTRY)) if self._is_entry(file.name)]

    def delete(self, entry: Entry) -> bool:
        """Deletes a file if it is an entry. Returns whether it is."""
        if own := self._is_entry(entry.name):
            self._remove(entry.name)
        return own

    def _is_entry(self, name: str) -> bool:
        with suppress(OSError), self._reading(name) as file:
            return file is not None
        return False

    def _files(self, pattern: re.Pattern[str]) -> Iterator[Entry]:
        """All regular files whose names fit a pattern."""
        with os.scandir(self._path if self._descriptor is None else self._descriptor) as files:
            for file in files:
                if pattern.fullmatch(file.name):
                    with suppress(OSError):  # another process may have deleted the file
                        found = file.stat(follow_symlinks=False)
                        if stat.S_ISREG(found.st_mode):
                            yield Entry(found.st_mtime, file.name, found.st_size)

    @contextmanager
    def _reading(self, entry: str) -> Iterator[BinaryIO | None]:
        """A context with an entry's open file, read up to the end of its mark.

        It is None if the file is not an entry, or if others may have written it.
        """
        descriptor = self._open(entry, os.O_RDONLY | _O_NONBLOCK)
        try:
            found = os.fstat(descriptor)
            fault = _fault(found) if stat.S_ISREG(found.st_mode) else "is no ordinary file"
            if fault:
                _tell(self._path, f"{self._path / entry} {fault}")
                yield None
                return
            with open(descriptor, "rb", closefd=False) as file:
                marked = found.st_size <= MOST_BYTES and file.read(len(_MAGIC)) == _MAGIC
                yield file if marked else None
        finally:
            os.close(descriptor)

    def _open(self, name: str, flags: int) -> int:
        return os.open(self._place(name), flags | _O_NOFOLLOW | _O_BINARY, 0o600, dir_fd=self._descriptor)

    def _remove(self, name: str) -> None:
        with suppress(OSError):
            os.unlink(self._place(name), dir_fd=self._descriptor)

    def _place(self, name: str) -> str:
        return os.fspath(self._path / name) if self._descriptor is None else name


def _digest(name: str, payload: bytes) -> bytes:
    return digest(name.encode(), b"\n", payload)


def _fault(found: os.stat_result) -> str:
    """The reason why others may have written a file or folder; an empty text if they cannot."""
    if not _OWNED:
        return ""
    if found.st_uid not in (0, os.geteuid()):
        return f"belongs to another user (uid {found.st_uid})"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"can be written by others (mode {stat.S_IMODE(found.st_mode):o})"
    return ""


def _tell(folder: Path, fault: str) -> None:
    """Warns once per folder that the cache is not used, and why."""
    if folder not in _told:
        _told.add(folder)
        warnings.warn(
            f"the cache of compiled code is not used: {fault}, and its contents are code that would be run; remove "
            "it, or set RNNC_CACHE_DIR to a folder of your own or to 'off'",
            RnncWarning,
            stacklevel=2,
        )
