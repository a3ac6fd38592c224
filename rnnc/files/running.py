"""`rnnc run`: a call of a model file, from arrays in files to arrays in files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib import format as npy

from rnnc.compiled import CompileOptions
from rnnc.decoding import Decoding
from rnnc.files.kinds import NPZ, kind_of
from rnnc.files.models import load_model
from rnnc.files.named import NamedFile
from rnnc.files.npz import read_npy, read_npz, write_npz
from rnnc.ir.errors import ArgumentError
from rnnc.ir.names import OUTPUT
from rnnc.model import Model

if TYPE_CHECKING:
    import argparse

    from numpy.typing import NDArray

    from rnnc.backends.arrays import ArrayLibrary
    from rnnc.files.models import Bound

    Array = NDArray[Any]
    Arrays = Array | Mapping[str, Array]

__all__ = ["run"]

ALONE = "x"
"""The name of an array that is given without one."""


def run(options: argparse.Namespace) -> None:
    """Calls the model, writes what it gives, and prints the names and shapes of that. Raises what the call raises."""
    places = {name: getattr(options, name) for name in ("output", "final_state") if getattr(options, name)}
    outputs = {name: _place(f"--{name.replace('_', '-')}", path) for name, path in places.items()}
    model = load_model(options.model, trusted=options.trust, backend=options.backend, threads=options.threads)
    library = CompileOptions.of(options.backend, options.threads, None).arrays
    given = {name: library.from_host(array) for name, array in _inputs(options.input).items()}
    lengths = None if options.lengths is None else _one("--lengths", options.lengths)
    state = None
    if options.state is not None:
        state = {name: library.from_host(array) for name, array in _all("--state", options.state).items()}
    found, last = _call(model, given, lengths, state, "final_state" in outputs)
    _write(outputs["output"], _on_host(library, found))
    if "final_state" in outputs:
        _write(outputs["final_state"], _on_host(library, last))


# ---- the call


def _call(
    model: Bound, given: Mapping[str, Array], lengths: Array | None, state: Mapping[str, Array] | None, streams: bool
) -> tuple[Arrays, Mapping[str, Array]]:
    """(outputs, last state). streams: whether the last state is wanted, beside a first one that is given."""
    x: Any = given[ALONE] if set(given) == {ALONE} else given or None
    if isinstance(model, Decoding):
        if state is not None or streams:
            raise ArgumentError("--state, --final-state: a decoder starts from what its encoder gives")
        return model(x, lengths=lengths)._asdict(), {}
    if streams or state is not None:
        return model.advance(x, state, lengths=lengths)
    found: Any = model(x, lengths=lengths)
    return found[0] if isinstance(model, Model) else found, {}


# ---- files


def _inputs(texts: Sequence[str]) -> dict[str, Array]:
    """The arrays of `--input` arguments, by the names of inputs."""
    found: dict[str, Array] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not equals or Path(text).exists():
            name, path = "", text
        arrays = {name: _one("--input", path)} if name else _all("--input", path)
        for key, array in arrays.items():
            if key in found:
                raise ArgumentError(f"--input: {key!r} is given twice; name each one: --input NAME=FILE")
            found[key] = array
    return found


def _all(what: str, path: str) -> dict[str, Array]:
    """The arrays of an .npz file, or that of an .npy file as "x"."""
    file = NamedFile.of(path, what)
    with file.opened(), open(file.place, "rb") as opened:
        if opened.read(len(npy.MAGIC_PREFIX)) == npy.MAGIC_PREFIX:
            return {ALONE: read_npy(file)}
    if (kind := kind_of(file)) != NPZ:
        raise file.refusal(f"is a {kind} file; expected an array of NumPy's, .npy or .npz")
    return {name: stored.array for name, stored in read_npz(file).items()}


def _one(what: str, path: str) -> Array:
    """The array of a file that holds a single one."""
    found = _all(what, path)
    if len(found) != 1:
        raise ArgumentError(f"{what}: {path!r} has {len(found)} arrays, expected one")
    return next(iter(found.values()))


def _place(what: str, path: str) -> NamedFile:
    """A file to write to, found before the call, which may take long."""
    suffixes = (".npz",) if what == "--final-state" else (".npy", ".npz")
    if Path(path).suffix not in suffixes:
        raise ArgumentError(f"{what}: expected a name that ends in {' or '.join(suffixes)}, got {path!r}")
    file = NamedFile.of(path, what)
    file.check_writable()
    return file


def _on_host(library: ArrayLibrary, arrays: Arrays) -> dict[str, Array]:
    """Arrays by name, on the host; "output" is the name of a single one."""
    several = arrays if isinstance(arrays, Mapping) else {OUTPUT: arrays}
    return {name: np.asarray(library.to_host(array)) for name, array in several.items()}


def _write(file: NamedFile, several: Mapping[str, Array]) -> None:
    single = file.place.suffix == ".npy"
    if single and len(several) != 1:
        raise ArgumentError(f"{file.what}: the outputs are {', '.join(several)}; several need a name that ends in .npz")
    with file.replaced() as out:
        if single:
            npy.write_array(out, next(iter(several.values())), allow_pickle=False)
        else:
            write_npz(out, several)
    for name, array in several.items():
        print(f"{file.shown}: {name} {array.dtype} {array.shape}")
