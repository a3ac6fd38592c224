"""Wheels: a model as a Python package with its library, a typed function, and NumPy as its only dependency.

Source of the format: PyPA's binary distribution format (PEP 427), platform tags (PEP 600).
"""

from __future__ import annotations

import base64
import hashlib
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rnnc.checking.arguments import explained
from rnnc.exporting.export import HOST, export, target_names
from rnnc.ir.errors import ArgumentError

if TYPE_CHECKING:
    from os import PathLike

    from rnnc.backends.llvm.portable.interface import CInterface
    from rnnc.exporting.network import Exportable

__all__ = ["export_wheel"]

PLATFORMS = {
    "x86-64": "manylinux_2_17_x86_64.manylinux2014_x86_64",
    "x86-64-v2": "manylinux_2_17_x86_64.manylinux2014_x86_64",
    "x86-64-v3": "manylinux_2_17_x86_64.manylinux2014_x86_64",
    "x86-64-v4": "manylinux_2_17_x86_64.manylinux2014_x86_64",
    "aarch64": "manylinux_2_17_aarch64.manylinux2014_aarch64",
    "armv7": "manylinux_2_17_armv7l.manylinux2014_armv7l",
    "riscv64": "manylinux_2_31_riscv64",
    "riscv64-v": "manylinux_2_31_riscv64",
    "macos-arm64": "macosx_11_0_arm64",
    "windows-x86-64": "win_amd64",
}
"""Target -> the platform tag of its wheel. The libraries for Linux need nothing of the system but a loader."""

_LONG_AGO = (1980, 1, 1, 0, 0, 0)
"""The date of all files in a wheel, so that the same model gives the same wheel."""

_PACKAGE = '''\
"""{summary}

    output, state = {name}.run(x)            # x: {shape}
    output, state = {name}.run(more, state)  # goes on from there
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from {name}._loader import Library

__all__ = ["about", "run"]

_library = Library(Path(__file__).with_name("{library}"))

about: dict[str, Any] = _library.about


def run(
    x: {x_type}, state: {state_type} | None = None, *, lengths: NDArray[np.int64] | None = None
) -> tuple[{output_type}, {state_type}]:
    """(output, state). See the description of this package for shapes; raises ValueError, TypeError or OSError."""
    output, last = _library(x, state, lengths=lengths)
    return output, last
'''


@explained
def export_wheel(
    model: Exportable,
    folder: str | PathLike[str],
    name: str = "model",
    *,
    targets: str | Sequence[str] = HOST,
    kind: str | None = None,
    version: str = "1.0",
) -> tuple[Path, ...]:
    """Writes a wheel per target, which pip installs: a package NAME with a function `run`. Returns their paths.

    model, name, targets, kind: see `rnnc.export`. version: of the package.
    Raises what `rnnc.export` raises, and ArgumentError for a machine without Python or whose linker is missing.
    """
    names = target_names(targets)
    for target in names:
        if target not in PLATFORMS:
            raise ArgumentError(f"targets: {target!r} has no wheels, only {', '.join(PLATFORMS)} have")
    found = []
    with tempfile.TemporaryDirectory() as built:
        made = export(model, built, name, targets=names, kind=kind)
        for target in names:
            if target not in made.libraries:
                raise ArgumentError(f"targets: {target}: {' '.join(made.notes)}")
            path = Path(folder) / f"{name}-{version}-py3-none-{PLATFORMS[target]}.whl"
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(path, _content(made.interface, made.libraries[target], Path(built), version, PLATFORMS[target]))
            found.append(path)
    return tuple(found)


def _content(api: CInterface, library: Path, built: Path, version: str, platform: str) -> dict[str, bytes]:
    """Name -> content of each file, without the record."""
    name, info = api.name, f"{api.name}-{version}.dist-info"
    tags = "".join(f"Tag: py3-none-{tag}\n" for tag in platform.split("."))
    wheel = f"Wheel-Version: 1.0\nGenerator: rnnc\nRoot-Is-Purelib: false\n{tags}"
    summary = f"{name}: a network, compiled to machine code"
    metadata = (
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nSummary: {summary}\nRequires-Python: >=3.10\n"
        f"Requires-Dist: numpy>=1.22\nDescription-Content-Type: text/plain\n\n{_described(api)}\n"
    )
    return {
        f"{name}/__init__.py": _module(api, library.name, summary).encode(),
        f"{name}/_loader.py": (built / f"{name}.py").read_bytes(),
        f"{name}/py.typed": b"",
        f"{name}/{library.name}": library.read_bytes(),
        f"{info}/METADATA": metadata.encode(),
        f"{info}/WHEEL": wheel.encode(),
    }


def _module(api: CInterface, library: str, summary: str) -> str:
    arrays = f"NDArray[np.{api.dtype}]"
    x_type = _of_one_or_several("NDArray[np.integer[Any]]" if api.inputs[0].rows else arrays, len(api.inputs) > 1)
    several = len(api.outputs) > 1 or bool(api.outputs[0].columns)
    state = "NDArray[np.uint8]" if api.streams else f"dict[str, {arrays}]"
    return _PACKAGE.format(
        summary=summary,
        name=api.name,
        shape=_shape(api),
        library=library,
        x_type=x_type,
        output_type=_of_one_or_several(arrays, several),
        state_type=state,
    )


def _of_one_or_several(array: str, several: bool) -> str:
    return f"dict[str, {array}]" if several else array


def _shape(api: CInterface) -> str:
    port = api.inputs[0]
    if port.rows:
        return f"(T,) integers below {port.rows}"
    width = port.width // max(port.steps, 1)
    lead = "" if port.steps == 0 else "T, " if api.streams or not api.batch_first else "B, T, "
    return f"({lead}{width}{',' if not lead else ''}) {port.dtype}"


def _described(api: CInterface) -> str:
    lines = [api.description, ""]
    for kind, ports in (("input", api.inputs), ("output", api.outputs)):
        for port in ports:
            what = (
                f"integers in 0..{port.rows - 1}" if port.rows else f"{port.width // max(port.steps, 1)} {port.dtype}"
            )
            lines.append(f"{kind} {port.label}: {what} {'per step' if port.steps else 'per sequence'}")
    return "\n".join(lines)


def _write(path: Path, content: Mapping[str, bytes]) -> None:
    info = next(name for name in content if name.endswith("/WHEEL")).partition("/")[0]
    record = "".join(f"{name},sha256={_digest(data)},{len(data)}\n" for name, data in content.items())
    files = {**content, f"{info}/RECORD": f"{record}{info}/RECORD,,\n".encode()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, _LONG_AGO)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            out.writestr(entry, data)


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
