"""What the examples print of updates that rnnc and PyTorch have made in turn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Pairs = Sequence[tuple[float, float]]


def report(seconds: Pairs, losses: Pairs) -> None:
    """The time of all updates, the median of the quotients, and some losses. Of each update: rnnc's, PyTorch's."""
    import torch

    ours, others = np.array(seconds).sum(0)
    ratio = float(np.median([theirs / mine for mine, theirs in seconds[1:] or seconds]))  # the first one warms up
    print(f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads; {len(losses)} updates, no dropout")
    print(f"rnnc {ours:.2f} s, torch {others:.2f} s; median of the updates {ratio:.2f} x")
    for i in sorted({0, len(losses) // 2, len(losses) - 1}):
        print(f"  update {i + 1:4}: loss {losses[i][0]:.6f}, torch {losses[i][1]:.6f}")
