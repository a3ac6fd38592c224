"""The reference backend: the meaning of a Graph and of a Program in NumPy. It is the oracle of the other backends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rnnc.backends.products import PLAIN, WEIGHTS

if TYPE_CHECKING:
    from rnnc.backends.products import ProductFormat
    from rnnc.backends.reference.code import ReferenceCode
    from rnnc.backends.reference.training import NumpyNoise, NumpyUpdate
    from rnnc.ir.computation import Computation
    from rnnc.ir.graph import Graph

__all__ = ["WEIGHTS", "compile", "compile_noise", "compile_update"]


def compile(computation: Computation, *, threads: int | None = None, product: ProductFormat = PLAIN) -> ReferenceCode:
    """The rolled computation, ready to be interpreted. `threads` has no effect: NumPy's libraries decide."""
    from rnnc.backends.reference.code import ReferenceCode

    return ReferenceCode(computation, product)


def compile_update(graph: Graph) -> NumpyUpdate:
    """An optimiser's update, ready to be interpreted."""
    from rnnc.backends.reference import training

    return training.compile_update(graph)


def compile_noise(dtype: str) -> NumpyNoise:
    """The source of masks for dropout and zoneout."""
    from rnnc.backends.reference import training

    return training.compile_noise(dtype)
