"""The examples of exported libraries are built by the commands of docs/export.md, and detect what the model detects."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
import wave
from importlib import util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import rnnc
from tests.foreign_machines import X86_64

pytestmark = [
    pytest.mark.rare,
    pytest.mark.skipif(not X86_64.is_here, reason="the libraries are for x86-64"),
]

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples" / "export"
COMMANDS = re.findall(r"^```sh\n(.*?)^```", (ROOT / "docs" / "export.md").read_text(encoding="utf-8"), re.M | re.S)
CHUNK, CONTEXT, CHUNKS = 512, 64, 40


def module(path: Path) -> ModuleType:
    spec = util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    found = util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder `build` of a checkout, with the exported detector and a sound."""
    pytest.importorskip("onnx")
    if util.find_spec("silero_vad") is None:
        pytest.skip("pip install --no-deps silero-vad")
    checkout = tmp_path_factory.mktemp("checkout")
    (checkout / "examples").symlink_to(ROOT / "examples")
    module(EXAMPLES / "vad.py").main(str(checkout / "build"), "x86-64", "wasm32", "cortex-m4f")
    rng, t = np.random.default_rng(0), np.arange(CHUNK * CHUNKS) / 16000
    tones = sum(np.sin(2 * np.pi * 140 * n * t + n) / n for n in range(1, 20))
    sound = 0.1 * tones * np.clip(np.sin(2 * np.pi * 2 * t), 0, 1) * (t > 0.4) + 0.002 * rng.standard_normal(len(t))
    with wave.open(str(checkout / "sound.wav"), "wb") as out:
        out.setparams((1, 2, 16000, 0, "NONE", ""))
        out.writeframes((sound * 32767).astype("<i2").tobytes())
    return checkout


def samples(checkout: Path) -> Any:
    with wave.open(str(checkout / "sound.wav")) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768


def expected(checkout: Path) -> Any:
    """The probabilities that the model gives."""
    padded = np.concatenate([np.zeros(CONTEXT, np.float32), samples(checkout)])
    x = np.stack([padded[at : at + CONTEXT + CHUNK] for at in range(0, CHUNK * CHUNKS, CHUNK)])
    zeros = np.zeros((1, 1, 128), np.float32)
    run = rnnc.from_onnx(module(EXAMPLES / "vad.py").published()).run({"input": x, "h": zeros, "c": zeros})
    return run["speech_probs"].ravel()


def run(checkout: Path, *needed: str, holding: str) -> str:
    """Runs the commands of the page's block that holds a text, and returns what they print."""
    for tool in needed:
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    (block,) = [each for each in COMMANDS if holding in each]
    done = subprocess.run(["sh", "-e", "-c", block], cwd=checkout, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("needed", "holding"),
    [
        (("cc",), "examples/export/main.c "),
        (("c++",), "examples/export/main.cpp"),
        (("rustc",), "examples/export/main.rs"),
    ],
    ids=["C", "C++", "Rust"],
)
def test_programs(build: Path, needed: tuple[str, ...], holding: str) -> None:
    rows = [line.split() for line in run(build, *needed, holding=holding).splitlines()]
    assert [float(start) for start, _ in rows] == [round(n * CHUNK / 16000, 3) for n in range(CHUNKS)]
    found = np.array([float(probability) for _, probability in rows])
    np.testing.assert_allclose(found, expected(build), atol=6e-4)
    assert found.max() > 0.3 > found.min()


def test_a_microcontroller(build: Path) -> None:
    printed = run(build, "arm-none-eabi-gcc", "qemu-system-arm", holding="cortex_m/main.c")
    found = [float(line.split()[1]) for line in printed.splitlines()]
    assert len(found) == 12 and all(0 <= each <= 1 for each in found)
    assert max(found[:4]) < 0.1 < max(found[4:])


def test_the_page_detects_in_an_audio_worklet(build: Path) -> None:
    browser = next((tool for name in ("chromium", "google-chrome") if (tool := shutil.which(name))), None)
    if browser is None:
        pytest.skip("chromium is not installed")
    if not (build / "build" / "wasm32" / "vad.wasm").exists():
        pytest.skip("wasm-ld is not installed")
    serve = module(EXAMPLES / "web" / "serve.py")
    serving, said, drawn = serve.server(build / "build" / "wasm32" / "vad.wasm", build / "sound.wav")
    threading.Thread(target=serving.serve_forever, daemon=True).start()
    picture = build / "page.png"
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1000,520", f"--screenshot={picture}"]
    page = f"http://127.0.0.1:{serving.server_port}/?sound=sound.wav"
    subprocess.run([browser, *options, page], capture_output=True, timeout=100)
    serving.shutdown()
    assert drawn.is_set() and picture.stat().st_size > 5000
    speech = sum(expected(build) > 0.5) * CHUNK / 16000
    assert f"{CHUNK * CHUNKS / 16000:.2f} s of sound, {speech:.2f} s of it speech" in said[0]


def test_python_without_rnnc(build: Path) -> None:
    x = build / "x.npy"
    padded = np.concatenate([np.zeros(CONTEXT, np.float32), samples(build)])
    np.save(x, np.stack([padded[at : at + CONTEXT + CHUNK] for at in range(0, CHUNK * CHUNKS, CHUNK)]))
    code = (
        "import sys; sys.path.insert(0, 'build'); import numpy as np, vad; f = vad.Library('build/x86-64/libvad.so');"
        "output, state = f(np.load('x.npy')); np.save('y.npy', output)"
    )
    subprocess.run([sys.executable, "-I", "-c", code], check=True, cwd=build)
    np.testing.assert_allclose(np.load(build / "y.npy").ravel(), expected(build), atol=1e-5)
