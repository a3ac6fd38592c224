"""Keras's files: .h5 and .weights.h5, which are HDF5, and .keras, a zip file with one of those in it.

Arrays have the names of their places in the file, such as "layers/gru/cell/vars/0" or
"model_weights/gru/gru/gru_cell/kernel:0". The optimiser's are left out. Configurations are not read, so a Lambda layer
in one is not run.
"""

from __future__ import annotations

import io
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from rnnc import extras
from rnnc.files.archives import check_size, opened_archive
from rnnc.files.narrow import Stored

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rnnc.files.named import NamedFile
    from rnnc.files.tensors import Memory

__all__ = ["WEIGHTS", "read_hdf5", "read_keras"]

WEIGHTS = "model.weights.h5"
"""The member of a .keras file with the arrays."""
OPTIMIZERS = ("optimizer_weights/", "optimizer/")
KINDS = "biuf"


def read_keras(file: NamedFile) -> dict[str, Stored]:
    """The arrays of a .keras file. Raises the file's error if it is damaged, MissingExtra without h5py."""
    _h5py()
    with opened_archive(file, ".keras file") as archive:
        check_size(file, [archive.getinfo(WEIGHTS)])
        content = bytearray(archive.read(WEIGHTS))
    return _arrays(file, io.BytesIO(content), content)


def read_hdf5(file: NamedFile) -> dict[str, Stored]:
    """The arrays of an .h5 file. Raises the file's error if it is damaged, MissingExtra without h5py."""
    return _arrays(file, str(file.place), file.mapped())


def _h5py() -> Any:
    return extras.load("h5py", "Keras's files", "'rnnc[keras]'")


def _arrays(file: NamedFile, source: str | IO[bytes], memory: Memory) -> dict[str, Stored]:
    """source: what h5py opens. memory: the same bytes."""
    h5py, found = _h5py(), {}
    with file.parsed("HDF5 file"), h5py.File(source, "r") as opened:
        names: list[str] = []
        opened.visit(names.append)  # which follows no links out of the file
        for name in names:
            dataset = opened[name]
            if isinstance(dataset, h5py.Dataset) and not name.startswith(OPTIMIZERS):
                found[name] = Stored.of(_array(file, name, dataset, memory))
    return found


def _array(file: NamedFile, name: str, dataset: Any, memory: Memory) -> NDArray[Any]:
    """The numbers of a dataset, which lie in one piece as Keras writes them.

    h5py says where, and NumPy reads them: HDF5's own readers of chunks crash on damaged ones.
    """
    if dataset.dtype.kind not in KINDS:
        raise file.refusal(f"cannot be read: {name!r} is {dataset.dtype}, expected numbers")
    if dataset.external or dataset.is_virtual or dataset.chunks is not None:
        hint = "write them with h5py's create_dataset without chunks and compression"
        raise file.refusal(f"cannot be read: the numbers of {name!r} do not lie in one piece; {hint}")
    size, held, start = dataset.nbytes, dataset.id.get_storage_size(), dataset.id.get_offset()
    if size != held or (size and (start is None or start + size > len(memory))):
        raise file.refusal(f"is damaged: {name!r}, {dataset.dtype} {dataset.shape}, has {held} bytes at {start}")
    return np.frombuffer(memory, dataset.dtype, dataset.size, start or 0).reshape(dataset.shape)
