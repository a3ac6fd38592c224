"""Checkpoints: safetensors files that are always whole.

A file is written beside its final place, flushed to the disk, and then renamed over the old one: whenever the process
or the machine stops, the old or the new file is there. Parameters lie under their names, so that other programs can
read them; "optimizer.SLOT." and "best." stand before the rest; what is no array is JSON in the metadata.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rnnc.ir.errors import ArgumentError
from rnnc.train.extras import load

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

KEY = "rnnc"


class Checkpoint(NamedTuple):
    """What a file holds: arrays by name, and plain data."""

    arrays: dict[str, Array]
    data: dict[str, Any]

    def part(self, prefix: str) -> dict[str, Array]:
        """The arrays whose names begin with prefix, without it."""
        return {k.removeprefix(prefix): a for k, a in self.arrays.items() if k.startswith(prefix)}


def write(path: str | os.PathLike[str], arrays: Mapping[str, Array], data: Mapping[str, Any]) -> None:
    """Writes a checkpoint in one step, as others see it."""
    safetensors = load("safetensors.numpy", "checkpoints")
    content = safetensors.save(dict(arrays), metadata={KEY: json.dumps(data)})
    place = Path(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    draft = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    try:
        with open(draft, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, place)
    finally:
        draft.unlink(missing_ok=True)
    _sync_folder(place.parent)


def read(path: str | os.PathLike[str]) -> Checkpoint:
    """The checkpoint in a file. ArgumentError if it is none."""
    safetensors = load("safetensors", "checkpoints")
    try:
        with safetensors.safe_open(os.fspath(path), framework="np") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        data = json.loads(metadata[KEY]) if KEY in metadata else {}
    except FileNotFoundError:
        raise ArgumentError(f"checkpoint: there is no file {os.fspath(path)!r}") from None
    except (safetensors.SafetensorError, ValueError, OSError) as error:
        raise ArgumentError(f"checkpoint: {os.fspath(path)!r} is no readable safetensors file: {error}") from error
    return Checkpoint(arrays, data)


def save_parameters(path: str | os.PathLike[str], params: Mapping[str, Array]) -> None:
    """Writes parameters alone, by their names."""
    write(path, params, {})


def load_parameters(path: str | os.PathLike[str]) -> dict[str, Array]:
    """The parameters in a file of `save_parameters`, or in a checkpoint of `fit`: the present ones, not the best."""
    return {k: a for k, a in read(path).arrays.items() if not k.startswith(("optimizer.", "best."))}


def _sync_folder(folder: Path) -> None:
    """The rename itself reaches the disk; where folders cannot be opened, the system sees to it."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
