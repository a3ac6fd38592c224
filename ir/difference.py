"""The difference of two dumps, as lines. Values keep their names where they are the same.

    %24 = add(%13, %5) : float32[B, 12]         the old text
    %31 = add(%13, %5) : float32[B, 12]         the new one, in which other values come before

A pass numbers all values anew, and changes their order. So lines are compared without the numbers of values:

1. A value of the new text that is computed as an old one, all the way from the inputs, is the old one.
2. The lines left over are aligned by their ops, attributes, types and places.

A value of the new text gets the name of the old one that it is, or that it is aligned with. What then differs is shown,
a line that reads something else too. A new value has a mark: %31'. Texts without values, such as assembly, are compared
line by line.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher, unified_diff

_VALUE = re.compile(r"%v?\d+\b")
_BLANKS = re.compile(r" +")
_HEADING = re.compile(r"\s*(#\s*(inputs|constants|no site.*|l\d\S*( t=\d+)?|t=\d+))?\s*")
"""Blank lines, and the headings of groups of nodes, which change whenever the order does."""
LONG = 4000
"""Lines from which on the search for equal lines skips those that occur very often, which makes it fast."""


def difference(old: str, new: str, context: int = 1) -> list[str]:
    """The lines that differ, with a first character "-" (old), "+" (new) or " "; empty if nothing does.

    context: how many equal lines are shown around those. "@ ..." stands for lines left out.
    """
    before, after = ([line for line in text.splitlines() if not _HEADING.fullmatch(line)] for text in (old, new))
    if any(map(_defined, before)) and any(map(_defined, after)):
        return list(_hunks(_Comparison(before, after).lines(), context))
    return list(unified_diff(before, after, "old", "new", n=context, lineterm=""))[2:]


def _defined(line: str) -> str | None:
    """The value that a line defines."""
    head, equals, _ = line.partition(" = ")
    found = _VALUE.findall(head) if equals else []
    return found[0] if len(found) == 1 else None


class _Comparison:
    """The lines of two texts, and which of them are one."""

    def __init__(self, old: Sequence[str], new: Sequence[str]) -> None:
        self.old, self.new = old, new
        self.names: dict[str, str] = {}
        """Value of the new text -> the old one that it is, or is aligned with."""
        self.same: dict[int, int] = {}
        """Line of the new text -> line of the old one that is computed alike."""
        self.aligned: dict[int, int] = {}
        """Line of the new text -> line of the old one that may read something else."""
        self._pair_equal()
        self._align_rest()

    def lines(self) -> list[tuple[str, str]]:
        """(mark, line) of all lines, in the order of the new text. Old lines that are gone stand before new ones."""
        pairs = {**self.same, **self.aligned}
        taken = set(pairs.values())
        gone = [number for number in range(len(self.old)) if number not in taken][::-1]
        found: list[tuple[str, str]] = []
        for number, text in enumerate(self.new):
            line = _VALUE.sub(lambda value: self.names.get(value[0], value[0] + "'"), text)
            following = next((pairs[n] for n in range(number, len(self.new)) if n in pairs), len(self.old))
            while gone and gone[-1] < following:
                found.append(("-", self.old[gone.pop()]))
            if number not in pairs:
                found.append(("+", line))
            elif number in self.same or _plain(line) == _plain(self.old[pairs[number]]):
                found.append((" ", self.old[pairs[number]]))
            else:
                found += [("-", self.old[pairs[number]]), ("+", line)]
        return found + [("-", self.old[number]) for number in reversed(gone)]

    def _pair_equal(self) -> None:
        places: dict[str, list[int]] = defaultdict(list)
        for number, key in enumerate(_deep_keys(self.old)):
            places[key].append(number)
        for number, key in enumerate(_deep_keys(self.new)):
            if places[key]:
                self._pair(self.same, places[key].pop(0), number)

    def _align_rest(self) -> None:
        known = set(self.same.values())
        old = [number for number in range(len(self.old)) if number not in known]
        new = [number for number in range(len(self.new)) if number not in self.same]
        keys = ([_masked(self.old[n]) for n in old], [_masked(self.new[n]) for n in new])
        for i, j, size in SequenceMatcher(None, *keys, len(old) + len(new) > LONG).get_matching_blocks():
            for k in range(size):
                self._pair(self.aligned, old[i + k], new[j + k])

    def _pair(self, pairs: dict[int, int], before: int, after: int) -> None:
        pairs[after] = before
        value, other = _defined(self.old[before]), _defined(self.new[after])
        if value and other:
            self.names[other] = value


def _plain(line: str) -> str:
    return _BLANKS.sub(" ", line)


def _masked(line: str) -> str:
    return _plain(_VALUE.sub("%", line))


def _deep_keys(lines: Sequence[str]) -> list[str]:
    """Per line, what it computes from inputs: its text, with the keys of what it reads in the place of their numbers.

    A value that is read before it is defined, as a carry reads its source, has no key.
    """
    keys: dict[str, str] = {}
    found = []
    for line in lines:
        value = _defined(line)
        key = _plain(_VALUE.sub(lambda name, own=value: "%" if name[0] == own else keys.get(name[0], "%"), line))  # type: ignore[misc]
        found.append(key)
        if value:
            keys[value] = f"<{hash(key)}>"
    return found


def _hunks(lines: Sequence[tuple[str, str]], context: int) -> Iterator[str]:
    """The lines that differ, and those around them."""
    changed = [number for number, (mark, _) in enumerate(lines) if mark != " "]
    shown = sorted({n for c in changed for n in range(max(c - context, 0), min(c + context + 1, len(lines)))})
    last = -1
    for number in shown:
        if number > last + 1:
            yield f"@ {number - last - 1} lines alike"
        yield lines[number][0] + lines[number][1]
        last = number
    if shown and last + 1 < len(lines):
        yield f"@ {len(lines) - last - 1} lines alike"
