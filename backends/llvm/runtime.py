"""The runtime: functions that do not depend on a network. They are compiled once per dtype and target, and linked by
name.

    module of a network            runtime unit, from the disk cache
    declare @rnnc_copy_rows   ->   @rnnc_copy_rows.float32.1f0c

A unit is compiled when a module first needs one of its functions. Symbols are global to the process, so their names
contain the dtype and a digest of the unit's text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from rnnc.backends.digests import digest
from rnnc.backends.llvm import stored
from rnnc.backends.llvm.asm.image import Image, Mapped
from rnnc.backends.llvm.asm.target import Target

if TYPE_CHECKING:  # stored code needs neither
    from rnnc.backends.llvm.asm.builder import Module
    from rnnc.backends.llvm.asm.jit import MachineCode
    from rnnc.backends.llvm.asm.parts import Parts

# The kernels of a unit are imported when a module first needs the unit.


def _calls(module: Module, dtype: str, target: Target) -> None:
    from rnnc.backends.llvm.kernels.kept_memory import emit_kept_memory
    from rnnc.backends.llvm.kernels.line_copies import emit_line_copies
    from rnnc.backends.llvm.kernels.native_call import emit_native_call
    from rnnc.backends.llvm.kernels.native_halves import emit_native_halves
    from rnnc.backends.llvm.kernels.packers import emit_packer
    from rnnc.backends.llvm.kernels.row_copies import emit_row_copies

    emit_kept_memory(module)
    emit_row_copies(module)
    emit_line_copies(module)
    emit_packer(module, dtype, target)
    emit_native_call(module, dtype)
    emit_native_halves(module)


def _threads(module: Module, dtype: str, target: Target) -> None:
    from rnnc.backends.llvm.kernels.lockstep_loop import emit_lockstep

    emit_lockstep(module)


def _sums(module: Module, dtype: str, target: Target) -> None:
    from rnnc.backends.llvm.kernels.row_sums import emit_row_sums

    emit_row_sums(module, dtype, target)


def _training(module: Module, dtype: str, target: Target) -> None:
    from rnnc.backends.llvm.kernels.gradients import emit_gradient_sums
    from rnnc.backends.llvm.kernels.noise import emit_noise

    emit_gradient_sums(module, dtype, target)
    emit_noise(module, dtype)


def _crew(module: Module, dtype: str, target: Target) -> None:
    from rnnc.backends.llvm.kernels.crew import emit_crew

    emit_crew(module)


def _stopwatch(module: Module, dtype: str, target: Target) -> None:
    from rnnc.backends.llvm.kernels.stopwatch import emit_stopwatch

    emit_stopwatch(module)


_UNITS: dict[Callable[[Module, str, Target], None], tuple[str, ...]] = {
    _calls: (
        "rnnc_take_memory",
        "rnnc_give_memory",
        "rnnc_free_kept",
        "rnnc_first_row",
        "rnnc_copy_rows",
        "rnnc_start_state",
        "rnnc_finish_state",
        "rnnc_full_steps",
        "rnnc_start_line",
        "rnnc_finish_line",
        "rnnc_sweep",
        "rnnc_sweep_share",
        "rnnc_call",
        "rnnc_call_first",
        "rnnc_call_second",
    ),
    _threads: ("rnnc_lockstep",),
    _crew: ("rnnc_run_in_team", "rnnc_serve"),
    _stopwatch: ("rnnc_count", "rnnc_ticks"),
    _sums: ("rnnc_outer", "rnnc_row_sum"),
    _training: (
        "rnnc_look_up",
        "rnnc_group",
        "rnnc_scatter",
        "rnnc_collect",
        "rnnc_collect_rows",
        "rnnc_noise",
    ),
}
"""The function that fills a unit -> the names of the unit's functions that other modules call."""


_made: list[Mapped | MachineCode] = []
"""The machine code of all units, kept until the process ends, because modules that are linked to a unit hold its
addresses. Threads that need a unit at the same moment may make it twice."""


class RuntimeUnit:
    """One unit. symbols: the symbols of its functions, by their names. It is compiled when an address is asked for."""

    def __init__(self, emit: Callable[[Module, str, Target], None], dtype: str, target: Target) -> None:
        self.name = emit.__name__
        self._emit, self._dtype, self._target = emit, dtype, target
        self._entry = stored.name_of("unit", target, self.name, dtype)
        self._stored: stored.StoredUnit | None = stored.load(self._entry)
        self.symbols: Mapping[str, str] = self._named() if self._stored is None else self._stored.symbols

    @cached_property
    def module(self) -> Module:
        """The functions, by their own names."""
        from rnnc.backends.llvm.asm.builder import Module

        module = Module()
        self._emit(module, self._dtype, self._target)
        return module

    def _named(self) -> Mapping[str, str]:
        """A symbol for each function."""
        mark = digest(f"{self.module.text()}{self._target!r}".encode()).hex()[:8]
        return {f.name: f"{f.name}.{self._dtype}.{mark}" for f in self.module.functions}

    @cached_property
    def parts(self) -> Parts:
        """What is compiled. Only a unit that is not stored needs it."""
        from rnnc.backends.llvm.asm.parts import Parts, renamed

        return Parts((renamed(self.module.text(), self.symbols),), {})

    @property
    def is_compiled(self) -> bool:
        """True if its machine code is known."""
        return self._stored is not None or "_code" in vars(self)

    @cached_property
    def _code(self) -> Mapped | MachineCode:
        """The machine code, which is stored."""
        code = self._compiled() if self._stored is None else Mapped(self._stored.image, {})
        _made.append(code)
        return code

    def _compiled(self) -> MachineCode:
        from rnnc.backends.llvm.asm.jit import MachineCode

        code = MachineCode(self.parts.texts[0], self._target, self.parts)
        if code.image is not None:
            stored.save(self._entry, stored.StoredUnit(code.image, self.symbols))
        return code

    def addresses(self) -> Mapping[str, int]:
        """The address of each function, by its symbol."""
        return self._code.addresses

    def address(self, name: str) -> int:
        """The address of one of its functions."""
        return self._code.addresses[self.symbols[name]]


@cache
def _unit(emit: Callable[[Module, str, Target], None], dtype: str, target: Target) -> RuntimeUnit:
    return RuntimeUnit(emit, dtype, target)


class Runtime(NamedTuple):
    """The units of a dtype and a target."""

    dtype: str
    target: Target

    def address(self, name: str) -> int:
        """The address of a function of the runtime, by its name."""
        return self._with(name).address(name)

    def units(self, module: Module) -> list[RuntimeUnit]:
        """The units that a module calls."""
        every = {name for names in _UNITS.values() for name in names}
        return list(dict.fromkeys(self._with(name) for name in module.declarations() if name in every))

    def named(self, unit: str) -> RuntimeUnit:
        """The unit of a name."""
        return _unit(next(emit for emit in _UNITS if emit.__name__ == unit), self.dtype, self.target)

    def _with(self, name: str) -> RuntimeUnit:
        return _unit(next(emit for emit, names in _UNITS.items() if name in names), self.dtype, self.target)


class Relinked:
    """Stored machine code of a module, linked to the units of the runtime that it calls."""

    cached = True

    def __init__(
        self, image: Image, units: Sequence[str], runtime: Runtime, beside: Mapping[str, int] | None = None
    ) -> None:
        """beside: the addresses of functions of another module that this one calls."""
        self._code = Mapped(image, _addresses(map(runtime.named, units)) | dict(beside or {}))

    @property
    def addresses(self) -> Mapping[str, int]:
        """The addresses of all functions, by their names."""
        return self._code.addresses

    def address(self, name: str) -> int:
        """The address of a function of the module. Raises KeyError if it does not define it."""
        return self._code.addresses[name]


class Linked:
    """A compiled module, linked to the units of the runtime that it calls. units: their names.

    notes: makes what a listing of the machine code says of its functions (`rnnc.backends.llvm.listing`).
    """

    notes: Callable[[], Any]

    def __init__(self, module: Module, runtime: Runtime, beside: Mapping[str, int] | None = None) -> None:
        """beside: the addresses of functions of another module that this one calls."""
        from rnnc.backends.llvm.asm.jit import MachineCode, compile_ahead
        from rnnc.backends.llvm.asm.parts import parts_of, renamed

        units = runtime.units(module)
        symbols = {name: symbol for unit in units for name, symbol in unit.symbols.items()}
        self.units = tuple(unit.name for unit in units)
        parts = parts_of(module, symbols)
        compile_ahead([parts, *(unit.parts for unit in units if not unit.is_compiled)], runtime.target)
        foreign = _addresses(units) | dict(beside or {})
        self._code = MachineCode(renamed(module.text(), symbols), runtime.target, parts, foreign)

    @property
    def addresses(self) -> Mapping[str, int]:
        """The addresses of all functions, by their names."""
        return self._code.addresses

    @property
    def image(self) -> Image | None:
        """The linked code; None where LLVM links it."""
        return self._code.image

    @property
    def cached(self) -> bool:
        """True if the object code of the module itself came from the disk cache."""
        return self._code.cached

    def address(self, name: str) -> int:
        """The address of a function of the module. Raises KeyError if it does not define it."""
        return self._code.address(name)

    def object_files(self) -> tuple[bytes, ...]:
        """The position-independent object files of the module itself."""
        return self._code.object_files()

    def assembly(self, *, labels: bool = False) -> str:
        """The machine code of the module itself, as text. labels: with LLVM's comments."""
        return self._code.assembly(labels=labels)


def _addresses(units: Iterable[RuntimeUnit]) -> dict[str, int]:
    """The addresses of the functions of units, by their symbols."""
    return {symbol: address for unit in units for symbol, address in unit.addresses().items()}


def shown(module: Module, runtime: Runtime) -> str:
    """The text of a module and of the units that it calls, as one module."""
    from rnnc.backends.llvm.asm.builder import Module

    modules = [module, *(unit.module for unit in runtime.units(module))]
    functions = [function for each in modules for function in each.functions]
    lines = list(dict.fromkeys(line for each in modules for line in each.globals))
    return Module(functions, lines).text()
