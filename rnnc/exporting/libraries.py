"""`rnnc.load_library`: an exported library as a function of NumPy arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rnnc.checking.arguments import explained
from rnnc.exporting.loader import Library
from rnnc.ir.errors import ArgumentError, DtypeError, FileError, ShapeError

if TYPE_CHECKING:
    from os import PathLike

__all__ = ["ExportedLibrary", "load_library"]


class ExportedLibrary(Library):
    """An exported library, called as `rnnc.exporting.loader.Library` says, with rnnc's exceptions."""

    value_error, shape_error, type_error, file_error = ArgumentError, ShapeError, DtypeError, FileError

    def __repr__(self) -> str:
        return f"ExportedLibrary({str(self.path)!r})"


@explained
def load_library(path: str | PathLike[str], weights: str | PathLike[str] | None = None) -> ExportedLibrary:
    """The function in a shared library of `rnnc.export`: f(x, state) -> (output, state).

    path: of the library; it needs neither rnnc nor the model. weights: of the file of weights, if it was exported so.
    x of a stream is (T, I), or (T, B, I) of several streams; the state goes into the next call. A network of whole
    sequences takes `lengths`, too. One file of Python beside the library does the same without rnnc.
    Raises FileError for a file that is missing, no library of rnnc, of another version, or for another machine.
    """
    return ExportedLibrary(path, weights)
