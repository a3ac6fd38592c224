"""Fuzzing itself: each subject runs, and what is planted is found, shrunk and written as a test."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from tests.fuzz import writing
from tests.fuzz.__main__ import main
from tests.fuzz.campaign import Campaign, Limits, Worker
from tests.fuzz.cells import PRODUCTS, RecipeCell
from tests.fuzz.shrinking import Failing, shrink
from tests.fuzz.source import Source
from tests.fuzz.subjects import SUBJECTS, module_of, source_of

PLANTED = "tests.planted_faults"


def test_the_plainest_case_of_each_subject_holds_where_there_is_no_torch(tmp_path: Path) -> None:
    """Zeros for all choices, in a process of its own with poisoned memory."""
    (tmp_path / "torch.py").write_text("raise ImportError('no torch here')\n", encoding="utf-8")
    worker = Worker(60, {"PYTHONPATH": str(tmp_path)})
    try:
        for name in SUBJECTS:
            answer = worker.ask({"subject": name, "choices": []})
            assert "signature" not in answer, answer
            assert answer["tally"]["calls"] > 0, name
    finally:
        worker.stop()


@pytest.mark.parametrize("name", SUBJECTS)
def test_the_text_of_a_case_is_the_case_and_its_seed_is_enough(name: str) -> None:
    for seed in range(20):
        case, again = (module_of(name).draw(source_of(name, seed)) for _ in range(2))
        assert case == again == eval(repr(case), {key: vars(module_of(name))[key] for key in module_of(name).__all__})


@pytest.mark.parametrize("what", PRODUCTS)
def test_its_cells_have_products_of_their_own(what: str) -> None:
    """A kind of recipe that nobody knows would only scale a value by a vector."""
    shapes = RecipeCell(((what, 0, 0, 2),), (("h", 4),), 2, (0, 0)).parameters(4, 4, True)
    assert not any(name.startswith("vector") for name in shapes)


@pytest.mark.rare
def test_a_planted_fault_is_found_shrunk_and_written_as_a_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An element that is not written: right where fresh memory is 0, wrong where it is poisoned. Then it is mended."""
    limits = Limits(cases=5, shrink_seconds=60, jobs=1)
    summary = Campaign(PLANTED, 0, limits, environment={"PLANTED": "wrong"}).run()
    assert summary.cases == 5 and len(summary.findings) == 1
    finding = next(iter(summary.findings.values()))
    smallest = eval(finding.case, vars(module_of(PLANTED)))
    assert len(smallest.calls) == 1 and smallest.calls[0].data.rows == 2
    path = writing.write(finding, tmp_path)
    test = runpy.run_path(str(path))[f"test_planted_faults_{finding.seed}"]
    monkeypatch.setenv("PLANTED", "wrong")
    with pytest.raises(AssertionError, match="a wrong result"):
        test()
    monkeypatch.setenv("PLANTED", "")
    test()


@pytest.mark.rare
def test_a_case_that_ends_the_process_is_a_finding() -> None:
    limits = Limits(cases=3, shrink_seconds=0, jobs=1)
    findings = Campaign(PLANTED, 0, limits, environment={"PLANTED": "crash"}).run().findings
    assert [signature.partition(" in ")[0] for signature in findings] == ["crash: SIGSEGV"]
    finding = next(iter(findings.values()))
    assert "Segmentation fault" in finding.message and finding.case.startswith("Case(model=")


def test_shrinking_leaves_what_fails() -> None:
    def failing(choices: tuple[int, ...]) -> Failing | None:
        source = Source(given=choices)
        items = source.many(lambda: source.below(1000), 0, 50)
        return Failing(tuple(source.choices), tuple(source.spans)) if max(items, default=0) >= 50 else None

    start = next(found for seed in range(100) if (found := failing(_drawn(seed))))
    source = Source(given=shrink(start, failing, 5).choices)
    assert source.many(lambda: source.below(1000), 0, 50) == [50]


def _drawn(seed: int) -> tuple[int, ...]:
    source = Source(str(seed))
    source.many(lambda: source.below(1000), 0, 50)
    return tuple(source.choices)


def test_the_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--only", "cachedirs", "--cases", "1", "--seed", "3", "--jobs", "1", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "make fuzz SEED=3 KIND=cachedirs" in printed and "cachedirs: 1 cases, 0 failed" in printed
    with pytest.raises(SystemExit, match="expected some of calls, specs"):
        main(["--only", "nothing"])
