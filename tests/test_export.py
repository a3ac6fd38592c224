"""`rnnc.export` and `rnnc.load_library`: files that programs in C, C++ and Python use without rnnc."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rnnc
from rnnc.cli import main
from rnnc.exporting.wheel import export_wheel
from rnnc.ir.errors import ArgumentError, ArgumentTypeError, DtypeError, FileError, ShapeError
from tests.test_exported_code import STREAMS, WHOLE, bound, tolerance

pytestmark = pytest.mark.skipif(
    (platform.machine(), sys.platform) != ("x86_64", "linux"), reason="the libraries are for Linux on x86-64"
)

RNG = np.random.default_rng(3)
HERE = "x86-64-v2"


def loaded(model: Any, folder: Path, **options: Any) -> Any:
    made = rnnc.export(model, folder, "net", targets=HERE, **options)
    weights = folder / HERE / "net.weights" if options.get("weights") == "file" else None
    return rnnc.load_library(made.libraries[HERE], weights)


@pytest.mark.parametrize("name", ["lstm, two layers", "gru, float64", "strides", "embedding"])
def test_a_library_is_a_function_of_arrays(name: str, tmp_path: Path) -> None:
    model = STREAMS[name]()
    f = loaded(model, tmp_path, weights="file" if name == "strides" else "embedded")
    (port,) = f.about["inputs"]
    shape = (8, 3) if "rows" in port else (8, 3, port["width"] // port["steps"])
    x: Any = (
        RNG.integers(0, port["rows"], shape) if "rows" in port else RNG.standard_normal(shape).astype(port["dtype"])
    )
    want, _ = model.advance(x)
    close = {"rtol": 0, "atol": tolerance(f.about["dtype"])}
    first, state = f(x[:4])
    second, last = f(x[4:], state)
    np.testing.assert_allclose(np.concatenate([first, second]), want, **close)
    np.testing.assert_allclose(f(x[4:], state)[0], second, rtol=0, atol=0)  # the state that was given is as it was
    alone = f(x[:, 1])[0]
    np.testing.assert_allclose(alone, want[:, 1], **close)
    own = f(x[4:, 1], f(x[:4, 1])[1])[1]
    np.testing.assert_array_equal(own[: f.about["saved_bytes"]], last[1][: f.about["saved_bytes"]])


@pytest.mark.parametrize("name", WHOLE)
def test_whole_sequences_with_lengths_and_states(name: str, tmp_path: Path) -> None:
    model = WHOLE[name]()
    f = loaded(model, tmp_path)
    x = RNG.standard_normal((5, 5, 4)).astype(f.about["dtype"])
    lengths = np.array([5, 2, 0, 3, 1])
    want, last = model(x, lengths=lengths)
    output, state = f(x, lengths=lengths)
    close = {"rtol": 0, "atol": tolerance(f.about["dtype"])}
    np.testing.assert_allclose(output, want, **close)
    for got, wanted in zip(state.values(), last if isinstance(last, tuple) else (last,), strict=True):
        np.testing.assert_allclose(got, wanted, **close)
    again = model(x, last)[0]
    np.testing.assert_allclose(f(x, state)[0], again, **close)
    row = x[2] if model.spec.batch_first else x[:, 2]
    np.testing.assert_allclose(f(row)[0], model(row)[0], **close)


def test_several_outputs_are_a_dict(tmp_path: Path) -> None:
    layers = {
        "features": (rnnc.GRU(4, 5), "signal.in"),
        "a": (rnnc.Linear(5, 2), "features"),
        "b": (rnnc.Linear(5, 3), "features"),
    }
    graph = rnnc.Graph({"signal.in": 4}, layers, {"yes": "a", "no.no": "b"})
    network = graph.compile(graph.init(seed=0))
    f = loaded(network, tmp_path)
    x = RNG.standard_normal((6, 2, 4)).astype("f4")
    output, _ = f({"signal.in": x})
    want, _ = network.advance(x)
    for key, array in want.items():
        np.testing.assert_allclose(output[key], array, rtol=0, atol=2e-6)
    assert "NET_OUTPUT_NO_NO_FIRST 2" in (tmp_path / "net.h").read_text()


def test_wrong_arguments_of_a_library(tmp_path: Path) -> None:
    f = loaded(STREAMS["lstm, two layers"](), tmp_path)
    x = np.zeros((4, 5), "f4")
    for wrong, error, said in [
        (x.astype("f8"), DtypeError, "x\\['x'\\]: expected float32, got float64"),
        (x.tolist(), DtypeError, "expected float32, got list"),
        (x[:, :4], ShapeError, "expected \\(T, B, 5\\), or without B; got \\(4, 4\\)"),
        (x[0], ShapeError, "got \\(5,\\)"),
        ({"y": x}, ArgumentError, "expected arrays x, got y"),
    ]:
        with pytest.raises(error, match=said):
            f(wrong)
    _, state = f(x)
    for wrong_state in (state[:-1], state.astype("f4"), np.stack([state, state])):
        with pytest.raises(ShapeError, match="state: expected what an earlier call of 1 streams returned"):
            f(x, wrong_state)
    with pytest.raises(ArgumentError, match="state: it is of another model"):
        f(x, np.zeros_like(state))
    with pytest.raises(ShapeError, match="lengths: a stream has none"):
        f(x, lengths=[4])
    for nothing in (x[:0], x[:, None][:, :0]):
        with pytest.raises(ShapeError, match="expected some|expected 4 steps of some"):
            f(nothing)
    numbers = loaded(STREAMS["embedding"](), tmp_path / "embedding")
    with pytest.raises(ArgumentError, match="no row of its table"):
        numbers(np.array([1, 11]))
    strides = loaded(STREAMS["strides"](), tmp_path / "strides")
    with pytest.raises(ShapeError, match="expected a multiple of 2 steps, got 3"):
        strides(np.zeros((3, 3), "f4"))


def test_files_that_are_no_library_for_this_machine(tmp_path: Path) -> None:
    model = STREAMS["gru, float64"]()
    with pytest.raises(FileError, match="cannot read"):
        rnnc.load_library(tmp_path / "none.so")
    (tmp_path / "text.so").write_text("no library")
    with pytest.raises(FileError, match="is not of rnnc; expected a library of rnnc's export"):
        rnnc.load_library(tmp_path / "text.so")
    made = rnnc.export(model, tmp_path, "net", targets=["aarch64", HERE], weights="file")
    with pytest.raises(FileError, match="is for aarch64, and this is Linux on x86_64"):
        rnnc.load_library(made.libraries["aarch64"], tmp_path / "aarch64" / "net.weights")
    path = made.libraries[HERE]
    with pytest.raises(ArgumentError, match="weights: expected the path"):
        rnnc.load_library(path)
    with pytest.raises(FileError, match="the file is not of this library"):
        rnnc.load_library(path, tmp_path / "text.so")
    newer = path.read_bytes().replace(b'"rnnc":1,', b'"rnnc":9,')
    (tmp_path / "newer.so").write_bytes(newer)
    with pytest.raises(FileError, match="has version 9 of the interface, not 1"):
        rnnc.load_library(tmp_path / "newer.so")


def test_wrong_arguments_of_export(tmp_path: Path) -> None:
    model = STREAMS["gru, float64"]()
    for options, error, said in [
        ({"name": "9lives"}, ArgumentError, "name: expected an identifier of C"),
        ({"targets": "vax"}, ArgumentError, "targets: expected 'host' or 'x86-64'"),
        ({"targets": 5}, ArgumentTypeError, "targets: expected names of machines, got 5"),
        ({"weights": "int8"}, ArgumentError, "weights: expected 'embedded' or 'file'"),
        ({"weights": "file", "targets": "x86-64"}, ArgumentError, "name one: x86-64-v2, x86-64-v3, x86-64-v4"),
        ({"kind": "half"}, ArgumentError, "kind: expected 'stream' or 'whole'"),
    ]:
        with pytest.raises(error, match=said):
            rnnc.export(model, tmp_path, **options)
    (tmp_path / "taken").write_text("")
    with pytest.raises(FileError, match="folder: cannot write"):
        rnnc.export(model, tmp_path / "taken")


LOADER = """
import sys
sys.path.insert(0, {folder!r})
import numpy as np, net
f = net.Library({path!r})
x = np.load({x!r})
y, state = f(x)
np.save({y!r}, y)
assert not any(name.partition(".")[0] in ("rnnc", "llvmlite", "networkx") for name in sys.modules)
try:
    f(x.astype("f8"))
except TypeError:
    print("refused")
"""


def test_the_loader_needs_no_rnnc_and_the_library_chooses_its_code(tmp_path: Path) -> None:
    model = bound(rnnc.GRU(3, 20))
    made = rnnc.export(model, tmp_path, "net")  # for this machine
    (path,) = made.libraries.values()
    x = RNG.standard_normal((7, 3)).astype("f4")
    np.save(tmp_path / "x.npy", x)
    names = {"folder": str(tmp_path), "path": str(path), "x": str(tmp_path / "x.npy"), "y": str(tmp_path / "y.npy")}
    run = subprocess.run([sys.executable, "-I", "-c", LOADER.format(**names)], capture_output=True, text=True)
    assert (run.stdout, run.stderr) == ("refused\n", "")
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), model(x)[0], rtol=0, atol=2e-6)
    machine = rnnc.load_library(path).about["machine"]
    assert machine.startswith("x86-64-v")


HEADERS = [("cc", "c99"), ("cc", "c11"), ("c++", "c++17")]


@pytest.mark.parametrize(("compiler", "standard"), HEADERS)
def test_the_header_compiles_without_a_warning(compiler: str, standard: str, tmp_path: Path) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    for name, model in {"stream": STREAMS["embedding"], "whole": WHOLE["both directions"]}.items():
        rnnc.export(model(), tmp_path / name, "net", targets=HERE, weights="file")
    source = tmp_path / f"main.{'c' if compiler == 'cc' else 'cpp'}"
    source.write_text('#include "net.h"\nint main(void) { return NET_OK + (int)sizeof(NET_DIGEST) - 17; }\n')
    for name in ("stream", "whole"):
        warnings = ["-Wall", "-Wextra", "-Werror", "-pedantic", "-pedantic-errors"]
        command = [compiler, f"-std={standard}", *warnings, "-I", str(tmp_path / name), str(source)]
        subprocess.run([*command, "-o", str(tmp_path / "main")], check=True)
        assert subprocess.run([str(tmp_path / "main")]).returncode == 0


def test_the_command_line_exports_and_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = bound(rnnc.GRU(3, 4))
    model.save(tmp_path / "model.rnnc")
    arguments = ["export", str(tmp_path / "model.rnnc"), "--folder", str(tmp_path / "out"), "--name", "vad"]
    assert main([*arguments, "--target", "aarch64", "--target", "cortex-m4f", "--sizes"]) == 0
    shown = capsys.readouterr().out
    for text in ("aarch64/libvad.so", "cortex-m4f/libvad.a", "vad.h", "bytes of code", "rnnc_weights", "phase_"):
        assert text in shown
    assert main([*arguments, "--target", "list"]) == 0
    assert "riscv64-v" in capsys.readouterr().out
    assert main([*arguments, "--target", "vax"]) == 2
    assert "targets: expected 'host'" in capsys.readouterr().err


@pytest.mark.rare
def test_a_wheel_installs_where_there_is_only_numpy(tmp_path: Path) -> None:
    model = bound(rnnc.GRU(3, 20))
    (wheel,) = export_wheel(model, tmp_path, "vad")
    assert export_wheel(model, tmp_path / "again", "vad")[0].read_bytes() == wheel.read_bytes()
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", str(wheel)]
    subprocess.run(install, check=True)
    subprocess.run([str(python), "-m", "pip", "check"], capture_output=True)
    x = RNG.standard_normal((7, 3)).astype("f4")
    np.save(tmp_path / "x.npy", x)
    code = "import numpy as np, vad, sys; y, state = vad.run(np.load(sys.argv[1])); np.save(sys.argv[2], y)"
    numpy = str(Path(np.__file__).parent.parent)
    files = [str(tmp_path / "x.npy"), str(tmp_path / "y.npy")]
    subprocess.run([str(python), "-c", code, *files], check=True, env={"PYTHONPATH": numpy, "PATH": ""})
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), model(x)[0], rtol=0, atol=2e-6)
    subprocess.run([str(python), "-m", "pip", "uninstall", "-y", "-q", "vad"], check=True)  # RECORD lists all files
    assert not list((tmp_path / "venv").glob("lib/*/site-packages/vad*"))
