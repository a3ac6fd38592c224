"""Settings: environment, `rnnc.settings`, and the errors of both."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import rnnc
from rnnc.ir import settings as table
from tests.refusals import raises_saying

ROOT = Path(__file__).resolve().parent.parent

VALUES: dict[str, tuple[object, object]] = {
    "num_threads": (3, 3),
    "cache_dir": (None, "off"),
    "cache_megabytes": (7, 7),
    "profile": ("trace.json", "trace.json"),
    "verify": (False, False),
    "codegen": (1, 1),
    "poison": (False, False),
    "cuda_chip": ("A100", "A100"),
}
WRONG = {"num_threads": "0", "cache_megabytes": "many", "verify": "yes", "codegen": "4", "poison": "2"}


def test_every_setting_has_a_reader_and_a_value_here() -> None:
    assert set(table.SETTINGS) == set(table.READERS) == set(VALUES)


@pytest.mark.parametrize("name", VALUES)
def test_a_setting_is_changed_for_a_while(name: str) -> None:
    before = getattr(rnnc.settings, name)
    given, found = VALUES[name]
    with rnnc.settings(**{name: given}):
        assert getattr(rnnc.settings, name) == found
        assert table.source_of(name) == "rnnc.settings"
        seen: list[object] = []
        thread = threading.Thread(target=lambda: seen.append(getattr(rnnc.settings, name)))
        thread.start()
        thread.join()
        assert seen == [before], "another thread keeps its own"
        with pytest.raises(ZeroDivisionError), rnnc.settings(**{name: given}):
            1 / 0  # noqa: B018
        assert getattr(rnnc.settings, name) == found
    assert getattr(rnnc.settings, name) == before


@pytest.mark.parametrize("name", sorted(set(VALUES) - {"poison"}))
def test_a_variable_says_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given, found = VALUES[name]
    monkeypatch.setenv(table.SETTINGS[name].variable, f" {table.SETTINGS[name] and found!s} ".replace("False", "0"))
    assert getattr(rnnc.settings, name) == found and table.source_of(name) == "environment"
    monkeypatch.delenv(table.SETTINGS[name].variable)
    assert table.source_of(name) == "default"


@pytest.mark.parametrize("name", WRONG)
def test_wrong_values_name_the_setting(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = dict(table.chosen())
    with raises_saying(rnnc.ArgumentError, f"{name}: expected", repr(WRONG[name])):
        with rnnc.settings(**{name: WRONG[name]}):
            pass
    assert dict(table.chosen()) == before
    with raises_saying(rnnc.ArgumentTypeError, f"{name}: expected", "1.5 (float)"):
        with rnnc.settings(**{name: 1.5}):
            pass
    if name != "poison":
        monkeypatch.setenv(table.SETTINGS[name].variable, WRONG[name])
        with raises_saying(rnnc.ArgumentError, f"{table.SETTINGS[name].variable}: expected"):
            getattr(rnnc.settings, name)


def test_other_names_are_refused_with_a_hint() -> None:
    with raises_saying(rnnc.ArgumentTypeError, "'num_thread'", "did you mean 'num_threads'?"):
        with rnnc.settings(num_thread=1):
            pass
    with pytest.raises(AttributeError, match="did you mean 'verify'"):
        rnnc.settings.verfy  # noqa: B018
    assert set(VALUES) <= set(dir(rnnc.settings))
    assert all(re.search(rf"(?m)^{name} ", repr(rnnc.settings)) for name in VALUES)


def test_what_is_compiled_within_the_block_is_compiled_so() -> None:
    with rnnc.settings(num_threads=1):
        program = rnnc.compile(rnnc.GRU(3, 4))
    assert program._code.threads == 1  # type: ignore[attr-defined]
    with rnnc.settings(cuda_chip="A100"):
        assert "A100" in rnnc.compile(rnnc.GRU(3, 4), backend="cuda").explain()


def test_unknown_variables_are_warned_of_once() -> None:
    code = "import rnnc; rnnc.compile(rnnc.GRU(3, 4), backend='reference'); rnnc.settings.num_threads"
    environment = {"PATH": "", "PYTHONPATH": str(ROOT), "RNNC_NUM_THREAD": "2", "RNNC_TESTS_X": "1", "RNNC_Q": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stderr.count("RnncWarning") == 2
    assert "RNNC_NUM_THREAD: there is no such setting; did you mean RNNC_NUM_THREADS?" in done.stderr
    assert "RNNC_Q: there is no such setting; there are RNNC_NUM_THREADS" in done.stderr


def test_the_environment_is_read_in_one_file() -> None:
    found = [
        str(path.relative_to(ROOT))
        for folder in ("rnnc", "ir", "backends")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if re.search(r"os\.(environ|getenv)|from os import .*environ", path.read_text(encoding="utf-8"))
    ]
    assert found == ["ir/settings.py"]
