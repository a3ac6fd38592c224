"""What a GPU's barriers, launches and second-level cache cost: the numbers that the cuda backend's model estimates.

Each is a slope: the time of many repetitions less that of few, so that what a launch costs besides is not in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from rnnc.backends.cuda.emit.kernel import Kernel
from rnnc.backends.cuda.emit.prelude import PRELUDE
from rnnc.backends.cuda.run.device import CupyDevice

THREADS = 256
CHASE = 1 << 16
"""Elements of a chain of addresses, 128 bytes apart: 8 MiB, more than a first-level cache."""
STREAM_BYTES = 16 << 20
"""Read again and again by all multiprocessors: fits the second-level cache of any GPU this is for."""
BARRIER_BLOCKS = (2, 8, 32, 132)

SOURCE = (
    PRELUDE
    + r"""
extern "C" __global__ void micro_empty() {}

extern "C" __global__ void __launch_bounds__(256, 1) micro_barrier(unsigned* counter, int count, int slices) {
  unsigned arrived = 0;
  for (int i = 0; i < count; i++) rnnc_barrier(counter, arrived += slices);
}

extern "C" __global__ void micro_chase(const unsigned* next, unsigned* out, int count) {
  unsigned at = 0;
  for (int i = 0; i < count; i++) at = __ldcg(next + at);
  *out = at;
}

extern "C" __global__ void __launch_bounds__(256, 1) micro_read(const float4* from, float* out, int size, int count) {
  float sum = 0;
  for (int n = 0; n < count; n++)
    for (int i = blockIdx.x * 256 + threadIdx.x; i < size; i += gridDim.x * 256) {
      const float4 v = __ldcg(from + i);
      sum += v.x + v.y + v.z + v.w;
    }
  if (sum == 1.25f) *out = sum;
}
"""
)
EMPTY, BARRIER, CHASER, READER = (
    Kernel(f"micro_{name}", "", (), threads)
    for name, threads in (("empty", 32), ("barrier", THREADS), ("chase", 1), ("read", THREADS))
)


class Micro:
    """The measurements, on the current GPU and stream."""

    def __init__(self, repeats: int = 7, divisor: int = 1) -> None:
        """divisor: of all numbers of repetitions, to try the program out."""
        self.device = CupyDevice()
        self.xp, self.chip = self.device.xp, self.device.chip
        self.unit = self.device.load(SOURCE, (EMPTY, BARRIER, CHASER, READER))
        self.repeats, self.divisor = repeats, divisor

    def seconds(self, queue: Callable[[], object]) -> float:
        """The least time of what is queued."""
        queue()
        start, end = self.xp.cuda.Event(), self.xp.cuda.Event()
        found = []
        for _ in range(self.repeats):
            start.record()
            queue()
            end.record()
            end.synchronize()
            found.append(self.xp.cuda.get_elapsed_time(start, end) / 1e3)
        return min(found)

    def slope(self, queue: Callable[[int], object], few: int, many: int) -> float:
        """Seconds of one repetition."""
        few, many = max(1, few // self.divisor), max(2, many // self.divisor)
        return (self.seconds(lambda: queue(many)) - self.seconds(lambda: queue(few))) / (many - few)

    def launch(self, cooperative: bool = False) -> float:
        """From launch to launch in one stream, as the host gives them."""

        def queue(count: int) -> None:
            for _ in range(count):
                self.unit.launch(EMPTY, (1, 1, 1), (), cooperative)

        return self.slope(queue, 100, 1000)

    def launch_in_graph(self) -> float:
        """From launch to launch within a graph, where the host has no part in it."""
        cuda = self.xp.cuda
        with cuda.Stream(non_blocking=True) as stream:
            graphs = {}
            for count in (max(1, 100 // self.divisor), max(2, 500 // self.divisor)):
                stream.begin_capture()
                for _ in range(count):
                    self.unit.launch(EMPTY, (1, 1, 1), ())
                graphs[count] = stream.end_capture()
            return self.slope(lambda count: graphs[count].launch(), 100, 500)

    def barrier(self, blocks: int) -> float:
        """Of so many blocks, at most one on a multiprocessor."""
        count = np.int32(blocks)

        def queue(barriers: int) -> None:
            counter = self.xp.zeros(32, np.uint32)
            arguments = (counter, np.int32(barriers), count)
            self.unit.launch(BARRIER, (blocks, 1, 1), arguments, cooperative=True)

        return self.slope(queue, 100, 2100)

    def round_trip(self) -> float:
        """A load from the second-level cache whose address the load before has given."""
        order = np.random.default_rng(0).permutation(CHASE)
        chain = np.zeros(CHASE * 32, np.uint32)
        chain[order * 32] = np.roll(order, -1) * 32
        chain, out = self.device.to_device(chain), self.xp.zeros(1, np.uint32)
        return self.slope(lambda count: self.unit.launch(CHASER, (1, 1, 1), (chain, out, np.int32(count))), 1000, 60000)

    def bytes_per_second(self) -> float:
        """What all multiprocessors read from the second-level cache."""
        data, out = self.xp.zeros(STREAM_BYTES // 4, np.float32), self.xp.zeros(1, np.float32)
        size = np.int32(STREAM_BYTES // 16)

        def queue(count: int) -> None:
            grid = (4 * self.chip.sms, 1, 1)
            self.unit.launch(READER, grid, (data, out, size, np.int32(count)))

        return STREAM_BYTES / self.slope(queue, 5, 25)


def measurements(short: bool = False) -> dict[str, Any]:
    """Names -> what is measured, what chip.py estimates (or None), and the unit; a failure as its message.

    short: a few repetitions, to try the program out.
    """
    micro = Micro(1, 100) if short else Micro()
    chip = micro.chip
    blocks = [n for n in BARRIER_BLOCKS if n < chip.sms] + [chip.sms]
    asked: dict[str, tuple[Callable[[], float], float | None, float, str]] = {
        "launch, by the host": (micro.launch, chip.launch_us, 1e6, "us"),
        "launch, cooperative": (lambda: micro.launch(cooperative=True), None, 1e6, "us"),
        "launch, within a graph": (micro.launch_in_graph, chip.launch_us, 1e6, "us"),
    }
    for count in blocks:
        estimate = chip.barrier_us if count == chip.sms else None
        asked[f"barrier of {count} blocks"] = ((lambda count=count: micro.barrier(count)), estimate, 1e6, "us")
    asked["load after load, second-level cache"] = (micro.round_trip, None, 1e6, "us")
    asked["reads from the second-level cache"] = (micro.bytes_per_second, chip.l2_gbs, 1e-9, "GB/s")
    return {name: _outcome(*what) for name, what in asked.items()}


def _outcome(measure: Callable[[], float], estimate: float | None, scale: float, unit: str) -> dict[str, Any]:
    try:
        return {"measured": measure() * scale, "estimate": estimate, "unit": unit}
    except Exception as failure:  # one that fails does not end the others
        return {"failed": f"{type(failure).__name__}: {failure}", "estimate": estimate, "unit": unit}
