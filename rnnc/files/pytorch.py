"""PyTorch's files, read by torch.load(weights_only=True) of the installed torch, and by nothing else.

They hold a pickle, which rnnc never reads. torch makes tensors and plain containers of it, and refuses all else. A file
of the present format is mapped, so that no size that it claims reaches beyond it.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rnnc import extras
from rnnc.checking import checks
from rnnc.files.narrow import BFLOAT16, Stored
from rnnc.ir.errors import ArgumentError

if TYPE_CHECKING:
    from rnnc.files.named import NamedFile

__all__ = ["read_pytorch"]

DEEPEST = 6
"""How many mappings inside each other are looked through for parameters."""


def read_pytorch(file: NamedFile, key: str | None) -> dict[str, Stored]:
    """The tensors of a state_dict, by name.

    key: where in the file it lies, such as "state_dict" or "model.encoder"; None: the file itself, or the only mapping
        of tensors in it. Raises the file's error, ArgumentError for a key that is not there, MissingExtra.
    """
    torch = extras.load("torch", "PyTorch's files", "torch (or save the weights as a .safetensors file)")
    content = _loaded(torch, file)
    found = dict(_state_dicts(torch, content))
    if key is None and "" in found:
        key = ""
    if key is None and len(found) == 1:
        (key,) = found
    if key is None or key not in found:
        _refuse(file, key, found, content)
    assert key is not None
    with file.parsed("file of PyTorch"):
        return {name: _stored(torch, file, name, tensor) for name, tensor in found[key].items()}


def _loaded(torch: Any, file: NamedFile) -> Any:
    """What the file holds: tensors in plain containers."""
    mapped = zipfile.is_zipfile(file.place)
    try:
        with file.opened(), file.parsed("file of PyTorch"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, of how old a file is
            return torch.load(str(file.place), map_location="cpu", weights_only=True, mmap=mapped)
    except file.error as error:
        if "weights_only" not in str(error) and "Weights only" not in str(error):
            raise
        raise file.refusal(
            "holds more than tensors, and to unpickle that would run code; if you trust its author, load it in PyTorch "
            "and save module.state_dict()"
        ) from error


def _state_dicts(torch: Any, value: object, path: str = "", depth: int = 0) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every mapping of names to tensors alone, and the path to it, joined by dots."""
    if not isinstance(value, Mapping) or depth > DEEPEST or not value:
        return
    if all(isinstance(name, str) and isinstance(item, torch.Tensor) for name, item in value.items()):
        yield path, value
        return
    for name, item in value.items():
        if isinstance(name, str):
            yield from _state_dicts(torch, item, f"{path}.{name}" if path else name, depth + 1)


def _refuse(file: NamedFile, key: str | None, found: Mapping[str, Any], content: object) -> None:
    """Raises the error that says which state_dicts there are."""
    listed = ", ".join(map(repr, found)) or "none"
    if key is not None:
        raise ArgumentError(f"key: {checks.shown(key)} is no mapping of names to tensors in {file.shown!r}: {listed}")
    if not found:
        raise file.refusal(f"holds no mapping of names to tensors, but {type(content).__name__}; save a state_dict")
    raise file.refusal(f"holds several mappings of names to tensors; pass key=, one of {listed}")


def _stored(torch: Any, file: NamedFile, name: str, tensor: Any) -> Stored:
    """A tensor as an array."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        raise file.refusal(f"cannot be read: {name!r} is no plain tensor ({tensor.dtype}, {tensor.layout})")
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous()
    if plain.dtype == torch.bfloat16:
        return Stored(plain.view(torch.int16).numpy().view("uint16"), BFLOAT16)
    return Stored.of(plain.numpy())
