"""From LLVM assembly to machine code in memory, by way of the on-disk cache.

LLVM's optimisation passes are not run: the vectors are explicit, and the code generator does the rest.

The parts of a module are compiled one by one, each to an object file. The objects of the parts compiled last are kept,
so that a module with an equal part takes its object. An entry of the disk cache has all objects of a module.

Objects are linked to an image and mapped (`image`) where that is known to work. On other systems, LLVM's MCJIT does it.

With RNNC_CODEGEN=0, LLVM's code generator makes slower code four times faster. The results have the same bits.
"""

from __future__ import annotations

import re
import struct
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from rnnc.backends import cache, stamps
from rnnc.backends.llvm.asm.image import Mapped, can_map, link
from rnnc.backends.llvm.asm.library import Engine, binding, use
from rnnc.backends.llvm.asm.parts import Parts
from rnnc.backends.llvm.asm.target import Target, processor
from rnnc.ir import settings

if TYPE_CHECKING:
    import llvmlite.binding as llvm

KEPT_BYTES = 1 << 24
"""The total size of the objects that are kept in memory."""

_kept: OrderedDict[tuple[str, Target, str, int], bytes] = OrderedDict()
"""Text, target, triple and RNNC_CODEGEN of a part -> its object. Only work within `use` reads and writes it."""


class MachineCode:
    """A compiled module in memory. Its addresses are valid for as long as this object lives.

    text: the module as a whole. parts: what is compiled. foreign: the addresses of functions of other modules.
    cached: True if its object code came from the disk cache. image: the linked code; None where LLVM links it.
    """

    def __init__(self, text: str, target: Target, parts: Parts, foreign: Mapping[str, int] | None = None) -> None:
        self._text = text
        self._target = target
        triple = processor().triple
        effort = str(settings.codegen())
        llvm = stamps.of_package("llvmlite")
        name = cache.key(*parts.texts, repr(target), triple, code_model(triple), effort, llvm)
        found = cache.load(name)
        self.cached = found is not None
        if found is None:
            self._objects = use(partial(_compile, parts, target))
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

    def assembly(self) -> str:
        """The machine code as text."""
        return use(lambda: _assembly(self._text, self._target, processor().triple))

    def object_files(self) -> tuple[bytes, ...]:
        """The position-independent object files of the code that runs, one per part."""
        return self._objects


def compile_assembly(text: str, target: Target) -> MachineCode:
    """Compiles a module of LLVM assembly. Raises RuntimeError if LLVM rejects it, which is a bug of the generator."""
    return MachineCode(text, target, Parts((text,), {}))


def emit_assembly(text: str, target: Target, triple: str) -> str:
    """Native assembly for any machine that LLVM knows, such as "aarch64-unknown-linux-gnu". Nothing is run."""

    def emit() -> str:
        llvm = binding()
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()
        return _assembly(text, target, triple)

    return use(emit)


def code_model(triple: str) -> str:
    """LLVM's code model, which says how far apart code and its constants may lie in memory.

    LLVM allocates memory for each wherever it is free. In a process that has mapped more than 2 GB, they may be too far
    apart for the 32-bit distances of x86-64's small model, and LLVM then aborts the process. The large model has 64-bit
    distances, which are loaded outside of loops. AArch64 has no large model for position-independent code.
    """
    return "large" if triple.startswith("x86_64") else "small"


# ---- functions that call LLVM


def _compile(parts: Parts, target: Target) -> tuple[bytes, ...]:
    """The objects of the parts."""
    triple = processor().triple
    return tuple(_object(text, target, triple) for text in parts.texts)


def _engine(objects: Sequence[bytes], parts: Parts, target: Target, foreign: Mapping[str, int]) -> Engine:
    """The objects in memory of MCJIT."""
    llvm = binding()
    for symbol, address in foreign.items():
        llvm.add_symbol(symbol, address)
    # MCJIT takes ownership of its machine and its module, so each engine needs fresh ones. llvmlite's own memory
    # manager is not used: it reserves no room for the stubs of calls to libc, and aborts.
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _machine(target, processor().triple), use_lmm=False)
    for each in objects:
        engine.add_object_file(llvm.ObjectFileRef.from_data(each))
    engine.finalize_object()
    defined = [definition for text in parts.texts for definition in f"\n{text}".split("\ndefine ")[1:]]
    names = [definition.split("(", 1)[0].split("@")[1] for definition in defined]
    addresses = {name: int(engine.get_function_address(name)) for name in names}
    return Engine(engine, addresses | {name: addresses[symbol] for name, symbol in parts.symbols.items()})


def _object(text: str, target: Target, triple: str) -> bytes:
    """The object file of a part: one that was kept, if an equal part was compiled before."""
    key = text, target, triple, settings.codegen()
    found = _kept.pop(key, None)
    if found is None:
        found = bytes(_machine(target, triple).emit_object(_parse(text, target)))
    _kept[key] = found
    while sum(map(len, _kept.values())) > KEPT_BYTES:
        _kept.popitem(last=False)
    return found


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


def _assembly(text: str, target: Target, triple: str) -> str:
    return str(_machine(target, triple).emit_assembly(_parse(text, target)))


def _parse(text: str, target: Target) -> llvm.ModuleRef:
    """A module whose functions are tuned for the target's processor model."""
    if target.tuning:
        text = re.sub(r"(?<=\n)define .*(?= \{\n)", rf'\g<0> "tune-cpu"="{target.tuning}"', f"\n{text}")
    module = binding().parse_assembly(text)
    module.verify()
    return module


def _machine(target: Target, triple: str) -> llvm.TargetMachine:
    return binding().Target.from_triple(triple).create_target_machine(
        cpu=target.cpu,
        features=target.features,
        opt=settings.codegen(),
        reloc="pic",
        codemodel=code_model(triple),
    )
