"""A found case as a test that fails until its fault is mended."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.fuzz import poison
from tests.fuzz.campaign import ROOT, Finding
from tests.fuzz.faults import Tally
from tests.fuzz.subjects import module_of, subject

_TEXT = '''"""Found by fuzzing (subject {subject}, seed {seed}):

{message}
"""

from {module} import {names}
from tests.fuzz.writing import assert_holds


def test_{short}_{seed}() -> None:
    assert_holds(
        {case}
    )
'''


def write(finding: Finding, folder: Path) -> Path:
    """Writes the test of a finding; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"test_{_short(finding.subject)}_{finding.seed}.py"
    path.write_text(text_of(finding), encoding="utf-8")
    return path


def text_of(finding: Finding) -> str:
    """The text of a test."""
    module = module_of(finding.subject)
    words = set(re.findall(r"\b[A-Za-z_]\w*\b", finding.case))
    names = sorted(name for name in module.__all__ if name in words)
    message = "\n".join(line.rstrip() for line in finding.message.replace("\\", "/").replace('"""', "'''").splitlines())
    return _TEXT.format(
        subject=finding.subject,
        module=module.__name__,
        short=_short(finding.subject),
        seed=finding.seed,
        message=message[-1500:],
        names=", ".join(names),
        case=finding.case.replace("Call(", "\n            Call("),
    )


def _short(name: str) -> str:
    return name.rpartition(".")[2]


def assert_holds(case: Any) -> None:
    """Checks a case in a process of its own, whose fresh memory holds garbage."""
    code = f"from tests.fuzz.writing import _check; _check({type(case).__module__!r}, {repr(case)!r})"
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", code],
        cwd=ROOT,
        env={**os.environ, **poison.ENVIRONMENT},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, f"status {done.returncode}\n{done.stderr[-4000:]}"


def _check(module: str, case: str) -> None:
    poison.new_arrays()
    subject(module).check(eval(case, vars(module_of(module))), Tally())
