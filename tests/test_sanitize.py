"""What is made of valgrind's reports; `make sanitize` itself takes minutes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sanitize import __main__ as command
from tests.sanitize.reports import Report, read

MAPS = "4000-5000 r-xp 00000000 fe:00 12 /usr/lib/libffi.so.8\n8000-9000 r-xp 00000000 00:00 0\n"
PYTHON = ("0x1000", "/usr/lib/libpython3.11.so.1.0")
PRELOADED = ("0x2000", "/usr/lib/vgpreload_memcheck-amd64-linux.so")


def report(kind: str, *frames: tuple[str, str], folder: Path) -> Report:
    """What is made of one error. frames: address and object file, innermost first."""
    stack = "".join(f"<frame><ip>{ip}</ip>{f'<obj>{file}</obj>' if file else ''}</frame>" for ip, file in frames)
    path = folder / "report.xml"
    path.write_text(f"<out><error><kind>{kind}</kind><stack>{stack}</stack></error></out>", encoding="utf-8")
    return read(path, MAPS)


@pytest.mark.parametrize("kind", ("InvalidRead", "UninitCondition", "Leak_DefinitelyLost"))
def test_errors_with_a_frame_in_no_file_are_those_of_generated_code(kind: str, tmp_path: Path) -> None:
    for frames in ((("0x8123", ""), PYTHON), (PRELOADED, ("0x8123", "")), (PYTHON, ("0xdead0000", ""))):
        found = report(kind, *frames, folder=tmp_path)
        assert (len(found.own), len(found.unknown), found.excused.total()) == (1, 0, 0)


def test_a_library_that_valgrind_cannot_read_is_no_generated_code(tmp_path: Path) -> None:
    found = report("UninitValue", PYTHON, ("0x4123", ""), folder=tmp_path)
    assert (len(found.own), len(found.unknown), found.excused.total()) == (0, 0, 1)


def test_other_errors_are_excused_by_kind_and_innermost_file(tmp_path: Path) -> None:
    assert report("UninitValue", PYTHON, folder=tmp_path).excused["python"] == 1
    assert report("InvalidRead", PYTHON, folder=tmp_path).unknown  # what a freed definition of a function looks like
    assert report("UninitValue", ("0x3000", "/lib/_multiarray.so"), PYTHON, folder=tmp_path).unknown
    assert report("InvalidRead", PRELOADED, ("0x3000", "/lib/ld-linux.so.2"), folder=tmp_path).excused["ld-linux"] == 1


def test_a_planted_fault_that_is_not_seen_is_bad() -> None:
    seen, clean = Report(["InvalidRead"], [], Report.empty().excused), Report.empty()
    parts = ("planted_read", clean, True), ("planted_read", seen, False), ("quick", clean, False), ("quick", seen, True)
    for part, found, bad in parts:
        assert command.Outcome(part, found, 0.0, "").bad == bad
        assert command.Outcome(part, found, 0.0, "status 1").bad


def test_no_valgrind_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(command.shutil, "which", lambda name: None)
    assert command.main([]) == 2
    assert "valgrind, which is not installed: nothing was checked" in capsys.readouterr().err
