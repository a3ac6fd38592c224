"""Object files: texts of LLVM assembly compiled by LLVM's code generator, on several threads.

The objects of the texts compiled last are kept, so that an equal text takes its object.

llvmlite calls LLVM under a lock of its own. Here the long call, to the code generator, is made without it. LLVM allows
that, because each text has a context and a target machine that no other thread sees. All threads end before the
function returns, so that LLVM is still in the hands of one piece of work at a time (`rnnc.backends.llvm.asm.library`).

Loop strength reduction is left out on x86-64. The loops of generated code count in one variable and address memory by
it, so that the pass finds nothing to do, and takes a fourth of the time of a compile for it. (Code without it took 0.97
to 1.03 of the time on a Zen 5, in inference of six recurrences of one to 16 rows.) The option belongs to the process,
so it is set only meanwhile.
"""

from __future__ import annotations

import _thread
import ctypes
import re
import traceback
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from rnnc.backends.llvm.asm.library import binding
from rnnc.backends.llvm.asm.target import Target
from rnnc.ir import settings

if TYPE_CHECKING:
    import llvmlite.binding as llvm

KEPT_BYTES = 1 << 24
"""The total size of the objects that are kept in memory."""

_kept: OrderedDict[tuple[str, Target, str, int], bytes] = OrderedDict()
"""Text, target, triple and RNNC_CODEGEN -> an object. Only work within `library.use` reads and writes it."""

T = TypeVar("T")


def object_files(texts: Sequence[str], target: Target, triple: str) -> tuple[bytes, ...]:
    """The position-independent object file of each text. It must be called within `library.use`.

    Raises RuntimeError if LLVM rejects a text, which is a bug of the generator.
    """
    keys = [(text, target, triple, settings.codegen()) for text in texts]
    missing = sorted({key for key in keys if key not in _kept}, key=lambda key: -len(key[0]))
    with _without_strength_reduction(triple):
        made = _shared_out([partial(_compiled, text, target, triple) for text, *_ in missing], settings.threads())
    _kept.update(zip(missing, made, strict=True))
    for key in keys:
        _kept.move_to_end(key)
    found = tuple(_kept[key] for key in keys)
    while sum(map(len, _kept.values())) > KEPT_BYTES:
        _kept.popitem(last=False)
    return found


def assembly_of(text: str, target: Target, triple: str, *, labels: bool = False) -> str:
    """The machine code of a text, as text. It must be called within `library.use`.

    labels: with LLVM's comments, which give the labels of the text and the nests of loops.
    """
    with _without_strength_reduction(triple):
        machine = machine_for(target, triple)
        machine.set_asm_verbosity(labels)
        return str(machine.emit_assembly(_parsed(text, target, None)))


def code_model(triple: str) -> str:
    """LLVM's code model, which says how far apart code and its constants may lie in memory.

    LLVM allocates memory for each wherever it is free. In a process that has mapped more than 2 GB, they may be too far
    apart for the 32-bit distances of x86-64's small model, and LLVM then aborts the process. The large model has 64-bit
    distances, which are loaded outside of loops. AArch64 has no large model for position-independent code.
    """
    return "large" if triple.startswith("x86_64") else "small"


def machine_for(target: Target, triple: str) -> llvm.TargetMachine:
    """LLVM's code generator for a target."""
    return binding().Target.from_triple(triple).create_target_machine(
        cpu=target.cpu,
        features=target.features,
        opt=settings.codegen(),
        reloc="pic",
        codemodel=code_model(triple),
    )


def _compiled(text: str, target: Target, triple: str) -> bytes:
    """The object file of a text."""
    llvm = binding()
    with closing(llvm.create_context()) as context, closing(_parsed(text, target, context)) as module:
        with closing(machine_for(target, triple)) as machine:
            return _emitted(machine, module)


def _parsed(text: str, target: Target, context: llvm.ContextRef | None) -> llvm.ModuleRef:
    """A module whose functions are tuned for the target's processor model."""
    if target.tuning:
        text = re.sub(r"(?<=\n)define .*(?= \{\n)", rf'\g<0> "tune-cpu"="{target.tuning}"', f"\n{text}")
    module = binding().parse_assembly(text, context)
    module.verify()
    return module


def _emitted(machine: llvm.TargetMachine, module: llvm.ModuleRef) -> bytes:
    """`machine.emit_object(module)` without llvmlite's lock. A llvmlite that hides its functions otherwise keeps it."""
    ffi = binding().ffi
    locked = ffi.lib.LLVMPY_TargetMachineEmitToMemory
    emit = getattr(locked, "_cfn", locked)
    with ffi.OutputString() as error:
        buffer = emit(machine, module, 1, error)
        if not buffer:
            raise RuntimeError(str(error))
    try:
        start, size = ffi.lib.LLVMPY_GetBufferStart(buffer), ffi.lib.LLVMPY_GetBufferSize(buffer)
        return ctypes.string_at(start, size)
    finally:
        ffi.lib.LLVMPY_DisposeMemoryBuffer(buffer)


@contextmanager
def _without_strength_reduction(triple: str) -> Iterator[None]:
    """A context in which LLVM leaves out loop strength reduction for x86-64."""
    if not triple.startswith("x86_64"):
        yield
        return
    set_option = binding().set_option
    set_option("rnnc", "-disable-lsr")
    try:
        yield
    finally:
        set_option("rnnc", "-disable-lsr=false")


def _shared_out(jobs: Sequence[Callable[[], T]], threads: int) -> list[T]:
    """The results of jobs, which this thread and others take one by one. Raises the exception of one that fails."""
    todo, results, errors = deque(range(len(jobs))), dict[int, T](), list[BaseException]()

    def work() -> None:
        while todo and not errors:
            try:
                number = todo.popleft()
            except IndexError:  # another thread took the last job
                return
            try:
                results[number] = jobs[number]()
            except BaseException as error:
                traceback.clear_frames(error.__traceback__)  # frames that hold objects of llvmlite
                errors.append(error)

    def assist(bell: _thread.LockType) -> None:
        try:
            work()
        finally:
            bell.release()

    bells = []
    for _ in range(min(threads, len(jobs)) - 1):
        bell = _thread.allocate_lock()
        bell.acquire()
        try:
            _thread.start_new_thread(assist, (bell,))
        except RuntimeError:  # at exit, or at the system's limit
            break
        bells.append(bell)
    work()
    for bell in bells:
        bell.acquire()
    if errors:
        raise errors[0]
    return [results[number] for number in range(len(jobs))]
