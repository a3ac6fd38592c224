"""`rnnc doctor`: what this machine offers, and what is missing for each backend and extra, with how to get it."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from typing import TYPE_CHECKING

from rnnc.cli.parser import add_command
from rnnc.ir import settings

if TYPE_CHECKING:
    import argparse

    from rnnc.cli.parser import Commands

EXTRAS = {
    "torch": ("torch", "rnnc.torch, rnnc.from_torch, weights of .pt files"),
    "onnx": ("onnx", "rnnc.from_onnx"),
    "onnxruntime": ("onnx", "parts of an ONNX model that rnnc does not compile"),
    "jax": ("jax", "rnnc.jax"),
    "h5py": ("keras", "weights of Keras's files"),
    "tqdm": ("train", "progress bars"),
    "matplotlib": ("train", "curves of a training"),
}
"""A package -> the extra that brings it, and what needs it."""

INT8 = {"vnni": "VNNI", "pairs": "pairs of bytes, in 16 bits", "bytes": "no instruction for them"}
"""The instructions for products of int8 weights (`rnnc.backends.llvm.asm.target.Dots`), in words."""


def add(commands: Commands) -> None:
    """Declares the command."""
    add_command(
        commands,
        "doctor",
        _run,
        help="show what this machine offers, and what is missing for each backend",
        description="Show versions, the CPU, the cache, backends, extras and settings, and check that compiled code "
        "computes what NumPy does.\nThe exit code is 1 if it does not.",
        examples=["rnnc doctor", "RNNC_NUM_THREADS=2 rnnc doctor"],
    )


def _run(options: argparse.Namespace) -> int:
    failed = False
    for title, lines in (
        ("versions", _versions()),
        ("processor", _processor()),
        ("cache", _cache()),
        ("backends", _backends()),
        ("extras", _extras()),
        ("settings", _settings()),
    ):
        print(title)
        for line in lines:
            failed = failed or line.startswith("llvm           broken")
            print(f"  {line}")
    return int(failed)


def _row(name: str, text: str) -> str:
    return f"{name:<14} {text}"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _versions() -> Iterator[str]:
    from rnnc.backends.llvm.asm.library import binding

    yield _row("rnnc", _version("rnnc") or "not installed (a checkout)")
    yield _row("Python", f"{platform.python_version()}, {platform.system()} {platform.machine()}, {sys.executable}")
    for package in ("numpy", "networkx"):
        yield _row(package, _version(package) or "missing: pip install rnnc")
    llvm = ".".join(map(str, binding().llvm_version_info))
    yield _row("llvmlite", f"{_version('llvmlite')}, LLVM {llvm}")


def _processor() -> Iterator[str]:
    from rnnc.backends.llvm.asm.target import host, processor

    found, target = processor(), host()
    yield _row("model", f"{found.model} ({found.triple})")
    yield _row("code", f"{target.name}, vectors of {target.vector_bytes} bytes, {target.registers} registers")
    yield _row(
        "int8 products", {"vnni": "VNNI", "pairs": "pairs of bytes", "bytes": "no instructions"}[target.dots.value]
    )
    yield _row("cores", f"{settings.cores()} for this process; calls use up to {settings.threads()} threads")


def _cache() -> Iterator[str]:
    from rnnc.backends import cache

    folder = settings.cache_folder()
    if folder is None:
        yield _row("none", "every process compiles anew; RNNC_CACHE_DIR=FOLDER keeps what is compiled")
        return
    entries = cache.entries()
    size = sum(entry.size for entry in entries) / 1e6
    yield _row("folder", str(folder / cache.FOLDER))
    yield _row("entries", f"{len(entries)}, {size:.1f} of at most {settings.cache_bytes() / 1e6:,.0f} MB")


def _backends() -> Iterator[str]:
    yield _row("llvm", _check())
    yield _row("reference", "works: NumPy, slow, the oracle of the tests")
    from rnnc.backends.cuda.run.availability import gpu_status

    status = gpu_status()
    yield _row(
        "cuda", f"works: {status.reason}" if status.usable else f"its CUDA C can be read; to run it: {status.reason}"
    )
    compilers = [settings.compiler(), "c++", "g++", "clang++"]
    compiler = next((path for name in compilers if name and (path := shutil.which(name))), None)
    missing = "needs a C++ compiler: apt install g++, or set CXX"
    yield _row("cuda-emulated", f"works: {compiler}, for tests" if compiler else missing)


def _check() -> str:
    """Whether a small network gives what NumPy computes."""
    import numpy as np

    from rnnc.programs import compile
    from rnnc.specs import GRU

    spec = GRU(5, 17, bidirectional=True)
    x = np.random.default_rng(0).normal(size=(7, 3, 5)).astype(spec.dtype)
    try:
        found, expected = (compile(spec, spec.init(0), backend=name)(x)[0] for name in ("llvm", "reference"))
    except Exception as error:  # whatever is wrong is what the user came to see
        return f"broken: {type(error).__name__}: {' '.join(str(error).split())}"
    worst = float(np.abs(found - expected).max())
    return f"works: differs from NumPy by {worst:.1e}" if worst < 1e-5 else f"broken: differs from NumPy by {worst:.1e}"


def _extras() -> Iterator[str]:
    for package, (extra, use) in EXTRAS.items():
        there = importlib.util.find_spec(package) is not None
        yield _row(package, f"{_version(package) or 'there'}" if there else f"for {use}: pip install 'rnnc[{extra}]'")


def _settings() -> Iterator[str]:
    from rnnc.configuration import lines

    yield from lines()
