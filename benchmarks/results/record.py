"""What a run found, row by row, and its JSON file, which a later run goes on from or is compared with."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from benchmarks.roofline import Roofline
from benchmarks.timing import Timing

VERSION = 1
OURS = "rnnc"
Key = tuple[str, str, int]


@dataclass(frozen=True)
class Row:
    """One line of a table.

    timings: seconds per call by contestant: `rnnc` itself, other ways of rnnc ("rnnc float32"), and peers, whose first
    word is their name ("torch onednn"). errors: the largest, relative to the largest magnitude of the exact array.
    figures: what else a column shows, by its title. notes: why a peer is missing.
    """

    part: str
    name: str
    threads: int
    timings: Mapping[str, Timing]
    errors: Mapping[str, float] = field(default_factory=dict)
    roofline: Roofline | None = None
    figures: Mapping[str, float] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        return self.part, self.name, self.threads

    @property
    def ours(self) -> float:
        """Seconds, the median."""
        return self.timings[OURS].median

    @property
    def peers(self) -> dict[str, float]:
        """Seconds of each peer: the median of its fastest form."""
        found: dict[str, float] = {}
        for name, timing in self.timings.items():
            peer = name.split()[0]
            if peer != OURS:
                found[peer] = min(timing.median, found.get(peer, timing.median))
        return found

    @property
    def best_peer(self) -> tuple[str, float] | None:
        return min(self.peers.items(), key=lambda item: item[1], default=None)

    @property
    def gain(self) -> float | None:
        """The best peer's time over rnnc's."""
        return self.best_peer[1] / self.ours if self.best_peer else None

    @property
    def share(self) -> float | None:
        """Of the roofline: the least time over rnnc's."""
        return self.roofline.seconds / self.ours if self.roofline else None

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Row:
        timings = {name: Timing(**timing) for name, timing in found["timings"].items()}
        bound = Roofline(**found["roofline"]) if found["roofline"] else None
        return cls(**{**found, "timings": timings, "roofline": bound})


@dataclass
class Record:
    """A run. machine: see `Machine.described`. packages: versions by name."""

    machine: dict[str, Any]
    packages: dict[str, str]
    rows: list[Row] = field(default_factory=list)

    def of_part(self, part: str, threads: int) -> list[Row]:
        return [row for row in self.rows if (row.part, row.threads) == (part, threads)]

    def by_key(self) -> dict[Key, Row]:
        return {row.key: row for row in self.rows}

    def write(self, path: Path) -> None:
        """Whole or not at all: a run that is killed leaves the file of the row before."""
        text = json.dumps({"version": VERSION, **asdict(self)}, indent=1) + "\n"
        beside = path.with_name(path.name + ".part")
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, path)

    @classmethod
    def read(cls, path: Path) -> Record:
        """Raises ValueError if the file is not such a record."""
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["version"] != VERSION:
                raise ValueError(f"{path}: version {found['version']}, expected {VERSION}; measure again")
            return cls(found["machine"], found["packages"], [Row.from_json(row) for row in found["rows"]])
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path}: expected the JSON of `python -m benchmarks --json`: {error!r}") from error


def mean_gain(rows: list[Row]) -> float | None:
    """The geometric mean of the rows that have a peer."""
    gains = [row.gain for row in rows if row.gain]
    return geometric_mean(gains) if gains else None
