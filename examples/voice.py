"""A voice gate that one can hear: trained here in seconds, then run frame by frame as an audio thread would.

    python examples/voice.py                 writes noisy.wav, gated.wav and voice.png
    python examples/voice.py --epochs 12 --noise 0.5 --folder out

The sound is made: a voice of vowels and pauses (a pulse train through three resonances, its pitch and loudness in
motion), and noise that swells. A GRU of 24 units reads the energies of 20 bands of each frame of 10 ms, and says
whether somebody speaks. It trains on made recordings, and gates one that it has never heard: each frame passes through
`network.realtime()`, which allocates nothing and waits for nobody.
"""

from __future__ import annotations

import argparse
import sys
import time
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import rnnc
from rnnc import optimizers, train

RATE, FRAME, BANDS = 16_000, 160, 20
VOWELS = ((730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480), (570, 840, 2410))
"""The first three resonances of a, i, u, e, o, in Hz (Peterson and Barney, 1952)."""

Array = Any


def recording(seconds: float, noise: float, seed: int) -> tuple[Array, Array]:
    """A sound (samples,) and, per frame, whether somebody speaks."""
    rng = np.random.default_rng(seed)
    frames = int(seconds * RATE / FRAME)
    spoken, voice, at = np.zeros(frames, bool), np.zeros(frames * FRAME), 0
    while at < frames:
        at += int(rng.integers(15, 60))  # a pause
        length = int(rng.integers(10, 35))
        end = min(at + length, frames)
        if end - at > 4:
            voice[at * FRAME : end * FRAME] = _vowel((end - at) * FRAME, rng)
            spoken[at:end] = True
        at = end
    swell = np.interp(np.arange(frames * FRAME), np.linspace(0, frames * FRAME, 9), rng.uniform(0.3, 1.0, 9))
    hiss = np.convolve(rng.standard_normal(frames * FRAME), np.ones(3) / 3, "same")
    return 0.25 * voice + 0.12 * noise * swell * hiss, spoken


def _vowel(samples: int, rng: np.random.Generator) -> Array:
    """A vowel: pulses at a pitch that falls, through three resonances, louder in its middle."""
    pitch = rng.uniform(95, 220) * np.linspace(1.08, 0.92, samples)
    phase = np.cumsum(pitch) / RATE
    sound = np.diff(np.floor(phase), prepend=0.0)
    for formant in VOWELS[rng.integers(len(VOWELS))]:
        sound = _resonated(sound, formant * rng.uniform(0.95, 1.05))
    return np.hanning(samples) ** 0.5 * sound / (np.abs(sound).max() + 1e-9)


def _resonated(sound: Array, frequency: float) -> Array:
    """A resonance, 120 Hz wide: the sound convolved with a decaying sine."""
    t = np.arange(400) / RATE
    return np.convolve(sound, np.exp(-np.pi * 120 * t) * np.sin(2 * np.pi * frequency * t))[: len(sound)]


def features(sound: Array) -> Array:
    """The logarithms of the energies of BANDS bands of each frame: (frames, BANDS)."""
    framed = sound.reshape(-1, FRAME) * np.hanning(FRAME)
    power = np.abs(np.fft.rfft(framed, 256)) ** 2
    edges = 1 + (power.shape[1] * np.linspace(0.12, 0.99, BANDS) ** 2).astype(int)  # narrow bands below, wide above
    energies = np.add.reduceat(power, edges, axis=1)
    return (0.25 * np.log(energies + 1e-4)).astype(np.float32)


def gated(sound: Array, network: Any) -> tuple[Array, Array, float]:
    """The sound with silence where nobody speaks, the score of each frame, and microseconds per frame."""
    step, given = network.realtime(batch=1), features(sound)
    scores = np.zeros(len(given), np.float32)
    begin = time.perf_counter()
    for number, frame in enumerate(given):
        scores[number] = step(frame[None, None])[0, 0, 0]
    taken = (time.perf_counter() - begin) / len(given) * 1e6
    speaks = 1 / (1 + np.exp(-scores))
    gain = np.repeat(np.clip(4 * (speaks - 0.35), 0.0, 1.0), FRAME)
    smooth = np.convolve(gain, np.ones(FRAME) / FRAME, "same")
    return sound * smooth, speaks, taken


def write(path: Path, sound: Array) -> None:
    """A WAV file of 16 bits."""
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes((np.clip(sound, -1, 1) * 32767).astype("<i2").tobytes())


def picture(path: Path, sound: Array, clean: Array, speaks: Array, spoken: Array) -> bool:
    """Both sounds, and what the network heard; False without Matplotlib."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot as plt
    except ImportError:
        return False
    figure, axes = plt.subplots(3, 1, figsize=(9, 5), sharex=True)
    seconds = np.arange(len(sound)) / RATE
    axes[0].plot(seconds, sound, linewidth=0.4)
    axes[0].set_ylabel("noisy.wav")
    axes[1].plot(seconds, clean, linewidth=0.4)
    axes[1].set_ylabel("gated.wav")
    axes[2].fill_between(np.arange(len(spoken)) * FRAME / RATE, spoken, alpha=0.25, step="post", label="speech")
    axes[2].plot(np.arange(len(speaks)) * FRAME / RATE, speaks, label="network")
    axes[2].set_xlabel("seconds")
    axes[2].legend(loc="upper right")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains, gates a recording, and writes the files."""
    options = _options(arguments)
    net = rnnc.Sequential(rnnc.GRU(BANDS, 24), rnnc.Linear(24, 1))
    pairs = []
    for seed in range(options.recordings):
        sound, spoken = recording(6.0, options.noise, 100 + seed)
        pairs.append((features(sound), spoken[:, None].astype(np.float32)))
    held_out = pairs[: max(1, len(pairs) // 8)]
    began = time.perf_counter()
    trained = train.fit(
        net,
        pairs[len(held_out) :],
        validation=held_out,
        loss="bce",
        optimizer=optimizers.Adam(1e-2),
        epochs=options.epochs,
        batch_size=8,
        progress=options.progress,
        threads=options.threads,
    )
    print(f"trained on {len(pairs)} recordings in {time.perf_counter() - began:.1f} s", end="; ")
    network = trained.compile()
    sound, spoken = recording(8.0, options.noise, 7)
    clean, speaks, taken = gated(sound, network)
    right = float(((speaks > 0.5) == spoken).mean())
    print(f"{right:.1%} of the frames of a new one are right, {taken:.1f} us each (a frame lasts 10,000 us)")
    options.folder.mkdir(parents=True, exist_ok=True)
    write(options.folder / "noisy.wav", sound)
    write(options.folder / "gated.wav", clean)
    seen = picture(options.folder / "voice.png", sound, clean, speaks, spoken)
    print(f"wrote noisy.wav, gated.wav{' and voice.png' if seen else ''} to {options.folder.resolve()}: listen to both")
    return 0 if right > 0.8 else 1


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("voice.py", description=__doc__, formatter_class=layout)
    parser.add_argument("--recordings", type=int, default=48, help="to train on, of 6 s each (default 48)")
    parser.add_argument("--epochs", type=int, default=10, help="default 10")
    parser.add_argument("--noise", type=float, default=1.0, help="its loudness (default 1.0)")
    parser.add_argument("--folder", type=Path, default=Path("voice"), help="of the files that are written")
    parser.add_argument("--threads", type=int, default=None, help="default: all cores")
    parser.add_argument("--quiet", dest="progress", action="store_false", help="no progress bar")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
