"""Readers of tagged text, and the treebank that examples/pos_tagging.py takes by default.

Three formats, told apart by what a file looks like:

    CoNLL-U         1 <tab> Burda <tab> bur <tab> PRON <tab> ...        a line a token, ten columns, tags in the fourth
    tab-separated   Burda <tab> PRON                                    a line a token
    word/TAG        Burda/PRON da/PRT                                   a line a sentence

In the first two, an empty line ends a sentence, and lines that begin with # are comments.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from rnnc.ir.settings import cache_folder

Sentence = list[tuple[str, str]]
"""Words and their tags."""

TREEBANK = "turkish-treebanks==1.0.0"  # Apache-2.0, 1.2 MB, 4851 sentences
WHEEL = "turkish_treebanks-1.0.0-py3-none-any.whl"
PARTS = ("data/web.conllu", "data/wiki.conllu")
COLUMNS = 10  # of a line of CoNLL-U
WORD, TAG = 1, 3


class TaggedTextError(Exception):
    """Text that cannot be read, or data that is not there."""


def read(paths: Iterable[Path]) -> list[Sentence]:
    """The sentences of some files."""
    sentences: list[Sentence] = []
    for path in paths:
        try:
            sentences += parse(path.read_text(encoding="utf-8"), str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise TaggedTextError(f"{path}: {error}") from error
    return sentences


def parse(text: str, name: str = "text") -> list[Sentence]:
    """The sentences of a text in any of the three formats. TaggedTextError names the line that does not fit."""
    lines = text.splitlines()
    first = next((line for line in lines if line.strip() and not line.startswith("#")), "")
    columns = first.count("\t") + 1
    if not first:
        raise TaggedTextError(f"{name}: there is no tagged sentence")
    if columns >= COLUMNS:
        found = _by_lines(lines, name, _conllu_token)
    elif columns > 1:
        found = _by_lines(lines, name, _table_token)
    else:
        found = _by_slashes(lines, name)
    return [sentence for sentence in found if sentence]


def treebank(folder: Path | None = None) -> list[Sentence]:
    """The sentences of PyPI's turkish-treebanks, downloaded once, by pip, and kept in a folder."""
    wheel = find_wheel(folder) or download(folder)
    try:
        with zipfile.ZipFile(wheel) as archive:
            texts = [archive.read(part).decode("utf-8") for part in PARTS]
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise TaggedTextError(f"{wheel} is not the wheel of {TREEBANK} ({error}); remove it and try again") from error
    return [sentence for part, text in zip(PARTS, texts, strict=True) for sentence in parse(text, part)]


def find_wheel(folder: Path | None = None) -> Path | None:
    """The wheel, if it was downloaded before."""
    path = _folder(folder) / WHEEL
    return path if path.is_file() else None


def download(folder: Path | None = None) -> Path:
    """Fetches the wheel with pip, one file and nothing it depends on."""
    place = _folder(folder)
    print(f"downloading {TREEBANK} from PyPI to {place} (1.2 MB, once)", file=sys.stderr)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(place), TREEBANK]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode or not (place / WHEEL).is_file():
        reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise TaggedTextError(
            f"could not download {TREEBANK}: {reason}\n"
            f"put {WHEEL} into {place}, or name files of your own: CoNLL-U, word<tab>TAG lines, or word/TAG text"
        )
    return place / WHEEL


def _folder(folder: Path | None) -> Path:
    return folder or (cache_folder() or Path.cwd()) / "data"


def _by_lines(lines: Sequence[str], name: str, token: object) -> Iterator[Sentence]:
    """Sentences of one token a line."""
    sentence: Sentence = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            yield sentence
            sentence = []
        elif not line.startswith("#"):
            found = token(line.split("\t"))  # type: ignore[operator]
            if found is None:
                raise TaggedTextError(f"{name}, line {number}: not a token and its tag: {line!r:.80}")
            sentence += found
    yield sentence


def _conllu_token(columns: list[str]) -> Sentence | None:
    """A token; nothing of a range (1-2), whose parts follow, or of an empty node (8.1)."""
    if len(columns) < COLUMNS or not columns[0]:
        return None
    return [(columns[WORD], columns[TAG])] if columns[0].isdecimal() else []


def _table_token(columns: list[str]) -> Sentence | None:
    if len(columns) < 2 or not columns[0] or not columns[1].strip():
        return None
    return [(columns[0], columns[1].strip())]


def _by_slashes(lines: Sequence[str], name: str) -> Iterator[Sentence]:
    """Sentences of one line each; the tag stands behind the last slash."""
    for number, line in enumerate(lines, start=1):
        sentence: Sentence = []
        for token in line.split():
            word, slash, tag = token.rpartition("/")
            if not (word and slash and tag):
                raise TaggedTextError(f"{name}, line {number}: expected word/TAG, got {token!r:.40}")
            sentence.append((word, tag))
        yield sentence
