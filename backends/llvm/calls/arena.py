"""Arenas: memory with packed weights, filled from parameters when they are bound or in a call."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from rnnc.backends.llvm.asm.records import address
from rnnc.backends.llvm.calls.buffers import ALIGNMENT, aligned_view
from rnnc.backends.llvm.kernels.derivable import elements, leaves
from rnnc.ir.families import Family, operands_first

if TYPE_CHECKING:
    from rnnc.backends.llvm.code import LlvmCode
    from rnnc.ir.ops import Array


Pointers = ctypes.Array[ctypes.c_void_p]


class Packing:
    """Packs the weights of a computation.

    evaluated: the values that NumPy computes. derived: those that generated code computes, from `leaves`; it finds both
    by a table of pointers, and its function is at `derive_address` (0: there is none). sizes: their elements.
    """

    def __init__(self, code: LlvmCode) -> None:
        self._code = code
        self.derived = code.manifest.derived
        self.leaves = leaves(self.derived)
        self.sizes = {family: elements(family) for family in self.derived}
        self.derive_address = code.address("rnnc_derive") if self.derived else 0
        self._derive = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p)(self.derive_address)
        others = [family for family in code.sources if family.op != "input" and family not in self.derived]
        self.evaluated = operands_first(others, set(code.parameters.values()))

    def pack(
        self, values: dict[Family, Array], take: Callable[[int], Array], *, in_place: bool = False
    ) -> tuple[Array, Pointers]:
        """The packed arena, in memory from `take`, and the addresses of its sources.

        values: the parameters, C-contiguous; what NumPy computes is added. in_place: weights that the first half can
        read where they are stay there.
        """
        code = self._code
        item, size = code.dtype.itemsize, code.manifest.arena_size
        room = size + sum(self.sizes.values())
        arena = aligned_view(take(room * item + ALIGNMENT), room, code.dtype)
        start = address(arena)
        computed = self._compute(values, start + size * item)
        sources = _pointers([computed[f] if f in computed else address(values[f]) for f in code.sources])
        sweeps, moves = code.manifest.tables_of_rest if in_place else code.manifest.tables
        code.sweep(start, ctypes.addressof(sources), address(sweeps), len(sweeps), address(moves))
        if code.manifest.narrow:
            from rnnc.backends.llvm.packing.narrow import pack_narrow

            pack_narrow(arena[:size], code.manifest.narrow, values)
        return arena, sources

    def _compute(self, values: dict[Family, Array], place: int) -> dict[Family, int]:
        """Computes what packing reads besides parameters. Returns the addresses of the derived values, from `place`."""
        code = self._code
        if self.evaluated:
            from rnnc.backends.reference.evaluation import evaluate

            evaluate(self.evaluated, values, code.dtype.name)
            for family in self.evaluated:
                values[family] = np.ascontiguousarray(values[family], code.dtype)
        places = {}
        for family, size in self.sizes.items():
            places[family] = place
            place += size * code.dtype.itemsize
        if places:
            given = _pointers([*(address(values[family]) for family in self.leaves), *places.values()])
            self._derive(ctypes.addressof(given))
        return places


def _pointers(addresses: list[int]) -> Pointers:
    return (ctypes.c_void_p * max(1, len(addresses)))(*addresses)
