"""The texts of lowered graphs and of CUDA C are what they were, and the comparison itself can fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from rnnc.backends.cuda import CudaCode
from rnnc.backends.cuda.run.device import CupyDevice
from rnnc.backends.cuda.schedule.chip import chip_of
from rnnc.computations import forward
from rnnc.ir.lower import lower
from rnnc.ir.text import print_graph
from rnnc.specs import GRU, LSTM, RNN, Spec
from tests import golden
from tests.golden import check_golden

LOWERED: dict[str, tuple[Spec, bool]] = {
    "rnn": (RNN(3, 4), False),
    "gru": (GRU(3, 4), False),
    "lstm": (LSTM(3, 4), False),
    "rnn_two_layers_bidirectional": (RNN(3, 4, 2, bidirectional=True), False),
    "rnn_bidirectional_lengths": (RNN(3, 4, bidirectional=True), True),
}


@pytest.mark.parametrize("name", LOWERED)
def test_lowered(name: str) -> None:
    spec, lengths = LOWERED[name]
    check_golden(f"lowered_{name}", print_graph(lower(spec.stack(), 2, lengths=lengths)))


@pytest.mark.parametrize("chip", ("emulated", "H100"))
def test_cuda(chip: str) -> None:
    """The host's commands, and the kernels without what all units begin with."""
    code = CudaCode(forward(GRU(3, 4)), chip_of(chip), CupyDevice).code
    kernels = "\n".join(kernel.text for kernel in code.kernels)
    check_golden(f"cuda_gru_{chip.lower()}", f"{code.commands_text()}\n{kernels}")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of golden texts, compared with whatever option this run was started with."""
    monkeypatch.setattr(golden, "ROOT", tmp_path)
    monkeypatch.setattr(golden, "FOLDER", tmp_path / "golden")
    monkeypatch.setattr(golden, "update", False)
    return tmp_path / "golden"


def test_a_missing_golden_text_fails(folder: Path) -> None:
    with pytest.raises(pytest.fail.Exception, match="golden/new.txt is missing: run pytest --update-golden"):
        check_golden("new", "text\n")
    assert not folder.exists()


def test_update_writes_and_a_difference_fails(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(golden, "update", True)
    check_golden("new", "one\ntwo\n")
    monkeypatch.setattr(golden, "update", False)
    check_golden("new", "one\ntwo\n")
    with pytest.raises(pytest.fail.Exception, match=r"-two\n\+three"):
        check_golden("new", "one\nthree\n")
