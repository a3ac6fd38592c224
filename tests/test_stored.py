"""Stored code: a process that finds its code on disk makes no stage, imports no LLVM, and computes the same bits."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rnnc
from rnnc.backends import cache, stamps
from rnnc.backends.llvm import LlvmCode, stored
from rnnc.backends.llvm import compile as llvm_compile
from rnnc.backends.llvm.asm import cpuid, image, jit, target
from rnnc.backends.llvm.asm.library import use
from rnnc.backends.llvm.calls.bound import LlvmBound
from rnnc.cells import Cell
from rnnc.computations import forward
from rnnc.ir.equations import linear, sigmoid, tanh

ROOT = Path(__file__).resolve().parent.parent
SPEC = rnnc.LSTM(3, 5, 2, bidirectional=True)

pytestmark = pytest.mark.skipif(not image.can_map(), reason="images are mapped on Linux on x86-64")


@pytest.fixture(autouse=True)
def storing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, in which code is stored as for users."""
    monkeypatch.setenv("RNNC_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("RNNC_VERIFY", "0")
    return tmp_path / "cache" / cache.FOLDER


def is_stored(compiled: Any) -> bool:
    """Whether the code of a compiled object was found, and no stage was made for it."""
    code: LlvmCode = compiled._code
    return code.linked.cached and "_artefacts" not in vars(code)


class Leaky(Cell):
    name = "leaky"

    def step(self, x, state, p):  # type: ignore[no-untyped-def]
        h = 0.9 * state.h + tanh(linear(x, p.weight_ih, p.bias_ih) + linear(state.h, p.weight_hh, p.bias_hh))
        return h, {"h": h}


class Scaled(Leaky):
    name = "scaled"

    def step(self, x, state, p):  # type: ignore[no-untyped-def]
        h = 0.9 * state.h + tanh(linear(x, 2 * p.weight_ih, p.bias_ih) + linear(state.h, -p.weight_hh, p.bias_hh))
        return h, {"h": h}


PROGRAM = """
import sys
import numpy as np
import rnnc

spec = rnnc.LSTM(3, 5, 2, bidirectional=True)
params = dict(np.load(sys.argv[1]))
x = np.linspace(-1, 1, 4 * 2 * 3, dtype=np.float32).reshape(4, 2, 3)
output, (h, c) = rnnc.compile(spec, params)(x)
(_, _), pullback = rnnc.vjp(spec)(params, x, lengths=[4, 2])
d_params, d_x, _ = pullback(output)
net = rnnc.Sequential(rnnc.GRU(3, 4), rnnc.Linear(4, 2))
net.compile(net.init())(x)
rnnc.train.fit(net, [(x[:, 0], [0, 1, 0, 1])], epochs=1, loss=rnnc.losses.cross_entropy(), progress=False)
np.savez(sys.argv[2], output=output, h=h, c=c, d_x=d_x, **d_params)
print(sorted({"llvmlite", "networkx", "rnnc.backends.planning.planner"} & set(sys.modules)))
"""


def test_a_process_that_compiles_nothing_never_imports_llvm(tmp_path: Path) -> None:
    np.savez(tmp_path / "params.npz", **SPEC.init(seed=0))
    said, results = [], []
    for number in range(2):
        made = tmp_path / f"{number}.npz"
        command = [sys.executable, "-c", PROGRAM, str(tmp_path / "params.npz"), str(made)]
        said.append(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
        results.append({name: array.tobytes() for name, array in np.load(made).items()})
    assert "llvmlite" in said[0] and said[1] == "[]\n"
    assert results[0] == results[1]


@pytest.mark.parametrize(
    "make",
    (
        lambda: rnnc.compile(SPEC),
        lambda: rnnc.vjp(SPEC),
        lambda: rnnc.hvp(rnnc.GRU(3, 4)),
        lambda: rnnc.compile(rnnc.Recurrent(Leaky(), 3, 4)),
    ),
    ids=("forward", "vjp", "hvp", "own cell"),
)
def test_the_second_compile_is_stored(make: Callable[[], Any]) -> None:
    first, second = make(), make()
    assert not is_stored(first) and second._code.linked.cached
    assert first._code.manifest.flops_per_row == second._code.manifest.flops_per_row
    assert second.explain() == first.explain()
    assert all(second.ir(stage) == first.ir(stage) for stage in first.stages)


FORMS = ({"weights": "bfloat16"}, {"weights": "int8"}, {"weights": "int8", "activations": "float32"})


@pytest.mark.parametrize("form", FORMS)
def test_code_with_narrow_weights_is_stored(form: dict[str, str]) -> None:
    """Also of a spec whose narrow weights are computed from parameters, not only parameters."""
    x = np.linspace(-1, 1, 4 * 2 * 3, dtype=np.float32).reshape(4, 2, 3)
    for spec in (SPEC, rnnc.Recurrent(Leaky(), 3, 4), rnnc.Recurrent(Scaled(), 3, 4)):
        params = spec.init(seed=0)
        first, second = (rnnc.compile(spec, params, **form) for _ in range(2))  # type: ignore[arg-type]
        assert not is_stored(first) and second._code.linked.cached
        np.testing.assert_array_equal(second(x)[0], first(x)[0])
        assert not is_stored(rnnc.compile(spec)) and "_artefacts" not in vars(second._code)


def test_a_computation_is_found_by_all_that_decides_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    rnnc.compile(SPEC)
    assert is_stored(rnnc.compile(SPEC))
    for other in (rnnc.LSTM(3, 5, 2), rnnc.LSTM(3, 5, 2, bidirectional=True, dtype="float64"), rnnc.GRU(3, 5, 2)):
        assert not is_stored(rnnc.compile(other))
    generic = target.host("generic")
    assert not llvm_compile(forward(SPEC), threads=1, target=generic).linked.cached
    for change in (("RNNC_CODEGEN", "1"), ("RNNC_VERIFY", "1"), ("RNNC_CACHE_DIR", "off")):
        with monkeypatch.context() as patch:
            patch.setenv(*change)
            assert not is_stored(rnnc.compile(SPEC))
    monkeypatch.setattr(stamps, "of_rnnc", lambda: "another version")
    assert not is_stored(rnnc.compile(SPEC))


def test_changed_equations_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = rnnc.Recurrent(Leaky(), 3, 4)
    params, x = spec.init(seed=0), np.ones((3, 2, 3), np.float32)
    rnnc.compile(spec)

    def step(self: Cell, x: Any, state: Any, p: Any) -> Any:
        h = sigmoid(linear(x, p.weight_ih, p.bias_ih) + linear(state.h, p.weight_hh, p.bias_hh))
        return h, {"h": h}

    monkeypatch.setattr(Leaky, "step", step)
    expected = rnnc.compile(spec, params, backend="reference")(x)[0]
    np.testing.assert_allclose(rnnc.compile(spec, params)(x)[0], expected, atol=1e-6)


def test_every_damage_is_noticed(storing: Path) -> None:
    """Each file of the cache in turn loses its end, and then has one wrong bit."""
    params, x = SPEC.init(seed=0), np.ones((4, 2, 3), np.float32)
    expected = rnnc.compile(SPEC, params)(x)[0]
    for path in sorted(storing.iterdir()):
        whole = path.read_bytes()
        for damaged in (whole[: len(whole) // 2], whole[:-1] + bytes([whole[-1] ^ 1])):
            path.write_bytes(damaged)
            np.testing.assert_array_equal(rnnc.compile(SPEC, params)(x)[0], expected)
    assert is_stored(rnnc.compile(SPEC))


def test_a_padded_batch_is_proved_once(monkeypatch: pytest.MonkeyPatch) -> None:
    params, x = SPEC.init(seed=0), np.ones((4, 2, 3), np.float32)
    expected = rnnc.compile(SPEC, params)(x, lengths=[4, 1])[0]
    model = rnnc.compile(SPEC, params)
    monkeypatch.setattr("rnnc.ir.computation.Computation.program", None)  # the proof would call it
    np.testing.assert_array_equal(model(x, lengths=[4, 1])[0], expected)
    assert is_stored(model)


def test_sources_that_changed_since_the_process_began_have_no_stamp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in memory is not what is on disk. Folders do not count: Python changes them when it compiles a module."""
    (tmp_path / "module.py").write_text("x = 1")
    (tmp_path / "aside").symlink_to(tmp_path.parent)
    os.utime(tmp_path / "module.py", (1000, 1000))
    monkeypatch.setattr(stamps, "_OWN", {"a package": True})
    monkeypatch.setitem(sys.modules, "a package", type(sys)("a package"))
    sys.modules["a package"].__path__ = [str(tmp_path)]  # type: ignore[attr-defined]
    found = []
    for when in (1000, 2000, time.time() + 60):
        os.utime(tmp_path / "module.py", (when, when))
        found.append(stamps.of_rnnc.__wrapped__())
    assert found[0] and found[1] and found[0] != found[1] and found[2] is None


# ---- the machine, and its memory


def test_llvms_description_of_the_machine_is_kept_under_what_decides_it(storing: Path) -> None:
    assert cpuid.identity() == cpuid.identity()
    described = target.processor.__wrapped__()
    assert described == target.processor.__wrapped__() == use(target._processor)
    assert len(list(storing.iterdir())) == 1


def test_where_images_are_not_mapped_llvm_links(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (image, jit, stored, cpuid):
        monkeypatch.setattr(module, "can_map", lambda: False)
    params, x = SPEC.init(seed=0), np.ones((4, 2, 3), np.float32)
    got = []
    for _ in range(2):
        code = llvm_compile(forward(SPEC), threads=1)
        assert code._artefacts["asm"].image is None
        output = np.empty((4, 2, 10), np.float32)
        bound: LlvmBound = code.bind(params)
        bound.start({"x": x}, {"output": output}, 4, 2, None)
        got.append(output)
    np.testing.assert_allclose(got[0], rnnc.compile(SPEC, params, backend="reference")(x)[0], atol=1e-6)
    np.testing.assert_array_equal(*got)


def test_a_function_that_nobody_has_is_an_error() -> None:
    with pytest.raises(LookupError, match="no loaded library has 'rnnc_nothing'"):
        image.Mapped(image.Image(b"\xc3" * 8, {}, 8, ("rnnc_nothing",)), {})
