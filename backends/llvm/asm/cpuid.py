"""What the processor says about itself. LLVM derives its model and its features from these numbers alone.

So the numbers name a machine for entries of the cache, and LLVM need not be asked. The leaves are those that LLVM reads
(llvm/lib/TargetParser/Host.cpp); without the number of the core that runs the instruction, which is in leaf 1, too.
"""

from __future__ import annotations

import ctypes

from rnnc.backends.llvm.asm.image import Image, Mapped, can_map

_CODE = bytes.fromhex(
    # void cpuid(uint32 leaf, uint32 subleaf, uint32 registers[4])
    "53 4989d0 89f8 89f1 0fa2 418900 41895804 41894808 4189500c 5b c3 9090909090"
    # void xgetbv(uint32 registers[2]): the registers that the system saves
    "31c9 0f01d0 8907 895704 c3"
)
_IMAGE = Image(_CODE + bytes(-len(_CODE) % 8), {"cpuid": 0, "xgetbv": 32}, -(-len(_CODE) // 8) * 8, ())
_LEAVES = ((0, 0), (1, 0), (7, 0), (7, 1), (0xD, 1), (0x14, 0), (0x19, 0), (0x24, 0))
_EXTENDED = ((0x80000001, 0), (0x80000008, 0))
_OSXSAVE, _XCR0 = 1 << 27, -1


def identity() -> str | None:
    """A text that is equal on machines for which LLVM makes the same code; None if this machine cannot be asked."""
    if not can_map():
        return None
    code = Mapped(_IMAGE, {})
    registers = (ctypes.c_uint32 * 4)()
    cpuid = ctypes.CFUNCTYPE(None, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p)(code.addresses["cpuid"])
    found = []
    for first, leaves in ((0, _LEAVES), (0x80000000, _EXTENDED)):
        cpuid(first, 0, registers)
        highest = registers[0]
        for leaf, subleaf in leaves:
            if leaf <= highest:
                cpuid(leaf, subleaf, registers)
                eax, ebx, ecx, edx = registers
                found.append((leaf, subleaf, eax, 0 if leaf in (1, 0xD) else ebx, ecx, edx))
    if any(leaf == 1 and ecx & _OSXSAVE for leaf, _, _, _, ecx, _ in found):
        ctypes.CFUNCTYPE(None, ctypes.c_void_p)(code.addresses["xgetbv"])(registers)
        found.append((_XCR0, 0, registers[0], 0, 0, registers[1]))
    return repr(found)
