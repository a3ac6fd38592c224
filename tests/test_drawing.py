"""Pictures of networks: those of docs/tutorial.md are what `rnnc.draw` gives now, and each shows the whole network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

import rnnc
from tests.golden import ROOT, check_file
from tests.refusals import raises_saying

PICTURES: dict[str, tuple[Any, int]] = {
    "one_layer": (rnnc.RNN(1, 2), 5),
    "stacked": (rnnc.RNN(1, 2, num_layers=3), 5),
    "bidirectional": (rnnc.RNN(1, 2, bidirectional=True), 5),
    "stacked_bidirectional": (rnnc.RNN(1, 2, num_layers=3, bidirectional=True), 5),
    "tagger": (
        rnnc.Sequential(rnnc.Embedding(1000, 32), rnnc.GRU(32, 32, bidirectional=True), rnnc.Linear(64, 17)),
        3,
    ),
}
STRIDES = rnnc.Graph(
    {"audio": 1, "words": rnnc.NUMBERS},
    {
        "table": (rnnc.Embedding(9, 4), "words"),
        "both": (rnnc.Concat(), "audio", "table"),
        "low": (rnnc.Conv1d(5, 16, 8, padding=(3, 4), stride=4), "both"),
        "lstm": (rnnc.LSTM(16, 16), "low"),
        "high": (rnnc.ConvTranspose1d(16, 1, 8, stride=2), "lstm"),
        "start": (rnnc.GRU(1, 16), "high", {"h": "lstm.h"}),
        "mean": (rnnc.Mean(), "high"),
        "class": (rnnc.Linear(1, 3), "mean"),
    },
    ("high", "class", "start"),
)


@pytest.mark.parametrize("name", PICTURES)
def test_the_pictures_of_the_docs_are_up_to_date(name: str) -> None:
    model, steps = PICTURES[name]
    check_file(ROOT / "docs" / "pictures" / f"{name}.svg", rnnc.draw(model, steps))


def found(text: str, tag: str) -> Iterator[Any]:
    return ElementTree.fromstring(text).iter(f"{{http://www.w3.org/2000/svg}}{tag}")


def test_a_picture_holds_every_value_at_each_of_its_steps() -> None:
    text = rnnc.draw(STRIDES, 8)
    titles = Counter(str(title.text).partition("[")[0].partition(":")[0] for title in found(text, "title"))
    assert titles == {
        "audio": 8, "words": 8, "table": 8, "both": 8, "low": 2, "lstm": 2, "high": 4, "start": 4, "mean": 1, "class": 1
    }  # fmt: skip
    labels = {str(label.text) for label in found(text, "text")}
    assert {"(T / 4, B, 16)", "(T / 2, B, 1)", "(T, B) integers", "(B, 3)", "h_n[0], c_n[0]"} <= labels


def test_every_state_of_a_stack_is_where_h_n_holds_it() -> None:
    labels = Counter(str(label.text) for label in found(rnnc.draw(PICTURES["stacked_bidirectional"][0]), "text"))
    assert all(labels[f"h_{moment}[{number}]"] == 1 for moment in "0n" for number in range(6))


def test_names_are_text_and_files_are_written(tmp_path: Path) -> None:
    net = rnnc.Graph({"x": 2}, {"a": (rnnc.Linear(2, 3), "x")}, {"<&\">": "a"})
    text = rnnc.draw(net, 2, path=tmp_path / "a.svg")
    assert (tmp_path / "a.svg").read_text(encoding="utf-8") == text
    assert "<&\">" in {label.text for label in found(text, "text")}


def test_what_cannot_be_drawn_is_refused() -> None:
    with raises_saying(rnnc.ArgumentTypeError, "model", "rnnc.Graph", "3"):
        rnnc.draw(3)  # type: ignore[arg-type]
    with raises_saying(rnnc.ArgumentError, "steps", "4 steps", "got 6"):
        rnnc.draw(STRIDES, 6)
    with raises_saying(rnnc.ArgumentError, "steps", "fewer"):
        rnnc.draw(rnnc.RNN(1, 2), 100_000)
    with raises_saying(rnnc.ArgumentError, "steps", ">= 1"):
        rnnc.draw(rnnc.RNN(1, 2), 0)
