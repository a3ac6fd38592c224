"""From LLVM assembly to machine code in memory, by way of the on-disk cache.

LLVM's optimisation passes are not run: the vectors are explicit, and the code generator does the rest.
"""

from __future__ import annotations

import re
from functools import partial

import llvmlite
import llvmlite.binding as llvm

from rnnc.backends import cache
from rnnc.backends.llvm.asm.library import Engine, use
from rnnc.backends.llvm.asm.target import Target, processor


class MachineCode:
    """A compiled module in memory. Its addresses are valid for as long as this object lives.

    cached: True if its object code came from the cache.
    """

    def __init__(self, text: str, target: Target) -> None:
        self._text = text
        self._target = target
        versions = f"llvmlite {llvmlite.__version__}, LLVM {llvm.llvm_version_info}"
        triple = processor().triple
        name = cache.key(text, repr(target), triple, code_model(triple), versions)
        found = cache.load(name)
        self.cached = found is not None
        self._object, self._engine = use(partial(_load, name, text, target, found))

    def address(self, name: str) -> int:
        """The address of a function. Raises KeyError if the module does not define it."""
        return self._engine.addresses[name]

    def assembly(self) -> str:
        """The machine code as text."""
        return use(lambda: _assembly(self._text, self._target, processor().triple))

    def object_code(self) -> bytes:
        """The position-independent object file of the code that runs."""
        return self._object


def compile_assembly(text: str, target: Target) -> MachineCode:
    """Compiles a module of LLVM assembly. Raises RuntimeError if LLVM rejects it, which is a bug of the generator."""
    return MachineCode(text, target)


def emit_assembly(text: str, target: Target, triple: str) -> str:
    """Native assembly for any machine that LLVM knows, such as "aarch64-unknown-linux-gnu". Nothing is run."""

    def emit() -> str:
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


def _load(name: str, text: str, target: Target, found: bytes | None) -> tuple[bytes, Engine]:
    """The object code, compiled unless it was found in the cache, and its engine."""
    triple = processor().triple
    if found is None:
        found = _machine(target, triple).emit_object(_parse(text, target))
        cache.store(name, found)
    # MCJIT takes ownership of its machine and its module, so each engine needs fresh ones. llvmlite's own memory
    # manager is not used: it reserves no room for the stubs of calls to libc, and aborts.
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _machine(target, triple), use_lmm=False)
    engine.add_object_file(llvm.ObjectFileRef.from_data(found))
    engine.finalize_object()
    names = [definition.split("(", 1)[0].split("@")[1] for definition in f"\n{text}".split("\ndefine ")[1:]]
    return found, Engine(engine, {name: int(engine.get_function_address(name)) for name in names})


def _assembly(text: str, target: Target, triple: str) -> str:
    return str(_machine(target, triple).emit_assembly(_parse(text, target)))


def _parse(text: str, target: Target) -> llvm.ModuleRef:
    """A module whose functions are tuned for the target's processor model."""
    if target.tuning:
        text = re.sub(r"(?<=\n)define .*(?= \{\n)", rf'\g<0> "tune-cpu"="{target.tuning}"', f"\n{text}")
    module = llvm.parse_assembly(text)
    module.verify()
    return module


def _machine(target: Target, triple: str) -> llvm.TargetMachine:
    return llvm.Target.from_triple(triple).create_target_machine(
        cpu=target.cpu, features=target.features, opt=3, reloc="pic", codemodel=code_model(triple)
    )
