"""`rnnc.load`: a model file becomes a model, any other file of weights a dict of arrays."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from rnnc.checking.arguments import explained
from rnnc.compiled import CompileOptions
from rnnc.files.kinds import SAFETENSORS, kind_of
from rnnc.files.models import load_model
from rnnc.files.named import NamedFile
from rnnc.files.sealed import MODEL, Sealed, is_sealed
from rnnc.files.weights import load_weights
from rnnc.ir.errors import ArgumentError
from rnnc.references import check_trusted

if TYPE_CHECKING:
    import os

__all__ = ["load"]


@explained
def load(
    path: str | os.PathLike[str],
    *,
    key: str | None = None,
    widen: bool = False,
    trusted: Collection[str] = (),
    backend: str = "llvm",
    threads: int | None = None,
    matmul: str | None = None,
    weights: str | None = None,
    activations: str | None = None,
) -> Any:
    """A model, from a file of `rnnc.save` or of a method `save`; or name -> array, from any other file of weights.

    Weights files are .npz, .safetensors, PyTorch's (with torch), ONNX (the initialisers, with onnx) and Keras's .h5 and
    .keras (with h5py). The kind is told by the content. Nothing in a file is executed, and nothing is unpickled but by
    torch.load(weights_only=True). Integers come as they are; arrays may be written to.

    A model is a `rnnc.Model`, `rnnc.Network` or `rnnc.Decoding`, and gives what it gave before it was saved, bit for
    bit. The file is opened and its header checked at once; its numbers are read and checked, and the model is compiled,
    when it is first called. Until then the file must stay as it is. (To replace it, as `save` does, is harmless.)

    key: of a file of PyTorch, where in it the state_dict lies, such as "model". Default: the only one there is.
    widen: True to read float16 and bfloat16 as float32. They are refused otherwise, as rnnc does not compute in them.
    trusted: modules that may be imported for a user's cells in a model, as in `rnnc.Spec.from_dict`.
    backend, threads, matmul, weights, activations: of a model, as in `rnnc.compile`.
    Raises FileError (an ArgumentError) for a file that is damaged, of another kind or of another version, MissingExtra
    or BackendUnavailable if a package is needed to read it, ArgumentError or ArgumentTypeError.
    """
    file = NamedFile.of(path)
    options = CompileOptions.of(backend, threads, matmul, weights, activations)
    if not _is_model(file):
        if options != CompileOptions("llvm") or check_trusted(trusted):
            what = (
                f"{file.shown!r} holds weights without a model; pass them to rnnc.compile(spec, rnnc.load(path), ...)"
            )
            raise ArgumentError(f"backend, threads, matmul, weights, activations, trusted: {what}")
        return load_weights(path, key=key, widen=widen)
    if key is not None or widen:
        raise ArgumentError(f"key, widen: {file.shown!r} is a model, whose parameters are already as it needs them")
    return load_model(path, trusted=trusted, **options.arguments)


def _is_model(file: NamedFile) -> bool:
    if kind_of(file) != SAFETENSORS:
        return False
    memory = file.mapped()
    return is_sealed(memory) and MODEL in Sealed.of(file, memory).data
