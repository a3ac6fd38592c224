"""The generated parts of docs/*.md are what the code gives now."""

from __future__ import annotations

from pathlib import Path

import pytest

from rnnc.ir.ops import OPS
from tests.golden import ROOT, check_file
from tests.living_docs import PARTS, op_table, renewed

PAGES = sorted((ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.name))
def test_page_is_up_to_date(page: Path) -> None:
    check_file(page, renewed(page.read_text(encoding="utf-8")))


def test_the_page_of_the_ir_has_all_its_parts() -> None:
    page = (ROOT / "docs" / "ir.md").read_text(encoding="utf-8")
    for name, part in PARTS.items():
        assert f"<!-- {name} -->\n{part()}<!-- /{name} -->" in page


def test_the_table_has_every_op_with_its_formula() -> None:
    rows = op_table().splitlines()
    assert [row.split("|")[1].strip(" `") for row in rows[2:]] == list(OPS)
    assert "| `rsqrt` | elementwise | a |  | `1 / sqrt(a)` |" in rows
    assert "| `select` | elementwise | a, b, c |  | `b if a else c` |" in rows


def test_stale_parts_and_outputs_are_renewed() -> None:
    page = "<!-- ops -->\nold\n<!-- /ops -->\n\n```python\nprint(1 + 1)\n```\n\n```text\n3\n```\n\n```python\nx\n```\n"
    expected = page.replace("old\n", op_table()).replace("\n3\n", "\n2\n")
    assert renewed(page) == expected
