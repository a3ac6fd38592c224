"""Dispatch: functions that stand for one of several, chosen for the processor when the library is loaded.

The loader asks a resolver once per function (STT_GNU_IFUNC) and keeps the answer where it keeps all addresses, in
memory that is only read from then on. So there is no state that threads could see half written, and a call costs what
any call of a library costs. Loaders that know it: glibc's, FreeBSD's, and Android's; musl's does not.

Sources: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, CPUID and XGETBV; System V ABI, AMD64
supplement, section 3.1.1 (the levels v2, v3, v4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rnnc.backends.llvm.asm.library import binding, use

TRIPLE = "x86_64-unknown-linux-gnu"


class _Needed(NamedTuple):
    """The bits that a level needs: of cpuid's leaf 1 (ecx), 7 (ebx), 0x80000001 (ecx), and of the saved registers."""

    basic: int
    extended: int
    amd: int
    registers: int


def _bits(*numbers: int) -> int:
    return sum(1 << number for number in numbers)


_V3 = _Needed(
    basic=_bits(12, 22, 27, 28, 29),  # fma, movbe, osxsave, avx, f16c
    extended=_bits(3, 5, 8),  # bmi1, avx2, bmi2
    amd=_bits(5),  # lzcnt
    registers=_bits(1, 2),  # xmm, ymm
)
_V4 = _Needed(
    basic=_V3.basic,
    extended=_V3.extended | _bits(16, 17, 28, 30, 31),  # avx512f, dq, cd, bw, vl
    amd=_V3.amd,
    registers=_V3.registers | _bits(5, 6, 7),  # masks, zmm
)
NEEDED = {"x86-64-v3": _V3, "x86-64-v4": _V4}

_CPUID = (
    'call {i32, i32, i32, i32} asm sideeffect "cpuid", '
    '"={ax},={bx},={cx},={dx},{ax},{cx},~{dirflag},~{fpsr},~{flags}"(i32 %leaf, i32 0)'
)

_CPU = f"""
define internal i32 @cpuid(i32 %leaf, i1 %third) nounwind {{
  %all = {_CPUID}
  %b = extractvalue {{i32, i32, i32, i32}} %all, 1
  %c = extractvalue {{i32, i32, i32, i32}} %all, 2
  %r = select i1 %third, i32 %c, i32 %b
  ret i32 %r
}}

define internal i32 @largest(i32 %leaf) nounwind {{
  %all = {_CPUID}
  %r = extractvalue {{i32, i32, i32, i32}} %all, 0
  ret i32 %r
}}

define internal i1 @holds(i32 %has, i32 %needs) nounwind {{
  %both = and i32 %has, %needs
  %r = icmp eq i32 %both, %needs
  ret i1 %r
}}

define internal i1 @runs(i32 %basic, i32 %extended, i32 %amd, i32 %registers) nounwind {{
  %leaf1 = call i32 @cpuid(i32 1, i1 true)
  %has.basic = call i1 @holds(i32 %leaf1, i32 %basic)
  %most = call i32 @largest(i32 0)
  %reaches = icmp uge i32 %most, 7
  %most.amd = call i32 @largest(i32 u0x80000000)
  %reaches.amd = icmp uge i32 %most.amd, u0x80000001
  %two = and i1 %reaches, %reaches.amd
  %askable = and i1 %two, %has.basic
  br i1 %askable, label %more, label %no
more:
  %leaf7 = call i32 @cpuid(i32 7, i1 false)
  %has.extended = call i1 @holds(i32 %leaf7, i32 %extended)
  %leaf.amd = call i32 @cpuid(i32 u0x80000001, i1 true)
  %has.amd = call i1 @holds(i32 %leaf.amd, i32 %amd)
  %saved = call {{i32, i32}} asm sideeffect "xgetbv", "={{ax}},={{dx}},{{cx}}"(i32 0)
  %low = extractvalue {{i32, i32}} %saved, 0
  %has.registers = call i1 @holds(i32 %low, i32 %registers)
  %a = and i1 %has.extended, %has.amd
  %b = and i1 %a, %has.registers
  ret i1 %b
no:
  ret i1 false
}}
"""


def dispatcher(prefix: str, functions: Sequence[str], variants: Mapping[str, str]) -> bytes:
    """An object file for x86-64 that defines each function as the best of its variants.

    functions: their names, without the prefix and the "_" behind it. variants: level ("x86-64-v2", ...) -> the prefix
    of that variant, lowest level first: the lowest one is taken where no other runs.
    """
    text = [_CPU]
    for function in functions:
        symbol = f"{prefix}_{function}"
        names = {level: f"{own}_{function}" for level, own in variants.items()}
        text += [f'declare hidden void @"{name}"()' for name in names.values()]
        text += [_resolver(symbol, names), f'@"{symbol}" = ifunc void (), ptr @"{symbol}__choice"']
    return use(lambda: _compiled("\n".join(text)))


def _resolver(function: str, names: Mapping[str, str]) -> str:
    """A function that returns the best variant, tried from the best one on."""
    (_, lowest), *better = names.items()
    lines = [f'define internal ptr @"{function}__choice"() nounwind {{']
    for level, name in reversed(better):
        needs = ", ".join(f"i32 u0x{bits:08x}" for bits in NEEDED[level])
        lines += [
            f'  %"{level}" = call i1 @runs({needs})',
            f'  br i1 %"{level}", label %"take {level}", label %"not {level}"',
            f'"take {level}":',
            f'  ret ptr @"{name}"',
            f'"not {level}":',
        ]
    return "\n".join([*lines, f'  ret ptr @"{lowest}"', "}"])


def _compiled(text: str) -> bytes:
    llvm = binding()
    machine = llvm.Target.from_triple(TRIPLE).create_target_machine(cpu="x86-64", opt=2, reloc="pic", codemodel="small")
    module = llvm.parse_assembly(text)
    module.triple, module.data_layout = TRIPLE, str(machine.target_data)
    module.verify()
    content: bytes = machine.emit_object(module)
    return content
