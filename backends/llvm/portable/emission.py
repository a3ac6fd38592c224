"""Emission: a bound network as an object file for a machine.

    rolled -> plan -> module whose scratch memory is lent  +  entries  +  runtime
           -> one text in which nothing is declared but LLVM's own -> LLVM's code generator for the machine

Weights are packed on this machine, by the packer of the backend, in the layout of the other one's register tile.
"""

from __future__ import annotations

import ctypes

from rnnc.backends.llvm.asm.builder import Module
from rnnc.backends.llvm.asm.jit import compile_assembly
from rnnc.backends.llvm.asm.target import Dots, Target, host
from rnnc.backends.llvm.code import LlvmCode
from rnnc.backends.llvm.kernels.plan_module import Emitted, emit_plan
from rnnc.backends.llvm.portable.blob import Blob
from rnnc.backends.llvm.portable.compiler import ObjectRequest, compile_object
from rnnc.backends.llvm.portable.entries import Entries
from rnnc.backends.llvm.portable.interface import PortableNetwork, PortableObject
from rnnc.backends.llvm.portable.machines import PortableMachine
from rnnc.backends.llvm.portable.self_contained import text_of, with_runtime
from rnnc.ir import settings

LEAST_EFFORT = 1
"""Of LLVM's code generator: without any (RNNC_CODEGEN=0), that of Cortex-M fails for large frames."""


def emit(network: PortableNetwork, machine: PortableMachine, *, small: bool = False) -> PortableObject:
    """The object file of a network for a machine, with no undefined symbol. Its functions are those of its interface.

    small: code is to be small rather than fast. Raises BackendError if LLVM has no code generator for the machine.
    """
    api, target = network.interface, machine.small_target if small else machine.target
    code = LlvmCode(network.computation, 1, _shaped_like(target), network.product)
    emitted = emit_plan(code.plan, target, lent=True)
    blob = _blob(network, code)
    entries = Entries(network, emitted.interface, blob, machine.pointer_bits, machine.name)
    module = _joined(emitted, entries, target)
    roots = [api.symbol(function.name) for function in api.functions]
    text = text_of(
        module, roots, pointer_bits=machine.pointer_bits, few_parameters=machine.format == "wasm", small=small
    )
    content = _compiled(text, machine)
    state_bytes = _state_bytes(network, emitted, blob) if api.streams else 0
    return PortableObject(
        machine.name, content, api.with_state_bytes(state_bytes), blob.file() if api.in_file else None
    )


def _shaped_like(target: Target) -> Target:
    """A target of this machine that packs weights as another one does, whose products of bytes may be biased."""
    here = host()
    name, dots = f"{target.name} on {here.name}", target.dots if target.dots.biased else Dots.BYTES
    return here._replace(
        name=name, vector_bytes=target.vector_bytes, registers=target.registers, dots=dots, small=target.small
    )


def _blob(network: PortableNetwork, code: LlvmCode) -> Blob:
    bound = code.bind(network.parameters)
    tables = {rows: table for array in network.call.arguments[0].arrays for rows, table in array.tables}
    return Blob(bound.packed_weights().tobytes(), tables)


def _joined(emitted: Emitted, entries: Entries, target: Target) -> Module:
    network = emitted.module
    own = entries.emit()
    whole = Module([*network.functions, *own.functions], [*network.globals, *own.globals])
    return with_runtime(whole, emitted.layout.dtype.name, target)


def _compiled(text: str, machine: PortableMachine) -> bytes:
    effort = max(LEAST_EFFORT, settings.codegen())
    request = (text, machine.triple, machine.cpu, machine.features, effort, machine.relocation, machine.abi)
    return compile_object(ObjectRequest(*request), machine.name)


def _state_bytes(network: PortableNetwork, emitted: Emitted, blob: Blob) -> int:
    """What NAME_state_size returns: its code does not depend on the machine, so it is asked here."""
    entries = Entries(network, emitted.interface, Blob(b"", blob.tables), 64)
    root = network.interface.symbol("state_size")
    text = text_of(_joined(emitted, entries, emitted.target), [root], pointer_bits=64)
    code = compile_assembly(text, host())
    return int(ctypes.CFUNCTYPE(ctypes.c_int64)(code.address(root))())
