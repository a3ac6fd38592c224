"""The demo examples/g2p.py says what the package g2p_en says.

The judge is a second implementation of the package's algorithm, written for this test alone: it shares no
line with the demo, not even the alphabets. The pronunciations in PINNED were produced by g2p_en 2.1.0 itself.
On all words here the best phoneme leads the next by 0.01 or more in the logits, so float32 rounding decides
nothing.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
BACKENDS = ("reference", "llvm")

PINNED = {
    "a": "AA1",
    "queue": "K Y UW1",
    "rhythm": "R IH1 DH AH0 M",
    "don't": "D AA1 N T",
    "mnemonic": "N IH0 M AA1 N IH0 K",
    "pneumonoultramicroscopicsilicovolcanoconiosis": (  # 45 letters; the package stops at 20 phonemes
        "N IY2 M OW0 JH AE2 N K OW0 S EH2 R AH0 L AH0 N EY1 S IY0 OW0"
    ),
    "quixotic": "K W IH0 K S AA1 T IH0 K",
    "recurrent": "R IH0 K ER1 AH0 N T",
    "activationist": "AE2 K T IH0 V EY1 SH AH0 N IH0 S T",
    "supercalifragilisticexpialidocious": "S UW2 P ER0 K AH0 F L AH0 JH AO1 S IY0 AH0 P S",
}
WORDS = (
    *PINNED,
    *"i ox to the through though thought thorough cough bough tongue yacht colonel choir psychology".split(),
    *"knight unrolled compiler kubernetes llama worcestershire xylophone zyzzyva hummingbird".split(),
    *"bookkeeper o'clock floccinaucinihilipilification naive facade strengths mississippi vase".split(),
    *"island debt receipt".split(),
)


@cache
def installed_checkpoint() -> Path | None:
    try:
        path = Path(str(metadata.distribution("g2p_en").locate_file("g2p_en/checkpoint20.npz")))
    except metadata.PackageNotFoundError:
        return None
    return path if path.is_file() else None


needs_checkpoint = pytest.mark.skipif(
    installed_checkpoint() is None,
    reason="the trained model is not installed: pip install --no-deps g2p_en==2.1.0",
)


@pytest.fixture(scope="module")
def demo() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        yield importlib.import_module("g2p")


class Judge:
    """Letters to phonemes, one word and one gate at a time, in float32."""

    SOUNDS = (
        "<pad> <unk> <s> </s> AA0 AA1 AA2 AE0 AE1 AE2 AH0 AH1 AH2 AO0 AO1 AO2 AW0 AW1 AW2 AY0 AY1 AY2 B CH D "
        "DH EH0 EH1 EH2 ER0 ER1 ER2 EY0 EY1 EY2 F G HH IH0 IH1 IH2 IY0 IY1 IY2 JH K L M N NG OW0 OW1 OW2 "
        "OY0 OY1 OY2 P R S SH T TH UH0 UH1 UH2 UW UW0 UW1 UW2 V W Y Z ZH"
    ).split()

    def __init__(self, path: Path) -> None:
        with np.load(path) as archive:
            self.arrays = {name: archive[name] for name in archive.files}

    def gates(self, gru: str, side: str, v: Any) -> list[Any]:
        """What reset, update and candidate each receive from v, the input (side "ih") or the state ("hh")."""
        weights = np.split(self.arrays[f"{gru}_w_{side}"], 3)
        biases = np.split(self.arrays[f"{gru}_b_{side}"], 3)
        return [weight @ v + bias for weight, bias in zip(weights, biases, strict=True)]

    def step(self, gru: str, x: Any, h: Any) -> Any:
        reset_x, update_x, new_x = self.gates(gru, "ih", x)
        reset_h, update_h, new_h = self.gates(gru, "hh", h)
        reset = 1 / (1 + np.exp(-reset_x - reset_h))
        update = 1 / (1 + np.exp(-update_x - update_h))
        candidate = np.tanh(new_x + reset * new_h)
        return candidate + update * (h - candidate)

    def __call__(self, word: str) -> str:
        h = np.zeros(256, np.float32)
        for letter in word:
            number = ord(letter) - ord("a") + 3 if letter.isalpha() else 1
            h = self.step("enc", self.arrays["enc_emb"][number], h)
        h = self.step("enc", self.arrays["enc_emb"][2], h)
        spoken = [2]
        while len(spoken) <= 20:
            h = self.step("dec", self.arrays["dec_emb"][spoken[-1]], h)
            spoken.append(int(np.argmax(self.arrays["fc_w"] @ h + self.arrays["fc_b"])))
            if spoken[-1] == 3:
                return " ".join(self.SOUNDS[number] for number in spoken[1:-1])
        return " ".join(self.SOUNDS[number] for number in spoken[1:])


@pytest.fixture(scope="module")
def judge() -> Judge:
    path = installed_checkpoint()
    assert path is not None
    return Judge(path)


@pytest.fixture(scope="module", params=BACKENDS)
def phonemizer(request: pytest.FixtureRequest, demo: Any) -> Any:
    return demo.Phonemizer(demo.checkpoint.load(), request.param)


@needs_checkpoint
def test_the_judge_agrees_with_the_package(judge: Judge) -> None:
    assert {word: judge(word) for word in PINNED} == PINNED


@needs_checkpoint
def test_a_batch_of_different_lengths_equals_numpy(phonemizer: Any, judge: Judge) -> None:
    spoken = [" ".join(sounds) for sounds in phonemizer.batch(WORDS)]
    assert dict(zip(WORDS, spoken, strict=True)) == {word: judge(word) for word in WORDS}


@needs_checkpoint
def test_one_word_at_a_time_equals_numpy(phonemizer: Any, judge: Judge) -> None:
    spoken = [" ".join(sounds) for sounds in phonemizer.one_by_one(WORDS)]
    assert dict(zip(WORDS, spoken, strict=True)) == {word: judge(word) for word in WORDS}


@needs_checkpoint
def test_the_order_of_a_batch_does_not_matter(phonemizer: Any) -> None:
    assert phonemizer.batch(WORDS[::-1]) == phonemizer.batch(WORDS)[::-1]


@needs_checkpoint
def test_the_log_probabilities_are_those_of_numpy(phonemizer: Any, judge: Judge) -> None:
    """Phonemes hide small errors; the numbers they come from are held to float32 rounding."""
    letters = [ord(letter) - ord("a") + 3 for letter in "tongue"] + [2]
    expected, h, last = 0.0, np.zeros(256, np.float32), 2
    for number in letters:
        h = judge.step("enc", judge.arrays["enc_emb"][number], h)
    while last != 3:
        h = judge.step("dec", judge.arrays["dec_emb"][last], h)
        scores = (judge.arrays["fc_w"] @ h + judge.arrays["fc_b"]).astype(np.float64)
        last = int(np.argmax(scores))
        expected += scores[last] - np.log(np.exp(scores).sum())
    spoken = phonemizer.network(np.array(letters)[:, None])
    np.testing.assert_allclose(spoken.scores, [expected], rtol=0, atol=1e-4)


@needs_checkpoint
def test_the_yardstick_of_the_demo_equals_numpy(demo: Any, judge: Judge) -> None:
    yardstick = demo.NumpyPhonemizer(demo.checkpoint.load())
    assert [" ".join(yardstick.one(word)) for word in WORDS] == [judge(word) for word in WORDS]


@needs_checkpoint
@pytest.mark.parametrize("on", BACKENDS)
def test_the_whole_script(demo: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path, on: str) -> None:
    timed = tmp_path / "words.txt"
    timed.write_text("tongue yacht\nQueue\n")
    options = ["--backend", on, "--words-file", str(timed), "--stages", "1", "42"]
    assert demo.main([*options, "Activationist", "don't"]) == 0
    printed, told = capsys.readouterr()
    assert told == "left out, without a letter a-z: '42'\n"
    for word in ("activationist", "don't"):
        assert [*word.split(), *PINNED[word].split()] in [line.split() for line in printed.splitlines()]
    assert "the same phonemes as NumPy, one at a time and in one batch: 5 of 5 words" in printed
    for stage in ("lowered", "optimized", "rolled"):
        assert f"\n  {stage}: " in printed
    assert "rnnc, 3 words a batch" in printed


@needs_checkpoint
def test_the_default_output_is_short(demo: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main(["--no-timing"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 30  # what was compiled, and the speed, add ten
    assert max(map(len, lines)) <= 110


@needs_checkpoint
def test_a_difference_is_told_and_fails(
    demo: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo.Phonemizer, "one_by_one", lambda self, words: [["ZH"] for _ in words])
    assert demo.main(["--no-timing", "--backend", "reference", "queue"]) == 1
    assert "DIFFERENT queue: NumPy K Y UW1; one ZH; batch K Y UW1" in capsys.readouterr().out


@needs_checkpoint
def test_an_unknown_backend_is_one_line(demo: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main(["--no-timing", "--backend", "abacus"]) == 2
    complaint = capsys.readouterr().err
    assert "abacus" in complaint and complaint.count("\n") == 1


def test_without_the_checkpoint_one_line_says_what_to_do(
    demo: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing_installed(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", nothing_installed)
    assert demo.main([]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "pip install --no-deps g2p_en==2.1.0" in printed.err and printed.err.count("\n") == 1


@pytest.mark.parametrize("damage", ["empty", "cut short", "no npz", "an array is missing", "a wrong shape"])
def test_a_damaged_checkpoint_is_one_line(
    demo: Any,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    damage: str,
) -> None:
    path = tmp_path / "checkpoint20.npz"
    names = demo.checkpoint._SHAPES if damage != "an array is missing" else ["enc_emb"]
    arrays: dict[str, Any] = {name: np.zeros((29, 256), np.float32) for name in names}
    np.savez(path, **arrays)
    whole = path.read_bytes()
    path.write_bytes({"empty": b"", "cut short": whole[:-100], "no npz": b"words " * 99}.get(damage, whole))
    monkeypatch.setattr(demo.checkpoint, "find", lambda: path)
    assert demo.main([]) == 2
    complaint = capsys.readouterr().err
    assert str(path) in complaint and "--force-reinstall" in complaint and complaint.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["42"], "'42': no letter"),
        ([""], "'': no letter"),
        (["--stages", "-1"], "not -1"),
        (["--words-file", "/nowhere/words.txt"], "/nowhere/words.txt"),
    ],
)
def test_wrong_arguments_are_refused(
    demo: Any, capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        demo.main(arguments)
    assert stop.value.code == 2
    assert complaint in capsys.readouterr().err


def test_words_are_stripped_of_accents_and_capitals(demo: Any) -> None:
    assert demo.normalised(["Naïve", "FAÇADE", "d'Été"]) == ["naive", "facade", "d'ete"]
