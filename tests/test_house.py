"""The rules of the house that a reviewer would otherwise have to remember: what may know of what."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("*.py", "*.h", "*.cpp", "*.cu", "*.c", "*.ll", "*.txt", "*.md")
CELL_NAME = re.compile(r"(?<![a-z])(lstms?|grus?|mgus?|rnns?|indrnns?|elman\w*|peepholes?)(?![a-z])", re.IGNORECASE)


def files(*folders: str, patterns: tuple[str, ...] = ("*.py",)) -> list[Path]:
    found = [path for folder in folders for pattern in patterns for path in (ROOT / folder).rglob(pattern)]
    return sorted(path for path in found if "__pycache__" not in path.parts)


def imported(path: Path) -> Iterator[str]:
    """Every module a file imports, at its top or inside a function; `from a import b` counts as a and as a.b."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def test_the_searches_below_find_something() -> None:
    """An empty list of files would pass every test of this module."""
    assert {"graph.py", "ops.py"} <= {path.name for path in files("ir")}
    assert "interpreter.py" in {path.name for path in files("backends")}
    assert len(files("ir/passes")) > 3
    assert "rnnc.ir.graph.Graph" in set(imported(ROOT / "ir" / "equations.py"))


@pytest.mark.parametrize("text", ("an LSTM", "gru_cell", "lstm4", "x_rnn", "GRU's", "mgu", "Peephole", "IndRNN"))
def test_the_word_search_knows_a_cell_when_it_sees_one(text: str) -> None:
    assert CELL_NAME.search(text)


@pytest.mark.parametrize("text", ("rnnc.ir", "RNNC_CACHE_DIR", "rnnc", "congruence", "algorithms", "RnncError"))
def test_the_word_search_leaves_other_words_alone(text: str) -> None:
    assert not CELL_NAME.search(text)


def test_no_pass_and_no_backend_names_a_cell() -> None:
    """In code, comments or docstrings: after lowering nothing knows which cell it compiles."""
    named = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in files("ir/passes", "backends", patterns=SOURCES)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if CELL_NAME.search(line) or CELL_NAME.search(path.name)
    ]
    assert not named, "\n".join(named)


def test_ir_imports_nothing_above_it() -> None:
    above = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in files("ir")
        for module in imported(path)
        if within(module, "rnnc") and not within(module, "rnnc.ir") and module != "rnnc"
    ]
    assert not above, "\n".join(above)


def test_nothing_below_the_front_imports_the_front() -> None:
    """`import rnnc` alone would load specs and cells; `from rnnc import x` hides which layer x comes from."""
    fronts = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in files("ir", "backends")
        for module in imported(path)
        if within(module, "rnnc") and not within(module, "rnnc.ir", "rnnc.backends")
    ]
    assert not fronts, "\n".join(fronts)


def test_packages_are_imported_by_their_full_names() -> None:
    """`import ir` at the root of a checkout would load a second copy of every class."""
    short = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in files("rnnc", "ir", "backends", "tests", "benchmarks", "examples")
        for module in imported(path)
        if within(module, "ir", "backends")
    ]
    assert not short, "\n".join(short)


def test_runtime_needs_only_its_declared_dependencies() -> None:
    """torch, onnxruntime and the like are peers and oracles; the package runs without them."""
    foreign = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in files("rnnc", "ir", "backends")
        for module in imported(path)
        if within(module, "torch", "onnx", "onnxruntime", "hypothesis", "pytest", "g2p_en", "tests", "benchmarks")
    ]
    assert not foreign, "\n".join(foreign)
