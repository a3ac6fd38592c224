"""Golden texts: `check_golden(name, text)` holds a text against tests/golden/NAME.txt.

`pytest --update-golden` writes the texts anew instead; read the difference before you commit it.
"""

from __future__ import annotations

from difflib import unified_diff
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDER = Path(__file__).parent / "golden"

update = False
"""Whether to write instead of comparing; tests/conftest.py sets it from the option."""


def check_golden(name: str, text: str) -> None:
    """Fails with the difference unless `text` is what tests/golden/NAME.txt holds."""
    check_file(FOLDER / f"{name}.txt", text)


def check_file(path: Path, text: str) -> None:
    """The same for any file."""
    shown = path.relative_to(ROOT)
    if update:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text.encode())
        return
    if not path.exists():
        pytest.fail(f"{shown} is missing: run pytest --update-golden, and read what it writes", pytrace=False)
    golden = path.read_bytes().decode()
    if text != golden:
        lines = unified_diff(golden.splitlines(True), text.splitlines(True), str(shown), "the code gives")
        pytest.fail(f"{''.join(lines)}\nIf this is meant, run pytest --update-golden.", pytrace=False)
