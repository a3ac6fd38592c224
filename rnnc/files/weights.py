"""Weights by name, from the files of rnnc and of others; and those of a part of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rnnc.backends.fresh import enough_memory
from rnnc.checking import checks
from rnnc.checking.arguments import explained
from rnnc.files.keras import read_hdf5, read_keras
from rnnc.files.kinds import HDF5, KERAS, NPZ, ONNX, PYTORCH, SAFETENSORS, kind_of
from rnnc.files.named import NamedFile
from rnnc.files.narrow import Stored, finished
from rnnc.files.npz import read_npz
from rnnc.files.pytorch import read_pytorch
from rnnc.files.sealed import Sealed, is_sealed
from rnnc.files.tensors import TensorFile
from rnnc.ir.errors import ArgumentError, ArgumentTypeError, ParameterError

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__ = ["load_weights", "take"]

MOST_LISTED = 12


def load_weights(path: str | os.PathLike[str], *, key: str | None = None, widen: bool = False) -> dict[str, Array]:
    """The arrays of a weights file, by name; those of a model file are its parameters. See `rnnc.load`."""
    file = NamedFile.of(path)
    kind = kind_of(file)
    if key is not None and kind != PYTORCH:
        raise ArgumentError(
            f"key: only a file of PyTorch has parts of its own; {file.shown!r} is {kind}: use rnnc.take"
        )
    widen, key = checks.flag("widen", widen), _key(key)
    with enough_memory(f"the arrays in {file.shown!r}"):
        found = read_pytorch(file, key) if kind == PYTORCH else READERS[kind](file)
        return finished(file, found, widen)


@explained
def take(params: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The parameters whose names begin with a prefix, under what is left of the names.

    prefix: such as "decoder.rnn.", up to the last character that is cut off.
    The order is that of `params`, and the arrays are the same. Raises ParameterError if no name begins so, with the
    prefixes that there are, ArgumentError or ArgumentTypeError.
    """
    if not isinstance(params, Mapping) or not all(isinstance(name, str) for name in params):
        raise ArgumentTypeError(f"params: expected a mapping of names to arrays, got {checks.came(params)}")
    if not isinstance(prefix, str):
        raise ArgumentTypeError(f"prefix: expected a str such as 'decoder.rnn.', got {checks.came(prefix)}")
    found = {name[len(prefix) :]: array for name, array in params.items() if name.startswith(prefix)}
    if not found or "" in found:
        what = f"{prefix!r} is the whole name of a parameter" if found else f"no name begins with {prefix!r}"
        raise ParameterError(f"prefix: {what}; names begin with {_listed(_prefixes(params))}")
    for separator in SEPARATORS:
        if all(name.startswith(separator) for name in found):
            raise ArgumentError(f"prefix: all that is left begins with {separator!r}; write {prefix + separator!r}")
    return found


SEPARATORS = (".", "/")
"""What stands between the parts of a name: in state_dicts, and in Keras's files."""


def _prefixes(params: Mapping[str, Any]) -> list[str]:
    """Every beginning of a name that ends in a separator."""
    return sorted({name[: i + 1] for name in params for i, letter in enumerate(name) if letter in SEPARATORS})


def _listed(prefixes: list[str]) -> str:
    more = f" and {len(prefixes) - MOST_LISTED} more" if len(prefixes) > MOST_LISTED else ""
    return (", ".join(map(repr, prefixes[:MOST_LISTED])) or "nothing in common") + more


def _key(key: object) -> str | None:
    if key is not None and not isinstance(key, str):
        raise ArgumentTypeError(f"key: expected the path of a state_dict, such as 'model', got {checks.came(key)}")
    return key


def _safetensors(file: NamedFile) -> dict[str, Stored]:
    """All arrays of a file of others; of one of rnnc's, the parameters."""
    memory = file.mapped()
    if not is_sealed(memory):
        tensors = TensorFile.of(file, memory)
        return {name: tensors.stored(name) for name in tensors.tensors}
    sealed = Sealed.of(file, memory)
    sealed.check()
    return sealed.parameters()


def _onnx(file: NamedFile) -> dict[str, Stored]:
    from rnnc.onnx.initializers import initializers

    return initializers(file.place)


READERS = {SAFETENSORS: _safetensors, NPZ: read_npz, HDF5: read_hdf5, KERAS: read_keras, ONNX: _onnx}
