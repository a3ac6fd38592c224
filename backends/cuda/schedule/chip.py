"""Chips: the sizes and rates of a GPU that decide the layout of a recurrence, and the number of resident blocks.

Sizes come from the current device, or from NVIDIA's published specifications. Rates serve to compare layouts; those
marked "estimate" are not published.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from rnnc.ir.errors import ArgumentError

WARP = 32
"""Threads per warp, on every NVIDIA GPU."""
THREADS_PER_BLOCK = 1024
"""The most threads per block, on every NVIDIA GPU."""
STATIC_SHARED = 48 * 1024
"""The most bytes of shared memory that a kernel may declare with a fixed size. More must be dynamic."""

# Rules of allocation, the same from compute capability 8.0 to 12.x (CUDA C++ Programming Guide, "Compute Capabilities";
# NVIDIA's occupancy calculator).
_REGISTER_UNIT = 256  # registers are allocated per warp, in this unit
_SHARED_UNIT = 128  # bytes
_SHARED_RESERVED = 1024  # bytes per block, for the system
_PARTITIONS = 4  # per multiprocessor; each has a quarter of the registers, and a warp stays in one


@dataclass(frozen=True)
class Usage:
    """The resources of a compiled kernel.

    registers: 32-bit, per thread. stack, spill_stores, spill_loads: bytes per thread. shared: bytes per block, static.
    """

    registers: int
    stack: int = 0
    spill_stores: int = 0
    spill_loads: int = 0
    shared: int = 0


@dataclass(frozen=True)
class Chip:
    """A GPU. Counts are per multiprocessor (SM) unless a field says otherwise.

    arch: NVRTC's name, such as "sm_90". registers_per_sm, registers_per_thread: 32-bit registers. shared_per_sm,
    shared_per_block: bytes; the latter with a kernel's opt-in. clock_ghz: the boost clock. fp32_lanes, fp64_lanes:
    multiply-adds per clock. half_flops, tf32_flops: dense floating-point operations per clock on tensor cores.
    shared_bytes_per_clock: 32 banks of 4 bytes. l2_bytes: of the whole chip. l2_gbs, dram_gbs: 1e9 bytes per second, of
    the whole chip. barrier_us: the time of a barrier of one block per SM, by an atomic counter. launch_us: the time
    from the end of a small kernel to the start of the next one in its stream. tile_rows (a power of two),
    block_threads: batch rows per tile and threads per block of a recurrence.
    """

    name: str
    arch: str
    sms: int
    registers_per_sm: int
    registers_per_thread: int
    shared_per_sm: int
    shared_per_block: int
    threads_per_sm: int
    blocks_per_sm: int
    clock_ghz: float
    fp32_lanes: int
    fp64_lanes: int
    half_flops: int
    tf32_flops: int
    l2_bytes: int
    l2_gbs: float
    dram_gbs: float
    barrier_us: float
    launch_us: float
    shared_bytes_per_clock: int = 128
    warp: int = WARP
    tile_rows: int = 8
    block_threads: int = 256  # with 255 registers per thread, the whole register file

    def resident_blocks(self, threads: int, registers: int, shared: int) -> int:
        """The number of blocks of a kernel that one SM holds at a time; 0 if a launch would fail.

        threads: per block. registers: per thread. shared: bytes per block, static and dynamic together.
        """
        if threads > THREADS_PER_BLOCK or registers > self.registers_per_thread or shared > self.shared_per_block:
            return 0
        warps = -(-threads // WARP)
        by_threads = self.threads_per_sm // WARP // warps
        by_shared = self.shared_per_sm // (_round_up(shared, _SHARED_UNIT) + _SHARED_RESERVED)
        return min(self.blocks_per_sm, by_threads, by_shared, self._by_registers(warps, registers))

    def _by_registers(self, warps: int, registers: int) -> int:
        each = _round_up(max(registers, 1) * WARP, _REGISTER_UNIT)
        # The check of a launch assumes that its warps are spread evenly over the partitions.
        if each * _round_up(warps, _PARTITIONS) > self.registers_per_sm:
            return 0
        return self.registers_per_sm // _PARTITIONS // each * _PARTITIONS // warps


def usage_fits(usage: Usage, threads: int, chip: Chip, dynamic: int = 0) -> str | None:
    """The reason why a chip cannot launch a kernel, or None. dynamic: bytes of dynamic shared memory per block."""
    shared = usage.shared + dynamic
    if threads > THREADS_PER_BLOCK:
        return f"{threads:,} threads per block, at most {THREADS_PER_BLOCK:,}"
    if usage.registers > chip.registers_per_thread:
        return f"{usage.registers} registers per thread, {chip.name} has {chip.registers_per_thread}"
    if usage.shared > STATIC_SHARED:
        return f"{usage.shared:,} bytes of static shared memory, at most {STATIC_SHARED:,}"
    if shared > chip.shared_per_block:
        return f"{shared:,} bytes of shared memory per block, {chip.name} allows {chip.shared_per_block:,}"
    if not chip.resident_blocks(threads, usage.registers, shared):
        return (
            f"{threads:,} threads of {usage.registers} registers need more than a multiprocessor of {chip.name} has: "
            f"{chip.registers_per_sm:,} registers, {chip.threads_per_sm:,} threads"
        )
    return None


def _round_up(number: int, unit: int) -> int:
    return -(-number // unit) * unit


# Published: "CUDA C++ Programming Guide", tables of compute capabilities 8.0, 9.0 and 10.0 (registers, shared memory,
# threads and blocks per SM, lanes); white papers and data sheets of the A100, H100 and B200 (SMs, clock, rates of
# tensor cores, memory, caches). half_flops is the published dense fp16 rate / (SMs x clock), as the next power of two,
# because clocks are lower under such a load.
#
# Estimates:
# - l2_gbs: the rate of kernels in published microbenchmarks, or two thirds of 5,120 bytes per clock (the A100's
#   published peak); for the B200, the H100's rate per SM.
# - tensor cores: the instructions that all three chips have (mma.sync) reach about 60% of this peak on the H100, which
#   needs wgmma for the rest, and less on the B200, which needs tcgen05.
# - barrier_us: one counter. The last block's fence, its atomic and the load that sees it are three dependent round
#   trips to the second-level cache, of 200-270 clocks each (Luo et al., "Benchmarking and Dissecting the Nvidia Hopper
#   GPU Architecture", 2024), and 108-148 atomics on one address are serialised. grid.sync(), which does the same, took
#   1-2 us with one block per SM of a V100 (Zhang et al., "A Study of Single and Multi-device Synchronization Methods in
#   Nvidia GPUs", 2020). The B200's two dies make a round trip longer.
# - launch_us: between dependent small kernels, in a stream that is never empty.
A100 = Chip(
    name="A100",
    arch="sm_80",
    sms=108,
    registers_per_sm=65536,
    registers_per_thread=255,
    shared_per_sm=164 * 1024,
    shared_per_block=163 * 1024,
    threads_per_sm=2048,
    blocks_per_sm=32,
    clock_ghz=1.41,
    fp32_lanes=64,
    fp64_lanes=32,
    half_flops=2048,
    tf32_flops=1024,
    l2_bytes=40 << 20,
    l2_gbs=4800.0,
    dram_gbs=2039.0,  # 80 GB
    barrier_us=1.2,
    launch_us=2.5,
)
H100 = Chip(
    name="H100",  # SXM5
    arch="sm_90",
    sms=132,
    registers_per_sm=65536,
    registers_per_thread=255,
    shared_per_sm=228 * 1024,
    shared_per_block=227 * 1024,
    threads_per_sm=2048,
    blocks_per_sm=32,
    clock_ghz=1.98,
    fp32_lanes=128,
    fp64_lanes=64,
    half_flops=4096,
    tf32_flops=2048,
    l2_bytes=50 << 20,
    l2_gbs=6000.0,
    dram_gbs=3352.0,
    barrier_us=1.0,
    launch_us=2.2,
)
B200 = Chip(
    name="B200",
    arch="sm_100",
    sms=148,
    registers_per_sm=65536,
    registers_per_thread=255,
    shared_per_sm=228 * 1024,
    shared_per_block=227 * 1024,
    threads_per_sm=2048,
    blocks_per_sm=32,
    clock_ghz=1.965,
    fp32_lanes=128,
    fp64_lanes=64,
    half_flops=8192,
    tf32_flops=4096,
    l2_bytes=126 << 20,  # as devices report it
    l2_gbs=6700.0,
    dram_gbs=7700.0,
    barrier_us=1.3,
    launch_us=2.2,
)
# Small enough that networks of a test's size take every layout: one slice, several slices, weights read from memory.
EMULATED = Chip(
    name="emulated",
    arch="sm_80",
    sms=4,
    registers_per_sm=24576,
    registers_per_thread=168,
    shared_per_sm=25 * 1024,
    shared_per_block=24 * 1024,
    threads_per_sm=1024,
    blocks_per_sm=4,
    clock_ghz=1.0,
    fp32_lanes=32,
    fp64_lanes=16,
    half_flops=512,
    tf32_flops=256,
    l2_bytes=1 << 20,
    l2_gbs=100.0,
    dram_gbs=20.0,
    barrier_us=1.0,
    launch_us=2.5,
    tile_rows=4,
    block_threads=64,
)
PRESETS = (A100, H100, B200)

# Compute capability -> (fp32, fp64) multiply-adds per clock and SM: "CUDA C++ Programming Guide", throughput of native
# arithmetic instructions. A device that is not listed has those of its preset.
_LANES = {
    70: (64, 32),
    75: (64, 2),
    80: (64, 32),
    86: (128, 2),
    87: (128, 2),
    89: (128, 2),
    90: (128, 64),
    100: (128, 64),
    120: (128, 2),
}


def chip_of(name: str) -> Chip:
    """The preset with a name or architecture, such as "A100" or "sm_80". Raises ArgumentError if there is none."""
    wanted = name.strip().lower()
    for chip in (*PRESETS, EMULATED):
        if wanted in (chip.name.lower(), chip.arch):
            return chip
    known = ", ".join(f"{chip.name} or {chip.arch}" for chip in PRESETS)
    raise ArgumentError(
        f"chip: got {name!r}, expected one of {known}, {EMULATED.name}; "
        "without a GPU, the variable RNNC_CUDA_CHIP names the chip to generate code for"
    )


def of_device(device_id: int | None = None) -> Chip:
    """The chip of a CUDA device, by default the current one. Requires `gpu_status().usable`.

    CuPy gives the sizes, the clock and the bandwidth of memory. The rest comes from the newest preset that is not newer
    than the device, with the bandwidth of the cache in proportion to SMs and clock.
    """
    import cupy

    runtime = cupy.cuda.runtime
    device = int(runtime.getDevice() if device_id is None else device_id)
    asked = {field: int(runtime.deviceGetAttribute(number, device)) for field, number in _ATTRIBUTES.items()}
    name = runtime.getDeviceProperties(device)["name"]
    return _chip_from(name.decode() if isinstance(name, bytes) else str(name), asked)


# enum cudaDeviceAttr. CUDA 13 removed the clocks from cudaDeviceProp, but kept these attributes.
_ATTRIBUTES = {
    "major": 75,
    "minor": 76,
    "sms": 16,
    "registers_per_sm": 82,
    "shared_per_sm": 81,
    "shared_per_block": 97,
    "threads_per_sm": 39,
    "blocks_per_sm": 106,
    "l2_bytes": 38,
    "clock_khz": 13,
    "memory_khz": 36,
    "memory_bits": 37,
}
_SIZES = ("sms", "registers_per_sm", "shared_per_sm", "shared_per_block", "threads_per_sm", "blocks_per_sm", "l2_bytes")


def _chip_from(name: str, asked: dict[str, int]) -> Chip:
    """The chip of a device. asked: a value for each of `_ATTRIBUTES`, 0 if unknown (virtual GPUs hide clocks)."""
    capability = asked["major"] * 10 + asked["minor"]
    older = [chip for chip in PRESETS if int(chip.arch.removeprefix("sm_")) <= capability]
    nearest = older[-1] if older else PRESETS[0]
    clock = asked["clock_khz"] / 1e6 or nearest.clock_ghz
    fp32, fp64 = _LANES.get(capability, (nearest.fp32_lanes, nearest.fp64_lanes))
    found: dict[str, Any] = {field: asked[field] for field in _SIZES if asked[field]}
    return replace(
        nearest,
        name=name,
        arch=f"sm_{capability}",
        clock_ghz=clock,
        fp32_lanes=fp32,
        fp64_lanes=fp64,
        l2_gbs=nearest.l2_gbs * (asked["sms"] * clock) / (nearest.sms * nearest.clock_ghz),
        dram_gbs=asked["memory_khz"] * 2 * asked["memory_bits"] / 8e6 or nearest.dram_gbs,
        **found,
    )
