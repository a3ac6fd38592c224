"""`python -m benchmarks`: its records, comparisons, rooflines and refusals, and one tiny workload from end to end."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks.machine import Machine
from benchmarks.parts.jobs import Job, Setting, contest, worst_error
from benchmarks.parts.ours import exact_inference, exact_training
from benchmarks.parts.startup import measure as measure_startup
from benchmarks.peers import entries as peers
from benchmarks.peers.entries import Entry, gathered
from benchmarks.results import tables
from benchmarks.results.comparison import changes, report
from benchmarks.results.record import Record, Row
from benchmarks.roofline import Roofline, roofline
from benchmarks.timing import Contestant, Timing, race
from benchmarks.workloads import TABLES, WORKLOADS, Workload, make_data, make_training_data

TINY = Workload("T1", "lstm", 2, 3, 5, 4, num_layers=2, bidirectional=True)


class SlowMachine(Machine):
    """Of 1000 flop/s per thread, and so many bytes/s."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def peak(self, threads: int = 1) -> float:
        return 1000.0 * threads

    def bandwidth(self, size: int, threads: int = 1) -> float:
        return self.rate * threads


def row(name: str = "W1", ours: float = 1e-3, spread: float = 1e-5, peer: float = 2e-3, threads: int = 1) -> Row:
    timings = {"rnnc": Timing(ours, ours / 2, spread), "torch onednn": Timing(peer * 2, peer, 0.0)}
    timings |= {"torch native": Timing(peer, peer, 0.0), "jax unroll=1": Timing(peer * 3, peer, 0.0)}
    bound = Roofline(10, 20, "L2", 1e9, ours / 4)
    return Row("inference", name, threads, timings, {"rnnc": 1e-7}, bound, {"kept MiB": 1.5}, {"jax": "why"})


def record(*rows: Row) -> Record:
    machine = {"name": "a machine", "cores": 2, "caches": {"L1": 1024}, "peak": {"1": 1e9}, "bandwidth": {"L1": 1e9}}
    return Record(machine, {"rnnc": "0"}, list(rows))


def test_a_record_comes_back_from_its_file(tmp_path: Path) -> None:
    made = record(row(), row("W2", threads=2), Row("latency", "L", 1, {"rnnc": Timing(1.0, 1.0)}))
    made.write(tmp_path / "found.json")
    assert Record.read(tmp_path / "found.json") == made
    assert [path.name for path in tmp_path.iterdir()] == ["found.json"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 0}', '{"version": 1, "machine": {}, "rows": [{}]}'])
def test_a_file_that_is_no_record_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "old.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="old.json: "):
        Record.read(path)


def test_the_best_form_of_the_best_peer_counts() -> None:
    found = row(ours=1e-3, peer=2e-3)
    assert found.best_peer == ("torch", 2e-3) and found.peers == {"torch": 2e-3, "jax": 6e-3}
    assert found.gain == pytest.approx(2) and found.share == pytest.approx(0.25)


def test_the_tables_have_a_column_for_whatever_a_row_has() -> None:
    text = tables.markdown(record(row("W1", 1e-3), row("W1", 5e-4, threads=2)))
    assert "| workload | rnnc us | torch us | jax us | best peer / rnnc | of roofline |" in text
    assert "| W1 | 1,000 | 2,000 | 6,000 | 2.00 (torch) | 25% |" in text
    assert "| W1 | 500.0 | 2,000 | 6,000 | 4.00 (torch) |" in text and "| 2.00 | 1.50 |" in text  # of two threads
    assert "jax left out, why" in text


def test_a_comparison_tells_changes_from_noise() -> None:
    old = record(row("same", 1e-3, 1e-4), row("slower", 1e-3), row("faster", 1e-3), row("gone"))
    new = record(row("same", 1.2e-3, 1e-4), row("slower", 1.2e-3), row("faster", 5e-4, peer=1e-3), row("new"))
    found = {change.new.name: change for change in changes(old, new)}
    assert list(found) == ["same", "slower", "faster"]
    assert {name: change.verdict for name, change in found.items()} == {
        "same": "",
        "slower": "slower",
        "faster": "faster",
    }
    assert [name for name, change in found.items() if change.slower_by(10)] == ["slower"]
    assert not any(change.slower_by(25) for change in found.values())
    assert found["faster"].ratio == pytest.approx(2) and found["faster"].peers == pytest.approx(2)
    text = report(old, new)
    assert "| inference, slower, 1 | 1,000 | 1,200 | 0.83 | 1.00 | slower |" in text
    assert "only the old record has: 1; only the new one: 1" in text


@pytest.mark.parametrize("threads", [1, 2])
def test_a_roofline_is_the_sum_of_its_parts(threads: int) -> None:
    """On a machine whose bytes decide, and on one whose arithmetic does."""
    small = roofline(Workload("A", "gru", 1, 3, 5, 2), SlowMachine(100), threads)
    outer, inputs, recurrent = 4 * 3 * (5 + 2), 4 * 6 * 5, 4 * 6 * 2
    assert small.seconds == pytest.approx((outer + inputs + 3 * recurrent) / 100 / threads)
    assert (small.bytes, small.flops) == (outer + inputs + 3 * recurrent, 2 * 3 * (6 * 5 + 6 * 2))
    large = Workload("B", "rnn", 64, 3, 50, 20)
    assert roofline(large, SlowMachine(1e6), threads).seconds == pytest.approx(large.flops / 1000 / threads)
    trained = roofline(large, SlowMachine(1e6), threads, training=True)
    assert trained.seconds == pytest.approx(large.training_flops / 1000 / threads)


def test_the_machine_reads_from_its_caches_no_slower_than_a_tape() -> None:
    machine = Machine(tries=2)
    assert 1e9 < machine.peak() < 1e12 and 1e8 < machine.bandwidth(1 << 14, 2) < 1e13
    assert not machine.caches or (machine.level(1), machine.level(1 << 60)) == (next(iter(machine.caches)), "memory")


def test_who_computes_something_else_is_not_timed() -> None:
    exact = {"output": np.ones(4)}

    def entry(error: float) -> Entry:
        return Entry(Contestant(lambda: None), lambda: {"output": np.ones(4, np.float32) + np.float32(error)})

    setting = Setting(Machine(), (), 0.01, rounds=1)
    timings, errors, notes = contest({"rnnc": entry(0), "torch a": entry(1e-2)}, exact, 1e-5, 1, setting)
    assert timings.keys() == {"rnnc"} and errors["torch a"] > 1e-3 and "off by" in notes["torch a"]
    with pytest.raises(ValueError, match="rnnc is off by"):
        contest({"rnnc": entry(1e-2)}, exact, 1e-5, 1, setting)
    for wrong in ({}, {"output": np.ones(3)}, {"output": np.full(4, np.nan)}):
        assert worst_error(wrong, exact) == float("inf")


def test_a_race_ends_with_its_time() -> None:
    calls: list[int] = []
    counted = Contestant(lambda: calls.append(0))  # a call takes a second
    found = race({"a": counted, "b": counted}, 10**9, lambda: float(len(calls)), sample=1.0, limit=0.0)
    assert found == {"a": Timing(1.0, 1.0, 0.0), "b": Timing(1.0, 1.0, 0.0)} and len(calls) == 10  # 4 to warm up


def test_one_tiny_workload_from_end_to_end(tmp_path: Path) -> None:
    """Then again from its file, compared with itself, and with a record in which it was twice as fast."""
    now, old = tmp_path / "now.json", tmp_path / "old.json"
    options = ["--only", "small", "--rows", "S1", "--peers", "", "--quick", "--seconds", "0.01", "--json", str(now)]
    assert command.main([*options, "--svg", str(tmp_path / "a.svg"), "--markdown", str(tmp_path / "a.md")]) == 0
    (found,) = Record.read(now).rows
    assert found.errors["rnnc"] < 1e-5 and found.share and 0 < found.share < 1
    assert f"| {found.name} |" in (tmp_path / "a.md").read_text()
    assert found.name in {text.text for text in ElementTree.parse(tmp_path / "a.svg").iter() if text.text}

    faster = json.loads(now.read_text())
    faster["rows"][0]["timings"]["rnnc"] |= {"median": found.ours / 2, "spread": 0.0}
    old.write_text(json.dumps(faster))
    kept = json.loads(now.read_text())
    kept["rows"][0]["timings"]["rnnc"]["spread"] = 0.0
    now.write_text(json.dumps(kept))
    again = [*options, "--resume", "--fail-slower", "10", "--against"]
    printed = io.StringIO()
    with redirect_stdout(printed):
        assert command.main([*again, str(now)]) == 0
        assert command.main([*again, str(old)]) == 1
    assert Record.read(now).rows[0].ours == found.ours  # was not measured again
    assert "| 0.50 |  | slower |" in printed.getvalue()


def test_rows_are_kept_when_one_fails_or_the_run_is_interrupted(tmp_path: Path) -> None:
    def job(name: str, work: Callable[[Setting], list[Row]]) -> Job:
        return Job("small", name, 1, work)

    def raises(error: BaseException) -> Callable[[Setting], list[Row]]:
        def work(_: Setting) -> list[Row]:
            raise error

        return work

    def works(name: str) -> Job:
        return job(name, lambda _: [Row("small", name, 1, {"rnnc": Timing(1.0, 1.0)})])

    setting, found = Setting(Machine(), ()), record()
    jobs = [
        works("a"),
        job("b", raises(RuntimeError("no"))),
        works("c"),
        job("d", raises(KeyboardInterrupt())),
        works("e"),
    ]
    assert command.run(jobs[:3], found, setting, tmp_path / "a.json") == 1
    assert [row.name for row in Record.read(tmp_path / "a.json").rows] == ["a", "c"]
    assert command.run(jobs[3:], found, setting, tmp_path / "a.json") == command.INTERRUPTED
    assert [row.name for row in found.rows] == ["a", "c"]


def test_a_peer_that_fails_does_not_end_the_others() -> None:
    def forms(peer: str) -> Any:
        if peer == "a":
            raise RuntimeError("no such thing")
        yield peer, Entry(Contestant(lambda: None), dict)

    entries, notes = gathered(("a", "b"), forms)
    assert entries.keys() == {"b"} and notes == {"a": "RuntimeError: no such thing"}


@pytest.mark.parametrize(
    "options, said",
    [
        (["--only", "speed"], "--only: unknown speed"),
        (["--peers", "mxnet"], "--peers: unknown mxnet"),
        (["--threads", "0"], "expected numbers of threads"),
        (["--threads", "1,two"], "expected numbers of threads"),
        (["--seconds", "0"], "--seconds: expected more than 0"),
        (["--resume"], "name it with --json"),
        (["--fail-slower", "5"], "name it with --against"),
    ],
)
def test_wrong_options_are_refused(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main(options)
    assert said in capsys.readouterr().err


def test_rows_are_chosen_by_number_or_by_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--list", "--rows", "W1,by 2 Python", "--threads", "1,2"]) == 0
    names = [line.partition(": ")[2] for line in capsys.readouterr().out.splitlines()]
    assert [name.split()[0] for name in names] == ["W1", "W1", "lstm", "lstm", "lstm"]


def test_every_table_has_its_own_workloads() -> None:
    titles = [WORKLOADS[name].title for names in TABLES.values() for name in names]
    assert len(set(titles)) == len({name for names in TABLES.values() for name in names})


@pytest.mark.rare
@pytest.mark.parametrize("peer", peers.NEEDED)
def test_each_peer_computes_what_the_reference_does(peer: str) -> None:
    if missing := peers.lacking(peer):
        pytest.skip(f"not installed: {', '.join(missing)}")
    data = make_training_data(TINY)
    with ExitStack() as stack:
        for given in (make_data(TINY), data.forward):
            exact = exact_inference(TINY, given)
            forms = dict(peers.inference(peer, TINY, given, 1, stack))
            assert forms and all(worst_error(form.result(), exact) < 1e-5 for form in forms.values())
        exact = exact_training(TINY, data)
        for form in dict(peers.training(peer, TINY, data, 1, stack)).values():
            assert worst_error(form.result(), exact) < 1e-4


@pytest.mark.rare
def test_a_fresh_process_tells_its_stages() -> None:
    cold, stored = measure_startup(WORKLOADS["W2"], "forward", Setting(Machine(), (), runs=1))
    assert stored.ours < cold.ours and cold.figures.keys() == stored.figures.keys() and len(cold.figures) == 5
