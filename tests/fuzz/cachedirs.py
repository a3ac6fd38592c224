"""Subject: the cache folder. Whatever lies there, compiled code is right, files of others stay as they are, and nothing
waits for ever.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import rnnc
from tests.fuzz.agreement import TOLERANCE, error
from tests.fuzz.faults import Fault, Tally, acceptance
from tests.fuzz.source import Source

__all__ = ["Case"]

SPECS: Mapping[str, Any] = {
    "one": rnnc.RNN(1, 1),
    "two": rnnc.RNN(2, 3, dtype="float64"),
    "three": rnnc.GRU(2, 2),
}
NAMES = (
    "notes.txt", "tmp-notes", "tmp-", "rnnc", "objects", "entries", "v1", ".lock", "a" * 64, "0123456789abcdef" * 4,
    "A" * 64, "x.o", "x.rnnc", "x.tmp", "-rf", "*", "ü", "new\nline", ".hidden", "CACHEDIR.TAG",
)  # fmt: skip
MAGIC = b"rnnc object 1\n"
CONTENTS = (b"", b"text", MAGIC, MAGIC + bytes(32), MAGIC + bytes(100), b"\x7fELF")
KINDS = ("file", "folder", "fifo", "link to a file", "link to nothing", "link to itself", "unreadable", "many")
DAMAGES = (
    "truncated", "emptied", "bit flipped", "appended", "zeroed", "of another entry", "folder", "fifo",
    "link to nothing", "link to itself", "link to a file", "unreadable", "deleted",
)  # fmt: skip
FOLDERS = ("plain", "missing", "a file", "read-only", "a link", "a relative path", "writable by all", "deep")


@dataclass(frozen=True)
class Case:
    """folder: its state. before: (kind, name, content) of foreign files. then: a spec to compile, or (damage, entry,
    place) of an entry to damage, in turn.
    """

    folder: str
    before: tuple[tuple[str, str, int], ...]
    then: tuple[tuple[str, int, int] | str, ...]


def draw(source: Source) -> Case:
    def foreign() -> tuple[str, str, int]:
        return source.pick(KINDS if source.chance(10) else KINDS[:-1]), source.pick(NAMES), source.below(len(CONTENTS))

    def action() -> tuple[str, int, int] | str:
        if source.chance(40):
            return source.pick(DAMAGES), source.below(10), source.below(100_000)
        return source.pick(tuple(SPECS))

    folder = "plain" if source.chance(40) else source.pick(FOLDERS)
    return Case(folder, tuple(source.many(foreign, 0, 6)), tuple(source.many(action, 1, 8, more=85)))


def check(case: Case, tally: Tally) -> None:
    with _folder(case.folder) as (root, path), _setting(path):
        theirs = root / "elsewhere"
        theirs.write_bytes(b"a file of somebody else")
        if path.is_dir():
            for kind, name, content in case.before:
                _make(path / name, kind, CONTENTS[content], theirs)
        foreign = _state(root)
        for action in case.then:
            if isinstance(action, str):
                _compile(action, tally)
            else:
                _damage(root, foreign, action, theirs)
        _check_kept(root, foreign)


def _compile(name: str, tally: Tally) -> None:
    spec = SPECS[name]
    params, x, expected = _right(name)
    with acceptance("compile", tally):
        output, _ = rnnc.compile(spec, params, threads=1)(x)
    if not error(output, expected) <= TOLERANCE[spec.dtype]:
        raise Fault("wrong", "compile", f"{spec} with this cache")


@cache
def _right(name: str) -> tuple[Any, Any, Any]:
    spec = SPECS[name]
    params = spec.init(0)
    x = np.random.default_rng(0).standard_normal((3, 2, spec.input_size)).astype(spec.dtype)
    return params, x, rnnc.compile(spec, params, backend="reference")(x)[0]


# ------------------------------------------------------------------------------------------ folders


@contextmanager
def _folder(kind: str) -> Iterator[tuple[Path, Path]]:
    """A new folder, and the path in it to use as the cache."""
    root = Path(tempfile.mkdtemp(prefix="rnnc-fuzz-cache-"))
    path, here = root / "cache", Path.cwd()
    try:
        if kind == "a file":
            path.write_bytes(b"no folder")
        elif kind == "a link":
            (root / "real").mkdir()
            path.symlink_to("real")
        elif kind == "deep":
            path = root / "a" / "b" / "c"
        elif kind != "missing":
            path.mkdir()
        if kind in ("read-only", "writable by all"):
            path.chmod(0o500 if kind == "read-only" else 0o777)
        if kind == "a relative path":
            os.chdir(root)
            yield root, Path("cache")
        else:
            yield root, path
    finally:
        os.chdir(here)
        shutil.rmtree(root, ignore_errors=True)


@contextmanager
def _setting(path: Path) -> Iterator[None]:
    before = os.environ.get("RNNC_CACHE_DIR")
    os.environ["RNNC_CACHE_DIR"] = str(path)
    try:
        yield
    finally:
        if before is None:
            del os.environ["RNNC_CACHE_DIR"]
        else:
            os.environ["RNNC_CACHE_DIR"] = before


def _make(path: Path, kind: str, content: bytes, theirs: Path) -> None:
    """A file that is not rnnc's; nothing where one is already."""
    if os.path.lexists(path):
        return
    if kind == "folder":
        path.mkdir()
        (path / "inside").write_bytes(content)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind.startswith("link"):
        path.symlink_to({"file": theirs, "nothing": "gone", "itself": path.name}[kind.rpartition(" ")[2]])
    elif kind == "many":
        for number in range(1100):
            (path.parent / f"{path.name[:40]}{number:024x}").write_bytes(content)
    else:
        path.write_bytes(content)
        if kind == "unreadable":
            path.chmod(0)


def _state(root: Path) -> dict[str, object]:
    """Path -> what lies there, links not followed."""
    found: dict[str, object] = {}
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(folder) / name
            status = path.lstat()
            kind: object = stat.S_IFMT(status.st_mode)
            if stat.S_ISREG(status.st_mode):
                kind = path.read_bytes()
            elif stat.S_ISLNK(status.st_mode):
                kind = os.readlink(path)
            found[str(path.relative_to(root))] = kind
    return found


def _damage(root: Path, foreign: Mapping[str, object], action: tuple[str, int, int], theirs: Path) -> None:
    """Damages one of rnnc's files, if there is one: those that were not there before it compiled."""
    what, number, place = action
    state = _state(root)
    mine = sorted(p for p, held in state.items() if p not in foreign and isinstance(held, bytes))
    if not mine:
        return
    path = root / mine[number % len(mine)]
    content = path.read_bytes()
    changed = {
        "truncated": content[: place % (len(content) + 1)],
        "emptied": b"",
        "bit flipped": _flipped(content, place),
        "appended": content + b"more",
        "zeroed": bytes(len(content)),
        "of another entry": (root / mine[(number + 1) % len(mine)]).read_bytes(),
    }
    if what in changed:
        path.write_bytes(changed[what])
        return
    path.unlink()
    if what != "deleted":
        _make(path, what, content, theirs)


def _flipped(content: bytes, place: int) -> bytes:
    if not content:
        return b"\0"
    copy = bytearray(content)
    copy[place % len(copy)] ^= 1 << place % 8
    return bytes(copy)


def _check_kept(root: Path, foreign: Mapping[str, object]) -> None:
    state = _state(root)
    for path, held in foreign.items():
        if path not in state:
            raise Fault("lost", "deleted", repr(path))
        if state[path] != held:
            raise Fault("lost", "changed", repr(path))
