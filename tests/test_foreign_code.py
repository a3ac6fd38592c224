"""Exported code runs on every machine that can be had here, emulated or not, and memory checkers find nothing.

On Debian: apt install gcc-aarch64-linux-gnu gcc-riscv64-linux-gnu gcc-arm-linux-gnueabihf gcc-arm-none-eabi
libnewlib-arm-none-eabi qemu-user qemu-system-arm valgrind lld; pip install wasmtime
"""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rnnc
from rnnc.backends.llvm.portable import parameters
from rnnc.backends.llvm.portable.interface import CInterface
from tests.exported_programs import expected, given, shown, write_program
from tests.foreign_machines import MACHINES, X86_64, Machine
from tests.test_exported_code import STREAMS

pytestmark = pytest.mark.rare

ROOT = Path(__file__).resolve().parent.parent
CORTEX = ROOT / "examples" / "export" / "cortex_m"
TARGETS = {"aarch64": "aarch64", "armv7": "armv7", "riscv64": "riscv64", "riscv64-v": "riscv64"}
"""Target -> the machine whose compiler and emulator serve it."""


def check(results: list[Any], model: Any, api: CInterface, x: Any) -> None:
    """Two ways to run a stream have given what the model gives."""
    worst = 5e-6 if api.dtype == "float32" else 1e-12
    for result in results:
        assert result.shape == (len(x), api.outputs[0].width)
        np.testing.assert_allclose(result, expected(model, api, x), rtol=0, atol=worst)


def built(name: str, target: str, folder: Path, **options: Any) -> tuple[Any, CInterface, Any]:
    """A model, its export to the folder, with a program and its x."""
    model = STREAMS[name]()
    api = rnnc.export(model, folder, "net", targets=target, **options).interface
    x = given(api)
    write_program(folder, api, x)
    return model, api, x


@pytest.mark.parametrize("name", [name for name in STREAMS if name != "int8"])
@pytest.mark.parametrize("target", TARGETS)
def test_machines_with_linux(target: str, name: str, tmp_path: Path) -> None:
    machine = next(each for each in MACHINES if each.name == TARGETS[target])
    machine.need()
    model, api, x = built(name, target, tmp_path)
    archive, shared = str(tmp_path / target / "libnet.a"), tmp_path / target / "libnet.so"
    for flags in (["-static", archive], [str(shared), f"-Wl,-rpath,{shared.parent}"]):
        program = machine.build([tmp_path / "main.c"], tmp_path / "main", f"-I{tmp_path}", *flags)
        check(shown(ran(machine, target, program), api), model, api, x)


def ran(machine: Machine, target: str, program: Path) -> str:
    runner = machine.runner
    if target == "riscv64-v":
        runner = (runner[0], "-cpu", "rv64,v=true,vlen=128", *runner[1:])
    run = subprocess.run([*runner, program], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.parametrize("size", ["fast", "small"])
@pytest.mark.parametrize("name", [name for name in STREAMS if "float64" not in name])
def test_a_microcontroller(name: str, size: str, tmp_path: Path) -> None:
    """QEMU's board mps2-an386 has a Cortex-M4 with its FPU. Doubles would need a library of functions for them."""
    for tool in ("arm-none-eabi-gcc", "qemu-system-arm"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    model, api, x = built(name, "cortex-m4f", tmp_path, size=size)
    cpu = ["-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"]
    sources = [tmp_path / "main.c", CORTEX / "startup.c"]
    linking = ["--specs=rdimon.specs", "-nostartfiles", f"-T{CORTEX / 'link.ld'}", "-lc", "-lrdimon"]
    command = ["arm-none-eabi-gcc", *cpu, "-O1", "-Wall", "-Wextra", "-Werror", f"-I{tmp_path}", *sources]
    subprocess.run([*command, tmp_path / "cortex-m4f" / "libnet.a", *linking, "-o", tmp_path / "main.elf"], check=True)
    board = [
        "qemu-system-arm",
        "-machine",
        "mps2-an386",
        "-nographic",
        "-semihosting-config",
        "enable=on,target=native",
    ]
    run = subprocess.run([*board, "-kernel", tmp_path / "main.elf"], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    check(shown(run.stdout, api), model, api, x)


@pytest.mark.parametrize("most", [parameters.MOST, 7], ids=["parameters", "in tables"])
@pytest.mark.parametrize("name", STREAMS)
def test_web_assembly(name: str, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """most: the parameters of a function; more of them go into tables, as those of large phases do."""
    monkeypatch.setattr(parameters, "MOST", most)
    wasmtime = pytest.importorskip("wasmtime", reason="pip install wasmtime")
    if shutil.which("wasm-ld") is None:
        pytest.skip("wasm-ld is not installed")
    model, api, x = built(name, "wasm32", tmp_path)
    store = wasmtime.Store()
    module = wasmtime.Module.from_file(store.engine, str(tmp_path / "wasm32" / "net.wasm"))
    assert not module.imports, "the library needs nothing of the page"
    exports = wasmtime.Instance(store, module, []).exports(store)
    memory, place = exports["memory"], exports["__heap_base"].value(store)

    def room(size: int) -> int:
        nonlocal place
        start = -(-place // 64) * 64
        place = start + size
        if place > memory.data_len(store):
            memory.grow(store, -(-(place - memory.data_len(store)) // 65536))
        memory.write(store, b"\xff" * size, start)
        return start

    def call(name: str, *arguments: int) -> int:
        return int(exports[f"net_{name}"](store, *arguments))

    state, scratch = room(call("state_size")), room(call("scratch_size", len(x)))
    assert call("state_size") == api.state_bytes
    given_at, output = room(x.nbytes), room(len(x) * api.outputs[0].bytes)
    memory.write(store, x.tobytes(), given_at)
    results = []
    for steps in (True, False):
        memory.write(store, b"\xff" * len(x) * api.outputs[0].bytes, output)
        assert call("reset", state) == 0
        if steps:
            strides = api.inputs[0].bytes, api.outputs[0].bytes
            for n in range(len(x)):
                assert call("step", state, given_at + n * strides[0], output + n * strides[1]) == 0
        else:
            assert call("run", state, len(x), given_at, output, scratch) == 0
        content = memory.read(store, output, output + len(x) * api.outputs[0].bytes)
        results.append(np.frombuffer(bytes(content), api.outputs[0].dtype).reshape(len(x), -1))
    check(results, model, api, x)
    about = call("about")
    assert bytes(memory.read(store, about, about + 8)) == b'{"rnnc":'
    assert struct.calcsize("Q") == 8


CHECKED = ["delays", "gru, float64", "embedding", "lstm, two layers", "a user's cell", "strides", "bfloat16"]


@pytest.mark.skipif(not X86_64.is_here, reason="the code is of x86-64")
@pytest.mark.parametrize("target", ["x86-64-v2", "x86-64-v3"])
@pytest.mark.parametrize("name", CHECKED)
def test_valgrind_finds_nothing(name: str, target: str, tmp_path: Path) -> None:
    """Memory of the exact sizes: a read or write outside of it, or of what nobody wrote, would be reported."""
    if shutil.which("valgrind") is None:
        pytest.skip("valgrind is not installed")
    model, api, x = built(name, target, tmp_path)
    library = str(tmp_path / target / "libnet.a")
    program = X86_64.build([tmp_path / "main.c"], tmp_path / "main", "-g", f"-I{tmp_path}", library)
    checker = ["valgrind", "--quiet", "--error-exitcode=99", "--leak-check=full", "--errors-for-leak-kinds=all"]
    run = subprocess.run([*checker, str(program)], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    check(shown(run.stdout, api), model, api, x)


@pytest.mark.skipif(not X86_64.is_here, reason="the code is of x86-64")
@pytest.mark.parametrize(
    "flags", [["-fsanitize=address,undefined", "-fno-sanitize-recover=all"], ["-DCOUNTED"]], ids=str
)
def test_sanitizers_and_a_malloc_that_counts(flags: list[str], tmp_path: Path) -> None:
    model, api, x = built("delays", "x86-64", tmp_path)  # the functions are chosen when the program is loaded
    library = tmp_path / "x86-64" / "libnet.so"
    linking = [str(library), f"-Wl,-rpath,{library.parent}"]
    program = X86_64.build([tmp_path / "main.c"], tmp_path / "main", "-std=c11", *flags, f"-I{tmp_path}", *linking)
    check(shown(X86_64.run(program), api), model, api, x)


@pytest.mark.skipif(not X86_64.is_here, reason="the code is of x86-64")
def test_libraries_need_nothing_and_lie_on_pages_of_their_own(tmp_path: Path) -> None:
    made = rnnc.export(STREAMS["delays"](), tmp_path, "net", targets="x86-64")
    library = str(made.libraries["x86-64"])
    for tool, said in (("nm", "-Du"), ("readelf", "-d")):
        if shutil.which(tool):
            text = subprocess.run([tool, said, library], check=True, capture_output=True, text=True).stdout
            assert "NEEDED" not in text and (tool != "nm" or not text.strip())
