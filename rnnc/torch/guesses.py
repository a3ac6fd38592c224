"""What the axes of a module's inputs are.

A torch.fx graph has no shapes. Modules say what they read: an nn.LSTM with batch_first=True (B, T, N), an nn.Conv1d
(B, N, T), an nn.Linear numbers on the last axis. So each guess is tried, and one that no call contradicts is right.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

from rnnc.ir.errors import TorchError
from rnnc.torch.building import WidthNeeded, WidthUnknown
from rnnc.torch.fx_nodes import calls_cells, check_in_place, declared_widths, uses
from rnnc.torch.reading import Guess, Reader
from rnnc.torch.traced import BATCH, STEPS, WIDTH

__all__ = ["read"]

VARIANTS = ((BATCH, STEPS, WIDTH), (BATCH, WIDTH, STEPS), (BATCH, WIDTH), (BATCH, STEPS))
"""The axes that an input of vectors may have, with the batch first: (B, N) is one vector per sequence."""


def read(root: Any, graph: Any, widths: Mapping[str, int], batch_first: bool | None) -> Reader:
    """What was found for the first guess that fits. Raises the TorchError of the guess that went furthest."""
    check_in_place(root, graph)
    furthest: tuple[int, TorchError] | None = None
    arguments = [node for node in graph.nodes if node.op == "placeholder"]
    inputs = {str(node.target): "else" in uses(root, node) for node in arguments}
    widths = declared_widths(root, arguments) | dict(widths)
    for guess in _guesses(inputs, batch_first, calls_cells(root, graph)):
        reader, error = _tried(root, graph, guess, dict(widths))
        if error is None:
            return reader
        if isinstance(error, WidthUnknown):
            raise error  # so far all fits, and no other guess would know more
        if furthest is None or reader.calls > furthest[0]:
            furthest = reader.calls, error
    assert furthest is not None
    raise furthest[1]


def _guesses(inputs: Mapping[str, bool], batch_first: bool | None, step: bool) -> Iterator[Guess]:
    """inputs: argument of forward() -> whether it may be vectors. step: whether forward() may be one step.

    Time first comes first: where both orders fit, the network does the same with both. An input without an axis N
    comes late: there are calls that any axes fit.
    """
    orders = (False, True) if batch_first is None else (batch_first,)
    variants = list(product(*(VARIANTS if vectors else VARIANTS[:1] for vectors in inputs.values())))
    variants.sort(key=lambda axes: sum(WIDTH not in one for one in axes))
    for axes, first in product(variants, orders):
        if first or (BATCH, WIDTH, STEPS) not in axes:  # which has the batch first
            placed = [one if first or STEPS not in one else (STEPS, BATCH, *one[2:]) for one in axes]
            yield Guess(first, False, dict(zip(inputs, placed, strict=True)))
    if step:
        yield Guess(bool(batch_first), True, dict.fromkeys(inputs, (BATCH, WIDTH)))


def _tried(root: Any, graph: Any, guess: Guess, widths: dict[str, int]) -> tuple[Reader, TorchError | None]:
    while True:
        reader = Reader(root, guess, widths)
        try:
            reader.run(graph)
            return reader, None
        except WidthNeeded as needed:
            widths[needed.name] = needed.width
        except TorchError as error:
            return reader, error
