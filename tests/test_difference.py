"""The difference of dumps: what a pass changed is shown, and nothing else."""

from __future__ import annotations

import re

import pytest

import rnnc
from rnnc.ir.difference import difference
from rnnc.ir.text import parse_graph, print_graph
from tests.cases import Case

TEXT = rnnc.compile(Case("lstm", hidden_size=4, bidirectional=True).spec(), backend="reference").ir("lowered")


def renumbered(text: str) -> str:
    """The same graph in another order: nodes as late as their readers let them."""
    graph = parse_graph(text)
    wanted: list[int] = []

    def visit(index: int) -> None:
        todo = [(index, False)]
        while todo:
            at, done = todo.pop()
            if at in seen:
                continue
            if done:
                seen.add(at)
                wanted.append(at)
            else:
                todo += [(at, True), *((operand.index, False) for operand in graph.nodes[at].inputs)]

    seen: set[int] = set()
    for index in reversed(range(len(graph.nodes))):
        visit(index)
    number = {f"%{old}": f"%{new}" for new, old in enumerate(wanted)}
    lines = {m[1]: line for line in text.splitlines() if (m := re.match(r"(%\d+) +=", line))}
    rest = [line for line in text.splitlines() if line.startswith(("output", "    "))]
    listed = [lines[f"%{old}"] for old in wanted] + rest
    return "\n".join(re.sub(r"%\d+", lambda m: number[m[0]], line) for line in [*text.splitlines()[:2], *listed])


def test_another_order_and_other_numbers_are_no_difference() -> None:
    other = renumbered(TEXT)
    assert other.splitlines()[5] != TEXT.splitlines()[5]
    assert parse_graph(other)
    assert difference(TEXT, other) == []


def test_one_changed_line_is_one_pair_and_its_readers_are_alike() -> None:
    line = next(line for line in TEXT.splitlines() if " sigmoid(" in line)
    changed = TEXT.replace(line, line.replace("sigmoid", "tanh"))
    found = difference(TEXT, changed, context=0)
    marked = [line for line in found if line[0] in "+-"]
    assert [(line[0], re.search(r"(sigmoid|tanh)\(", line) is not None) for line in marked[:2]] == [
        ("-", True),
        ("+", True),
    ]
    value = re.match(r"-(%\d+)", marked[0])[1]  # type: ignore[index]
    readers = [line for line in TEXT.splitlines() if re.search(rf"[(, ]{value}[,)]", line)]
    assert readers and len(marked) == 2 + 2 * len(readers), "what reads the readers is as before"


def test_names_of_unchanged_values_are_the_old_ones() -> None:
    graph = parse_graph(TEXT)
    graph.outputs.pop("c.n_l0")
    found = difference(TEXT, print_graph(graph), context=0)
    gone = next(line for line in TEXT.splitlines() if line.startswith('output "c.n_l0"'))
    assert [line for line in found if line[0] != "@"] == ["-" + gone]


def test_equal_texts_have_no_difference_and_others_some() -> None:
    assert difference(TEXT, TEXT) == [] == difference("a\nb", "a\nb")
    assert difference("a\nb\nc", "a\nx\nc") == ["@@ -1,3 +1,3 @@", " a", "-b", "+x", " c"]
    assert difference("", "a") and difference("a", "")


@pytest.mark.parametrize("stage", rnnc.compile(rnnc.GRU(2, 3), backend="reference").passes)
def test_a_difference_leads_from_one_text_to_the_other(stage: str) -> None:
    """Without the old lines, and with the new ones, a difference with all lines is the new text, up to names."""
    program = rnnc.compile(rnnc.GRU(2, 3), backend="reference")
    old, new = program.ir("lowered", 1), program.ir(stage, 1)
    lines = difference(old, new, context=10**6) or [" " + line for line in new.splitlines()]

    def shapes(listed: list[str]) -> list[str]:
        kept = [line for line in listed if line.strip() and not re.match(r"# (l0|inputs|const)", line)]
        return sorted(re.sub(r" +", " ", re.sub(r"%\d+'?", "%", line)) for line in kept)

    assert shapes([line[1:] for line in lines if line[0] in " +"]) == shapes(new.splitlines())
    assert shapes([line[1:] for line in lines if line[0] in " -"]) == shapes(old.splitlines())
