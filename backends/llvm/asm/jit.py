"""From LLVM assembly to machine code in memory, by way of the on-disk cache.

LLVM's optimisation passes are not run: the vectors are explicit, and the code generator does the rest.

The parts of a module are compiled one by one, each to an object file (`objects`). An entry of the disk cache has all
objects of a module.

Objects are linked to an image and mapped (`image`) where that is known to work. On other systems, LLVM's MCJIT does it.

With RNNC_CODEGEN=0, LLVM's code generator makes slower code four times faster. The results have the same bits.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import accumulate, pairwise

from rnnc.backends import cache, stamps
from rnnc.backends.llvm.asm.image import Mapped, can_map, link
from rnnc.backends.llvm.asm.library import Engine, binding, use
from rnnc.backends.llvm.asm.objects import assembly_of, code_model, machine_for, object_files
from rnnc.backends.llvm.asm.parts import Parts
from rnnc.backends.llvm.asm.target import Target, processor
from rnnc.ir import settings


class MachineCode:
    """A compiled module in memory. Its addresses are valid for as long as this object lives.

    text: the module as a whole. parts: what is compiled. foreign: the addresses of functions of other modules.
    cached: True if its object code came from the disk cache. image: the linked code; None where LLVM links it.
    """

    def __init__(self, text: str, target: Target, parts: Parts, foreign: Mapping[str, int] | None = None) -> None:
        self._text = text
        self._target = target
        name = _name(parts, target)
        found = cache.load(name)
        self.cached = found is not None
        if found is None:
            self._objects = use(partial(object_files, parts.texts, target, processor().triple))
            cache.store(name, _joined(self._objects))
        else:
            self._objects = _separate(found)
        self.image = link(self._objects, parts.symbols) if can_map() else None
        self._loaded = self._load(parts, foreign or {})

    @property
    def addresses(self) -> Mapping[str, int]:
        """The addresses of all functions, by their names and symbols."""
        return self._loaded.addresses

    def _load(self, parts: Parts, foreign: Mapping[str, int]) -> Mapped | Engine:
        """The code in memory, linked to functions of other modules."""
        if self.image is not None:
            return Mapped(self.image, foreign)
        return use(lambda: _engine(self._objects, parts, self._target, foreign))

    def address(self, name: str) -> int:
        """The address of a function. Raises KeyError if the module does not define it."""
        return self.addresses[name]

    def assembly(self, *, labels: bool = False) -> str:
        """The machine code as text. labels: with LLVM's comments (`assembly_of`)."""
        return use(lambda: assembly_of(self._text, self._target, processor().triple, labels=labels))

    def object_files(self) -> tuple[bytes, ...]:
        """The position-independent object files of the code that runs, one per part."""
        return self._objects


def compile_assembly(text: str, target: Target) -> MachineCode:
    """Compiles a module of LLVM assembly. Raises RuntimeError if LLVM rejects it, which is a bug of the generator."""
    return MachineCode(text, target, Parts((text,), {}))


def compile_ahead(modules: Sequence[Parts], target: Target) -> None:
    """Compiles what no cache has of several modules, on several threads; each module then finds its objects in memory.

    Does nothing for a single module, which compiles its parts in the same way.
    """
    missing = [parts for parts in modules if cache.load(_name(parts, target)) is None]
    if len(missing) > 1:
        texts = [text for parts in missing for text in parts.texts]
        use(partial(object_files, texts, target, processor().triple))


def _name(parts: Parts, target: Target) -> str:
    """The name of a module's entry in the disk cache."""
    triple, llvm = processor().triple, stamps.of_package("llvmlite")
    return cache.key(*parts.texts, repr(target), triple, code_model(triple), str(settings.codegen()), llvm)


def emit_assembly(text: str, target: Target, triple: str) -> str:
    """Native assembly for any machine that LLVM knows, such as "aarch64-unknown-linux-gnu". Nothing is run."""

    def emit() -> str:
        llvm = binding()
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()
        return assembly_of(text, target, triple)

    return use(emit)


# ---- functions that call LLVM


def _engine(objects: Sequence[bytes], parts: Parts, target: Target, foreign: Mapping[str, int]) -> Engine:
    """The objects in memory of MCJIT."""
    llvm = binding()
    for symbol, address in foreign.items():
        llvm.add_symbol(symbol, address)
    # MCJIT takes ownership of its machine and its module, so each engine needs fresh ones. llvmlite's own memory
    # manager is not used: it reserves no room for the stubs of calls to libc, and aborts.
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine_for(target, processor().triple), use_lmm=False)
    for each in objects:
        engine.add_object_file(llvm.ObjectFileRef.from_data(each))
    engine.finalize_object()
    defined = [definition for text in parts.texts for definition in f"\n{text}".split("\ndefine ")[1:]]
    names = [definition.split("(", 1)[0].split("@")[1] for definition in defined]
    addresses = {name: int(engine.get_function_address(name)) for name in names}
    return Engine(engine, addresses | {name: addresses[symbol] for name, symbol in parts.symbols.items()})


def _joined(objects: Sequence[bytes]) -> bytes:
    """The objects as one entry of the cache: their number, the size of each, and then their bytes."""
    return struct.pack(f"<{1 + len(objects)}Q", len(objects), *map(len, objects)) + b"".join(objects)


def _separate(entry: bytes) -> tuple[bytes, ...]:
    """The objects of an entry of the cache."""
    (count,) = struct.unpack_from("<Q", entry)
    sizes = struct.unpack_from(f"<{count}Q", entry, 8)
    ends = [8 + 8 * count, *sizes]
    places = list(accumulate(ends))
    return tuple(entry[start:stop] for start, stop in pairwise(places))
