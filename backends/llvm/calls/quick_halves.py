"""Quick calls of the two halves of a computation (`rnnc.backends.llvm.kernels.native_halves`)."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rnnc.backends.call_forms import PlainCall
from rnnc.backends.llvm.asm.records import Record
from rnnc.backends.llvm.calls.arena import Packing
from rnnc.backends.llvm.calls.bound import LlvmTape
from rnnc.backends.llvm.calls.buffers import ALIGNMENT
from rnnc.backends.llvm.calls.quick import bound_function, names_in, place_in, table
from rnnc.backends.llvm.kernels.binding import ARENA_PLACE, COPY, FIRST_HALF, MOST_AXES, SECOND_HALF
from rnnc.backends.llvm.kernels.context import sum_field
from rnnc.backends.llvm.manifest import FEW_ROWS
from rnnc.backends.locks import new_lock
from rnnc.ir.families import Family

if TYPE_CHECKING:
    from rnnc.backends.llvm.calls.xla import LlvmXlaHalves
    from rnnc.backends.llvm.code import LlvmCode
    from rnnc.ir.ops import Array


def quick_halves(
    code: LlvmCode, packing: Packing, calls: tuple[PlainCall, PlainCall], outcomes: Array
) -> LlvmHalves | None:
    """See `rnnc.backends.base.Bound.quick_halves`. None where NumPy has a part in the call."""
    if packing.evaluated or not code.only_sums or not _fit(code, *calls):
        return None
    return LlvmHalves(code, packing, calls, outcomes)


def _fit(code: LlvmCode, first: PlainCall, second: PlainCall) -> bool:
    """True if the calls pass all that the halves read, take all that they write, and return only what they make."""
    interface, late = code.interface, code.late
    made = {*interface.timed, *interface.rows, *code.untimed}
    sums = {code.untimed[name] for name in names_in(second.results) if name in code.untimed}
    if sums != {total.target for total in code.sums}:
        return False
    if not code.manifest.packed_parameters <= names_in(first.arguments):
        return False
    for call, is_second in ((first, False), (second, True)):
        known, returned = names_in(call.arguments), names_in(call.results)
        timed = {name for name in interface.timed if (name in late) == is_second}
        if not (timed <= known | returned and returned <= made):
            return False
    arrays = [array for call in (first, second) for group in (*call.arguments, *call.results) for array in group.arrays]
    return all(len(array.shape) <= MOST_AXES and not array.tables for array in arrays)


class LlvmHalves:
    """See `rnnc.backends.base.QuickHalves`."""

    def __init__(self, code: LlvmCode, packing: Packing, calls: tuple[PlainCall, PlainCall], outcomes: Array) -> None:
        self.code = code
        self._packing, self._calls = packing, calls
        self._first = _first_function(code, packing, calls[0], outcomes)
        self.second = _second_function(code, packing, calls[1], outcomes)

    def start(self, *arguments: object) -> Any:
        """See `rnnc.backends.base.QuickHalves.start`."""
        made = self._first(*arguments)
        return None if made is None else (*made[:-1], KeptTape(self, made[-1]))

    def xla(self) -> LlvmXlaHalves:
        """See `rnnc.backends.base.QuickHalves.xla`."""
        from rnnc.backends.llvm.calls.xla import LlvmXlaHalves

        return LlvmXlaHalves(self.code, self._packing, Pointers(self.code, self._packing), *self._calls)


class KeptTape:
    """See `rnnc.backends.base.QuickTape`. kept: the memory of the call, from the pool of the code."""

    _kept: Array | None = None  # if memory runs out before there is a tape

    def __init__(self, halves: LlvmHalves, kept: Array) -> None:
        self._halves, self._lock = halves, new_lock()
        self._kept = kept

    def __del__(self) -> None:
        if self._kept is not None:
            self._halves.code.pool.give([self._kept])

    def quick(self, *arguments: object) -> Any:
        """See `rnnc.backends.base.QuickTape.quick`. Calls take turns, as in `LlvmTape.finish`."""
        with self._lock:
            return self._halves.second(self._kept, *arguments)

    def finish(self, inputs: dict[str, Array], outputs: dict[str, Array]) -> None:
        """See `rnnc.backends.base.Tape.finish`."""
        assert self._kept is not None
        with self._lock:
            LlvmTape.of_kept(self._halves.code, self._kept).finish(inputs, outputs)


class Pointers:
    """The context of a first half: that of a run, the pointers that `rnnc_derive` takes, and those of the packer."""

    def __init__(self, code: LlvmCode, packing: Packing) -> None:
        self.given, self.sources = [*packing.leaves, *packing.derived], list(code.sources)
        fields = [(type_, name) for name, type_ in code.interface.record.types.items()]
        fields += [("ptr", f"derive {number}") for number in range(len(self.given))]
        fields += [("ptr", f"source {number}") for number in range(len(self.sources))]
        self.record = Record("first_context", fields)
        self._parameters = code.parameters

    def of(self, name: str) -> list[int]:
        """The offsets of the pointers to an array, by its name: a parameter may have several, or none."""
        if name in self._parameters:
            return self.of_value(self._parameters[name])
        return place_in(self.record, name)

    def of_value(self, family: Family) -> list[int]:
        """The offsets of the pointers to a parameter or a derived value."""
        tables = (("derive", self.given), ("source", self.sources))
        return [self.record.offset(f"{what} {n}") for what, known in tables for n, f in enumerate(known) if f is family]

    def first(self, what: str) -> int:
        """The offset of a table of pointers."""
        name = f"{what} 0"
        return self.record.offset(name) if name in self.record.types else 0


def _first_function(code: LlvmCode, packing: Packing, call: PlainCall, outcomes: Array) -> Callable[..., Any]:
    item, pointers = code.dtype.itemsize, Pointers(code, packing)
    place, places = code.manifest.arena_size * item, list[dict[str, int]]()
    for family, size in packing.sizes.items():
        places += [{"offset": offset, "skip": place} for offset in pointers.of_value(family)]
        place += size * item
    arena = -(-place // ALIGNMENT) * ALIGNMENT
    for field, skip in (("weights", 0), ("scratch", arena)):
        places.append({"offset": pointers.record.offset(field), "skip": skip})
    sweeps, moves = code.manifest.tables
    rest, rest_moves = code.manifest.tables_of_rest
    take = code.pool.take
    half = FIRST_HALF.new(
        take=id(take),
        scratch=code.address("rnnc_scratch"),
        arena_bytes=arena,
        places=len(places),
        place_records=table(ARENA_PLACE, places),
        derive=packing.derive_address,
        derived_at=pointers.first("derive"),
        sweep=code.runtime.address("rnnc_sweep"),
        sources_at=pointers.first("source"),
        sweeps=sweeps,
        sweep_count=len(sweeps),
        of_one_step=code.manifest.of_one_step,
        moves=moves,
        rest=rest,
        rest_count=len(rest),
        rest_of_one_step=code.manifest.rest_of_one_step,
        rest_moves=rest_moves,
        rows_in_place=FEW_ROWS if code.manifest.reads_in_place else 0,
        kept_call=ctypes.sizeof(pointers.record.struct),
    )
    functions, context = ("rnnc_call_first", "rnnc_run"), pointers.record.new()
    return bound_function(
        code, functions, call, outcomes, context, pointers.of, _limits(code), half, owned=(take, packing)
    )


def _limits(code: LlvmCode) -> dict[str, int]:
    """See `bound_function`. Weights are packed in every call, so that none is brief."""
    return {"most_rows": code.serial_rows, "most_alone": code.most_unshared, "brief_rows": 0}


def _second_function(code: LlvmCode, packing: Packing, call: PlainCall, outcomes: Array) -> Callable[..., Any]:
    record, owners = code.interface.record, dict[Family, str]()
    for name, family in code.untimed.items():
        owners.setdefault(family, name)
    arrays = [array for group in (*call.arguments, *call.results) for array in group.arrays]
    numbers = {name: number for number, array in enumerate(arrays) for name in array.names}
    copies = [
        {"source": numbers[owners[family]], "target": numbers[name]}
        for name, family in code.untimed.items()
        if owners[family] != name
    ]

    def places(name: str) -> list[int]:
        family = code.untimed.get(name)
        if family is None:
            return place_in(record, name)
        return [record.offset(sum_field(family))] if owners[family] == name else []

    kept_call = ctypes.sizeof(Pointers(code, packing).record.struct)
    half = SECOND_HALF.new(copies=len(copies), copy_records=table(COPY, copies), kept_call=kept_call)
    functions = ("rnnc_call_second", "rnnc_finish")
    return bound_function(code, functions, call, outcomes, record.new(), places, _limits(code), half)
