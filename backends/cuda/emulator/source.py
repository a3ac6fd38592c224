"""Translation of CUDA C to C++, as far as a header cannot do it. Line numbers stay the same."""

from __future__ import annotations

import re
from dataclasses import dataclass

NAME = "kernel.cu"
"""The name of the source in compilers' messages."""

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_ATTRIBUTE = r"(?:__align__|alignas|__attribute__)\s*\((?:[^()]|\([^()]*\))*\)"
_DYNAMIC = re.compile(
    rf"\bextern\s+(?:{_ATTRIBUTE}\s*)*__shared__\s+(?:{_ATTRIBUTE}\s*)*(?P<type>[^;{{}}()\[\]=]*?[\w>*\s])\s*"
    rf"\b(?P<name>\w+)\s*\[\s*\]\s*;"
)
_STATIC = re.compile(r"\b__shared__\b")
_BOUNDS = r"__launch_bounds__\s*\(\s*(?P<{0}>[^(),]*)[^()]*\)"
_KERNEL = re.compile(
    rf"\b__global__\s+(?:{_BOUNDS.format('before')}\s*)?void\s+(?:{_BOUNDS.format('after')}\s*)?(?P<name>\w+)\s*\("
)


@dataclass(frozen=True)
class TranslatedUnit:
    """A translation unit for the C++ compiler."""

    text: str
    kernels: dict[str, int | None]
    """Kernel -> the most threads of a block that its __launch_bounds__ allow; None if that is not a number."""


class SourceError(ValueError):
    """The source uses a feature that the emulator does not have."""


def translate(source: str) -> TranslatedUnit:
    """The translated source: dynamic shared memory is rewritten, and each kernel gets an entry point for the host.

    Raises SourceError.
    """
    plain = _COMMENT.sub(_blank, source)
    plain = _DYNAMIC.sub(_shared, plain)
    static = _STATIC.search(plain)
    if static is not None:
        line = plain.count("\n", 0, static.start()) + 1
        raise SourceError(f"{NAME}:{line}: shared memory must be dynamic: `extern __shared__ type name[];`")
    kernels = {match["name"]: _bound(match) for match in _KERNEL.finditer(plain)}
    entries = [f"RNNC_KERNEL({name})" for name in kernels]
    return TranslatedUnit(
        "\n".join([f'#line 1 "{NAME}"', plain, '#line 1 "entries"', "RNNC_UNIT", *entries, ""]), kernels
    )


def explain(diagnostics: str, source: str) -> str:
    """A compiler's messages, each followed by the line of CUDA C that it refers to."""
    lines, told = source.splitlines(), []
    for message in diagnostics.splitlines():
        told.append(message)
        found = re.match(rf"{re.escape(NAME)}:(\d+):", message)
        if found and 0 < int(found[1]) <= len(lines):
            told.append(f"    {lines[int(found[1]) - 1].strip()}")
    return "\n".join(told)


def _blank(match: re.Match[str]) -> str:
    """White space with as many lines as a comment."""
    return " " + "\n" * match[0].count("\n")


def _shared(match: re.Match[str]) -> str:
    """`extern __shared__ T name[];` -> `RNNC_SHARED(T, name)`, with as many lines."""
    return f"RNNC_SHARED({match['type'].strip()}, {match['name']})" + "\n" * match[0].count("\n")


def _bound(match: re.Match[str]) -> int | None:
    text = (match["before"] or match["after"] or "").strip()
    return int(text) if text.isdecimal() else None
