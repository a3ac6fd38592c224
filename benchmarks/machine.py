"""What this machine can do at most: multiply-adds a second, and bytes a second from each cache, on one core.

Both are measured by tiny loops in LLVM IR. The roofline of a workload follows: the input projections at the peak of
arithmetic; each recurrent product no faster than arithmetic, nor than its weights can be read again at every step
from the cache that holds them.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import llvmlite.binding as llvm
import numpy as np

from benchmarks.workloads import Workload

FMA_CHAINS = 12  # more than two pipes times four or five cycles of latency
READ_CHAINS = 8


def vector_width(features: dict[str, bool]) -> int:
    """float32 lanes of the widest vector."""
    return 16 if features.get("avx512f") else 8 if features.get("avx2") else 4


def _fma_loop(lanes: int) -> str:
    """fma(float* values, i64 n): n rounds of FMA_CHAINS independent multiply-adds."""
    v = f"<{lanes} x float>"
    chains = range(FMA_CHAINS)
    phis = "\n".join(f"  %a{i} = phi {v} [ %first, %entry ], [ %b{i}, %loop ]" for i in chains)
    steps = "\n".join(f"  %b{i} = call {v} @llvm.fmuladd.v{lanes}f32({v} %a{i}, {v} %x, {v} %x)" for i in chains)
    sums = "\n".join(f"  %s{i} = fadd {v} {'%b0' if i == 1 else f'%s{i - 1}'}, %b{i}" for i in range(1, FMA_CHAINS))
    return f"""
declare {v} @llvm.fmuladd.v{lanes}f32({v}, {v}, {v})
define void @fma(ptr %values, i64 %n) {{
entry:
  %x = load {v}, ptr %values, align 4
  %second = getelementptr {v}, ptr %values, i64 1
  %first = load {v}, ptr %second, align 4
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %j, %loop ]
{phis}
{steps}
  %j = add i64 %i, 1
  %more = icmp ult i64 %j, %n
  br i1 %more, label %loop, label %exit
exit:
{sums}
  store {v} %s{FMA_CHAINS - 1}, ptr %values, align 4
  ret void
}}
"""


def _read_loop(lanes: int) -> str:
    """read(float* values, i64 n, i64 passes): adds up n * READ_CHAINS vectors, `passes` times over."""
    v = f"<{lanes} x float>"
    chains = range(READ_CHAINS)
    outer = "\n".join(f"  %o{k} = phi {v} [ zeroinitializer, %entry ], [ %b{k}, %again ]" for k in chains)
    inner = "\n".join(f"  %a{k} = phi {v} [ %o{k}, %pass ], [ %b{k}, %loop ]" for k in chains)
    body = "\n".join(
        f"  %p{k} = getelementptr {v}, ptr %row, i64 {k}\n"
        f"  %l{k} = load {v}, ptr %p{k}, align 4\n"
        f"  %b{k} = fadd {v} %a{k}, %l{k}"
        for k in chains
    )
    stores = "\n".join(
        f"  %q{k} = getelementptr {v}, ptr %values, i64 {k}\n  store {v} %b{k}, ptr %q{k}, align 4" for k in chains
    )
    return f"""
define void @read(ptr %values, i64 %n, i64 %passes) {{
entry:
  br label %pass
pass:
  %done = phi i64 [ 0, %entry ], [ %next, %again ]
{outer}
  br label %loop
loop:
  %i = phi i64 [ 0, %pass ], [ %j, %loop ]
{inner}
  %at = mul i64 %i, {READ_CHAINS}
  %row = getelementptr {v}, ptr %values, i64 %at
{body}
  %j = add i64 %i, 1
  %more = icmp ult i64 %j, %n
  br i1 %more, label %loop, label %again
again:
  %next = add i64 %done, 1
  %most = icmp ult i64 %next, %passes
  br i1 %most, label %pass, label %exit
exit:
{stores}
  ret void
}}
"""


@dataclass
class Machine:
    """Measures on first use; every figure is the best of several tries, because only the best is undisturbed."""

    tries: int = 15
    _bandwidths: dict[int, float] = field(default_factory=dict)

    @cached_property
    def _code(self) -> tuple[llvm.ExecutionEngine, int]:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        features = llvm.get_host_cpu_features()
        lanes = vector_width(dict(features))
        target = llvm.Target.from_default_triple().create_target_machine(
            cpu=llvm.get_host_cpu_name(), features=features.flatten(), opt=2
        )
        module = llvm.parse_assembly(_fma_loop(lanes) + _read_loop(lanes))
        engine = llvm.create_mcjit_compiler(module, target)
        engine.finalize_object()
        return engine, lanes

    def _function(self, name: str, counts: int) -> Callable[..., None]:
        address = self._code[0].get_function_address(name)
        return ctypes.CFUNCTYPE(None, ctypes.c_void_p, *[ctypes.c_int64] * counts)(address)

    def _best(self, call: Callable[[], object]) -> float:
        best = float("inf")
        for _ in range(self.tries):
            start = time.thread_time()
            call()
            best = min(best, time.thread_time() - start)
        return best

    @cached_property
    def peak(self) -> float:
        """float32 flop/s of one core: twice the multiply-adds of independent chains in registers."""
        fma, lanes, rounds = self._function("fma", 1), self._code[1], 1_000_000
        values = np.full(2 * lanes, 0.5, np.float32)
        return 2 * lanes * FMA_CHAINS * rounds / self._best(lambda: fma(values.ctypes.data, rounds))

    def bandwidth(self, size: int) -> float:
        """Bytes a second of one core reading `size` bytes over and over, from whichever cache holds them."""
        if size not in self._bandwidths:
            read, chunk = self._function("read", 2), 4 * self._code[1] * READ_CHAINS
            chunks = max(1, size // chunk)
            values = np.zeros(chunks * chunk // 4 + 16, np.float32)
            # On a cache line: a vector that straddles two costs twice, and packed weights never do.
            address = values.ctypes.data + (-values.ctypes.data) % 64
            passes = max(1, 20_000_000 // (chunks * chunk))
            seconds = self._best(lambda: read(address, chunks, passes))
            self._bandwidths[size] = passes * chunks * chunk / seconds
        return self._bandwidths[size]

    def least_seconds(self, workload: Workload) -> float:
        """The roofline: no implementation that reads its weights at every step can be faster on one core."""
        recurrent = 0.0
        for size in workload.recurrent_bytes:
            arithmetic = 2 * (size // 4) * workload.batch / self.peak
            recurrent += workload.steps * max(arithmetic, size / self.bandwidth(size))
        return workload.input_flops / self.peak + recurrent
