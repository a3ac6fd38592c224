"""The least time a workload can take on a machine: arithmetic at its peak, weights read from the nearest cache.

Projections of x wait for nothing: all their arithmetic at the peak, or x, output and weights read once. A recurrent
product waits for the step before: per step, its arithmetic at the peak, or its weights read again from the cache that
holds them. A training step adds the recurrence backward in time, the products that give the gradients of x and of the
weights at the peak, and these gradients written once. Activations, and the latency of a step's chain of operations,
are left out: short steps of small nets cannot come close.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.machine import Machine
from benchmarks.workloads import FLOAT_BYTES, Workload


@dataclass(frozen=True)
class Roofline:
    """seconds: the least time. level: the cache that holds the recurrent weights, of one thread's share."""

    flops: int
    bytes: int
    level: str
    peak: float
    seconds: float


@dataclass(frozen=True)
class Format:
    """How weights are stored and multiplied. dots: int8 by int8, by instructions made for it."""

    weight_bytes: int = FLOAT_BYTES
    dots: bool = False


FLOAT = Format()


def roofline(
    workload: Workload, machine: Machine, threads: int, *, training: bool = False, format: Format = FLOAT
) -> Roofline:
    peak = machine.dot_peak(threads) if format.dots and machine.has_dot else machine.peak(threads)

    def least(operations: int, size: int) -> float:
        return max(operations / peak, size / machine.bandwidth(size, threads))

    rows = workload.steps * workload.batch
    inputs, recurrent = workload.sizes("weight_ih"), workload.sizes("weight_hh")
    outer = FLOAT_BYTES * rows * (workload.input_size + workload.directions * workload.hidden_size)  # x and output
    seconds = least(2 * rows * sum(inputs), outer + format.weight_bytes * sum(inputs))
    steps = sum(least(2 * workload.batch * size, format.weight_bytes * size) for size in recurrent) * workload.steps
    seconds += steps
    moved = outer + format.weight_bytes * (sum(inputs) + sum(recurrent) * workload.steps)
    if training:
        gradients = outer + FLOAT_BYTES * (sum(inputs) + sum(recurrent))
        seconds += steps + least(2 * rows * (2 * sum(inputs) + sum(recurrent)), gradients)
        moved += gradients + FLOAT_BYTES * sum(recurrent) * workload.steps
    level = machine.level(format.weight_bytes * max(recurrent) // threads)
    flops = workload.training_flops if training else workload.flops
    return Roofline(flops, moved, level, peak, seconds)
