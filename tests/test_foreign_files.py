"""Files of others: to read one runs nothing but rnnc, and whatever is in it ends in a spec or in an error of rnnc's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rnnc
from rnnc.cli import load_model, main
from tests.refusals import raises_saying
from tests.test_specs import Leaky

ROOT = Path(__file__).resolve().parent.parent
HOSTILE = "import pathlib; pathlib.Path(__file__).with_suffix('.ran').touch()\n"
CELLS = HOSTILE + "import rnnc\nclass Theirs(rnnc.cells.GRUCell): pass\n"


def data_naming(cell: str) -> dict[str, Any]:
    return {"type": "Recurrent", "cell": {"type": cell}, "input_size": 2, "hidden_size": 3}


def network_naming(cell: str) -> dict[str, Any]:
    layers = [{"type": "Regularized", "spec": data_naming(cell)}, data_naming(cell) | {"input_size": 3}]
    return {"type": "Sequential", "layers": layers, "readout": "every"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, which is not on the path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "lab").mkdir()
    for name in ("theirs", "lab/__init__", "lab/cells"):
        (tmp_path / f"{name}.py").write_text(CELLS)
    for name in ("theirs", "lab", "lab.cells"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def ran(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.rglob("*.ran"))


# ---- modules that a file names


@pytest.mark.parametrize(("kind", "naming"), [(rnnc.Spec, data_naming), (rnnc.Sequential, network_naming)])
def test_a_text_imports_only_what_is_trusted(kind: Any, naming: Any, folder: Path) -> None:
    sys.path.append(str(folder))
    text = json.dumps(naming("theirs:Theirs"))
    for trusted in ((), [], ["their"], ["theirs.x"], ["lab"]):
        with raises_saying(rnnc.ArgumentError, "'theirs:Theirs'", "import it first", "trusted=['theirs']"):
            kind.from_json(text, trusted=trusted)
    with raises_saying(rnnc.ArgumentError, "lab.cells"):
        kind.from_json(json.dumps(naming("lab.cells:Theirs")), trusted=["lab.other"])
    assert ran(folder) == []
    kind.from_json(json.dumps(naming("lab.cells:Theirs")), trusted=["lab"])
    kind.from_dict(naming("theirs:Theirs"), trusted="theirs")
    assert ran(folder) == ["__init__", "cells", "theirs"]
    kind.from_json(text)  # imported by now
    with raises_saying(rnnc.ArgumentTypeError, "trusted", "list of names", "3"):
        kind.from_json(text, trusted=3)


def test_cells_of_rnnc_and_of_imported_modules_need_no_trust() -> None:
    for cell in (rnnc.cells.ElmanCell("relu"), Leaky(0.25)):
        spec = rnnc.Recurrent(cell, 3, 4)
        assert rnnc.Spec.from_json(spec.to_json()) == spec
    with raises_saying(rnnc.ArgumentError, "subclass of rnnc.Cell", "'rnnc.__main__:main'"):
        rnnc.Spec.from_dict(data_naming("rnnc.__main__:main"))  # to import it does not start the command line


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("raise SystemExit(3)", "importing broken failed: SystemExit: 3"),
        ("1 / 0", "importing broken failed: ZeroDivisionError"),
        ("import no_such_thing", "there is no module 'no_such_thing'"),
        ("def __getattr__(name): raise OSError(name)", "OSError: Cell"),
        ("import rnnc\nclass Cell(rnnc.Cell):\n    def __init__(self): raise KeyError('k')", "cannot be made"),
    ],
)
def test_a_trusted_module_that_fails(content: str, words: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "broken.py").write_text(content)
    sys.path.append(str(folder))
    monkeypatch.delitem(sys.modules, "broken", raising=False)
    with raises_saying(rnnc.ArgumentError, "broken:Cell", words):
        rnnc.Spec.from_dict(data_naming("broken:Cell"), trusted=["broken"])


# ---- the command line


def test_a_file_runs_nothing_of_the_current_folder(folder: Path) -> None:
    """Whatever rnnc imports, a file of that name lies there; the child that times the import is no exception."""
    for name in ("llvmlite", "numpy", "networkx", "difflib", "json", "rnnc", "statistics"):
        (folder / f"{name}.py").write_text(HOSTILE)
    (folder / "ok.json").write_text(rnnc.GRU(2, 3).to_json())
    (folder / "models.py").write_text("import rnnc\nencoder = rnnc.GRU(2, 3)\n")
    code = "import sys; from rnnc.cli import main; sys.exit(main(sys.argv[1:]))"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for arguments in (["compile", "ok.json", "--repeat", "1"], ["inspect", "models:encoder", "--stage", "lowered"]):
        command = [sys.executable, "-P", "-c", code, *arguments]  # as the installed script starts
        result = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert (result.returncode, result.stderr, ran(folder)) == (0, "", [])


def test_only_a_module_that_the_command_line_names_is_looked_for_in_the_current_folder(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "cell.json").write_text(json.dumps(data_naming("theirs:Theirs")))
    before = list(sys.path)
    assert main(["inspect", "cell.json"]) == 2
    assert "--trust theirs" in capsys.readouterr().err
    assert (sys.path, ran(folder)) == (before, [])
    assert main(["inspect", "cell.json", "--trust", "theirs"]) == 0
    assert (sys.path, ran(folder)) == ([*before, str(folder)], ["theirs"])


@pytest.mark.parametrize("suffix", ["json", "toml"])
@pytest.mark.parametrize(
    "content", ["[" * 100_000, "a = " + "[" * 100_000, "a = 1" + "0" * 5000, "#" * (1 << 24) + "#"]
)
def test_a_file_out_of_all_proportion(suffix: str, content: str, folder: Path) -> None:
    path = folder / f"spec.{suffix}"
    path.write_text(content)
    with raises_saying(rnnc.ArgumentError, f"SPEC: spec.{suffix}: "):
        load_model(path.name)


# ---- JSON


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 100_000, ("nested too deeply",)),
        ('{"a":' * 100_000, ("nested too deeply",)),
        ("9" * 5000, ("not JSON", "digits")),
        ('{"type": "GRU", "input_size": 2, "hidden_size": 3, "hidden_size": 4}', ("'hidden_size' is given twice",)),
        ('{"type": "GRU", "input_size": 2, "hidden_size": NaN}', ("NaN is no number",)),
        ('{"type": "GRU", "input_size": 2, "hidden_size": -Infinity}', ("-Infinity is no number",)),
        ('{"type": "GRU", "input_size": 2, "hidden_size": 3, "dropout": 1e999}', ("1e999 is too large",)),
        ('{"type": "GRU", "input_size": 2, "hidden_size": ' + "9" * 4000 + "}", ("hidden_size: expected", "999...")),
        (b'{"type": "\xff"}', ("not JSON",)),
        (b" " * (1 << 24) + b"1", ("at most 16777216 characters",)),
        (3, ("expected JSON text, got 3 (int)",)),
        (None, ("expected JSON text",)),
    ],
)
def test_text_that_is_no_json_of_a_spec(text: Any, words: tuple[str, ...]) -> None:
    for kind in (rnnc.Spec, rnnc.Sequential):
        with pytest.raises(rnnc.RnncError):
            kind.from_json(text)
    with raises_saying((rnnc.ArgumentError, rnnc.ArgumentTypeError), *words):  # type: ignore[arg-type]
        rnnc.Spec.from_json(text)


def test_what_json_has_no_form_for() -> None:
    with raises_saying(rnnc.ArgumentError, "no form as JSON"):
        rnnc.Recurrent(Leaky(float("inf")), 3, 4).to_json()


numbers = st.integers() | st.floats() | st.sampled_from([None]).map(lambda _: 10**5000)
leaves = st.none() | st.booleans() | numbers | st.text(max_size=3)
names = st.sampled_from(["type", "layers", "readout", "spec", "cell", "input_size", "p", "", "a"])
nonsense = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names | leaves, inner, max_size=3)
)
NETWORK = rnnc.Sequential(
    rnnc.Embedding(5, 3, padding_index=1),
    rnnc.Regularized(rnnc.LSTM(3, 4, proj_size=2), zoneout=0.1),
    rnnc.Dropout(0.5),
    rnnc.Recurrent(Leaky(), 2, 3),
    rnnc.Linear(3, 2),
    readout="mean",
).to_dict()


def paths(data: Any) -> list[tuple[Any, ...]]:
    """Every place in plain data."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [(), *((key, *rest) for key, value in items for rest in paths(value))]


def changed(data: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    copy = dict(data) if isinstance(data, dict) else list(data)
    copy[path[0]] = changed(data[path[0]], path[1:], value)
    return copy


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 999), nonsense), min_size=1, max_size=3), st.booleans())
def test_any_data_is_a_network_or_refused(changes: list[tuple[int, Any]], more: bool) -> None:
    """A network's plain data, with nonsense in some places: no exception but rnnc's."""
    data: Any = NETWORK
    for number, value in changes:
        places = paths(data)
        path = places[number % len(places)]
        data = changed(data, path, value)
        if more and isinstance(data, dict):
            data = {**data, "more": value}
    for kind in (rnnc.Sequential, rnnc.Spec):
        try:
            kind.from_dict(data)  # type: ignore[attr-defined]
        except rnnc.RnncError:
            pass
