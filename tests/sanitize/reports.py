"""Reports of valgrind: which errors are those of generated code, and which are known faults of others.

Generated code lies in no file. An error is its own, or that of the entry into it, if a frame of its stack lies in no
file. Such an error is never excused. The others are excused one object file and one kind at a time, with a reason;
leaks of others are not looked at.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

_MAPPED = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) ..x. .* /.*$", re.MULTILINE)
"""Code from a file."""


class Excuse(NamedTuple):
    """Errors of some kinds whose innermost frame is in an object file whose name contains `library`."""

    library: str
    kinds: tuple[str, ...]
    reason: str


EXCUSES = (
    Excuse(
        "python",
        ("UninitValue", "UninitCondition"),
        "CPython computes with small integers made of bytes that a system call wrote; valgrind does not know all calls",
    ),
    Excuse("ld-linux", ("InvalidRead",), "the loader compares strings word by word, past their ends"),
    Excuse("libllvmlite", ("UninitValue", "UninitCondition"), "LLVM copies and hashes structures with padding"),
)
"""CPython's invalid reads are not excused: a definition of a function that was freed too early is one of them."""


class Report(NamedTuple):
    """What valgrind said. own: errors with a frame of generated code. unknown: further ones that nothing excuses."""

    own: list[str]
    unknown: list[str]
    excused: Counter[str]

    @staticmethod
    def empty() -> Report:
        """Of a part that did not run."""
        return Report([], [], Counter())


def read(path: Path, maps: str) -> Report:
    """Reads a report in XML. maps: lines of /proc/self/maps of the process, which name the files of its code."""
    report = Report.empty()
    files = [tuple(int(place, 16) for place in found) for found in _MAPPED.findall(maps)]
    for error in ElementTree.parse(path).getroot().iter("error"):
        frames = error.findall("stack/frame")
        if any(_generated(frame, files) for frame in frames):
            report.own.append(_text(error, frames))
        elif (kind := error.findtext("kind") or "").startswith("Leak"):
            report.excused["leaks"] += 1
        elif (library := _excused(kind, frames)) is not None:
            report.excused[library] += 1
        else:
            report.unknown.append(_text(error, frames))
    return report


def _generated(frame: ElementTree.Element, files: Sequence[tuple[int, ...]]) -> bool:
    """Whether a frame lies in no file: valgrind names the files that it can read, which leaves some libraries out."""
    address = int(frame.findtext("ip") or "0", 16)
    return frame.find("obj") is None and not any(start <= address < end for start, end in files)


def _excused(kind: str, frames: list[ElementTree.Element]) -> str | None:
    files = [_file(frame) for frame in frames]
    innermost = next((file for file in files if not file.startswith("vgpreload")), "")
    return next((e.library for e in EXCUSES if kind in e.kinds and e.library in innermost), None)


def _file(frame: ElementTree.Element) -> str:
    return (frame.findtext("obj") or "").rpartition("/")[2]


def _text(error: ElementTree.Element, frames: list[ElementTree.Element]) -> str:
    what = error.findtext("what") or error.findtext("xwhat/text") or ""
    lines = [f"  {f.findtext('ip')} {_file(f)} {f.findtext('fn') or '(no name)'}" for f in frames[:12]]
    return "\n".join([f"{error.findtext('kind')}: {what} {error.findtext('auxwhat') or ''}", *lines])
