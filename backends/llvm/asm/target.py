"""Targets: the instructions that generated code may use, and the width and number of the registers."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from functools import cache
from typing import NamedTuple

from rnnc.backends import cache as disk
from rnnc.backends import stamps
from rnnc.backends.llvm.asm import cpuid
from rnnc.ir.errors import BackendError

BIAS = 128
"""What is added to activations that are multiplied as unsigned bytes."""


class Dots(Enum):
    """The instructions for dot products of bytes (`asm.dots`). They take activations in one or two planes of bytes.

    VNNI    multiplies unsigned bytes by signed ones. Activations have BIAS added, so sums start at -128
            times the sum of a unit's weights.
    PAIRS   multiplies likewise, and adds two products in 16 bits. Activations are magnitudes, up to 127, of which two
            products fit, and masks of signs. Where the mask is set, w is replaced by -w - 1 (its complement), so sums
            start at the sum of the row's magnitudes that are masked.
    SIGNED  multiplies signed bytes by signed ones (aarch64's SDOT).
    BYTES   is for any machine.
    """

    VNNI = "vnni"
    PAIRS = "pairs"
    SIGNED = "signed"
    BYTES = "bytes"

    @property
    def biased(self) -> bool:
        """True if activations have BIAS added."""
        return self is Dots.VNNI

    @property
    def planes(self) -> int:
        """The planes of bytes in which activations are written."""
        return 2 if self is Dots.PAIRS else 1


class Target(NamedTuple):
    """An instruction set.

    vector_bytes: the width of one register. registers: the number of registers that a tile may use.
    dots: the instructions for dot products of bytes.
    cpu, features: the instructions that LLVM may use: those of a baseline processor, and those listed.
    tuning: the processor model that LLVM schedules instructions for. It adds no instructions, because a virtual machine
    may hide some that its processor model has.
    small: code is to be small rather than fast: of a tile of one row and one vector, and without unrolled loops.
    """

    name: str
    vector_bytes: int
    registers: int
    cpu: str
    features: str
    tuning: str = ""
    dots: Dots = Dots.BYTES
    small: bool = False

    def lanes(self, dtype: str) -> int:
        """The number of elements of a dtype per register."""
        return self.vector_bytes // {"float32": 4, "float64": 8}[dtype]


_ISAS = {
    "avx512": Target("avx512", 64, 32, "x86-64", "+avx512f,+avx512vl,+avx512dq,+avx512bw,+avx2,+fma"),
    "avx2": Target("avx2", 32, 16, "x86-64", "+avx2,+fma"),
    # There are 16 registers. Without fused multiply-add, products need some of them: with 12 there are no spills.
    "generic": Target("generic", 16, 12, "", ""),
}

_VNNI = {"avx512": "avx512vnni", "avx2": "avxvnni"}
"""The feature with which an instruction set has dot products of four bytes."""

_WELCOME = ("bmi", "bmi2", "lzcnt", "movbe", "popcnt", "prfchw")
"""Scalar instructions that a target beyond the baseline uses if the machine has them."""

ISAS = tuple(_ISAS)
"""The names of instruction sets, best first."""


class Processor(NamedTuple):
    """LLVM's description of this machine. features: LLVM's name of a feature -> whether the machine has it."""

    triple: str
    model: str
    features: Mapping[str, bool]


@cache
def processor() -> Processor:
    """LLVM's description of this machine. It is kept on disk, under all that LLVM knows of the machine."""
    identity = cpuid.identity()
    if identity is None:
        return _asked()
    name = disk.key("processor", identity, stamps.of_package("llvmlite"))
    return disk.remembered(name, _asked)


def _asked() -> Processor:
    """LLVM's answer. The access to LLVM is imported where nothing is known."""
    from rnnc.backends.llvm.asm.library import use

    return use(_processor)


def _processor() -> Processor:
    from rnnc.backends.llvm.asm.library import binding

    llvm = binding()
    return Processor(llvm.get_process_triple(), llvm.get_host_cpu_name(), dict(llvm.get_host_cpu_features()))


def host(isa: str | None = None) -> Target:
    """The target of this machine, with its best instruction set or the one given.

    Raises BackendError if the machine lacks the instruction set.
    """
    return described(processor().model, processor().features, isa)


def described(cpu: str, features: Mapping[str, bool], isa: str | None = None) -> Target:
    """The target of a machine, with its best instruction set or the one given, tuned for its processor model.

    cpu: LLVM's name of the model. features: LLVM's names of features -> whether the machine has them.
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
    vnni = features.get(_VNNI[isa], False)
    welcome = [f"+{name}" for name in (*_WELCOME, _VNNI[isa]) if features.get(name, False)]
    added, dots = ",".join([_ISAS[isa].features, *welcome]), Dots.VNNI if vnni else Dots.PAIRS
    return _ISAS[isa]._replace(features=added, tuning=cpu, dots=dots)


def _missing(isa: str, features: Mapping[str, bool]) -> list[str]:
    """The features that an instruction set needs and a machine lacks."""
    needed = [name.removeprefix("+") for name in _ISAS[isa].features.split(",") if name]
    return [name for name in needed if not features.get(name, False)]


def legalized(isa: str) -> Target:
    """An instruction set's register shape, with the instructions of this machine. For tests.

    LLVM splits vectors that are too wide, so code laid out for AVX-512 also runs, slowly, on AVX2.
    """
    real, layout = host(), _ISAS[isa]
    name = f"{isa} layout on {real.name}"
    dots = real.dots if layout.vector_bytes == real.vector_bytes else Dots.BYTES
    return real._replace(name=name, vector_bytes=layout.vector_bytes, registers=layout.registers, dots=dots)
