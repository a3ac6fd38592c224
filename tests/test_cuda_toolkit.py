"""What the cuda backend knows of GPUs, of the driver, and of NVIDIA's compiler: none of it needs a GPU."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rnnc.backends.cuda.run import availability as driver
from rnnc.backends.cuda.schedule.chip import (
    A100,
    B200,
    EMULATED,
    H100,
    PRESETS,
    Chip,
    Usage,
    chip_of,
    of_device,
    usage_fits,
)
from rnnc.backends.cuda.tools import nvrtc as toolkit
from rnnc.ir.errors import ArgumentError, BackendError, BackendUnavailable

ROOT = Path(__file__).resolve().parent.parent
ARCHITECTURES = tuple(chip.arch for chip in PRESETS)

# Chips ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chip", PRESETS, ids=lambda chip: chip.name)
@pytest.mark.parametrize(
    ("threads", "registers", "shared", "blocks"),
    [
        # "CUDA C++ Best Practices Guide", section Occupancy: 12 blocks of 128 threads (75%), 4 of 320 (63%) with 37
        # registers, and full occupancy up to 32 registers. It says so of 7.0, whose register file is the same.
        (128, 37, 0, 12),
        (320, 37, 0, 4),
        (1024, 32, 0, 2),
        (256, 32, 0, 8),
        # By the formulas of NVIDIA's occupancy calculator (CUDA 11.1): 256 registers are a warp's unit, a partition
        # has 16,384 of them, blocks are 32 at most.
        (1024, 33, 0, 1),
        (1024, 64, 0, 1),
        (1024, 65, 0, 0),
        (256, 255, 0, 1),
        (288, 255, 0, 0),
        (128, 168, 0, 3),
        (32, 16, 0, 32),
        (1, 1, 0, 32),
    ],
)
def test_resident_blocks_by_registers_and_threads(
    chip: Chip, threads: int, registers: int, shared: int, blocks: int
) -> None:
    assert chip.resident_blocks(threads, registers, shared) == blocks


@pytest.mark.parametrize(
    ("chip", "shared", "blocks"),
    [
        # "NVIDIA Ampere GPU Architecture Tuning Guide", "NVIDIA Hopper Tuning Guide", section Unified Shared Memory:
        # 164 and 228 KB an SM, 163 and 227 KB a block, 1 KB of each block is reserved for the system.
        (A100, 163 * 1024, 1),
        (A100, 163 * 1024 + 1, 0),
        (A100, 81 * 1024, 2),
        (A100, 81 * 1024 + 1, 1),
        (A100, 40 * 1024, 4),
        (H100, 227 * 1024, 1),
        (H100, 227 * 1024 + 1, 0),
        (H100, 113 * 1024, 2),
        (H100, 113 * 1024 + 1, 1),
        (B200, 227 * 1024, 1),
    ],
)
def test_resident_blocks_by_shared_memory(chip: Chip, shared: int, blocks: int) -> None:
    assert chip.resident_blocks(64, 32, shared) == blocks


def test_a_whole_block_of_each_chip_fits_it() -> None:
    """What schedules use: all threads of a block, with as many registers as there are, and the most shared memory."""
    for chip in (*PRESETS, EMULATED):
        registers = min(chip.registers_per_thread, chip.registers_per_sm // chip.block_threads)
        assert chip.resident_blocks(chip.block_threads, registers, chip.shared_per_block) == 1


def test_published_peaks_follow_from_the_numbers() -> None:
    """Data sheets: fp32 19.5, 67, 75 TFLOPS; fp64 9.7, 34, 37."""
    for chip, fp32, fp64 in ((A100, 19.5, 9.7), (H100, 67, 34), (B200, 75, 37)):
        rate = 2 * chip.sms * chip.clock_ghz / 1e3
        assert rate * chip.fp32_lanes == pytest.approx(fp32, rel=0.02)
        assert rate * chip.fp64_lanes == pytest.approx(fp64, rel=0.02)


@pytest.mark.parametrize(
    ("usage", "threads", "dynamic", "reason"),
    [
        (Usage(255), 256, 227 * 1024, None),
        (Usage(32, shared=1024), 256, 226 * 1024, None),
        (Usage(32, shared=1024), 256, 227 * 1024, "233,472 bytes of shared memory per block, H100 allows 232,448"),
        (Usage(32, shared=49153), 256, 0, "49,153 bytes of static shared memory, at most 49,152"),
        (Usage(32), 1056, 0, "1,056 threads per block, at most 1,024"),
        (Usage(256), 32, 0, "256 registers per thread, H100 has 255"),
        (Usage(128), 1024, 0, "1,024 threads of 128 registers need more than a multiprocessor of H100 has"),
    ],
)
def test_usage_that_does_not_fit_says_why(usage: Usage, threads: int, dynamic: int, reason: str | None) -> None:
    found = usage_fits(usage, threads, H100, dynamic)
    assert found == reason if reason is None else str(found).startswith(reason)


def test_chips_by_name_and_architecture() -> None:
    assert [chip_of(name) for name in ("A100", "sm_90", " b200 ", "emulated")] == [A100, H100, B200, EMULATED]
    assert chip_of(EMULATED.arch) is A100
    with pytest.raises(ArgumentError, match=r"chip: got 'sm_35', expected one of A100 or sm_80, .*RNNC_CUDA_CHIP"):
        chip_of("sm_35")


H100_ATTRIBUTES = {
    **{75: 9, 76: 0, 16: 132, 82: 65536, 81: 233472, 97: 232448, 39: 2048, 106: 32, 38: 52428800},
    **{13: 1980000, 36: 2619000, 37: 5120},
}


def fake_cupy(attributes: dict[int, int], name: str = "NVIDIA H100 80GB HBM3", built: int = 13000) -> Any:
    """A CuPy that knows a device. attributes: by number of enum cudaDeviceAttr, from driver_types.h."""
    runtime = SimpleNamespace(
        getDevice=lambda: 0,
        getDeviceProperties=lambda device: {"name": name.encode()},
        deviceGetAttribute=lambda number, device: attributes[number],
        runtimeGetVersion=lambda: built,
    )
    return SimpleNamespace(cuda=SimpleNamespace(runtime=runtime))


def test_a_device_is_asked_for_its_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy(H100_ATTRIBUTES))
    found = of_device()
    assert found.name == "NVIDIA H100 80GB HBM3"
    assert replace(found, name=H100.name, dram_gbs=H100.dram_gbs) == H100
    assert found.dram_gbs == pytest.approx(H100.dram_gbs, rel=1e-3)


def test_a_device_without_a_preset_gets_its_own_sizes_and_other_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """A consumer's card of architecture 8.6, whose driver does not tell clocks."""
    own = {75: 8, 76: 6, 16: 82, 81: 102400, 97: 101376, 39: 1536, 106: 16, 38: 6 << 20, 13: 0, 36: 0, 37: 0}
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy(H100_ATTRIBUTES | own, "card"))
    found = of_device(0)
    assert (found.arch, found.sms, found.fp32_lanes, found.fp64_lanes) == ("sm_86", 82, 128, 2)
    assert (found.shared_per_block, found.threads_per_sm, found.blocks_per_sm) == (101376, 1536, 16)
    assert (found.clock_ghz, found.dram_gbs, found.barrier_us) == (A100.clock_ghz, A100.dram_gbs, A100.barrier_us)
    assert found.l2_gbs == pytest.approx(A100.l2_gbs * 82 / 108)


# The driver -----------------------------------------------------------------------------------------------------------


class FakeDriver:
    """libcuda. Results of the functions that are asked; pointers are filled in."""

    def __init__(self, init: int = 0, count: int = 1, version: int = 13020) -> None:
        self.init, self.count, self.version = init, count, version

    def cuInit(self, flags: int) -> int:
        assert flags == 0
        return self.init

    def cuDeviceGetCount(self, pointer: Any) -> int:
        pointer._obj.value = self.count
        return 0

    def cuDriverGetVersion(self, pointer: Any) -> int:
        pointer._obj.value = self.version
        return 0

    def cuGetErrorName(self, status: int, pointer: Any) -> int:
        pointer._obj.value = {803: b"CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"}.get(status)
        return 0 if pointer._obj.value else 1


def ask(monkeypatch: pytest.MonkeyPatch, found: FakeDriver | None, cupy: Any) -> driver.Status:
    """gpu_status where the driver's library is `found`. cupy: None: not installed."""

    def load(name: str) -> FakeDriver:
        if found is None:
            raise OSError(f"{name}: cannot open shared object file")
        return found

    monkeypatch.setattr(ctypes, "CDLL", load)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    driver.gpu_status.cache_clear()
    try:
        return driver.gpu_status()
    finally:
        driver.gpu_status.cache_clear()


class Untouchable:
    """A CuPy that must not be looked at."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"cupy.{name} was used")


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (None, "no NVIDIA driver"),
        (FakeDriver(init=100), "the NVIDIA driver finds no GPU"),
        (FakeDriver(count=0), "the NVIDIA driver finds no GPU"),
        (FakeDriver(init=803), "cuInit failed with CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (803)"),
        (FakeDriver(init=12345), "cuInit failed with unknown error (12345)"),
    ],
    ids=("no driver", "no device", "no visible device", "mismatch", "unknown"),
)
def test_without_driver_or_device_cupy_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, found: FakeDriver | None, reason: str
) -> None:
    status = ask(monkeypatch, found, Untouchable())
    assert not status.usable
    assert reason in status.reason
    assert "CuPy" not in status.reason


@pytest.mark.parametrize(
    ("version", "advice"),
    [
        (13020, "pip install 'rnnc[cuda13]'"),
        (12040, "pip install 'rnnc[cuda12]'"),
        (14000, "pip install 'rnnc[cuda13]'"),
        (11080, "install a newer driver (this one serves only CUDA 11.8), then pip install 'rnnc[cuda13]'"),
    ],
)
def test_without_cupy_the_extra_that_fits_the_driver_is_named(
    monkeypatch: pytest.MonkeyPatch, version: int, advice: str
) -> None:
    status = ask(monkeypatch, FakeDriver(version=version), None)
    assert not status.usable
    assert status.reason.startswith("CuPy cannot be imported (ModuleNotFoundError:")
    assert status.reason.endswith(advice)


def test_a_cupy_newer_than_the_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    status = ask(monkeypatch, FakeDriver(version=12080), fake_cupy(H100_ATTRIBUTES, built=13000))
    assert not status.usable
    assert "built for CUDA 13.0, the driver serves CUDA up to 12.8; pip uninstall cupy-cuda13x" in status.reason
    assert "pip install 'rnnc[cuda12]'" in status.reason


@pytest.mark.parametrize(("version", "built"), [(13020, 13000), (13000, 12090), (12000, 12090)])
def test_a_device_is_named_where_all_is_there(monkeypatch: pytest.MonkeyPatch, version: int, built: int) -> None:
    """Within a major version an older driver runs newer code, and a newer driver runs all older code."""
    status = ask(monkeypatch, FakeDriver(version=version), fake_cupy(H100_ATTRIBUTES, built=built))
    assert status == driver.Status(True, "NVIDIA H100 80GB HBM3")


def test_a_cupy_that_fails_on_the_device_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> int:
        raise RuntimeError("cudaErrorInsufficientDriver\nmore")

    cupy = fake_cupy(H100_ATTRIBUTES)
    cupy.cuda.runtime.getDevice = fail
    status = ask(monkeypatch, FakeDriver(), cupy)
    assert status == driver.Status(False, "CuPy cannot use the GPU (RuntimeError: cudaErrorInsufficientDriver)")


def test_a_missing_gpu_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "gpu_status", lambda: driver.Status(False, "no NVIDIA driver"))
    with pytest.raises(BackendUnavailable, match=r"backend 'cuda': no NVIDIA driver; .*'cuda-emulated'"):
        driver.require_gpu()
    monkeypatch.setattr(driver, "gpu_status", lambda: driver.Status(True, "card"))
    driver.require_gpu()


WITHOUT_DRIVER = """
import ctypes, sys
import rnnc
assert "cupy" not in sys.modules, "import rnnc"
spec = rnnc.GRU(3, 4)
from rnnc.backends.cuda.run import availability as driver
def load(name):
    raise OSError(name)
driver.ctypes.CDLL, whole = load, driver.ctypes.CDLL
assert not driver.gpu_status().usable
driver.ctypes.CDLL = whole
program = rnnc.compile(spec, backend="cuda")
assert "__global__" in program.ir("cuda")
try:
    program.bind(spec.init(seed=0))
except rnnc.BackendError as error:
    print(error)
assert "cupy" not in sys.modules, "compile or bind"
"""


def test_without_a_driver_nothing_imports_cupy(tmp_path: Path) -> None:
    """A CuPy is there to be imported, so that its absence does not hide an import."""
    (tmp_path / "cupy.py").write_text("")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    environment.pop("RNNC_CUDA_CHIP", None)
    done = subprocess.run([sys.executable, "-c", WITHOUT_DRIVER], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("backend 'cuda': no NVIDIA driver")


# NVRTC ----------------------------------------------------------------------------------------------------------------

SOURCE = r"""
extern "C" __global__ void __launch_bounds__(128) scale(const float* __restrict__ x, float* y, int n) {
  extern __shared__ float row[];
  for (int k = threadIdx.x; k < n; k += 128) row[k] = x[k];
  __syncthreads();
  for (int k = threadIdx.x; k < n; k += 128) y[k] = tanhf(row[n - 1 - k]) + expf(row[k]);
}
extern "C" __global__ void __launch_bounds__(64) reverse(const double* x, double* y) {
  __shared__ double held[64];
  held[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = held[63 - threadIdx.x];
}
extern "C" __global__ void __launch_bounds__(256) wide(const float* x, float* y, int n) {
  float held[100];
  #pragma unroll
  for (int i = 0; i < 100; i++) held[i] = x[i * 256 + threadIdx.x];
  for (int k = 0; k < n; k++) {
    #pragma unroll
    for (int i = 0; i < 100; i++) held[i] = fmaf(held[i], held[(i * 7 + 1) % 100], x[k]);
  }
  #pragma unroll
  for (int i = 0; i < 100; i++) y[i * 256 + threadIdx.x] = held[i];
}
"""

needs_nvrtc = pytest.mark.skipif(not toolkit.available()[0], reason=toolkit.available()[1])


def need(arch: str) -> None:
    if arch not in toolkit.architectures():
        pytest.skip(f"{toolkit.available()[1]} does not compile for {arch}")


@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_all_kernels_of_a_unit_are_compiled_and_reported(arch: str) -> None:
    need(arch)
    compiled = toolkit.compile_cubin(SOURCE, arch)
    assert compiled.cubin[:4] == b"\x7fELF"
    assert compiled.functions == {}
    usages = compiled.kernels
    assert sorted(usages) == ["reverse", "scale", "wide"]
    assert 8 <= usages["scale"].registers <= 64
    assert 8 <= usages["reverse"].registers <= 64
    assert 100 <= usages["wide"].registers <= 255
    assert [usages[name].shared for name in ("scale", "reverse", "wide")] == [0, 64 * 8, 0]
    assert not any(u.spill_stores or u.spill_loads or u.stack for u in usages.values())
    for name, threads in (("scale", 128), ("reverse", 64), ("wide", 256)):
        assert usage_fits(usages[name], threads, chip_of(arch)) is None


@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_spills_are_reported_for_the_kernel_that_has_them(arch: str) -> None:
    need(arch)
    source = SOURCE.replace("__launch_bounds__(256)", "__launch_bounds__(1024)")
    usages = toolkit.compile_cubin(source, arch).kernels
    assert usages["wide"].registers <= 64
    # 100 floats are alive at a time: at least 36 of them are in memory.
    assert usages["wide"].spill_stores >= 36 * 4
    assert usages["wide"].spill_loads >= 36 * 4
    assert usages["wide"].stack >= 36 * 4
    assert usages["scale"].spill_stores == usages["reverse"].spill_stores == 0


@needs_nvrtc
def test_architectures_are_compiled_in_parallel_to_the_same_code() -> None:
    wanted = [arch for arch in ARCHITECTURES if arch in toolkit.architectures()]
    alone = [toolkit.compile_cubin(SOURCE, arch) for arch in wanted]
    with ThreadPoolExecutor(len(wanted)) as pool:
        together = list(pool.map(lambda arch: toolkit.compile_cubin(SOURCE, arch), wanted))
    assert [one.cubin for one in together] == [one.cubin for one in alone]
    assert [one.kernels for one in together] == [one.kernels for one in alone]


@needs_nvrtc
def test_ptx_is_text_of_the_architecture() -> None:
    text = toolkit.ptx(SOURCE, "sm_80")
    assert ".target sm_80" in text
    assert all(f".entry {name}(" in text for name in ("scale", "reverse", "wide"))
    assert "\0" not in text


@needs_nvrtc
def test_an_error_shows_the_line_of_the_source() -> None:
    with pytest.raises(toolkit.CudaCompileError) as raised:
        toolkit.compile_cubin(SOURCE.replace("tanhf(", "tanhh("), "sm_80")
    assert isinstance(raised.value, BackendError)
    text = str(raised.value)
    assert 'rnnc.cu(6): error: identifier "tanhh" is undefined' in text
    assert "y[k] = tanhh(row[n - 1 - k]) + expf(row[k]);" in text
    assert "--gpu-architecture=sm_80" in text


@needs_nvrtc
def test_a_wrong_architecture_is_an_error() -> None:
    with pytest.raises(toolkit.CudaCompileError, match="--gpu-architecture=sm_1"):
        toolkit.compile_cubin(SOURCE, "sm_1")


REPORT = """
rnnc.cu(3): warning #177-D: variable "a" was declared but never referenced
ptxas info    : 0 bytes gmem, 24 bytes cmem[4]
ptxas info    : Compiling entry function 'first' for 'sm_80'
ptxas info    : Function properties for first
ptxas         .     304 bytes stack frame, 568 bytes spill stores, 600 bytes spill loads
ptxas info    : Function properties for helper
ptxas         .     16 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers, 304 bytes cumulative stack size, 1024 bytes smem, 372 bytes cmem[0]
ptxas info    : Compile time = 18.861 ms
ptxas info    : Compiling entry function '_Z6secondPf' for 'sm_80'
ptxas info    : Function properties for _Z6secondPf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers, 512+0 bytes smem, 360 bytes cmem[0]
"""


def test_a_report_is_read_function_by_function() -> None:
    kernels, functions = toolkit.parse_usage(REPORT)
    assert kernels == {"first": Usage(32, 304, 568, 600, 1024), "_Z6secondPf": Usage(8, shared=512)}
    assert functions == {"helper": Usage(0, 16, 8, 4)}
    assert toolkit.parse_usage("") == ({}, {})


def test_a_library_that_does_not_load_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = tmp_path / "lib64" / "libnvrtc.so.12"
    library.parent.mkdir()
    library.write_bytes(b"no library")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(toolkit, "_NAMES", ())
    monkeypatch.setattr(toolkit, "_PATTERN", "libnvrtc.so.*")
    monkeypatch.setattr(toolkit, "_TOOLKITS", tmp_path / "none")
    monkeypatch.setenv("CUDA_PATH", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setattr(toolkit, "_nvrtc", toolkit._nvrtc.__wrapped__)
    found, reason = toolkit.available()
    assert not found
    assert reason.startswith("no NVRTC, the compiler library of CUDA; pip install nvidia-cuda-nvrtc; ")
    assert f"{library} was found but not loaded" in reason
    with pytest.raises(BackendUnavailable, match="pip install nvidia-cuda-nvrtc"):
        toolkit.compile_cubin(SOURCE)


def test_libraries_are_tried_best_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wheels of CUDA 13, wheels of CUDA 12, the named toolkit, installed ones from the newest, the loader's path."""
    wheels, named, installed = tmp_path / "nvidia", tmp_path / "named", tmp_path / "local"
    wanted = [
        wheels / "cu13" / "lib" / "libnvrtc.so.13",
        wheels / "cuda_nvrtc" / "lib" / "libnvrtc.so.12",
        named / "lib64" / "libnvrtc.so.12.4.127",
        installed / "cuda-13.1" / "lib64" / "libnvrtc.so.13",
        installed / "cuda-12.9" / "lib64" / "libnvrtc.so.12",
    ]
    for path in wanted:
        path.parent.mkdir(parents=True)
        for name in (path.name, f"libnvrtc-builtins.{path.suffix}", f"libnvrtc.alt.so{path.suffix}"):
            (path.parent / name).touch()
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: SimpleNamespace(submodule_search_locations=[str(wheels)])
    )
    monkeypatch.setattr(toolkit, "_PATTERN", "libnvrtc.so.*")
    monkeypatch.setattr(toolkit, "_INNER", ("lib", "lib64"))
    monkeypatch.setattr(toolkit, "_TOOLKITS", installed)
    monkeypatch.setenv("CUDA_PATH", str(named))
    monkeypatch.delenv("CUDA_HOME", raising=False)
    assert list(toolkit._places()) == [*map(str, wanted), *toolkit._NAMES]
