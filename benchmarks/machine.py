"""What this machine can do at most: arithmetic per second, and bytes per second from each cache, on one core or more.

All of it is measured by tiny loops in LLVM IR, which several Python threads run at once where more than one core is
meant. benchmarks/roofline.py makes of it the least time of a workload.
"""

from __future__ import annotations

import ctypes
import os
import platform
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import llvmlite.binding as llvm
import numpy as np

FMA_CHAINS = 12  # more than two pipes times four or five cycles of latency
READ_CHAINS = 8
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


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


def _dot_loop() -> str:
    """dot(i32* values, i64 n): n rounds of FMA_CHAINS independent dot products of four int8 per lane (VNNI)."""
    v, chains = "<16 x i32>", range(FMA_CHAINS)
    phis = "\n".join(f"  %a{i} = phi {v} [ %x, %entry ], [ %b{i}, %loop ]" for i in chains)
    call = f"call {v} @llvm.x86.avx512.vpdpbusd.512"
    steps = "\n".join(f"  %b{i} = {call}({v} %a{i}, <64 x i8> %y, <64 x i8> %y)" for i in chains)
    sums = "\n".join(f"  %s{i} = xor {v} {'%b0' if i == 1 else f'%s{i - 1}'}, %b{i}" for i in range(1, FMA_CHAINS))
    return f"""
declare {v} @llvm.x86.avx512.vpdpbusd.512({v}, <64 x i8>, <64 x i8>)
define void @dot(ptr %values, i64 %n) {{
entry:
  %x = load {v}, ptr %values, align 4
  %y = load <64 x i8>, ptr %values, align 4
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
    _peaks: dict[tuple[str, int], float] = field(default_factory=dict)
    _bandwidths: dict[tuple[int, int], float] = field(default_factory=dict)

    @cached_property
    def name(self) -> str:
        """The processor's own name, and LLVM's for its kind."""
        info = Path("/proc/cpuinfo")
        lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        return f"{names[0] if names else platform.processor() or platform.machine()} ({llvm.get_host_cpu_name()})"

    @cached_property
    def caches(self) -> dict[str, int]:
        """Bytes of each data cache of a core, the nearest first; empty where the system does not say."""
        found = {}
        for folder in sorted(CACHES.glob("index*")):
            kind, size, level = (folder.joinpath(name).read_text().strip() for name in ("type", "size", "level"))
            if kind != "Instruction":
                found[f"L{level}"] = int(size.removesuffix("K")) * 1024
        return found

    def level(self, size: int) -> str:
        """The nearest cache that holds so many bytes."""
        return next((name for name, held in self.caches.items() if size <= held), "memory" if self.caches else "")

    @cached_property
    def has_dot(self) -> bool:
        """True if the processor multiplies int8 by VNNI on 512 bits."""
        return bool(llvm.get_host_cpu_features().get("avx512vnni"))

    @cached_property
    def _code(self) -> tuple[llvm.ExecutionEngine, int]:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        features = llvm.get_host_cpu_features()
        lanes = vector_width(dict(features))
        target = llvm.Target.from_default_triple().create_target_machine(
            cpu=llvm.get_host_cpu_name(), features=features.flatten(), opt=2
        )
        text = _fma_loop(lanes) + _read_loop(lanes) + (_dot_loop() if self.has_dot else "")
        engine = llvm.create_mcjit_compiler(llvm.parse_assembly(text), target)
        engine.finalize_object()
        return engine, lanes

    def _function(self, name: str, counts: int) -> Callable[..., None]:
        address = self._code[0].get_function_address(name)
        return ctypes.CFUNCTYPE(None, ctypes.c_void_p, *[ctypes.c_int64] * counts)(address)

    def _best(self, calls: list[Callable[[], object]]) -> float:
        """Seconds of the calls, each on a thread of its own and all at once: the slowest thread, in the best try."""
        tries = [0.0] * self.tries
        meet = threading.Barrier(len(calls))

        def work(call: Callable[[], object]) -> None:
            for number in range(self.tries):
                meet.wait()
                start = time.thread_time()
                call()
                tries[number] = max(tries[number], time.thread_time() - start)

        threads = [threading.Thread(target=work, args=(call,)) for call in calls]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return min(tries)

    def _peak(self, name: str, operations: int, threads: int) -> float:
        if (name, threads) not in self._peaks:
            function, rounds = self._function(name, 1), 1_000_000
            values = [np.full(64, 0.5, np.float32) for _ in range(threads)]
            seconds = self._best([lambda v=v: function(v.ctypes.data, rounds) for v in values])  # type: ignore[misc]
            self._peaks[name, threads] = operations * FMA_CHAINS * rounds * threads / seconds
        return self._peaks[name, threads]

    def peak(self, threads: int = 1) -> float:
        """float32 flop/s: twice the multiply-adds of independent chains in registers."""
        return self._peak("fma", 2 * self._code[1], threads)

    def dot_peak(self, threads: int = 1) -> float:
        """int8 operations per second of VNNI, a multiplication and an addition counted as two."""
        return self._peak("dot", 2 * 64, threads)

    def bandwidth(self, size: int, threads: int = 1) -> float:
        """Bytes per second of cores that share `size` bytes, and read their parts over and over from their caches."""
        read, chunk = self._function("read", 2), 4 * self._code[1] * READ_CHAINS
        chunks = max(1, size // threads // chunk)
        if (chunks, threads) not in self._bandwidths:
            arrays = [np.zeros(chunks * chunk // 4 + 16, np.float32) for _ in range(threads)]
            # On a cache line: a vector that straddles two costs twice, and packed weights never do.
            starts = [array.ctypes.data + (-array.ctypes.data) % 64 for array in arrays]
            passes = max(1, 20_000_000 // (chunks * chunk))
            seconds = self._best([lambda at=at: read(at, chunks, passes) for at in starts])  # type: ignore[misc]
            self._bandwidths[chunks, threads] = passes * chunks * chunk * threads / seconds
        return self._bandwidths[chunks, threads]

    def described(self, threads: tuple[int, ...]) -> dict[str, object]:
        """What a record keeps, and where another machine's differs."""
        return {
            "name": self.name,
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "caches": self.caches,
            "peak": {str(count): self.peak(count) for count in threads},
            "dot_peak": {str(count): self.dot_peak(count) for count in threads} if self.has_dot else {},
            "bandwidth": {name: self.bandwidth(size * 3 // 4) for name, size in self.caches.items()},
        }
