"""The spec or network that an argument of the command line names."""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rnnc.checking import checks
from rnnc.computations import forward
from rnnc.ir.errors import ArgumentError, RnncError
from rnnc.plain_data import MOST_CHARACTERS, read_json
from rnnc.references import resolve

if TYPE_CHECKING:
    from rnnc.files.models import Architecture
    from rnnc.ir.computation import Computation


SUFFIXES = (".json", ".toml")
"""The endings of files with the arguments of a spec, or with a network, as text."""


def load_model(text: str, trusted: Sequence[str] = ()) -> Architecture:
    """The spec or network in a JSON, TOML or model file, or the one that "module:object" names.

    trusted: modules that a file may name for its cell.
    The current folder comes last on the path, and is on it only if the command line names a module. So files that
    happen to be there are not run. Raises ArgumentError.
    """
    from rnnc.files.models import architecture, architectures, read_architecture

    in_text = Path(text).suffix in SUFFIXES
    if in_text or is_model_file(text):
        if trusted:
            _add_current_folder()
        return architecture(_read(Path(text)), trusted) if in_text else read_architecture(text, trusted)
    if ":" not in text:
        raise ArgumentError(f"SPEC: {text!r} is neither a .json or .toml file, nor a model file, nor module:object")
    _add_current_folder()
    found = resolve(text, (text.partition(":")[0], *trusted))
    if not isinstance(found, architectures()):
        kinds = ", ".join(kind.__name__ for kind in architectures())
        raise ArgumentError(f"SPEC: {text} is not a spec ({kinds}) but {checks.came(found)}")
    return found


def is_model_file(text: str) -> bool:
    """Whether there is a file of that name, which is not a text."""
    return Path(text).suffix not in SUFFIXES and Path(text).is_file()


def _add_current_folder() -> None:
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def _read(path: Path) -> dict[str, object]:
    try:
        with open(path, "rb") as file:
            content = file.read(MOST_CHARACTERS + 1)
        if len(content) > MOST_CHARACTERS:
            raise ArgumentError(f"SPEC: {path}: more than {MOST_CHARACTERS} bytes are no spec")
        toml = path.suffix == ".toml"
        data = tomllib.loads(content.decode()) if toml else read_json(f"SPEC: {path}", content)
    except OSError as error:
        raise ArgumentError(f"SPEC: cannot read {path}: {error.strerror}") from error
    except RnncError:
        raise
    except (ValueError, RecursionError) as error:  # raised by the parser of TOML and the decoder
        raise ArgumentError(f"SPEC: {path}: {error}") from error
    if not isinstance(data, dict):
        raise ArgumentError(f"SPEC: {path}: expected a table of arguments, got {checks.came(data)}")
    return data


def steps_of_model(model: Architecture) -> Computation:
    """The forward pass; of a decoder, its steps."""
    from rnnc.decoding.decoder import Decoder
    from rnnc.decoding.decoding import steps_of

    return steps_of(model) if isinstance(model, Decoder) else forward(model)
