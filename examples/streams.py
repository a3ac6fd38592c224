"""A server of many streams of one model: clients come, send frames at their own pace, and go.

    python examples/streams.py                          1,000 streams of a GRU with a score per frame
    python examples/streams.py --streams 5000 --seconds 10 --threads 2

A client sends a frame of 40 numbers every 10 ms. Frames of different clients arrive in random order; the server takes
all that have arrived, advances those streams with one call of `rnnc.Streams.step`, and answers each client. Some
clients leave and others come: their stream starts again. One client's state is saved and taken up by another stream.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

import numpy as np

import rnnc

FRAME_SECONDS = 0.01
WIDTH = 40


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the server for some seconds of the clients' time, as fast as it can, and prints how many it could serve."""
    options = _options(arguments)
    net = rnnc.Sequential(rnnc.GRU(WIDTH, 64), rnnc.Linear(64, 1), rnnc.Activation("sigmoid"))
    model = net.compile(net.init(seed=0), threads=options.threads)
    streams = rnnc.Streams(model, options.streams)
    rng = np.random.default_rng(0)
    rounds = round(options.seconds / FRAME_SECONDS)
    frames, scores, busy = 0, np.zeros(options.streams), 0.0
    for _ in range(rounds):
        ready = rng.permutation(options.streams)[: rng.binomial(options.streams, 0.9)]  # some frames are late
        x = rng.standard_normal((len(ready), WIDTH), dtype=np.float32)
        begin = time.perf_counter()
        scores[ready] = streams.step(ready, x)[:, 0]
        streams.reset(ready[: len(ready) // 500])  # these clients left, others took their places
        busy += time.perf_counter() - begin
        frames += len(ready)
    print(f"{frames:,} frames of {options.streams:,} streams in {busy:.2f} s: {busy / frames * 1e6:.2f} us a frame")
    print(f"one process serves {frames / busy * FRAME_SECONDS:,.0f} such streams in real time")

    x = rng.standard_normal((1, WIDTH), dtype=np.float32)
    streams.restore([1], streams.save([0]))  # a client that moves to another stream
    moved = bool((streams.step([0], x) == streams.step([1], x)).all())
    print(f"a stream that was saved and restored answers as the first one does: {moved}")
    return 0 if moved else 1


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("streams.py", description=__doc__, formatter_class=layout)
    parser.add_argument("--streams", type=int, default=1000, help="clients at a time (default 1000)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of the clients' time (default 5)")
    parser.add_argument("--threads", type=int, default=None, help="default: all cores")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
