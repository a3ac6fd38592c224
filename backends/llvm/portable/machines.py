"""Machines that code is exported for: their instructions, registers, and the conventions of their systems."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from rnnc.backends.llvm.asm.target import Dots, Target
from rnnc.ir.errors import ArgumentError

_V2 = "+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+cx16,+sahf"
_V3 = f"{_V2},+avx,+avx2,+fma,+bmi,+bmi2,+f16c,+lzcnt,+movbe"
_V4 = f"{_V3},+avx512f,+avx512vl,+avx512dq,+avx512bw,+avx512cd"


@dataclass(frozen=True)
class PortableMachine:
    """A machine. triple, cpu, features: as LLVM names them. abi: LLVM's name of the calling convention, or "".

    vector_bytes, registers: of a tile (`rnnc.backends.llvm.asm.target.Target`). pointer_bits: of an address, and of
    size_t. format: of object files: "elf", "macho", "coff" or "wasm". system: "linux", "macos", "windows", "wasm",
    "none". dots: its instructions for products of bytes. elf_flags: of a shared object, beside those that LLVM writes.
    """

    name: str
    triple: str
    cpu: str
    features: str
    vector_bytes: int
    registers: int
    pointer_bits: int = 64
    format: str = "elf"
    system: str = "linux"
    elf_flags: int = 0
    abi: str = ""
    about: str = ""
    dots: Dots = Dots.BYTES

    @property
    def relocation(self) -> str:
        """LLVM's relocation model: code that is linked into a program for good needs no tables of addresses."""
        return "static" if self.system in ("none", "wasm") else "pic"

    @cached_property
    def target(self) -> Target:
        """Its register shape and instructions, for the generator of kernels."""
        return Target(self.name, self.vector_bytes, self.registers, self.cpu, self.features, dots=self.dots)

    @property
    def small_target(self) -> Target:
        """The same for code that is small rather than fast."""
        return self.target._replace(small=True)


_LINUX, _RISCV = "unknown-linux-gnu", "+m,+a,+f,+d,+c"

MACHINES = {
    machine.name: machine
    for machine in (
        PortableMachine(
            "x86-64-v2", f"x86_64-{_LINUX}", "x86-64", _V2, 16, 12, about="any x86-64 with SSE4.2 (2009)",
            dots=Dots.PAIRS,
        ),
        PortableMachine("x86-64-v3", f"x86_64-{_LINUX}", "x86-64", _V3, 32, 16, about="AVX2 and FMA (2013)",
            dots=Dots.PAIRS,
        ),
        PortableMachine("x86-64-v4", f"x86_64-{_LINUX}", "x86-64", _V4, 64, 32, about="AVX-512 (2017)",
            dots=Dots.PAIRS,
        ),
        PortableMachine(
            "aarch64", f"aarch64-{_LINUX}", "generic", "+neon", 16, 28, about="64-bit ARM with NEON: all of them"
        ),
        PortableMachine(
            "aarch64-dotprod", f"aarch64-{_LINUX}", "generic", "+neon,+dotprod", 16, 28,
            about="64-bit ARM of 2018 and later (Cortex-A55, A75, ...): int8 weights by SDOT", dots=Dots.SIGNED,
        ),
        PortableMachine(
            "armv7",
            "armv7-unknown-linux-gnueabihf",
            "generic",
            "+neon,+vfp4,+hwdiv,+hwdiv-arm",
            16,
            12,
            32,
            elf_flags=0x400,
            about="32-bit ARM with NEON and VFPv4, hard float",
        ),
        PortableMachine(
            "riscv64", f"riscv64-{_LINUX}", "generic-rv64", _RISCV, 16, 6, abi="lp64d", about="RV64GC, without vectors"
        ),
        PortableMachine(
            "riscv64-v",
            f"riscv64-{_LINUX}",
            "generic-rv64",
            f"{_RISCV},+v,+zvl128b",
            16,
            24,
            abi="lp64d",
            about="RV64GCV: vectors of at least 128 bits",
        ),
        PortableMachine(
            "wasm32",
            "wasm32-unknown-unknown",
            "generic",
            "+simd128,+bulk-memory,+sign-ext,+nontrapping-fptoint",
            16,
            12,
            32,
            "wasm",
            "wasm",
            about="WebAssembly with SIMD: browsers since 2021 (Safari 2023), wasmtime",
        ),
        PortableMachine(
            "cortex-m4f",
            "thumbv7em-unknown-none-eabihf",
            "cortex-m4",
            "",
            16,
            6,
            32,
            system="none",
            about="Cortex-M4 and M7 with a single-precision FPU, hard float",
        ),
        PortableMachine(
            "cortex-m4", "thumbv7em-unknown-none-eabi", "cortex-m4", "+soft-float,-vfp4d16sp,-vfp3d16sp,-vfp2sp", 16, 6,
            32, system="none", about="Cortex-M4 without an FPU: floats by libgcc and libm",
        ),
        PortableMachine(
            "macos-arm64", "arm64-apple-macosx11", "apple-m1", "", 16, 28, format="macho", system="macos",
            about="Macs with Apple's processors", dots=Dots.SIGNED,
        ),
        PortableMachine(
            "windows-x86-64", "x86_64-pc-windows-gnu", "x86-64", _V3, 32, 16, format="coff", system="windows",
            about="Windows on x86-64-v3: AVX2 and FMA", dots=Dots.PAIRS,
        ),
    )
}  # fmt: skip
"""Name -> machine."""


def machine(name: str) -> PortableMachine:
    """The machine of a name. Raises ArgumentError that lists all."""
    if name not in MACHINES:
        raise ArgumentError(f"machine: got {name!r}, expected one of {', '.join(MACHINES)}")
    return MACHINES[name]
