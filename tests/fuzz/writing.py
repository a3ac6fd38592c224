"""A found case as a test that fails until its fault is mended."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.fuzz import poison
from tests.fuzz.campaign import ROOT, Finding
from tests.fuzz.subjects import SUBJECTS

_TEXT = '''"""Found by fuzzing (subject {subject}, seed {seed}):

{message}
"""

from tests.fuzz.{subject} import {names}
from tests.fuzz.writing import assert_holds


def test_{subject}_{seed}() -> None:
    assert_holds(
        {case}
    )
'''


def write(finding: Finding, folder: Path) -> Path:
    """Writes the test of a finding; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"test_{finding.subject}_{finding.seed}.py"
    path.write_text(text_of(finding), encoding="utf-8")
    return path


def text_of(finding: Finding) -> str:
    """The text of a test."""
    module = import_module(f"tests.fuzz.{finding.subject}")
    words = set(re.findall(r"\b[A-Za-z_]\w*\b", finding.case))
    names = sorted(name for name in module.__all__ if name in words)
    message = "\n".join(line.rstrip() for line in finding.message.replace("\\", "/").replace('"""', "'''").splitlines())
    return _TEXT.format(
        subject=finding.subject,
        seed=finding.seed,
        message=message[-1500:],
        names=", ".join(names),
        case=finding.case.replace("Call(", "\n            Call("),
    )


def assert_holds(case: Any) -> None:
    """Checks a case in a process of its own, whose fresh memory holds garbage."""
    import os

    name = type(case).__module__.rpartition(".")[2]
    assert name in SUBJECTS
    code = f"from tests.fuzz.writing import _check; _check({name!r}, {repr(case)!r})"
    environment = {**os.environ, **poison.ENVIRONMENT}
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", code],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, f"status {done.returncode}\n{done.stderr[-4000:]}"


def _check(name: str, case: str) -> None:
    from tests.fuzz.faults import Tally
    from tests.fuzz.subjects import subject

    poison.new_arrays()
    module = import_module(f"tests.fuzz.{name}")
    subject(name).check(eval(case, vars(module)), Tally())
