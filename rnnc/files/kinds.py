"""What a file is, told by how it begins: a suffix may be wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rnnc.files.archives import opened_archive
from rnnc.files.keras import WEIGHTS

if TYPE_CHECKING:
    from rnnc.files.named import NamedFile

__all__ = ["HDF5", "KERAS", "NPZ", "ONNX", "PYTORCH", "SAFETENSORS", "kind_of"]

SAFETENSORS, NPZ, PYTORCH, KERAS, HDF5, ONNX = "safetensors", "npz", "pytorch", "keras", "hdf5", "onnx"
"""The kinds of files that are read."""

HDF5_START = b"\x89HDF\r\n\x1a\n"
ZIP = b"PK\x03\x04"
TORCH_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""A pickle of torch's own number, with which its files began before version 1.6."""
ONNX_VERSION = 0x08
"""The tag of an ONNX model's first field."""

OTHERS = {
    b"\x93NUMPY": "is one array of NumPy's; read it with numpy.load(path, allow_pickle=False)",
    b"\x80": "is a pickle, and to read it would run what it says; save its arrays with numpy.savez",
    b"version https://git-lfs": "is a pointer of Git LFS, not the file itself; fetch that with: git lfs pull",
    b"<": "is a web page or XML, no weights; was the download refused?",
    b"{": "is JSON; rnnc.Spec.from_json(text) reads a spec",
}
"""How files that are not read begin, and what they are."""


def kind_of(file: NamedFile) -> str:
    """One of the kinds above. Raises the file's error for any other."""
    with file.opened(), open(file.place, "rb") as opened:
        start = opened.read(64)
    if start.startswith(ZIP):
        return _in_archive(file)
    if start.startswith(HDF5_START):
        return HDF5
    if start.startswith(TORCH_LEGACY):
        return PYTORCH
    if start[8:9] == b"{":
        return SAFETENSORS
    for beginning, what in OTHERS.items():
        if start.startswith(beginning):
            raise file.refusal(what)
    if start[:1] == bytes([ONNX_VERSION]):
        return ONNX
    kinds = ".npz, .safetensors, PyTorch's, ONNX or Keras's"
    raise file.refusal(f"is {'empty' if not start else f'no file of {kinds}: it begins with {start[:8]!r}'}")


def _in_archive(file: NamedFile) -> str:
    with opened_archive(file, "zip file") as archive:
        names = archive.namelist()
    if WEIGHTS in names:
        return KERAS
    leaves = {name.rpartition("/")[2] for name in names}
    if "constants.pkl" in leaves:
        raise file.refusal("is a TorchScript archive, which holds code; load it in PyTorch and save its state_dict()")
    if "data.pkl" in leaves:
        return PYTORCH
    if names and all(name.endswith(".npy") for name in names):
        return NPZ
    raise file.refusal(f"is a zip file of another kind: {', '.join(map(repr, names[:4])) or 'it is empty'}")
