"""Targets: which instructions the generated code may use, and the shape of the machine they imply."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import llvmlite.binding as llvm

from rnnc.ir.errors import BackendError


@dataclass(frozen=True)
class Target:
    """An instruction set.

    vector_bytes: width of one register. registers: how many a tile may use.
    cpu, features: what LLVM is told. A host feature that is not listed stays off.
    """

    name: str
    vector_bytes: int
    registers: int
    cpu: str
    features: str

    def lanes(self, dtype: str) -> int:
        """Elements of a dtype in one register."""
        return self.vector_bytes // {"float32": 4, "float64": 8}[dtype]


_ISAS = {
    "avx512": Target("avx512", 64, 32, "", "+avx512f,+avx512vl,+avx512dq,+avx512bw,+avx2,+fma"),
    "avx2": Target("avx2", 32, 16, "", "+avx2,+fma"),
    # 16 registers, of which multiplying without a fused multiply-add needs some for copies: no spills with 12.
    "generic": Target("generic", 16, 12, "", ""),
}
_NEEDS = {"avx512": ("avx512f", "avx512vl", "avx512dq", "avx512bw"), "avx2": ("avx2", "fma"), "generic": ()}

ISAS = tuple(_ISAS)
"""Names of instruction sets, best first."""


@cache
def initialize() -> None:
    """Registers LLVM's native code generator, once."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.initialize_native_asmparser()


def host(isa: str | None = None) -> Target:
    """The target of this machine: its best instruction set, or the one asked for.

    Raises BackendError if the machine lacks it.
    """
    initialize()
    has = llvm.get_host_cpu_features()
    if isa is None:
        isa = next(name for name in ISAS if all(has.get(f, False) for f in _NEEDS[name]))
    if isa not in _ISAS:
        raise BackendError(f"isa: got {isa!r}, expected one of {', '.join(map(repr, ISAS))}")
    missing = [f for f in _NEEDS[isa] if not has.get(f, False)]
    if missing:
        raise BackendError(f"isa: {isa!r} needs the CPU features {', '.join(missing)}, which this machine lacks")
    if isa == "generic":
        return _ISAS[isa]
    return replace(_ISAS[isa], cpu=llvm.get_host_cpu_name())


def legalized(isa: str) -> Target:
    """An instruction set's register shape, run with whatever vectors this machine has.

    LLVM splits vectors that are too wide, so the code laid out for AVX-512 runs, slowly, on AVX2. For tests.
    """
    real = host()
    return replace(_ISAS[isa], name=f"{isa} layout on {real.name}", cpu=real.cpu, features=real.features)
