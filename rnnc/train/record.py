"""The record of a training: the content of a checkpoint of `fit`, and the checks of one that is read.

The whole of a checkpoint is checked before any of it is used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
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
    """One line of a training's history.

    epoch: counted from 1. loss, validation_loss: means over targets; the training loss is that of each update before
        it was made. validation_loss is None without validation data.
    learning_rate: at the start of the epoch. seconds: of training, without validation and checkpoints.
    accuracy: the share of right classes in the validation data (cross_entropy only).
    skipped: the number of updates that were not made (`on_nonfinite="skip"`); `loss` leaves them out.
    data_seconds: the part of `seconds` in which batches were made, with the time of the user's own data.
    metrics: name -> metric of the validation data. losses, validation_losses: output -> mean loss; empty for a network
        of one output.
    """

    epoch: int
    loss: float
    learning_rate: float
    seconds: float
    validation_loss: float | None = None
    accuracy: float | None = None
    skipped: int = 0
    data_seconds: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict, hash=False)
    losses: dict[str, float] = field(default_factory=dict, hash=False)
    validation_losses: dict[str, float] = field(default_factory=dict, hash=False)


@dataclass
class Place:
    """How far a training has come, as a checkpoint holds it."""

    epoch: int = 0
    position: int = 0  # the number of updates (with tbptt, of batches) done in this epoch
    loss: float = 0.0  # the sum over the targets of this epoch so far
    count: float = 0.0  # what that sum is divided by
    seconds: float = 0.0
    best: float = math.inf
    bad: int = 0  # epochs since the best one
    skipped: int = 0  # the number of updates of this epoch that were not made
    data_seconds: float = 0.0
    updates: int = 0  # of the epoch before; 0 if there was none
    sums: dict[str, float] = field(default_factory=dict)  # as loss and count, by output, if there are several
    terms: dict[str, float] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        """The mean loss of this epoch so far."""
        return self.loss / (self.count or 1.0)

    @property
    def means(self) -> dict[str, float]:
        """The mean losses by output; empty for a network of one."""
        return {output: loss / (self.terms[output] or 1.0) for output, loss in self.sums.items()}

    def add(self, loss: float, losses: Mapping[str, float], terms: Mapping[str, float]) -> None:
        """Adds the losses of an update. losses, terms: by output."""
        count = sum(terms.values())
        self.loss += loss * count
        self.count += count
        for output in terms if len(terms) > 1 else ():
            self.sums[output] = self.sums.get(output, 0.0) + losses[output] * terms[output]
            self.terms[output] = self.terms.get(output, 0.0) + terms[output]


class Record(NamedTuple):
    """The state from which a training goes on. best: the flat parameters of the best epoch so far."""

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
        """The plain data of a checkpoint. identity: the settings that must be unchanged when a training goes on."""
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
    positions: int | None,
) -> Record:
    """The record in a checkpoint. positions: the number of updates per epoch, if it is known.

    Raises CheckpointError if the checkpoint is of another training, or is not one that `fit` writes.
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
    what = f"its place, {place.position} of {positions} updates, is beyond the data"
    check.that(positions is None or place.position <= positions, what)
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
            place, was, has = _first_difference(name, found.get(name), value)
            check.fail(f"it is of a training with {place} = {was}, this one has {has}; give another name")


def _first_difference(place: str, one: Any, other: Any) -> tuple[str, Any, Any]:
    """Where two values of plain data differ first, and both there: the whole of a model says too much."""
    if isinstance(one, Mapping) and isinstance(other, Mapping) and one.keys() == other.keys():
        inner = next(key for key in one if one[key] != other[key])
        return _first_difference(f"{place}.{inner}", one[inner], other[inner])
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        number = next(n for n, each in enumerate(one) if each != other[n])
        return _first_difference(f"{place}[{number}]", one[number], other[number])
    return place, one, other


def _flats(
    check: _Check, arrays: Mapping[str, Array], layout: FlatLayout, groups: Mapping[str, str]
) -> dict[str, Array]:
    """A flat array per group, copied from the arrays of a file.

    groups: prefix of the arrays' names -> the group. Every array must exist, fit the layout and be finite.
    """
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
    """Checks of the content of a file. Their errors name the file."""

    def __init__(self, path: str) -> None:
        self._path = path

    def fail(self, what: str) -> None:
        """Raises CheckpointError."""
        raise CheckpointError(f"checkpoint: {self._path!r} cannot be resumed: {what}")

    def that(self, holds: bool, otherwise: str) -> None:
        """Raises CheckpointError unless a condition holds."""
        if not holds:
            self.fail(otherwise)

    def names(self, what: str, found: Mapping[str, Any], expected: tuple[str, ...]) -> None:
        """Raises CheckpointError unless the names found are exactly those expected."""
        missing, extra = set(expected) - set(found), set(found) - set(expected)
        listed = [
            f"{word} {', '.join(map(repr, sorted(names)))}"
            for word, names in (("lacks", missing), ("has", extra))
            if names
        ]
        self.that(not listed, f"{what} {' and '.join(listed)}")

    def number(self, what: str, value: object, kind: type[Any], optional: bool = False) -> Any:
        """A number of plain data: an integer >= 0 or a float. optional: None and NaN are allowed."""
        if value is None and optional:
            return None
        allowed = (int,) if kind is int else (int, float)
        self.that(isinstance(value, allowed) and not isinstance(value, bool), f"{what} is {checks.came(value)}")
        assert isinstance(value, (int, float))
        self.that(0 <= value < 2**63 if kind is int else optional or not math.isnan(value), f"{what} is {value}")
        return kind(value)

    def made(self, kind: type[T], what: str, value: object) -> T:
        """A dataclass of numbers, made from plain data that has exactly its fields."""
        self.that(isinstance(value, dict), f"{what} is {checks.came(value)}")
        assert isinstance(value, dict)
        declared = {f.name: str(f.type) for f in fields(kind)}
        self.names(what, value, tuple(declared))
        return kind(**{name: self.value(f"{name} in {what}", value[name], type_) for name, type_ in declared.items()})

    def value(self, what: str, value: object, declared: str) -> Any:
        """A number, or a mapping of names to numbers. declared: its type in a dataclass."""
        if declared.startswith("dict"):
            self.that(isinstance(value, dict), f"{what} is {checks.came(value)}")
            assert isinstance(value, dict)
            return {name: self.number(f"{name} in {what}", number, float, True) for name, number in value.items()}
        return self.number(what, value, int if declared == "int" else float, declared.endswith("None"))
