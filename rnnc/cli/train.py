"""`rnnc train`: a training as one TOML file says, from arrays in files to a model file."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.checking import checks
from rnnc.cli.common import add_trust
from rnnc.cli.parser import add_command
from rnnc.cli.specs import load_model
from rnnc.ir.errors import ArgumentError, FileError

if TYPE_CHECKING:
    import argparse

    from rnnc.cli.parser import Commands
    from rnnc.files.models import Architecture

DESCRIPTION = """\
Train a network as a TOML file says, and write it to a model file. Paths are relative to the file.

  output = "trained.rnnc"        # the model file to write

  [model]                        # a network as Sequential.to_dict gives it, or:
  file = "network.json"          # a .json, .toml or model file, or module = "my_models:tagger"

  [data]                         # arrays of NumPy, one sequence per row
  x = "x.npy"                    # (N, T, I), or (N, T) integers for an embedding
  target = "target.npy"          # (N, ...), as rnnc.train.fit takes it
  lengths = "lengths.npy"        # (N,), if the sequences are padded

  [validation]                   # the same, if there is some

  [optimizer]                    # default Adam
  type = "AdamW"
  learning_rate = 3e-4

  [fit]                          # any plain argument of rnnc.train.fit
  loss = "cross_entropy"
  epochs = 20
  batch_size = 32
  checkpoint = "state.rnnc"
"""
TABLES = ("model", "data", "validation", "optimizer", "fit", "output")
PATHS = ("checkpoint",)
"""Arguments of `fit` that are files."""


def add(commands: Commands) -> None:
    """Declares the command."""
    parser = add_command(
        commands,
        "train",
        _run,
        help="train a network as a TOML file says, and write a model file",
        description=DESCRIPTION,
        examples=["rnnc train train.toml", "rnnc train train.toml --resume"],
    )
    parser.add_argument("file", metavar="FILE", help="a .toml file")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint, if there is one")
    add_trust(parser)


def _run(options: argparse.Namespace) -> None:
    from rnnc.train import fit

    given, folder = _read(Path(options.file)), Path(options.file).parent
    output = given.get("output")
    if not isinstance(output, str):
        raise ArgumentError(f"{options.file}: output: expected the name of a model file, got {checks.came(output)}")
    model: Any = _model(_table(given, "model", required=True), folder, options.trust)
    arguments = _table(given, "fit")
    for name in PATHS:
        if isinstance(arguments.get(name), str):
            arguments[name] = folder / arguments[name]
    if "optimizer" in given:
        arguments["optimizer"] = _optimizer(_table(given, "optimizer"))
    if "validation" in given:
        arguments["validation"] = _data("validation", _table(given, "validation"), folder)
    if options.resume:
        arguments["resume"] = True
    trained = fit(model, _data("data", _table(given, "data", required=True), folder), **arguments)
    trained.save(folder / output)
    last = trained.history[-1] if trained.history else None
    print(f"{folder / output}: {len(trained.history)} epochs, {trained.updates} updates, {trained.ended}")
    if last is not None:
        print(last)


def _read(path: Path) -> dict[str, Any]:
    """The tables of the file. Raises ArgumentError for one that there is not."""
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FileError(f"FILE: cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise FileError(f"FILE: {path}: {error}") from error
    for name in given:
        if name not in TABLES:
            raise ArgumentError(f"{path}: there is no [{name}]{checks.suggestion(name, TABLES)}; {', '.join(TABLES)}")
    return given


def _table(given: Mapping[str, Any], name: str, *, required: bool = False) -> dict[str, Any]:
    found = given.get(name, {})
    if not isinstance(found, dict) or required and not found:
        raise ArgumentError(f"[{name}]: expected a table, got {checks.came(found) if found else 'none'}")
    return dict(found)


def _model(table: dict[str, Any], folder: Path, trusted: list[str]) -> Architecture:
    from rnnc.files.models import architecture

    if "file" in table or "module" in table:
        if len(table) > 1:
            raise ArgumentError(f"[model]: expected file or module alone, got {', '.join(table)}")
        return load_model(str(folder / table["file"]) if "file" in table else str(table["module"]), trusted)
    return architecture(table, trusted)


def _optimizer(table: dict[str, Any]) -> Any:
    from rnnc import optimizers

    kinds = {kind.__name__: kind for kind in (optimizers.SGD, optimizers.Adam, optimizers.AdamW)}
    name = table.pop("type", "Adam")
    if name not in kinds:
        hint = checks.suggestion(str(name), kinds)
        raise ArgumentError(f"[optimizer] type: expected {', '.join(kinds)}, got {checks.came(name)}{hint}")
    return kinds[name](**table)


ARRAYS = ("x", "target", "weight", "lengths")


def _data(what: str, table: dict[str, Any], folder: Path) -> Any:
    """The items of a data set: arrays with one sequence per row, or a list of sequences if there are lengths."""
    for name in table:
        if name not in ARRAYS:
            raise ArgumentError(f"[{what}]: there is no {name!r}{checks.suggestion(name, ARRAYS)}; {', '.join(ARRAYS)}")
    if not {"x", "target"} <= set(table):
        raise ArgumentError(f"[{what}]: expected x and target, got {', '.join(table) or 'nothing'}")
    arrays = {name: _array(f"[{what}] {name}", folder / str(path)) for name, path in table.items()}
    if len({len(array) for array in arrays.values()}) > 1:
        raise ArgumentError(f"[{what}]: rows differ: " + ", ".join(f"{n} {len(a)}" for n, a in arrays.items()))
    lengths = arrays.pop("lengths", None)
    if lengths is None:
        return tuple(arrays.values())
    if arrays["x"].ndim < 2:
        raise ArgumentError(f"[{what}] x: expected (N, T, ...) beside lengths, got shape {arrays['x'].shape}")
    steps = arrays["x"].shape[1]
    if lengths.ndim != 1 or lengths.dtype.kind not in "iu" or lengths.min() < 1 or lengths.max() > steps:
        raise ArgumentError(f"[{what}] lengths: expected integers from 1 to {steps}, one per row of x")
    return [
        tuple(a[row][:length] if a.ndim > 1 and a.shape[1] == steps else a[row] for a in arrays.values())
        for row, length in enumerate(lengths)
    ]


def _array(what: str, path: Path) -> np.ndarray[Any, Any]:
    from rnnc.files.named import NamedFile
    from rnnc.files.npz import read_npy

    found = np.asarray(read_npy(NamedFile.of(path, what)))
    if found.ndim == 0 or not len(found):
        raise ArgumentError(f"{what}: expected one sequence per row, got an array of shape {found.shape}")
    return found
