"""Model files: a network and its parameters in one safetensors file.

The record beside the arrays (`rnnc.files.sealed`) holds the architecture as plain data, "model" (what `to_dict` gives),
the dtype, and the version of rnnc that wrote it. A user's cell is in it by name, never as code.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from rnnc.checking import checks
from rnnc.checking.arguments import explained
from rnnc.checking.parameters import read_parameters
from rnnc.compiled import CompileOptions
from rnnc.files.kinds import SAFETENSORS, kind_of
from rnnc.files.named import NamedFile
from rnnc.files.sealed import MODEL, Sealed, write
from rnnc.ir.errors import ArgumentError, ArgumentTypeError, RnncError
from rnnc.plain_data import PlainData
from rnnc.references import check_trusted
from rnnc.specs import SPECS, Spec

if TYPE_CHECKING:
    import os

    from rnnc.decoding import Decoder, Decoding
    from rnnc.files.tensors import TensorFile
    from rnnc.layered import Layered
    from rnnc.model import Model
    from rnnc.network import Network

    Architecture: TypeAlias = Spec | Layered | Decoder
    Bound: TypeAlias = Model | Network | Decoding

__all__ = ["ModelFile", "architecture", "architectures", "check", "load_model", "read_architecture", "save"]

DTYPE, VERSION = "dtype", "rnnc"
"""The entries of the record beside `MODEL`, for readers in other programs."""

MOST_LISTED = 6


@explained
def save(path: str | os.PathLike[str], model: Architecture, params: Mapping[str, Any]) -> None:
    """Writes a model and its parameters to one file, of which `rnnc.load` makes it again. It is replaced atomically.

    model: a recurrent spec, a `rnnc.Sequential`, `rnnc.Graph` or `rnnc.Decoder`. params: name -> array, as `compile`
        takes them, all numbers finite. (Compiled models and the results of `fit` have a method `save` of their own.)
    Raises ArgumentError for a cell or layer that cannot be made again by its name, what `compile` raises of parameters,
    NonFiniteError, and FileError (an ArgumentError) if the file cannot be written. Warns (RnncWarning) if a cell is
    defined in the main script, which no other program can import.
    """
    file = NamedFile.of(path)
    if not isinstance(model, architectures()):
        hint = "; it has a method save(path)" if hasattr(model, "save") else ""
        expected = f"expected {', '.join(kind.__name__ for kind in architectures())}"
        raise ArgumentTypeError(f"model: {expected}, got {checks.came(model)}{hint}")
    data = json.loads(model.to_json())
    if architecture(data).to_dict() != model.to_dict():
        raise ArgumentError(f"model: {checks.came(model)} is another one when it is made again of its to_dict()")
    write(file, read_parameters(model, params), {MODEL: data, DTYPE: model.dtype, VERSION: version()})


def load_model(
    path: str | os.PathLike[str],
    *,
    trusted: Collection[str] = (),
    backend: str = "llvm",
    threads: int | None = None,
    matmul: str | None = None,
    weights: str | None = None,
    activations: str | None = None,
) -> Bound:
    """The model in a file of `rnnc.save`, ready to be called. It reads its weights, and compiles, at the first call.

    Returns a `rnnc.Model` of a recurrent spec, a `rnnc.Network` of a Sequential or a Graph, a `rnnc.Decoding` of a
    Decoder. trusted, backend, threads, matmul, weights, activations, errors: see `rnnc.load`.
    """
    from rnnc.files.unread import unread

    options = CompileOptions.of(backend, threads, matmul, weights, activations)
    return unread(ModelFile.of(_sealed(path), trusted), options)


def check(path: str | os.PathLike[str]) -> None:
    """Reads a whole file of rnnc's: a model, parameters or a checkpoint. Raises FileError if it is damaged.

    To open a file checks all but its numbers. A model checks those when it is first called.
    """
    _sealed(path).check()


class ModelFile(NamedTuple):
    """A model file whose header is right and fits its architecture, and whose numbers have not been looked at."""

    model: Architecture
    sealed: Sealed

    @classmethod
    def of(cls, sealed: Sealed, trusted: Collection[str] = ()) -> ModelFile:
        """Raises the file's error for one without a model, or with arrays that are not its parameters."""
        file = sealed.tensors.file
        if MODEL not in sealed.data:
            hint = "rnnc.load(path) gives its parameters"
            raise file.refusal(f"holds no model: it was written by save_parameters or as a checkpoint; {hint}")
        try:
            model = architecture(sealed.data[MODEL], trusted)
        except RnncError as error:
            raise type(error)(f"{file.what}: {file.shown!r}: {error}") from error
        differences = list(_differences(model, sealed.tensors))
        if differences:
            more = f" and {len(differences) - MOST_LISTED} more" if len(differences) > MOST_LISTED else ""
            listed = ", ".join(differences[:MOST_LISTED])
            raise file.refusal(f"does not hold the parameters of its model, {checks.shown(model)}: {listed}{more}")
        return cls(model, sealed)

    def params(self) -> dict[str, Any]:
        """The parameters, read from the disk and checked."""
        self.sealed.check()
        return {name: stored.array for name, stored in self.sealed.stored().items()}


def architecture(data: object, trusted: Collection[str] = ()) -> Architecture:
    """The spec or network of plain data, told by its "type". Raises ArgumentError or ArgumentTypeError.

    trusted: modules that may be imported for a user's cells (`rnnc.Spec.from_dict`).
    """
    kind: type[PlainData] = Spec
    if isinstance(data, Mapping):
        kind = _networks().get(data.get("type"), Spec)  # type: ignore[arg-type]
    made: Any = kind.from_dict(data, trusted=check_trusted(trusted))  # type: ignore[arg-type]
    return made  # type: ignore[no-any-return]


def read_architecture(path: str | os.PathLike[str], trusted: Collection[str] = ()) -> Architecture:
    """The spec or network in a model file. Its numbers are not read. Raises as `load_model`."""
    return ModelFile.of(_sealed(path), trusted).model


def _sealed(path: str | os.PathLike[str]) -> Sealed:
    """The header and the mapped numbers of a file of rnnc's."""
    file = NamedFile.of(path)
    if (kind := kind_of(file)) != SAFETENSORS:
        raise file.refusal(f"is a file of another kind ({kind}), which holds weights without a model")
    return Sealed.of(file, file.mapped())


def architectures() -> tuple[type[Architecture], ...]:
    """The classes of what a file may hold."""
    return (*SPECS.values(), *_networks().values())


def _networks() -> dict[str, type[Layered] | type[Decoder]]:
    """The classes of networks by their "type", imported only when they are needed."""
    from rnnc.decoding import Decoder
    from rnnc.graph import Graph
    from rnnc.sequential import Sequential
    from rnnc.torch.origin import TorchGraph

    return {"Sequential": Sequential, "Graph": Graph, "Decoder": Decoder, "TorchGraph": TorchGraph}


def _differences(model: Architecture, tensors: TensorFile) -> list[str]:
    """What distinguishes the arrays of a file from the parameters of a model, in words."""
    expected = {name: (str(model.dtype), tuple(shape)) for name, shape in model.parameter_shapes().items()}
    found = {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.tensors.items()}
    lacking = [f"it lacks {name!r} {shape}" for name, (_, shape) in expected.items() if name not in found]
    others = [
        f"{name!r} is {_shown(kind)}, expected {_shown(expected[name]) if name in expected else 'none'}"
        for name, kind in found.items()
        if kind != expected.get(name)
    ]
    return lacking + others


def _shown(kind: tuple[str, tuple[int, ...]]) -> str:
    return f"{kind[0]} {kind[1]}"


def version() -> str:
    """The version of rnnc; "" of a copy that is not installed."""
    from importlib import metadata

    try:
        return metadata.version("rnnc")
    except metadata.PackageNotFoundError:
        return ""
