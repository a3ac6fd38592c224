"""Calls of the two halves of a computation by XLA (`rnnc.backends.llvm.kernels.xla_call`)."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING

from rnnc.backends.base import XlaSite
from rnnc.backends.call_forms import BATCH, STEPS, CallArray, CallGroup, PlainCall
from rnnc.backends.llvm.asm.records import Record, Struct
from rnnc.backends.llvm.calls.arena import Packing
from rnnc.backends.llvm.calls.buffers import ALIGNMENT
from rnnc.backends.llvm.calls.quick import place_in, table
from rnnc.backends.llvm.kernels.context import row_field, step_field, sum_field
from rnnc.backends.llvm.kernels.xla_call import NAME, PLACE, SITE, emit_xla_call
from rnnc.backends.llvm.runtime import Linked, Runtime
from rnnc.ir.families import Family

if TYPE_CHECKING:
    from rnnc.backends.llvm.calls.quick_halves import Pointers
    from rnnc.backends.llvm.code import LlvmCode

Place = dict[str, int]


@cache
def _handler(runtime: Runtime) -> Linked:
    return Linked(emit_xla_call(), runtime)


class LlvmXlaHalves:
    """See `rnnc.backends.base.XlaHalves`.

    The kept buffer holds the packed weights, what was computed from parameters to pack them, and the scratch memory of
    both halves.
    """

    def __init__(
        self, code: LlvmCode, packing: Packing, pointers: Pointers, first: PlainCall, second: PlainCall
    ) -> None:
        self._code, self._packing, self._pointers = code, packing, pointers
        self._first, self._second = first, second
        packed = code.manifest.arena_size + sum(packing.sizes.values())
        self._packed_bytes = -(-packed * code.dtype.itemsize // ALIGNMENT) * ALIGNMENT
        self._owners: dict[Family, str] = {}
        for name, family in code.untimed.items():
            self._owners.setdefault(family, name)

    @property
    def handler(self) -> int:
        """See `XlaHalves.handler`."""
        return _handler(self._code.runtime).address(NAME)

    def owner(self, name: str) -> str:
        """See `XlaHalves.owner`."""
        family = self._code.untimed.get(name)
        return name if family is None else self._owners[family]

    def first(self, steps: int, batch: int) -> XlaSite:
        """See `XlaHalves.first`."""
        code, pointers, item = self._code, self._pointers, self._code.dtype.itemsize
        arguments, results = _arrays(self._first.arguments), _arrays(self._first.results)
        image = pointers.record.new(steps=steps, batch=batch)
        assert code.scratch_size is not None
        kept = self._packed_bytes + code.scratch_size(image.address)
        places = [*self._kept(pointers.record, len(results)), *self._derived(len(results))]
        places += _places(arguments, image, pointers.record, pointers.of, item, first=0, is_result=False)
        places += _places(results, image, pointers.record, pointers.of, item, first=0, is_result=True)
        sweeps, moves = code.manifest.tables
        packing = {"derive": self._packing.derive_address, "derived_at": pointers.first("derive")}
        packing |= {"sweep": code.runtime.address("rnnc_sweep"), "sources_at": pointers.first("source")}
        tables = {"sweeps": sweeps, "sweep_count": len(sweeps), "moves": moves}
        return self._site("rnnc_run", image, pointers.record, places, packing | tables, kept)

    def second(self, steps: int, batch: int) -> XlaSite:
        """See `XlaHalves.second`."""
        code, record, item = self._code, self._code.interface.record, self._code.dtype.itemsize
        results = [array for array in _arrays(self._second.results) if self.owner(array.names[0]) == array.names[0]]
        image = record.new(steps=steps, batch=batch)

        def of(name: str) -> list[int]:
            family = code.untimed.get(name)
            return place_in(record, name) if family is None else [record.offset(sum_field(family))]

        places = [*self._kept(record, len(results))]
        places += _places(_arrays(self._second.arguments), image, record, of, item, first=1, is_result=False)
        places += _places(results, image, record, of, item, first=0, is_result=True)
        return self._site("rnnc_finish", image, record, places, {}, 0)

    def _kept(self, record: Record, buffer: int) -> Iterator[Place]:
        """The pointers into the kept buffer, which is a result of both halves."""
        for field, skip in (("weights", 0), ("scratch", self._packed_bytes)):
            yield {"offset": record.offset(field), "is_result": 1, "buffer": buffer, "skip": skip}

    def _derived(self, buffer: int) -> Iterator[Place]:
        """The pointers to values computed from parameters, which lie behind the packed weights."""
        item = self._code.dtype.itemsize
        skip = self._code.manifest.arena_size * item
        for family, size in self._packing.sizes.items():
            for offset in self._pointers.of_value(family):
                yield {"offset": offset, "is_result": 1, "buffer": buffer, "skip": skip}
            skip += size * item

    def _site(
        self, half: str, image: Struct, record: Record, places: list[Place], packing: dict[str, object], kept: int
    ) -> XlaSite:
        site = SITE.new(
            image=image,
            bytes=ctypes.sizeof(image),
            places=len(places),
            place_records=table(PLACE, places),
            weights_at=record.offset("weights"),
            run=self._code.address(half),
            **packing,
        )
        return XlaSite(site.address, kept, (site, self._code, self._packing))


def _arrays(groups: Sequence[CallGroup]) -> list[CallArray]:
    return [array for group in groups for array in group.arrays]


def _places(
    arrays: Sequence[CallArray],
    image: Struct,
    record: Record,
    of: Callable[[str], list[int]],
    item: int,
    *,
    first: int,
    is_result: bool,
) -> Iterator[Place]:
    """Where the pointers to arrays go, of which the first is the buffer `first`. Sets the strides in the image."""
    for number, array in enumerate(arrays, first):
        sizes = [_size(size, image) for size in array.shape]
        if STEPS in array.shape:
            fields = step_field(array.names[0]), row_field(array.names[0])
            strides = (sizes[1] * sizes[2], sizes[2])
            for field, stride in zip(fields, strides if array.shape[0] == STEPS else strides[::-1], strict=True):
                if field in record.types:
                    image.fill({field: stride})
        slab = math.prod(sizes[1:]) * item  # several names are slabs, one after the other
        for place, name in enumerate(array.names):
            for offset in of(name):
                yield {"offset": offset, "is_result": int(is_result), "buffer": number, "skip": place * slab}


def _size(size: int | str, image: Struct) -> int:
    """A size of an array of a call, whose sizes are in its image."""
    named = {STEPS: "steps", BATCH: "batch"}
    return size if isinstance(size, int) else int(getattr(image, named[size]))
