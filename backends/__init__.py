"""Backends, found by name. A backend compiles computations into code that runs.

It is a module with the functions of `rnnc.backends.base.Backend`, imported when it is first needed. If its arrays are
not NumPy's, the module also has `arrays`, its `rnnc.backends.arrays.ArrayLibrary`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, cast

from rnnc.backends.arrays import NUMPY
from rnnc.backends.products import PLAIN, ProductFormat
from rnnc.ir.errors import ArgumentTypeError, UnknownBackend, UnknownOperands

if TYPE_CHECKING:
    from rnnc.backends.arrays import ArrayLibrary
    from rnnc.backends.base import Backend

MODULES = {
    "reference": "rnnc.backends.reference",
    "llvm": "rnnc.backends.llvm",
    "cuda": "rnnc.backends.cuda",
    "cuda-emulated": "rnnc.backends.cuda.emulated",
}


def get(name: str) -> Backend:
    """The backend of this name. Raises UnknownBackend or ArgumentTypeError, which list the known names."""
    return cast("Backend", importlib.import_module(MODULES[check_name(name)]))


def check_name(name: object) -> str:
    """The name, if it is that of a backend, which is not imported. Raises UnknownBackend or ArgumentTypeError."""
    if isinstance(name, str) and name in MODULES:
        return name
    *others, last = map(repr, MODULES)
    kind = UnknownBackend if isinstance(name, str) else ArgumentTypeError
    raise kind(f"backend: expected {', '.join(others)} or {last}, got {name!r}")


def options(name: str, matmul: str | None, product: ProductFormat = PLAIN) -> dict[str, Any]:
    """The further arguments of a backend's `compile`: rounded operands of matrix products, and narrow weights.

    Raises UnknownOperands if `OPERANDS` or `WEIGHTS` of its module does not list them.
    """
    found: dict[str, Any] = {}
    if matmul is not None:
        known: tuple[str, ...] = getattr(get(name), "OPERANDS", ())
        if not isinstance(matmul, str) or matmul not in known:
            which = ", ".join(map(repr, known)) or "none but the spec's dtype"
            raise UnknownOperands(
                f"matmul: expected None, or operands that backend {name!r} has ({which}), got {matmul!r}"
            )
        found["operands"] = matmul
    if product != PLAIN:
        if product.weights not in getattr(get(name), "WEIGHTS", ()):
            raise UnknownOperands(
                f"weights: backend {name!r} has the spec's dtype only, got {product.weights!r}; "
                'narrow weights are those of backends "llvm" and "reference"'
            )
        found["product"] = product
    return found


def arrays_of(name: str) -> ArrayLibrary:
    """The library of the arrays that a backend takes and returns."""
    return cast("ArrayLibrary", getattr(get(name), "arrays", NUMPY))
