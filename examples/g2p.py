"""English words to phonemes: a trained network of two GRUs, compiled by rnnc.

    python examples/g2p.py                           the default words
    python examples/g2p.py hello world               your own
    python examples/g2p.py --no-timing --stages 20   more of the compiler's stages

The network is the one inside PyPI's g2p_en 2.1.0. One GRU reads the letters of a word, and an end token. Its
last state is all the second GRU gets to know: from it, and from a start token, that one writes a phoneme per
step, and reads each time the phoneme it wrote last, until it writes the end token.

What this shows of rnnc:

- networks as graphs of layers, with trained weights in PyTorch's layouts;
- decoding: encoder, choices and end of each word in one call (`rnnc.Decoder`), a callable on NumPy arrays;
- words of different lengths in one batch, in any order (`lengths=`);
- every stage between the equations and the machine code as text.

Before the speed is measured, the phonemes are compared with those of the package's own algorithm in plain
NumPy; a difference ends the script with status 1. Status 2: the trained model or the backend is not there.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import _g2p_checkpoint as checkpoint
import numpy as np
from _g2p_checkpoint import Array, CheckpointError, Weights
from _g2p_reference import NumpyPhonemizer

import rnnc

DEFAULT_WORDS = (
    "queue", "rhythm", "knight", "pneumonia", "xylophone", "mnemonic", "quixotic", "recurrent", "compiler",
    "activationist", "frobnicate", "supercalifragilisticexpialidocious",
)  # fmt: skip
TIMED_WORDS = Path(__file__).with_name("words.txt")
ROUNDS = 7
WIDTH = 100  # longer lines of a stage are cut here


def decoder_of(weights: Weights) -> rnnc.Decoder:
    """The two networks, with the sizes of the checkpoint."""
    (letters, embedding), (phonemes, hidden) = weights["enc_emb"].shape, weights["fc_w"].shape
    encoder = rnnc.Graph(
        inputs={"letters": rnnc.NUMBERS},
        layers={
            "table": (rnnc.Embedding(letters, embedding), "letters"),
            "gru": (rnnc.GRU(embedding, hidden), "table"),
        },
        outputs={"word": "gru.h"},
    )
    step = rnnc.Graph(
        inputs={"last": rnnc.NUMBERS},
        layers={
            "table": (rnnc.Embedding(phonemes, embedding), "last"),
            "gru": (rnnc.GRU(embedding, hidden), "table"),
            "scores": (rnnc.Linear(hidden, phonemes), "gru"),
        },
        outputs="scores",
    )
    return rnnc.Decoder(
        step,
        encoder=encoder,
        states={"gru.h": "word"},
        start=checkpoint.SPEECH_START,
        end=checkpoint.SPEECH_END,
        steps=checkpoint.MOST_PHONEMES,
    )


def parameters(weights: Weights) -> dict[str, Array]:
    """The arrays of the checkpoint under the names of the decoder's parameters."""
    gru = {"weight_ih_l0": "w_ih", "weight_hh_l0": "w_hh", "bias_ih_l0": "b_ih", "bias_hh_l0": "b_hh"}
    found = {"step.scores.weight": weights["fc_w"], "step.scores.bias": weights["fc_b"]}
    for part, prefix in (("encoder", "enc"), ("step", "dec")):  # the GRUs have PyTorch's layouts and order of gates
        found[f"{part}.table.weight"] = weights[f"{prefix}_emb"]
        found |= {f"{part}.gru.{ours}": weights[f"{prefix}_{theirs}"] for ours, theirs in gru.items()}
    return found


class Phonemizer:
    """The network compiled by rnnc: words to phonemes in one call."""

    def __init__(self, weights: Weights, backend: str) -> None:
        self.decoder, self.parameters = decoder_of(weights), parameters(weights)
        self.network = self.decoder.compile(self.parameters, backend=backend)

    def batch(self, words: Sequence[str]) -> list[list[str]]:
        """The phonemes of all words (normalised), computed together."""
        letters = [checkpoint.letter_numbers(word) for word in words]
        lengths = np.array([len(word) for word in letters])
        padded = np.zeros((lengths.max(), len(words)), np.int64)  # (T, B)
        for column, word in enumerate(letters):
            padded[: len(word), column] = word
        spoken = self.network(padded, lengths=lengths if len(words) > 1 else None)
        columns = zip(spoken.numbers.T.tolist(), spoken.lengths.tolist(), strict=True)
        return [[checkpoint.PHONEMES[number] for number in column[:count]] for column, count in columns]

    def one_by_one(self, words: Sequence[str]) -> list[list[str]]:
        """The same, each word on its own."""
        return [self.batch([word])[0] for word in words]


@contextmanager
def empty_cache() -> Iterator[None]:
    """Inside, rnnc finds an empty on-disk cache, so that what is timed is a compile and not a look-up."""
    before = os.environ.get("RNNC_CACHE_DIR")
    with tempfile.TemporaryDirectory(prefix="rnnc-g2p-") as folder:
        os.environ["RNNC_CACHE_DIR"] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ["RNNC_CACHE_DIR"]
            else:
                os.environ["RNNC_CACHE_DIR"] = before


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def interleaved(contestants: Mapping[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    """Median seconds of each contestant; each runs once a round, so that a noisy moment meets them all."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, call in contestants.items():
            times[name].append(seconds(call))
    return {name: statistics.median(taken) for name, taken in times.items()}


def show_compiled(phonemizer: Phonemizer, backend: str) -> None:
    """What was compiled, through which stages, and how long it takes."""
    network = phonemizer.network
    compile_both = partial(phonemizer.decoder.compile, phonemizer.parameters, backend=backend)
    with empty_cache():
        cold, again = seconds(compile_both), seconds(compile_both)
    graph = re.search(r"# (\d+) nodes", network.ir("lowered", steps=3))
    passes = re.findall(r"^# (\w+) +nodes (\d+) -> (\d+)", network.ir("optimized", steps=3), re.MULTILINE)
    print(f"\ncompiled: an encoder (Embedding, GRU) and a decoder (Embedding, GRU, Linear), backend {backend}")
    if graph and passes:
        left = passes[-1][2]
        print(f"  a step of the decoder     {graph[1]} nodes as written, {left} after {len(passes)} passes")
    if "asm" in network.stages:
        phases = len(re.findall(r"^  phase ", network.ir("plan"), re.MULTILINE))
        print(f"  machine code              {phases} phases, {len(network.ir('asm').splitlines()):,} lines of assembly")
    print(f"  time, both networks       {cold * 1e3:.0f} ms; {again * 1e3:.0f} ms from the cache on disk")


def show_words(words: Sequence[str], phonemes: Sequence[Sequence[str]]) -> None:
    print("\nwords")
    column = min(max(map(len, words)), 36)
    for word, sounds in zip(words, phonemes, strict=True):
        print(f"  {word:{column}}  {' '.join(sounds)}")


def show_differences(words: Sequence[str], phonemizer: Phonemizer, numpy: NumpyPhonemizer) -> bool:
    """Compare rnnc, one word at a time and in one batch, with NumPy; True if any word differs."""
    expected, single, batch = numpy.one_by_one(words), phonemizer.one_by_one(words), phonemizer.batch(words)
    rows = zip(words, expected, single, batch, strict=True)
    different = [row for row in rows if not row[1] == row[2] == row[3]]
    if not different:
        count = len(words)
        print(f"  the same phonemes as NumPy, one at a time and in one batch: {count} of {count} words")
    for word, *spoken in different[:10]:
        numpys, ones, batchs = map(" ".join, spoken)
        print(f"  DIFFERENT {word}: NumPy {numpys}; one {ones}; batch {batchs}")
    return bool(different)


def show_speed(words: Sequence[str], weights: Weights, phonemizer: Phonemizer, numpy: NumpyPhonemizer) -> None:
    """Words per second of rnnc, of NumPy and, if it is installed, of PyTorch."""
    contestants: dict[str, Callable[[], object]] = {"NumPy, one word at a time": lambda: numpy.one_by_one(words)}
    if importlib.util.find_spec("torch") is not None:
        from _g2p_torch import TorchPhonemizer

        torch = TorchPhonemizer(weights)
        if torch.one_by_one(words) == phonemizer.one_by_one(words):
            contestants["PyTorch, one word at a time"] = lambda: torch.one_by_one(words)
    contestants["rnnc, one word at a time"] = lambda: phonemizer.one_by_one(words)
    contestants[f"rnnc, {len(words)} words a batch"] = lambda: phonemizer.batch(words)
    taken = interleaved(contestants)
    baseline = max(taken["NumPy, one word at a time"], 1e-9)
    print(f"\nspeed, median of {ROUNDS} interleaved rounds          words/s   x NumPy")
    for name, time_taken in taken.items():
        print(f"  {name:47}{len(words) / time_taken:10,.0f}{baseline / time_taken:10.1f}")
    if "PyTorch, one word at a time" not in taken:
        print("  (with PyTorch installed, it is timed, too: .venv/bin/python -m pip install torch)")


NEXT = """
next
  make demo WORDS="your own words"
  make voice                          hear it: a voice gate, trained here in seconds, before and after
  .venv/bin/rnnc inspect examples/model.toml --format html > report.html
                                      see it: every stage of a model, in a browser"""


def show_stages(network: rnnc.Decoding, lines: int) -> None:
    print("\nstages of the compiler, of the decoder's steps: network.ir(stage, steps=2)")
    for stage in network.stages:
        text = [line for line in network.ir(stage, steps=2).splitlines() if line.strip()]
        print(f"\n  {stage}: {len(text)} lines")
        for line in text[:lines]:
            print("  | " + (line if len(line) <= WIDTH else line[: WIDTH - 3] + "..."))


def normalised(words: Sequence[str]) -> list[str]:
    """The words as the network wants them, without those that have no letter; ValueError if none is left."""
    plain = {word: checkpoint.normalise(word) for word in words}
    silent = [word for word, letters in plain.items() if not any("a" <= letter <= "z" for letter in letters)]
    told = ", ".join(map(repr, silent))
    if silent and len(silent) == len(plain):
        raise ValueError(f"{told}: no letter a-z, so there is nothing to pronounce")
    if silent:
        print(f"left out, without a letter a-z: {told}", file=sys.stderr)
    return [plain[word] for word in words if word not in silent]


def read_words(path: Path) -> list[str]:
    """The words of a text file, separated by blanks or line ends; ValueError if there is none."""
    words = normalised(path.read_text(encoding="utf-8").split())
    if not words:
        raise ValueError(f"{path} holds no word")
    return words


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    about, details = (__doc__ or "").split("\n", 1)
    parser = argparse.ArgumentParser(
        description=about, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="*", metavar="WORD", help="an English word (default: twelve of them)")
    parser.add_argument("--backend", default="llvm", help="the backend of rnnc: llvm (default) or reference")
    parser.add_argument(
        "--words-file", type=Path, default=TIMED_WORDS, metavar="FILE",
        help="words to measure the speed with (default: 208 common ones, words.txt beside this script)",
    )  # fmt: skip
    parser.add_argument("--no-timing", action="store_true", help="no compile times, no words per second")
    parser.add_argument(
        "--stages", type=int, default=0, metavar="LINES",
        help="first lines of each stage of the compiler to show (default: 0, which leaves them out)",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    if options.stages < 0:
        parser.error(f"--stages takes a number of lines, 0 or more, not {options.stages}")
    try:
        options.words = normalised(options.words or DEFAULT_WORDS)
        options.timed = [] if options.no_timing else read_words(options.words_file)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; 0, 1 if rnnc and NumPy differ, 2 if the trained model or the backend is not there."""
    options = parse(arguments)
    try:
        weights = checkpoint.load()
        phonemizer = Phonemizer(weights, options.backend)
    except (CheckpointError, rnnc.RnncError) as error:
        print(f"g2p: {error}", file=sys.stderr)
        return 2
    numpy = NumpyPhonemizer(weights)

    print("English words to phonemes with the trained GRUs of g2p_en", checkpoint.RELEASE)
    if not options.no_timing:
        show_compiled(phonemizer, options.backend)

    words = [*options.words, *options.timed]
    show_words(options.words, phonemizer.batch(options.words))
    if show_differences(words, phonemizer, numpy):
        return 1

    if not options.no_timing:
        show_speed(options.timed, weights, phonemizer, numpy)
    if options.stages:
        show_stages(phonemizer.network, options.stages)
    print(NEXT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
