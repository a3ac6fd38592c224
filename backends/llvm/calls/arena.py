"""Arenas: memory with packed weights, filled from parameters when they are bound or in a call."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from rnnc.backends.llvm.asm.records import address
from rnnc.backends.llvm.calls.buffers import ALIGNMENT, aligned_view
from rnnc.ir.families import Family, operands_first

if TYPE_CHECKING:
    from rnnc.backends.llvm.asm.builder import Module
    from rnnc.backends.llvm.code import LlvmCode
    from rnnc.ir.ops import Array


Pointers = ctypes.Array[ctypes.c_void_p]


class Packing:
    """Packs the weights of a computation.

    in_calls: parameters come in each call. Generated code then computes what is elementwise in them, such as a sum of
    two biases, because NumPy would take a good part of a small call.

    evaluated: the values that NumPy computes. derived: those that generated code computes, from `leaves`; it finds both
    by a table of pointers, and its function is at `derive_address` (0: there is none). sizes: their elements.
    """

    derive_address = 0

    def __init__(self, code: LlvmCode, *, in_calls: bool) -> None:
        self._code = code
        self.derived: list[Family] = []
        self.leaves: list[Family] = []
        self.sizes: dict[Family, int] = {}
        computed = [family for family in code.sources if family.op != "input"]
        if in_calls and computed:
            self._generate(computed)
        others = [family for family in computed if family not in self.derived]
        self.evaluated = operands_first(others, set(code.parameters.values()))

    def _generate(self, computed: list[Family]) -> None:
        """Generates the function of those values that are elementwise."""
        from rnnc.backends.llvm.kernels.derivable import elements, is_derivable, leaves

        self.derived = [family for family in computed if is_derivable(family)]
        self.leaves = leaves(self.derived)
        self.sizes = {family: elements(family) for family in self.derived}
        if self.derived:
            self._linked = self._code.linked_beside("derived", self._emit)
            self.derive_address = self._linked.address("rnnc_derive")
            self._derive = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p)(self.derive_address)

    def _emit(self) -> Module:
        from rnnc.backends.llvm.kernels.derived import emit_derived

        return emit_derived(self.derived, self._code.dtype.name, self._code.target)

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
        if code.product.weights:
            from rnnc.backends.llvm.packing.narrow import pack_narrow

            pack_narrow(arena, code.emitted.layout, values)
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
