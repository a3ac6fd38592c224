"""The matrix products of a phase, split into runs that one Gemm, or one set of warps, computes at once.

for k < 8: i, f, g, o += h[k] * weights      ->   product: accumulators 0..3 of h, inner 8
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rnnc.backends.planning.plan import Phase, Place, Weight


@dataclass(frozen=True)
class StepProduct:
    """Accumulator first + n += rows of lhs times the columns weights[n].

    inner: the number of columns of lhs, over which products are summed. fresh: True if nothing has been added to these
    accumulators before.
    """

    lhs: Place
    inner: int
    first: int
    weights: tuple[Weight, ...]
    fresh: bool

    @property
    def stop(self) -> int:
        """The number of the accumulator after the last."""
        return self.first + len(self.weights)


def products(phase: Phase) -> list[StepProduct]:
    """The products of a phase, in order."""
    seen: set[int] = set()
    found: list[StepProduct] = []
    for feed in phase.feeds:
        for run in _runs(sorted(feed.blocks, key=lambda block: block[0]), seen):
            found.append(StepProduct(feed.lhs, feed.inner, run[0][0], tuple(w for _, w in run), run[0][0] not in seen))
        seen.update(number for number, _ in feed.blocks)
    return found


def _runs(blocks: list[tuple[int, Weight]], seen: set[int]) -> Iterator[list[tuple[int, Weight]]]:
    """Runs of blocks whose accumulators are consecutive, and either all fresh or none."""
    run: list[tuple[int, Weight]] = []
    for block in blocks:
        if run and (block[0] != run[-1][0] + 1 or (block[0] in seen) != (run[0][0] in seen)):
            yield run
            run = []
        run.append(block)
    if run:
        yield run


def merged(weights: tuple[Weight, ...]) -> list[tuple[Weight, int]]:
    """The blocks, with those joined that are neighbouring columns of one matrix; each with its number of blocks."""
    result: list[tuple[Weight, int]] = []
    for weight in weights:
        if result:
            last, count = result[-1]
            if (last.family, last.transposed, last.stop) == (weight.family, weight.transposed, weight.start):
                result[-1] = (Weight(last.family, last.transposed, last.start, weight.stop), count + 1)
                continue
        result.append((weight, 1))
    return result
