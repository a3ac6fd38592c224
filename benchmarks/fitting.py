"""Whole trainings by `fit` against the usual loop in PyTorch: sequences a second, and the share of the data pipeline.

python -m benchmarks.fitting                       # two threads, wall time, medians of 5 epochs
python -m benchmarks.fitting --threads 1 --only small --generator

Both train the same network, from the same parameters, on the same batches in the same order. PyTorch's batches are
padded by pad_sequence, and packed where rows have different lengths. An epoch of one is followed by an epoch of the
other. With `--generator`, rnnc trains from a list and from a generator of the same items in turn instead.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

import rnnc
from rnnc import losses, train
from rnnc.optimizers import Adam

Item = tuple[Any, Any]


class Recurrent(nn.Module):
    """An embedding, if x is numbers; a recurrent module; a linear layer. `sequences` packs rows of several lengths."""

    def __init__(self, cell: str, symbols: int, width: int, hidden: int, layers: int, both: bool, out: int) -> None:
        super().__init__()
        self.table = nn.Embedding(symbols, width) if symbols else nn.Identity()
        self.rnn = getattr(nn, cell)(width, hidden, num_layers=layers, bidirectional=both)
        self.head = nn.Linear(hidden * (1 + both), out)

    def forward(self, x: Any) -> Any:
        y, _ = self.rnn(self.table(x))
        return self.head(y)

    def sequences(self, x: Any, lengths: Any) -> Any:
        """The output (T, B, N) of a padded batch."""
        if lengths is None:
            return self(x)
        packed = pack_padded_sequence(self.table(x), lengths, enforce_sorted=False)
        y, _ = pad_packed_sequence(self.rnn(packed)[0])
        return self.head(y)


@dataclass(frozen=True)
class Workload:
    """A network, its data, and its loss in both worlds: PyTorch's reads an output and a target, (steps, N) each."""

    name: str
    module: Callable[[], Recurrent]
    items: Callable[[Any], list[Item]]
    loss: losses.Loss
    theirs: Callable[[Any, Any], Any]
    batch: int = 32


def _series(rng: Any) -> list[Item]:
    xs = rng.standard_normal((640, 50, 16), dtype=np.float32)
    return [(x, x[:, :4].cumsum(0) / 10) for x in xs]


def _tagged(rng: Any) -> list[Item]:
    lengths = np.clip(rng.lognormal(2.6, 0.6, 800).astype(int), 2, 80)
    return [(rng.integers(0, 8000, n), rng.integers(0, 17, n)) for n in lengths]


def _forecasts(rng: Any) -> list[Item]:
    xs = rng.standard_normal((160, 336, 150), dtype=np.float32)
    return [(x, x[:, :24] / 3) for x in xs]


def _characters(rng: Any) -> list[Item]:
    text = rng.integers(0, 100, 32 * 64 * 10 + 1)
    return [(text[i : i + 64], text[i + 1 : i + 65]) for i in range(0, len(text) - 64, 64)]


def _pinball(output: Any, target: Any) -> Any:
    levels = torch.tensor((0.1, 0.5, 0.9))
    error = target[..., None] - output.unflatten(-1, (-1, 3))
    return torch.maximum(levels * error, (levels - 1) * error).mean()


def _classes(output: Any, target: Any) -> Any:
    return nn.functional.cross_entropy(output, target)


WORKLOADS = (
    Workload(
        "small: GRU 16/64, B 32, T 50",
        lambda: Recurrent("GRU", 0, 16, 64, 1, False, 4),
        _series,
        losses.mse(),
        nn.functional.mse_loss,
    ),
    Workload(
        "tagger: BiLSTM 128/128 x 2, ragged",
        lambda: Recurrent("LSTM", 8000, 128, 128, 2, True, 17),
        _tagged,
        losses.cross_entropy(),
        _classes,
    ),
    Workload(
        "forecaster: GRU 150/64, T 336, 72 quantiles",
        lambda: Recurrent("GRU", 0, 150, 64, 1, False, 72),
        _forecasts,
        losses.quantile(),
        _pinball,
    ),
    Workload(
        "language model: LSTM 96/256 x 2, T 64",
        lambda: Recurrent("LSTM", 100, 96, 256, 2, False, 100),
        _characters,
        losses.cross_entropy(),
        _classes,
    ),
)


# -- rnnc ------------------------------------------------------------------------------------------------


class Turns:
    """`fit` in a thread of its own, one epoch at a time: `epoch` lets it go on."""

    def __init__(self, workload: Workload, data: Any, module: Recurrent, threads: int, epochs: int) -> None:
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self.history: list[train.Epoch] = []

        def run() -> None:
            network = rnnc.from_torch(module)
            self._done.release()
            self._go.acquire()
            train.fit(
                network.model,
                data,
                params=network.parameters,
                loss=workload.loss,
                optimizer=Adam(1e-3),
                epochs=epochs,
                batch_size=workload.batch,
                progress=False,
                threads=threads,
                on_epoch=self._finished,
            )

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()
        self._done.acquire()

    def _finished(self, line: train.Epoch) -> None:
        self.history.append(line)
        self._done.release()
        self._go.acquire()

    def epoch(self) -> train.Epoch:
        """The next epoch."""
        self._go.release()
        self._done.acquire()
        return self.history[-1]


# -- PyTorch ---------------------------------------------------------------------------------------------


class Loop:
    """The usual training loop."""

    def __init__(self, workload: Workload, items: Sequence[Item], module: Recurrent) -> None:
        self.workload, self.items, self.module = workload, items, module
        self.optimizer = torch.optim.Adam(module.parameters(), 1e-3)
        self.lengths = np.array([len(x) for x, _ in items])
        self.number = 0

    def _batches(self) -> Iterator[tuple[Any, Any, Any]]:
        for rows in train.batches(self.lengths, self.workload.batch, 0, self.number):
            xs, targets = zip(*(self.items[row] for row in rows), strict=True)
            lengths = self.lengths[rows]
            ragged = torch.from_numpy(lengths) if (lengths < lengths.max()).any() else None
            x, target = (pad_sequence([torch.from_numpy(a) for a in arrays]) for arrays in (xs, targets))
            yield x, target, ragged

    def epoch(self) -> tuple[float, float, float]:
        """The mean loss of an epoch, its seconds, and those in which batches were made."""
        total, count, waited = 0.0, 0, 0.0
        start = time.perf_counter()
        batches = self._batches()
        while True:
            before = time.perf_counter()
            batch = next(batches, None)
            waited += time.perf_counter() - before
            if batch is None:
                break
            x, target, lengths = batch
            self.optimizer.zero_grad()
            output = self.module.sequences(x, lengths)
            if lengths is None:
                output, target = output.flatten(0, 1), target.flatten(0, 1)
            else:
                there = torch.arange(len(x))[:, None] < lengths
                output, target = output[there], target[there]
            loss = self.workload.theirs(output, target)
            loss.backward()
            self.optimizer.step()
            total, count = total + float(loss.detach()) * len(target), count + len(target)
        self.number += 1
        return total / count, time.perf_counter() - start, waited


# -- the races -------------------------------------------------------------------------------------------


def against_torch(workload: Workload, threads: int, epochs: int) -> str:
    torch.manual_seed(0)
    module, items = workload.module(), workload.items(np.random.default_rng(0))
    ours = Turns(workload, items, module, threads, epochs + 1)
    theirs = Loop(workload, items, module)
    lines, others = [], []
    for _ in range(epochs + 1):
        lines.append(ours.epoch())
        others.append(theirs.epoch())
    for line, (loss, _, _) in zip(lines, others, strict=True):
        np.testing.assert_allclose(line.loss, loss, rtol=0.02)  # tables: Adam is lazy here, dense in PyTorch
    lines, others = lines[1:], others[1:]
    seconds = statistics.median(line.seconds for line in lines)
    torch_seconds = statistics.median(seconds for _, seconds, _ in others)
    ratio = statistics.median(other[1] / line.seconds for line, other in zip(lines, others, strict=True))
    share, torch_share = lines[-1].data_seconds / lines[-1].seconds, others[-1][2] / others[-1][1]
    count = len(items)
    return (
        f"| {workload.name} | {count / seconds:,.0f} | {count / torch_seconds:,.0f} | {ratio:.2f} "
        f"| {share:.1%} | {torch_share:.1%} |"
    )


def generator_against_list(workload: Workload, threads: int, epochs: int) -> str:
    torch.manual_seed(0)
    module, items = workload.module(), workload.items(np.random.default_rng(0))

    def generated() -> Iterator[Item]:
        yield from items

    listed, streamed = (Turns(workload, data, module, threads, epochs + 1) for data in (items, generated))
    pairs = [(listed.epoch(), streamed.epoch()) for _ in range(epochs + 1)][1:]
    ratio = statistics.median(b.seconds / a.seconds for a, b in pairs)
    data = statistics.median(b.data_seconds / b.seconds for _, b in pairs)
    return f"| {workload.name} | {ratio:.3f} | {data:.1%} |"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=5, help="timed, after one that warms up")
    parser.add_argument("--only", default="", help="workloads whose names begin so")
    parser.add_argument("--generator", action="store_true", help="a generator against a list, instead of PyTorch")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    chosen = [workload for workload in WORKLOADS if workload.name.startswith(options.only)]
    if options.generator:
        print("| workload | generator / list, seconds | data's share |\n|---|---|---|")
    else:
        print("| workload | rnnc, sequences/s | torch | ratio | data, rnnc | data, torch |\n|---|---|---|---|---|---|")
    race = generator_against_list if options.generator else against_torch
    for workload in chosen:
        print(race(workload, options.threads, options.epochs), flush=True)


if __name__ == "__main__":
    main()
