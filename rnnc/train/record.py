"""The record of a training: what a checkpoint of `fit` holds besides parameters, and the checks of one that is read.

All of a checkpoint is checked before anything of it is taken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from rnnc.checking import checks
from rnnc.ir.errors import CheckpointError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rnnc.train.checkpoint import Checkpoint
    from rnnc.train.flat import FlatLayout

    Array = NDArray[Any]


@dataclass(frozen=True)
class Epoch:
    """One line of a training's history. Losses are means over targets.

    accuracy: of the validation data, the share of right classes (cross_entropy only). seconds: of training alone.
    skipped: updates that were not made (`on_nonfinite="skip"`); the loss leaves them out.
    """

    epoch: int
    loss: float
    learning_rate: float
    seconds: float
    validation_loss: float | None = None
    accuracy: float | None = None
    skipped: int = 0


@dataclass
class Place:
    """How far a training has come; all of it is in a checkpoint."""

    epoch: int = 0
    position: int = 0  # updates (with tbptt, batches) done in this epoch
    loss: float = 0.0  # summed over the targets of this epoch
    count: int = 0
    seconds: float = 0.0
    best: float = math.inf
    bad: int = 0  # epochs since the best
    skipped: int = 0  # updates of this epoch that were not made


class Record(NamedTuple):
    """What a training goes on from. best: the parameters of the best epoch so far."""

    params: Array
    slots: dict[str, Array]
    best: Array | None
    place: Place
    updates: int
    history: list[Epoch]

    def arrays(self, layout: FlatLayout) -> dict[str, Array]:
        """The arrays of a checkpoint, by name."""
        found = layout.views(self.params)
        for slot, flat in self.slots.items():
            found |= {f"optimizer.{slot}.{name}": array for name, array in layout.views(flat).items()}
        if self.best is not None:
            found |= {f"best.{name}": array for name, array in layout.views(self.best).items()}
        return found

    def data(self, identity: Mapping[str, Any]) -> dict[str, Any]:
        """The rest of a checkpoint. identity: what must be the same for a training to go on."""
        return {
            "identity": dict(identity),
            "place": asdict(self.place),
            "updates": self.updates,
            "history": [asdict(line) for line in self.history],
        }


def restored(
    path: str,
    saved: Checkpoint,
    identity: Mapping[str, Any],
    layout: FlatLayout,
    slots: tuple[str, ...],
    positions: int,
) -> Record:
    """The record in a checkpoint. CheckpointError if it is of another training, or not such as `fit` writes.

    positions: how many an epoch has.
    """
    check = _Check(path)
    if "identity" not in saved.data:
        check.fail("it holds parameters only, no training to resume")
    _check_identity(check, saved.data, identity)
    check.names("the record", saved.data, ("identity", "place", "updates", "history"))
    lines = saved.data["history"]
    if not isinstance(lines, list):
        check.fail("its history is no list")
    history = [check.made(Epoch, f"line {number} of its history", line) for number, line in enumerate(lines)]
    place = check.made(Place, "its place", saved.data["place"])
    check.that(
        [line.epoch for line in history] == list(range(1, place.epoch + 1)), "its history is not that of its place"
    )
    check.that(place.position <= positions, f"its place, {place.position} of {positions} updates, is beyond the data")
    updates = check.number("updates", saved.data["updates"], int)
    groups = {"": "params", **{f"optimizer.{slot}.": slot for slot in slots}}
    if any(name.startswith("best.") for name in saved.arrays):
        groups["best."] = "best"
    check.that(("best." in groups) == math.isfinite(place.best), "it lacks the best epoch, or names none")
    flats = _flats(check, saved.arrays, layout, groups)
    params, best = flats.pop("params"), flats.pop("best", None)
    return Record(params, flats, best, place, int(updates), history)


def _check_identity(check: _Check, data: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    found = data["identity"]
    check.that(isinstance(found, dict), "its identity is no mapping")
    for name, value in identity.items():
        if found.get(name) != value:
            check.fail(f"it is of a training with {name} = {found.get(name)}, this one has {value}; give another name")


def _flats(
    check: _Check, arrays: Mapping[str, Array], layout: FlatLayout, groups: Mapping[str, str]
) -> dict[str, Array]:
    """Flat arrays by the name of their group, copied from arrays that are there, fit, and hold finite numbers."""
    names = {prefix + name: name for prefix in groups for name in layout.places}
    check.names("the file", arrays, tuple(names))
    for full, name in names.items():
        array, shape = arrays[full], layout.places[name][1]
        check.that(array.dtype == layout.dtype, f"{full!r} is {array.dtype}, expected {layout.dtype}")
        check.that(array.shape == shape, f"{full!r} has the shape {array.shape}, expected {shape}")
        check.that(bool(np.isfinite(array).all()), f"{full!r} holds numbers that are not finite")
    flats = {}
    for prefix, group in groups.items():
        flats[group] = layout.zeros()
        for name, view in layout.views(flats[group]).items():
            view[...] = arrays[prefix + name]
    return flats


T = TypeVar("T", Epoch, Place)


class _Check:
    """Checks of what a file holds, which name the file."""

    def __init__(self, path: str) -> None:
        self._path = path

    def fail(self, what: str) -> None:
        """Raises CheckpointError."""
        raise CheckpointError(f"checkpoint: {self._path!r} cannot be resumed: {what}")

    def that(self, holds: bool, otherwise: str) -> None:
        """Raises CheckpointError unless something holds."""
        if not holds:
            self.fail(otherwise)

    def names(self, what: str, found: Mapping[str, Any], expected: tuple[str, ...]) -> None:
        """Exactly the names that are expected."""
        missing, extra = set(expected) - set(found), set(found) - set(expected)
        listed = [
            f"{word} {', '.join(map(repr, sorted(names)))}"
            for word, names in (("lacks", missing), ("has", extra))
            if names
        ]
        self.that(not listed, f"{what} {' and '.join(listed)}")

    def number(self, what: str, value: object, kind: type[Any], optional: bool = False) -> Any:
        """An integer >= 0, or a float, of plain data."""
        if value is None and optional:
            return None
        allowed = (int,) if kind is int else (int, float)
        self.that(isinstance(value, allowed) and not isinstance(value, bool), f"{what} is {checks.came(value)}")
        assert isinstance(value, (int, float))
        self.that(0 <= value < 2**63 if kind is int else optional or not math.isnan(value), f"{what} is {value}")
        return kind(value)

    def made(self, kind: type[T], what: str, value: object) -> T:
        """A dataclass of numbers, from plain data with all of its fields."""
        self.that(isinstance(value, dict), f"{what} is {checks.came(value)}")
        assert isinstance(value, dict)
        declared = {f.name: str(f.type) for f in fields(kind)}
        self.names(what, value, tuple(declared))
        return kind(
            **{
                name: self.number(
                    f"{name} in {what}", value[name], int if type_ == "int" else float, type_.endswith("None")
                )
                for name, type_ in declared.items()
            }
        )
