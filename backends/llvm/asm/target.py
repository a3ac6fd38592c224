"""Targets: which instructions the generated code may use, and the shape of the machine they imply."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

import llvmlite.binding as llvm

from rnnc.backends.llvm.asm.library import use
from rnnc.ir.errors import BackendError


@dataclass(frozen=True)
class Target:
    """An instruction set.

    vector_bytes: width of one register. registers: how many a tile may use.
    cpu, features: the instructions LLVM may use: those of a baseline processor, and those that are listed.
    tuning: the processor model whose instructions LLVM schedules for. It adds none: a virtual machine may hide
    instructions that its processor model knows.
    """

    name: str
    vector_bytes: int
    registers: int
    cpu: str
    features: str
    tuning: str = ""

    def lanes(self, dtype: str) -> int:
        """Elements of a dtype in one register."""
        return self.vector_bytes // {"float32": 4, "float64": 8}[dtype]


_ISAS = {
    "avx512": Target("avx512", 64, 32, "x86-64", "+avx512f,+avx512vl,+avx512dq,+avx512bw,+avx2,+fma"),
    "avx2": Target("avx2", 32, 16, "x86-64", "+avx2,+fma"),
    # 16 registers, of which multiplying without a fused multiply-add needs some for copies: no spills with 12.
    "generic": Target("generic", 16, 12, "", ""),
}

_WELCOME = ("bmi", "bmi2", "lzcnt", "movbe", "popcnt", "prfchw")
"""Instructions on single words that a target with vectors beyond the baseline uses where the machine has them."""

ISAS = tuple(_ISAS)
"""Names of instruction sets, best first."""


@dataclass(frozen=True)
class Processor:
    """What LLVM says of this machine. features: name of an instruction set -> whether the machine has it."""

    triple: str
    model: str
    features: Mapping[str, bool]


@cache
def processor() -> Processor:
    """This machine. LLVM's native code generator is ready from then on."""
    return use(_processor)


def _processor() -> Processor:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.initialize_native_asmparser()
    return Processor(llvm.get_process_triple(), llvm.get_host_cpu_name(), dict(llvm.get_host_cpu_features()))


def host(isa: str | None = None) -> Target:
    """The target of this machine: its best instruction set, or the one asked for.

    Raises BackendError if the machine lacks it.
    """
    return described(processor().model, processor().features, isa)


def described(cpu: str, features: Mapping[str, bool], isa: str | None = None) -> Target:
    """The target of a machine: its best instruction set, or the one asked for, tuned for its processor model.

    cpu: LLVM's name of the model. features: LLVM's names of instruction sets -> whether the machine has them.
    Raises BackendError if the machine lacks the instruction set.
    """
    if isa is None:
        isa = next(name for name in ISAS if not _missing(name, features))
    if isa not in _ISAS:
        raise BackendError(f"isa: got {isa!r}, expected one of {', '.join(map(repr, ISAS))}")
    if missing := _missing(isa, features):
        raise BackendError(f"isa: {isa!r} needs the CPU features {', '.join(missing)}, which this machine lacks")
    if isa == "generic":
        return _ISAS[isa]
    welcome = [f"+{name}" for name in _WELCOME if features.get(name, False)]
    return replace(_ISAS[isa], features=",".join([_ISAS[isa].features, *welcome]), tuning=cpu)


def _missing(isa: str, features: Mapping[str, bool]) -> list[str]:
    """What an instruction set needs and a machine lacks."""
    needed = [name.removeprefix("+") for name in _ISAS[isa].features.split(",") if name]
    return [name for name in needed if not features.get(name, False)]


def legalized(isa: str) -> Target:
    """An instruction set's register shape, run with whatever vectors this machine has.

    LLVM splits vectors that are too wide, so the code laid out for AVX-512 runs, slowly, on AVX2. For tests.
    """
    real, layout = host(), _ISAS[isa]
    name = f"{isa} layout on {real.name}"
    return replace(real, name=name, vector_bytes=layout.vector_bytes, registers=layout.registers)
