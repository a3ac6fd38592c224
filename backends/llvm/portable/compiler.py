"""LLVM for other machines, in a process of its own.

LLVM ends its process where it cannot compile a function: some of its code generators do so at times, such as that of
Cortex-M for a function with a large frame. In a child process this is an error, and the caller's process goes on. One
child serves all objects of a process, so that it is started, in some 0.2 s, once.

    parent -> child: the length of a request, 8 bytes, and the pickled request
    child -> parent: the length of the answer, 8 bytes, and the bytes of the object file
"""

from __future__ import annotations

import atexit
import os
import pickle
import struct
import subprocess
import sys
import tempfile
from typing import BinaryIO, NamedTuple

from rnnc.ir.errors import BackendError

_LENGTH = struct.Struct("<Q")


class ObjectRequest(NamedTuple):
    """A module, and the machine to compile it for, as LLVM names it."""

    text: str
    triple: str
    cpu: str
    features: str
    opt: int
    relocation: str
    abi: str


def compile_object(request: ObjectRequest, machine: str) -> bytes:
    """The object file. machine: what the user calls it. Raises BackendError with LLVM's words if LLVM fails."""
    child = _child()
    try:
        _write(child.stdin, pickle.dumps(request))
        return _read(child.stdout)
    except (BrokenPipeError, EOFError):
        why = _end(child)
        raise BackendError(f"{machine}: LLVM cannot compile this for it: {why}; leave this machine out") from None


class _Child(NamedTuple):
    process: subprocess.Popen[bytes]
    errors: BinaryIO
    parent: int

    @property
    def stdin(self) -> BinaryIO:
        """Where it reads requests."""
        assert self.process.stdin is not None
        return self.process.stdin  # type: ignore[return-value]

    @property
    def stdout(self) -> BinaryIO:
        """Where it writes answers."""
        assert self.process.stdout is not None
        return self.process.stdout  # type: ignore[return-value]


_running: list[_Child] = []


def _child() -> _Child:
    """The child of this process. A fork's child starts its own."""
    if _running and _running[0].parent == os.getpid():
        return _running[0]
    _running.clear()
    errors = tempfile.TemporaryFile()
    start = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import serve; serve()"
    command, pipe = [sys.executable, "-c", start], subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors)
    _running.append(_Child(process, errors, os.getpid()))
    atexit.register(_close)
    return _running[0]


def _end(child: _Child) -> str:
    """Waits for the end of a child that failed. Returns the last line that it wrote to stderr."""
    child.process.wait()
    _running.clear()
    child.errors.seek(0)
    lines = child.errors.read().decode(errors="replace").strip().splitlines()
    told = [line for line in lines if "LLVM ERROR" in line or "Assertion" in line or "Error: " in line]
    return (told or lines or [f"exit status {child.process.returncode}"])[-1].strip()


def _close() -> None:
    for child in _running:
        if child.parent == os.getpid():
            child.stdin.close()
            child.process.wait()


def _write(file: BinaryIO, content: bytes) -> None:
    file.write(_LENGTH.pack(len(content)) + content)
    file.flush()


def _read(file: BinaryIO) -> bytes:
    head = file.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError
    (length,) = _LENGTH.unpack(head)
    content = file.read(length)
    if len(content) < length:
        raise EOFError
    return content


# ---- the child


def serve() -> None:
    """Answers requests until there are no more."""
    source, target = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # nothing else may write to the pipe
    while True:
        try:
            request: ObjectRequest = ObjectRequest(*pickle.loads(_read(source)))
        except EOFError:
            return
        _write(target, _object(request))


def _object(request: ObjectRequest) -> bytes:
    import llvmlite.binding as llvm

    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    target = llvm.Target.from_triple(request.triple).create_target_machine(
        cpu=request.cpu,
        features=request.features,
        opt=request.opt,
        reloc=request.relocation,
        codemodel="small",
        abiname=request.abi,
    )
    module = llvm.parse_assembly(request.text)
    module.triple, module.data_layout = request.triple, str(target.target_data)
    module.verify()
    return bytes(target.emit_object(module))
