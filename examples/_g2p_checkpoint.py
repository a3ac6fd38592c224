"""The trained checkpoint of PyPI's g2p_en, and the two alphabets its numbers stand for.

g2p_en (Park and Kim, Apache-2.0) turns the spelling of an English word into ARPAbet phonemes. Only one file
of it is wanted here, ``checkpoint20.npz``. Importing the package would run it, and that asks for nltk and its
downloads; so the file is found through the metadata of the installed distribution, and nothing is executed.
"""

from __future__ import annotations

import sys
import unicodedata
import zipfile
from importlib import metadata
from pathlib import Path

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Weights = dict[str, Array]

RELEASE = "2.1.0"
INSTALL = f"{sys.executable} -m pip install --no-deps g2p_en=={RELEASE}"
REPLACE = f"replace it with: {INSTALL} --force-reinstall"

GRAPHEMES = ("<pad>", "<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz")
UNKNOWN, WORD_END = 1, 2

# Phonemes are numbered in alphabetical order. A vowel carries its stress: 0 none, 1 primary, 2 secondary.
_VOWELS = "AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW".split()
_UNSTRESSED = "B CH D DH F G HH JH K L M N NG P R S SH T TH UW V W Y Z ZH".split()
PHONEMES = (
    "<pad>", "<unk>", "<s>", "</s>",
    *sorted([vowel + stress for vowel in _VOWELS for stress in "012"] + _UNSTRESSED),
)  # fmt: skip
SPEECH_START, SPEECH_END = 2, 3
MOST_PHONEMES = 20  # the package cuts every word off here

_LETTER_NUMBER = {letter: number for number, letter in enumerate(GRAPHEMES)}
_SHAPES = {  # E: embedding width, H: hidden units, G: graphemes, P: phonemes
    "enc_emb": "G E", "enc_w_ih": "3H E", "enc_w_hh": "3H H", "enc_b_ih": "3H", "enc_b_hh": "3H",
    "dec_emb": "P E", "dec_w_ih": "3H E", "dec_w_hh": "3H H", "dec_b_ih": "3H", "dec_b_hh": "3H",
    "fc_w": "P H", "fc_b": "P",
}  # fmt: skip


class CheckpointError(Exception):
    """The checkpoint is missing or not the one this demo knows; the message, one line, says what to do."""


def find() -> Path:
    """Path of checkpoint20.npz in the installed g2p_en; CheckpointError if there is none."""
    try:
        installed = metadata.distribution("g2p_en")
    except metadata.PackageNotFoundError:
        raise CheckpointError(f"the trained model is not installed; install it with: {INSTALL}") from None
    path = Path(str(installed.locate_file("g2p_en/checkpoint20.npz")))
    if installed.version != RELEASE or not path.is_file():
        wrong = f"g2p_en {installed.version} is installed without the file {path.name} of {RELEASE}"
        raise CheckpointError(f"{wrong}; {REPLACE}")
    return path


def load() -> Weights:
    """The arrays of the installed checkpoint by name, all float32; CheckpointError if it cannot be used."""
    path = find()
    try:
        with np.load(path, allow_pickle=False) as archive:
            weights: Weights = {name: archive[name] for name in _SHAPES}
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); {REPLACE}") from None
    _check(weights, path)
    return weights


def _check(weights: Weights, path: Path) -> None:
    hidden, embedding = weights["fc_w"].shape[-1], weights["enc_emb"].shape[-1]
    size = {"G": len(GRAPHEMES), "P": len(PHONEMES), "E": embedding, "H": hidden, "3H": 3 * hidden}
    for name, dims in _SHAPES.items():
        expected = tuple(size[dim] for dim in dims.split())
        array = weights[name]
        if array.shape != expected or array.dtype != np.float32:
            found = f"{name} is {array.dtype} {array.shape}, expected float32 {expected}"
            raise CheckpointError(f"{path}: {found}; {REPLACE}")


def normalise(word: str) -> str:
    """The word as the package's network gets it: no accents, small letters ("Naïve" -> "naive")."""
    plain = "".join(c for c in unicodedata.normalize("NFD", word) if unicodedata.category(c) != "Mn")
    return plain.lower()


def letter_numbers(word: str) -> list[int]:
    """What the encoder reads: a number a letter, <unk> for anything but a-z, and the end token."""
    return [_LETTER_NUMBER.get(letter, UNKNOWN) for letter in word] + [WORD_END]
