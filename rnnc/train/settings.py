"""The plain arguments of `fit`, checked."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rnnc.checking import checks
from rnnc.ir.errors import ArgumentError, ArgumentTypeError
from rnnc.train import checkpoint as files
from rnnc.train.data import Batching

if TYPE_CHECKING:
    from rnnc.train.ranks import Ranks

    Path = str | os.PathLike[str]


@dataclass(frozen=True)
class Settings:
    """Arguments of `fit` under their own names."""

    epochs: int
    batch_size: int
    seed: int
    clip: float | None
    accumulate: int
    patience: int | None
    checkpoint: Path | None
    checkpoint_every: int | None
    resume: bool
    tbptt: int | None
    steps_per_epoch: int | None
    shuffle_buffer: int
    on_nonfinite: str
    backend: str
    threads: int | None
    matmul: str | None
    frozen: Collection[str]
    ranks: Ranks

    @property
    def plan(self) -> Batching:
        """How the training data becomes batches."""
        return Batching(
            self.batch_size, self.accumulate, self.seed, self.shuffle_buffer, self.steps_per_epoch, self.ranks
        )

    @property
    def plan_of_validation(self) -> Batching:
        """How the validation data becomes batches."""
        return Batching(self.batch_size, 1, self.seed, ranks=self.ranks)

    @property
    def target(self) -> dict[str, Any]:
        """What the training is compiled for."""
        return {"backend": self.backend, "threads": self.threads, "matmul": self.matmul}


def read_settings(given: Mapping[str, Any], ranks: Ranks) -> Settings:
    """The settings among the arguments of `fit`. Raises ArgumentError or ArgumentTypeError."""
    values = {name: given[name] for name in Settings.__dataclass_fields__ if name != "ranks"} | {"ranks": ranks}
    for name in ("epochs", "batch_size", "accumulate"):
        values[name] = checks.integer(name, values[name], 1)
    for name in ("patience", "checkpoint_every", "tbptt", "steps_per_epoch"):
        if values[name] is not None:
            values[name] = checks.integer(name, values[name], 1)
    values["shuffle_buffer"] = checks.integer("shuffle_buffer", values["shuffle_buffer"], 0)
    values["seed"] = checks.integer("seed", values["seed"], 0, 2**64 - 1)
    values["resume"] = checks.flag("resume", values["resume"])
    if values["tbptt"] and values["accumulate"] > 1:
        raise ArgumentError("accumulate: with tbptt each piece is an update of its own; leave one of the two out")
    if values["tbptt"] and ranks.several:
        raise ArgumentError(
            "tbptt: the rows of one rank may have fewer pieces than those of another; with distributed, cut the "
            "sequences into items of their own, or leave tbptt out"
        )
    for name in ("patience", "metrics"):
        if given[name] and given["validation"] is None:
            raise ArgumentError(f"{name}: {_WATCHES[name]} the validation data; give validation=")
    values["on_nonfinite"] = checks.choice("on_nonfinite", values["on_nonfinite"], ("raise", "skip"))
    _check_checkpoint(values)
    return Settings(**values)


_WATCHES = {"patience": "it watches the loss of", "metrics": "they are computed on"}


def _check_checkpoint(values: Mapping[str, Any]) -> None:
    if values["checkpoint"] is None and (values["resume"] or values["checkpoint_every"]):
        raise ArgumentError("checkpoint: resume and checkpoint_every need the name of a file")
    if values["ranks"].rank:  # rank 0 alone reads and writes it
        return
    if values["checkpoint"] is not None and files.check_path(values["checkpoint"]).exists() and not values["resume"]:
        raise ArgumentError(
            f"checkpoint: {os.fspath(values['checkpoint'])!r} exists already; pass resume=True to continue from it; "
            "to start anew, delete it or give another name"
        )


def function(name: str, value: Any) -> Any:
    """The value, which can be called. Raises ArgumentTypeError otherwise."""
    if callable(value):
        return value
    raise ArgumentTypeError(f"{name}: expected a function, got {checks.came(value)}")
