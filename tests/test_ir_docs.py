"""The generated parts and the examples of README.md and docs/*.md are what the code gives now."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from rnnc.ir.ops import OPS
from tests.golden import ROOT, check_file
from tests.living_docs import PARTS, op_table, renewed

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCED = re.compile(r"^```.*?^```\n", re.DOTALL | re.MULTILINE)
WITH_OTHERS = {"torch.md", "from-torch.md", "jax.md"}
"""Pages that take long, and show what tests of their own hold."""


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[pytest.mark.rare] if page.name in WITH_OTHERS else []) for page in PAGES],
    ids=lambda page: str(page.name),
)
def test_page_is_up_to_date(page: Path) -> None:
    content = page.read_text(encoding="utf-8")
    for package in re.findall(r"^import (torch|jax)$", content, re.MULTILINE):
        pytest.importorskip(package)
    check_file(page, renewed(content))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.name))
def test_the_text_names_values_that_the_dumps_on_its_page_show(page: Path) -> None:
    """Numbers in the text between the examples are written by hand: they must follow when the examples are renewed."""
    content = page.read_text(encoding="utf-8")
    shown = set(re.findall(r"%v?\d+\b", "".join(FENCED.findall(content))))
    named = set(re.findall(r"%v?\d+\b", FENCED.sub("", content)))
    assert named <= shown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.name))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", FENCED.sub("", page.read_text(encoding="utf-8")))
    assert not [link for link, _ in links if not (page.parent / link).exists()]
    targets = [((page.parent / link) if link else page, anchor) for link, anchor in links if anchor]
    assert not [(path.name, anchor) for path, anchor in targets if anchor not in anchors(path)]


@cache
def anchors(page: Path) -> frozenset[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    titles = re.findall(r"^#+ (.*)$", FENCED.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return frozenset(re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles)


def test_the_page_of_the_ir_has_all_its_parts() -> None:
    pages = [(ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in ("ir", "settings", "api")]
    for name, part in PARTS.items():
        assert any(f"<!-- {name} -->\n{part()}<!-- /{name} -->" in text for text in pages), name


def test_the_table_has_every_op_with_its_formula() -> None:
    rows = op_table().splitlines()
    assert [row.split("|")[1].strip(" `") for row in rows[2:]] == list(OPS)
    assert "| `rsqrt` | elementwise | a |  | `1 / sqrt(a)` |" in rows
    assert "| `select` | elementwise | a, b, c |  | `b if a else c` |" in rows


def test_stale_parts_and_outputs_are_renewed() -> None:
    page = "<!-- ops -->\nold\n<!-- /ops -->\n\n```python\nprint(1 + 1)\n```\n\n```text\n3\n```\n\n```python\nx\n```\n"
    expected = page.replace("old\n", op_table()).replace("\n3\n", "\n2\n")
    assert renewed(page) == expected


def test_examples_of_a_page_share_their_names_and_commands_read_its_files() -> None:
    page = "```python\na = 6\nprint(a)\n```\n\n```text\n```\n\n```python\nprint(7 * a)\n```\n\n```text\n```\n\n"
    page += '```toml\n# tiny.toml\ntype = "RNN"\ninput_size = 1\nhidden_size = 1\n```\n\n'
    page += "```console\n$ rnnc inspect tiny.toml --stage lowered --steps 1\n```\n"
    found = renewed(page)
    assert "```text\n6\n```\n" in found and "```text\n42\n```\n" in found
    assert "--steps 1\ngraph float32 steps=1\n" in found
