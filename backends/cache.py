"""The on-disk cache of compiled code. A bad entry is rebuilt, never trusted; without a usable folder there is no cache.

An entry is named by a digest of everything that decides the code (the module, the target, the versions of LLVM and of
llvmlite) and starts with a digest of its own contents. It is written under another name and then renamed, so that
concurrent writers and readers only ever meet whole entries.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from rnnc.ir import settings

MOST_ENTRIES = 1024
_MAGIC = b"rnnc object 1\n"
_DIGEST_BYTES = hashlib.sha256().digest_size


def key(*parts: str) -> str:
    """The name of an entry."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)}:".encode())
        digest.update(part.encode())
    return digest.hexdigest()


def load(name: str) -> bytes | None:
    """The object code of an entry, if it is there and whole."""
    folder = settings.cache_folder()
    if folder is None:
        return None
    try:
        data = (folder / name).read_bytes()
    except OSError:
        return None
    start = len(_MAGIC) + _DIGEST_BYTES
    digest, payload = data[len(_MAGIC) : start], data[start:]
    if data[: len(_MAGIC)] != _MAGIC or hashlib.sha256(payload).digest() != digest:
        return None
    return payload


def store(name: str, payload: bytes) -> None:
    """Writes an entry; without effect where the folder cannot be written."""
    folder = settings.cache_folder()
    if folder is None:
        return
    with suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=folder, prefix="tmp-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(_MAGIC + hashlib.sha256(payload).digest() + payload)
            os.replace(temporary, folder / name)
        except OSError:
            Path(temporary).unlink(missing_ok=True)
            raise
        _prune(folder)


def _prune(folder: Path) -> None:
    """Drops the oldest entries of a full cache."""
    entries = list(folder.iterdir())
    if len(entries) > MOST_ENTRIES:
        for entry in sorted(entries, key=lambda e: e.stat().st_mtime)[: MOST_ENTRIES // 4]:
            entry.unlink(missing_ok=True)
