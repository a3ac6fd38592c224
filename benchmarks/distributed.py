"""Two processes against one, on one machine: DistributedDataParallel and FSDP with modules of `rnnc.torch`, and `fit`.

    python -m benchmarks.distributed            losses and updates per second, one thread per process
    python -m benchmarks.distributed --kill     a process is killed in the middle: what the other says, and when

Each run is started by torchrun, with the same seed and the same global batches, which ranks share.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

INPUT, UNITS, STEPS, BATCH, UPDATES, WARM_UP = 64, 128, 50, 64, 60, 5
RATE = 1e-3
WAYS = ("ddp", "fsdp", "fit")


def sequences() -> tuple[Any, Any]:
    """x (N, T, input), targets (N, T, 1), of all updates."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((UPDATES * BATCH, STEPS, INPUT), np.float32)
    return x, x[..., :4].cumsum(1).mean(-1, keepdims=True)


def by_module(way: str) -> tuple[list[float], list[float]]:
    """The loss of all rows before each update, and the time after it."""
    import torch
    import torch.distributed as distributed
    from torch import nn

    import rnnc.torch

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = rnnc.torch.LSTM(INPUT, UNITS, batch_first=True), nn.Linear(UNITS, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.rnn(x)[0])

    distributed.init_process_group("gloo")
    torch.manual_seed(0)
    net: Any = Net()
    if way == "ddp":
        net = nn.parallel.DistributedDataParallel(net)
    else:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        fully_shard(net, mesh=init_device_mesh("cpu", (distributed.get_world_size(),)))
    optimizer = torch.optim.Adam(net.parameters(), RATE)
    rank, size = distributed.get_rank(), distributed.get_world_size()
    losses, times = [], []
    arrays = [torch.from_numpy(array).split(BATCH) for array in sequences()]
    for x, target in zip(*arrays, strict=True):
        own = slice(BATCH * rank // size, BATCH * (rank + 1) // size)
        loss = nn.functional.mse_loss(net(x[own]), target[own])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
        times.append(time.perf_counter())
    every = torch.stack(losses)
    distributed.all_reduce(every)
    distributed.destroy_process_group()
    return (every / size).tolist(), times


def by_fit(dies: int) -> tuple[list[float], list[float]]:
    """As `by_module`. dies: the number of updates after which rank 1 kills itself."""
    import rnnc
    from rnnc import optimizers, train

    sums, times = [0.0], []

    def note(training: train.Training) -> None:
        times.append(time.perf_counter())
        sums.append(training.loss * training.updates)
        if training.updates == dies and training.rank == 1:
            print("killed at", time.time(), file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

    class Note(train.Callback):
        on_update = staticmethod(note)

    net = rnnc.Sequential(rnnc.LSTM(INPUT, UNITS), rnnc.Linear(UNITS, 1))
    options: dict[str, Any] = {"optimizer": optimizers.Adam(RATE), "batch_size": BATCH, "epochs": 1, "threads": 1}
    try:
        train.fit(net, sequences(), loss="mse", callbacks=[Note()], distributed=True, progress=False, **options)
    except rnnc.RnncError as error:
        print("ended at", time.time(), f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        raise
    return np.diff(sums).tolist(), times


def work(way: str, dies: int, path: Path) -> None:
    """What each process does. Rank 0 writes the result."""
    losses, times = by_fit(dies) if way == "fit" else by_module(way)
    if os.environ["RANK"] == "0":
        rate = 1 / float(np.median(np.diff(times[WARM_UP:])))
        path.write_text(json.dumps({"losses": losses, "rate": rate}))


def run(way: str, size: int, path: Path, dies: int = 0) -> subprocess.CompletedProcess[str]:
    """Runs `size` processes to their end."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(size), "-m", __spec__.name]
    command += ["--work", way, "--dies", str(dies), "--path", str(path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "RNNC_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, text=True, capture_output=True, timeout=120)


def compare(path: Path) -> None:
    """Prints losses and rates of each way."""
    for way in WAYS:
        found = []
        for size in (1, 2):
            done = run(way, size, path)
            if done.returncode:
                sys.exit(done.stderr)
            found.append(json.loads(path.read_text()))
        one, two = (np.array(result["losses"]) for result in found)
        difference = float(np.abs(two / one - 1).max())
        rates = [result["rate"] for result in found]
        print(
            f"{way:5} loss {one[0]:.4f} -> {one[-1]:.4f}, largest relative difference of 2 processes {difference:.1e}; "
            f"updates per second: {rates[0]:.1f}, 2 processes {rates[1]:.1f}, ratio {rates[1] / rates[0]:.2f}",
            flush=True,
        )


def kill(path: Path) -> None:
    """Prints what rank 0 says when rank 1 is killed, and after how long."""
    text = run("fit", 2, path, dies=10).stderr
    died, ended = (float(found) for found in re.findall(r"(?:killed|ended) at ([\d.]+)", text))
    said = re.search(r"ended at [\d.]+ (.*)", text)
    assert said is not None
    print(f"{ended - died:.2f} s after rank 1 was killed, rank 0 ends: {said[1]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kill", action="store_true", help="kill one of two processes")
    parser.add_argument("--work", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--dies", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work, options.dies, options.path)
        return
    with tempfile.TemporaryDirectory() as folder:
        (kill if options.kill else compare)(Path(folder) / "result.json")


if __name__ == "__main__":
    main()
