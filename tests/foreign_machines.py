"""Machines whose code is run here: this one as it is, others with Debian's cross compilers under qemu.

On Debian: apt install gcc-aarch64-linux-gnu gcc-riscv64-linux-gnu gcc-arm-linux-gnueabihf qemu-user
"""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Machine:
    """A machine with Linux. flags: of its ABI, in the header of a library, beside those of object files."""

    name: str
    triple: str
    features: str
    compiler: str
    runner: tuple[str, ...] = ()
    flags: int = 0

    @property
    def is_here(self) -> bool:
        """Whether its programs run without an emulator."""
        return platform.machine() == self.name.partition("-")[0]

    def need(self) -> None:
        """Skips the test if there is no compiler for the machine, or nothing that runs its programs."""
        for tool in (self.compiler, *self.runner[:1]):
            if shutil.which(tool) is None:
                pytest.skip(f"{self.name}: {tool} is not installed")

    def build(self, sources: Sequence[Path], out: Path, *flags: str) -> Path:
        """Compiles C sources, and links them with libraries among `flags`."""
        command = [self.compiler, "-std=c99", "-O1", "-Wall", "-Wextra", "-Werror", *map(str, sources)]
        subprocess.run([*command, "-o", str(out), *flags], check=True)
        return out

    def run(self, program: Path, *arguments: str) -> str:
        """What a program prints."""
        command = [*self.runner, str(program), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


X86_64 = Machine("x86_64", "x86_64-unknown-linux-gnu", "", "cc")
MACHINES = (
    X86_64,
    Machine(
        "aarch64",
        "aarch64-unknown-linux-gnu",
        "+neon",
        "aarch64-linux-gnu-gcc",
        ("qemu-aarch64", "-L", "/usr/aarch64-linux-gnu"),
    ),
    Machine(
        "riscv64",
        "riscv64-unknown-linux-gnu",
        "+m,+a,+f,+d,+c",
        "riscv64-linux-gnu-gcc",
        ("qemu-riscv64", "-L", "/usr/riscv64-linux-gnu"),
    ),
    Machine(
        "armv7",
        "armv7-unknown-linux-gnueabihf",
        "+neon,+vfp3",
        "arm-linux-gnueabihf-gcc",
        ("qemu-arm", "-L", "/usr/arm-linux-gnueabihf"),
        0x400,  # EF_ARM_ABI_FLOAT_HARD
    ),
)
