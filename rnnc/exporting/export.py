"""`rnnc.export`: a bound model as libraries for named machines, with all that a program needs to call them."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rnnc.checking import checks
from rnnc.checking.arguments import explained
from rnnc.exporting.header import header
from rnnc.ir.errors import ArgumentError, ArgumentTypeError, FileError

if TYPE_CHECKING:
    from os import PathLike

    from rnnc.backends.llvm.portable.interface import CInterface, PortableNetwork, PortableObject
    from rnnc.exporting.network import Exportable

__all__ = ["Exported", "export"]

FAT = {"x86-64": ("x86-64-v2", "x86-64-v3", "x86-64-v4")}
"""Names of libraries that choose, when they are loaded, the best code that the processor runs."""

HOST = "host"
WEIGHTS = ("embedded", "file")
SIZES = ("fast", "small")


@dataclass(frozen=True)
class Exported:
    """What `rnnc.export` wrote. files: all of them. interface: what the libraries offer.

    libraries: target -> its shared library, where one was linked. notes: what was not linked, and what does it.
    report: the sizes of functions and constants, per machine, as text.
    """

    folder: Path
    interface: CInterface
    files: tuple[Path, ...]
    libraries: dict[str, Path]
    notes: tuple[str, ...]
    report: str = field(repr=False)

    def __str__(self) -> str:
        listed = [f"{path.stat().st_size:>10,}   {path.relative_to(self.folder)}" for path in self.files]
        return "\n".join([f"{self.folder}: {self.interface.name}, {self.interface.kind}", *listed, *self.notes])


@explained
def export(
    model: Exportable,
    folder: str | PathLike[str],
    name: str = "model",
    *,
    targets: str | Sequence[str] = HOST,
    weights: str = "embedded",
    kind: str | None = None,
    size: str = "fast",
) -> Exported:
    """Writes a model as native libraries that need neither Python nor rnnc, nor any other library.

    model: of `rnnc.compile(spec, params)`, of a network's `compile`, of `rnnc.from_onnx` or `rnnc.from_torch`. Weights
        are as it has them: narrow ones stay narrow.
    folder: where the files go: NAME.h and NAME.py, a loader that needs NumPy alone; and per target a folder with an
        object file, an archive (.a) and a shared library, and NAME.weights with weights="file".
    name: of the library; its functions are NAME_step and so on. An identifier of C.
    targets: "host", "x86-64" (which chooses among v2, v3 and v4 when it is loaded), or names of
        `rnnc.backends.llvm.portable.machines`. Libraries for Linux need no linker; for WebAssembly wasm-ld or the
        package ziglang is used, for macOS and Windows ziglang. Without them, object files are written alone.
    weights: "embedded", or "file": of each target a file of its own, which a program reads or maps.
    size: "fast", or "small" for a microcontroller: a third of the code, which takes longer.
    kind: "stream" (frame by frame, with a state) or "whole" (whole sequences at once). Default: a stream if the network
        can be one.
    Raises ArgumentError, ArgumentTypeError, BackendError, or FileError if a file cannot be written.
    """
    from rnnc.exporting.network import KINDS, portable

    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII):
        raise ArgumentError(f"name: expected an identifier of C that begins with a letter, got {name!r}")
    chosen = target_names(targets)
    checks.choice("weights", weights, WEIGHTS)
    checks.choice("size", size, SIZES)
    if kind is not None:
        checks.choice("kind", kind, KINDS)
    if weights == "file" and (fat := [target for target in chosen if target in FAT]):
        machines = ", ".join(FAT[fat[0]])
        raise ArgumentError(f"weights: {fat[0]!r} chooses among machines with files of their own; name one: {machines}")
    network = portable(model, name, weights=weights, kind=kind)
    try:
        return _Writer(network, Path(folder), small=size == "small").write(chosen)
    except OSError as error:
        raise FileError(f"folder: cannot write {error.filename!r}: {error.strerror}") from error


def host() -> str:
    """The target of this machine: the name of its most portable library. Raises ArgumentError if there is none."""
    machine, system = platform.machine().lower(), sys.platform
    known = {
        ("x86_64", "linux"): "x86-64",
        ("aarch64", "linux"): "aarch64",
        ("armv7l", "linux"): "armv7",
        ("riscv64", "linux"): "riscv64",
        ("arm64", "darwin"): "macos-arm64",
        ("amd64", "win32"): "windows-x86-64",
    }
    if (machine, system) not in known:
        raise ArgumentError(f"targets: there is no target for this machine, {machine} with {system}; name others")
    return known[machine, system]


def target_names(given: object) -> list[str]:
    """The targets that an argument names. Raises ArgumentError or ArgumentTypeError."""
    from rnnc.backends.llvm.portable.machines import MACHINES

    names = [given] if isinstance(given, str) else list(given) if isinstance(given, (list, tuple)) else None
    if not names:
        raise ArgumentTypeError(f"targets: expected names of machines, got {checks.came(given)}")
    known = (HOST, *FAT, *MACHINES)
    for name in names:
        checks.choice("targets", name, known)
    return list(dict.fromkeys(host() if name == HOST else name for name in names))


class _Writer:
    """Writes the files of one export."""

    def __init__(self, network: PortableNetwork, folder: Path, *, small: bool) -> None:
        self.network, self.folder, self.small = network, folder, small
        self.api, self.name = network.interface, network.interface.name
        self.files: list[Path] = []
        self.libraries: dict[str, Path] = {}
        self.notes: list[str] = []
        self.reports: list[str] = []

    def write(self, targets: Sequence[str]) -> Exported:
        """All files of some targets."""
        for target in targets:
            made = self._objects(target)
            for each in made.values():
                self.api = self.api.with_state_bytes(each.interface.state_bytes)
            self._target(target, made)
        self._file(f"{self.name}.h", header(self.api).encode())
        loader = Path(__file__).with_name("loader.py").read_bytes()
        self._file(f"{self.name}.py", loader)
        return Exported(
            self.folder, self.api, tuple(self.files), self.libraries, tuple(self.notes), "\n\n".join(self.reports)
        )

    def _objects(self, target: str) -> dict[str, PortableObject]:
        """Machine -> object file. Those of a library that chooses have names of their own."""
        from dataclasses import replace

        from rnnc.backends.llvm.portable.emission import emit
        from rnnc.backends.llvm.portable.machines import machine

        if target not in FAT:
            return {target: emit(self.network, machine(target), small=self.small)}
        found = {}
        for level in FAT[target]:
            own = replace(self.network.interface, symbols=_variant(self.name, level))
            found[level] = emit(replace(self.network, interface=own), machine(level), small=self.small)
        return found

    def _target(self, target: str, made: dict[str, PortableObject]) -> None:
        from rnnc.backends.llvm.portable.machines import machine
        from rnnc.exporting.linking.archive import archive
        from rnnc.exporting.linking.shared_object import shared_object
        from rnnc.exporting.sizes import report

        first = machine(next(iter(made)))
        exports = [f"{self.name}_{function.name}" for function in self.api.functions]
        objects = {self._object_name(level, target): each.content for level, each in made.items()}
        if target in FAT:
            objects[f"{self.name}-dispatch.o"] = self._dispatcher(made)
        paths = [self._file(f"{target}/{name}", content) for name, content in objects.items()]
        if first.format == "elf":
            self._file(f"{target}/lib{self.name}.a", archive(objects))
            self.reports += [f"{level}\n{report(each.content)}" for level, each in made.items()]
        if first.format == "elf" and first.system == "linux":
            soname = f"lib{self.name}.so"
            content = shared_object(list(objects.values()), soname, exported=exports, flags=first.elf_flags)
            self.libraries[target] = self._file(f"{target}/{soname}", content)
        elif first.system != "none":
            self._link(target, paths[0], exports)
        for each in made.values():
            if each.weights is not None:
                self._file(f"{target}/{self.name}.weights", each.weights)

    def _object_name(self, level: str, target: str) -> str:
        suffix = "obj" if level.startswith("windows") else "o"
        return f"{self.name}-{level}.{suffix}" if target in FAT else f"{self.name}.{suffix}"

    def _dispatcher(self, made: dict[str, PortableObject]) -> bytes:
        from rnnc.exporting.linking.dispatch import dispatcher

        functions = [function.name for function in self.api.functions]
        prefixes = {level: _variant(self.name, level) for level in made}
        return dispatcher(self.name, functions, prefixes)

    def _link(self, target: str, path: Path, exports: Sequence[str]) -> None:
        from rnnc.backends.llvm.portable.machines import machine
        from rnnc.exporting.tools import linked

        library, note = linked(machine(target), path, self.name, exports)
        self.notes.append(f"{target}: {note}")
        if library is not None:
            self.libraries[target] = library
            self.files.append(library)

    def _file(self, name: str, content: bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        self.files.append(path)
        return path


def _variant(name: str, level: str) -> str:
    """The names of the functions of one of several machines begin with this."""
    return f"{name}__{level.replace('-', '_')}"
