"""Linkers of other systems, as optional tools: for WebAssembly, macOS and Windows."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rnnc.backends.llvm.portable.machines import PortableMachine

SHARED_SUFFIX = {"linux": ".so", "macos": ".dylib", "windows": ".dll", "wasm": ".wasm"}
"""System -> the end of the name of a shared library."""

_ZIG = {"wasm": "wasm32-freestanding", "macos": "aarch64-macos", "windows": "x86_64-windows-gnu"}


def linked(machine: PortableMachine, object_file: Path, name: str, exports: Sequence[str]) -> tuple[Path | None, str]:
    """The shared library of an object file, made by a linker that is installed; and a note: what made it, or would.

    It is None where no linker is found, or the one that is found fails; the note then says what to do.
    """
    out = object_file.with_name(
        f"{name}.wasm" if machine.system == "wasm" else f"lib{name}{SHARED_SUFFIX[machine.system]}"
    )
    command = _command(machine, object_file, out, exports)
    shown = " ".join(str(part) for part in command[1]) if command else ""
    if command is None or not command[0]:
        tool = "wasm-ld (of LLVM: apt install lld) or zig" if machine.system == "wasm" else "zig"
        return None, f"{out.name}: not linked, {tool} is missing: pip install ziglang; then: {shown}"
    run = subprocess.run([str(part) for part in command[1]], capture_output=True, text=True)
    if run.returncode or not out.exists():
        reason = run.stderr.strip().splitlines()[:1]
        return None, f"{out.name}: not linked: {' '.join(reason)}; by hand: {shown}"
    for extra in (out.with_suffix(".pdb"), out.with_suffix(".lib")):
        extra.unlink(missing_ok=True)
    return out, f"{out.name}: linked by {shown}"


def _command(
    machine: PortableMachine, object_file: Path, out: Path, exports: Sequence[str]
) -> tuple[bool, list[object]]:
    """Whether the tool is there, and the command that links."""
    zig = _zig()
    if machine.system == "wasm":
        # The page's own code places states and arrays behind the library's data and stack.
        options = ["--no-entry", "--export=__heap_base", *(f"--export={name}" for name in exports)]
        tool = shutil.which("wasm-ld")
        if tool or zig is None:
            return tool is not None, [tool or "wasm-ld", *options, object_file, "-o", out]
        return True, [*zig, "wasm-ld", *options, object_file, "-o", out]
    base = zig or [sys.executable, "-m", "ziglang"]
    return zig is not None, [*base, "cc", "-target", _ZIG[machine.system], "-shared", object_file, "-o", out]


def _zig() -> list[object] | None:
    if tool := shutil.which("zig"):
        return [tool]
    if importlib.util.find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang"]
    return None
