"""benchmarks/gpu.py without a GPU: its logic on a CuPy that is none, its peers on the CPU, its workers with neither."""

from __future__ import annotations

import io
import itertools
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu as benchmark
from benchmarks import gpu_rows, gpu_worker
from rnnc import backends
from rnnc.backends.cuda.emulator import find_compiler
from rnnc.backends.cuda.run import availability as driver
from tests.fake_cupy import FakeGpu


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpu]:
    if find_compiler() is None:
        pytest.skip("running CUDA C on the CPU needs a C++ compiler")
    found = FakeGpu()
    found.install(monkeypatch)
    monkeypatch.setattr(backends, "MODULES", dict(backends.MODULES))  # the matrix makes a backend of its own known
    yield found
    found.check_guards()


def test_the_benchmark_runs_and_reports(gpu: FakeGpu, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = tmp_path / "gpu.md", tmp_path / "gpu.json"
    options = ["--in-process", "--rounds", "1", "--each", "50", "--orders", "forward,gradients", "--only"]
    options += ["micro,matrix,table", "--markdown", str(paths[0]), "--json", str(paths[1])]
    assert benchmark.main([*options, "--config", "minimal_gated_unit,8,2,5,tf32"]) == 0
    found, text = json.loads(paths[1].read_text()), paths[0].read_text()
    assert text == capsys.readouterr().out
    for title in ("## Costs", "## The test matrix", "## Microseconds a time step"):
        assert title in text
    assert all("measured" in one for one in found["micro"]["measurements"].values())
    for order in ("forward", "gradients"):
        assert found[f"matrix {order}"] and all(one["error"] <= one["allowed"] for one in found[f"matrix {order}"])
    rows = found["table"]
    assert [row["config"]["training"] for row in rows] == [False, True]
    for row in rows:
        assert row["seconds"].keys() == {"rnnc", "rnnc graph"} and not row["notes"] and row["estimate_us"] > 0
        assert 0 < row["errors"]["rnnc"] <= 4e-2


def test_a_row_that_fails_is_reported_and_the_next_one_goes_on(
    gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(gpu_rows.TOLERANCE, "float16", 1e-9)
    monkeypatch.setitem(gpu_worker.WORK, "micro", lambda _: 1 / 0)
    configs = ["--config", "gru,8,2,5,float16", "--config", "gru,8,2,5"]
    assert benchmark.main(["--in-process", "--rounds", "1", "--only", "micro,table", *configs]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "| failed: ZeroDivisionError: division by zero | | | |" in lines
    wrong, right = (next(line for line in lines if f"{kind} forward" in line) for kind in ("float16", "float32"))
    assert "rnnc: off by" in wrong and "is allowed" in wrong
    assert right.split("|")[2].strip() and not right.split("|")[-2].strip()


def test_peers_take_their_turns(
    gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """PyTorch on the CPU, which has no graphs, and one of its forms not at all: reported beside the times."""
    pytest.importorskip("torch")
    from benchmarks.gpu_peers import TorchPeer

    def peer(*arguments: Any, compiled: bool, stream: Any, **options: Any) -> TorchPeer:
        if compiled:
            raise RuntimeError("no compiler | here")
        return TorchPeer(*arguments, **options, device="cpu")

    monkeypatch.setattr(gpu_rows, "TorchPeer", peer)
    monkeypatch.setattr(gpu_worker, "_has_torch", lambda: True)
    assert benchmark.main(["--in-process", "--rounds", "1", "--only", "table", "--config", "gru,8,2,5"]) == 0
    *_, last = capsys.readouterr().out.splitlines()
    assert last.startswith("as called: 2 with a peer, rnnc is faster in ")
    row = gpu_rows.measure(gpu_rows.Config("gru", 8, 2, 5), ("torch", "compile"), 1)
    assert row["seconds"].keys() == {"rnnc", "rnnc graph", "torch"} and row["errors"]["torch"] < 1e-6
    assert row["notes"].keys() == {"torch graph", "torch.compile"}
    text = benchmark.row_text(gpu_rows.Config("gru", 8, 2, 5), row)
    assert "torch.compile: RuntimeError: no compiler / here" in text and text.count("|") == benchmark.row_text(
        gpu_rows.Config("gru", 8, 2, 5), {"failed": "all of it"}
    ).count("|")


CHILD = """
import sys, time
for line in sys.stdin:
    if "hang" in line: time.sleep(60)
    if "die" in line: sys.exit("an illegal address")
    print('{"found": %s, "leaves": %s}' % (line.strip(), "true" if "leave" in line else "false"), flush=True)
    if "leave" in line: time.sleep(60)
"""


def test_a_worker_that_hangs_or_dies_is_replaced() -> None:
    worker = gpu_worker.Worker((sys.executable, "-c", CHILD))
    try:
        assert worker.ask({"n": 1}, 30) == {"found": {"n": 1}}
        assert worker.ask({"n": "hang"}, 0.2)["failed"].startswith("no answer within 0 s")
        assert worker.ask({"n": "leave"}, 30) == {"found": {"n": "leave"}}
        died = worker.ask({"n": "die"}, 30)["failed"]
        assert died.startswith("the process ended with 1") and died.endswith("an illegal address")
        both = [{"n": 2}, {"n": 3}]
        found = gpu_worker.ask_all([worker], both, 30, time.monotonic() + 60)
        assert list(found) == [{"found": request} for request in both]
        assert list(gpu_worker.ask_all([worker], both, 30, time.monotonic())) == [{"skipped": True}] * 2
    finally:
        worker.close()


def test_a_worker_leaves_once_a_fault_has_made_the_gpu_useless(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(*_: Any) -> Any:
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setitem(gpu_worker.WORK, "row", fault)
    requests = [json.dumps({"work": "row"})] * 2
    answers = io.StringIO()
    gpu_worker.serve(requests, answers)
    assert [json.loads(line)["leaves"] for line in answers.getvalue().splitlines()] == [False, False]
    monkeypatch.setattr(gpu.cupy.cuda.runtime, "deviceSynchronize", fault)
    answers = io.StringIO()
    gpu_worker.serve(requests, answers)
    message = "RuntimeError: an illegal memory access was encountered"
    assert json.loads(answers.getvalue()) == {"failed": message, "leaves": True}


@pytest.mark.parametrize("training", (False, True))
@pytest.mark.parametrize("cell", gpu_rows.CELLS)
def test_peers_compute_the_same(cell: str, training: bool) -> None:
    pytest.importorskip("torch")
    from benchmarks.gpu_peers import TorchPeer

    config = gpu_rows.Config(cell, 6, 3, 4, training=training)
    data = gpu_rows.Data.of(config)
    expected = gpu_rows.reference_result(config, data)
    for operands, tolerance in (("float64", 1e-12), (None, 1e-4), ("bfloat16", 0.2)):
        peer = TorchPeer(cell, data.params, data.arrays, operands, training=training, device="cpu")
        assert gpu_rows.worst(peer.result(), expected) <= tolerance


def test_rows_of_the_table_cover_all_pairs_of_sizes() -> None:
    rows = gpu_rows.every(full=False, quick=False)
    for a, b in itertools.combinations(gpu_rows.SIZES, 2):
        pairs = {(getattr(row, a), getattr(row, b)) for row in rows}
        assert len(pairs) == len(gpu_rows.SIZES[a]) * len(gpu_rows.SIZES[b])
    assert len(rows) < 120 < len(gpu_rows.every(full=True, quick=False))


def test_without_a_gpu_the_benchmark_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "gpu_status", lambda: driver.Status(False, "no NVIDIA driver"))
    assert benchmark.main(["--quick"]) == 2
    assert capsys.readouterr().err == "no GPU to measure: no NVIDIA driver\n"


@pytest.mark.parametrize(
    "wrong", ("--only=tables", "--cells=lst", "--config=lstm,8,2", "--operands=half", "--rounds=0")
)
def test_options_of_the_benchmark_are_checked(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        benchmark.arguments([wrong])
    assert wrong[:6] in capsys.readouterr().err
