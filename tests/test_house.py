"""The rules of the house that a reviewer would otherwise have to remember: what may know of what."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import rnnc.torch
from rnnc.backends.llvm.asm.records import Record

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("*.py", "*.h", "*.cpp", "*.cu", "*.c", "*.ll", "*.txt", "*.md")
CELL_NAME = re.compile(r"(?<![a-z])(lstms?|grus?|mgus?|rnns?|indrnns?|elman\w*|peepholes?)(?![a-z])", re.IGNORECASE)


def files(*folders: str, patterns: tuple[str, ...] = ("*.py",)) -> list[Path]:
    found = [path for folder in folders for pattern in patterns for path in (ROOT / folder).rglob(pattern)]
    return sorted(path for path in found if "__pycache__" not in path.parts)


@cache
def imported(path: Path) -> tuple[str, ...]:
    """Every module a file imports, at its top or inside a function; `from a import b` counts as a and as a.b."""
    found: list[str] = []
    for node in statements(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            found += (str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names))
    return tuple(found)


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """All statements, without a walk through their expressions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.stmt, ast.ExceptHandler, ast.match_case)):
            yield child
            yield from statements(child)


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
        and (str(path.relative_to(ROOT)), module.split(".")[0]) not in READERS
    ]
    assert not foreign, "\n".join(foreign)


READERS = {
    *(("rnnc/onnx/" + name, "onnx") for name in ("foreign.py", "network.py", "reading.py", "stored.py")),
    ("rnnc/onnx/foreign.py", "onnxruntime"),
    *(("rnnc/torch/" + name, "torch") for name in ("state_dict.py", "tracing.py")),
    *(("rnnc/torch/nn/" + path.name, "torch") for path in (ROOT / "rnnc" / "torch" / "nn").glob("*.py")),
}
"""Model files are read with the package of the extra `onnx`; what is left runs in ONNX Runtime, if asked for. Modules
of PyTorch are read with PyTorch, and those for its programs run in it."""


# ------------------------------------------------------------------------------------------ rooms of a backend


def test_assembly_knows_no_plan() -> None:
    """backends/llvm/asm writes LLVM for whoever asks; what to write is decided above it."""
    above = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in files("backends/llvm/asm")
        for module in imported(path)
        if within(module, "rnnc.backends.planning")
        or within(module, "rnnc.backends.llvm")
        and not in_room(module, "asm")
    ]
    assert not above, "\n".join(above)


def test_kernels_are_emitted_without_calls() -> None:
    """What a function computes does not depend on who calls it, nor on the machine that compiles it."""
    below = ("asm", "kernels", "packing")
    others = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in files("backends/llvm/kernels", "backends/llvm/packing")
        for module in imported(path)
        if within(module, "rnnc.backends.llvm")
        and not any(in_room(module, room) for room in below)
        or path.parent.name == "packing"
        and in_room(module, "kernels")
    ]
    assert not others, "\n".join(others)


def in_room(module: str, room: str) -> bool:
    """Whether a module of the llvm backend lies in one of its folders."""
    return within(module, f"rnnc.backends.llvm.{room}")


def test_planning_knows_no_machine() -> None:
    machines = ("rnnc.backends.llvm", "rnnc.backends.cuda", "rnnc.backends.reference")
    known = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in files("backends/planning")
        for module in imported(path)
        if within(module, *machines)
    ]
    assert not known, "\n".join(known)


@pytest.mark.parametrize("folder", ("cuda", "llvm", "planning", "reference", "training"))
def test_a_file_of_a_backend_is_known_by_its_name(folder: str) -> None:
    names = [path.name for path in files(f"backends/{folder}") if path.name != "__init__.py"]
    assert names and len(names) == len(set(names)), sorted(name for name in names if names.count(name) > 1)


LONGEST = 450


def test_no_file_is_too_long_to_read() -> None:
    long = {path: text.count("\n") for path in files("rnnc", "ir", "backends") if (text := path.read_text())}
    assert not {str(path.relative_to(ROOT)): lines for path, lines in long.items() if lines > LONGEST}


def test_no_public_class_has_a_namesake_in_its_package() -> None:
    """Two classes of one name in one package, and a reader never knows which is meant."""
    allowed = {"Constant"}  # an initializer and a schedule; both are public names
    allowed |= set(rnnc.torch.__all__)  # PyTorch's names for specs, cells, and modules of rnnc.torch
    found: dict[tuple[str, str], list[str]] = {}
    for package in ("rnnc", "ir", "backends"):
        for path in files(package):
            if "backends" in path.relative_to(ROOT / package).parts[:1] or path.is_symlink():
                continue
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and node.name not in allowed:
                    found.setdefault((package, node.name), []).append(str(path.relative_to(ROOT)))
    assert not {key: paths for key, paths in found.items() if len(paths) > 1}


def test_generated_code_reads_every_field_of_a_record() -> None:
    """A field that Python fills in, and nobody reads, is a promise that nobody keeps."""
    text = "".join(path.read_text(encoding="utf-8") for path in files("backends/llvm/kernels"))
    unread = {
        f"{record.name}.{field}"
        for record in records()
        for field in record.types
        if not field.startswith("_") and not re.search(rf"[\[(, ](['\"]){re.escape(field)}\1[\]), ]", text)
    }
    assert not unread


def records() -> list[Record]:
    """All records of kernels but XLA's own, and those that are passed on whole. Others may only hold a place."""
    whole = {"share", "timed", "segment"}
    modules = [
        importlib.import_module(f"rnnc.backends.llvm.kernels.{path.stem}") for path in files("backends/llvm/kernels")
    ]
    found = {r.name: r for module in modules for r in vars(module).values() if isinstance(r, Record)}
    assert len(found) > 8
    return [r for r in found.values() if r.name not in whole and not r.name.startswith("xla_")]
