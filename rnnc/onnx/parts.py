"""Partitioning: the steps of a graph that become one compiled network each, and the steps between networks.

    input --> [NumPy: Transpose] --> [network 1: LSTM, Gemm] --> [another runtime: TopK] --> output

A step belongs to the first network that can read all it reads. Reshaping of inputs before any network is NumPy's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

import numpy as np

from rnnc.onnx.ops import OPS
from rnnc.onnx.ops.table import Op
from rnnc.onnx.recurrent import RECURRENT
from rnnc.onnx.values import Step

__all__ = ["Parts", "moved_ends", "op_of", "partitioned"]


@dataclass
class Parts:
    """outer[d]: steps outside networks that read at most those before network d; networks[d]: steps of a network."""

    outer: list[list[Step]] = field(default_factory=lambda: [[]])
    networks: list[list[Step]] = field(default_factory=list)

    def add_outer(self, depth: int, step: Step) -> None:
        self._grow(depth)
        self.outer[depth].append(step)

    def add_compiled(self, depth: int, step: Step) -> None:
        self._grow(depth)
        self.networks[depth - 1].append(step)

    def _grow(self, depth: int) -> None:
        while len(self.outer) <= depth:
            self.outer.append([])
            self.networks.append([])


def op_of(step: Step) -> Op:
    """What rnnc knows of a step's operator; nothing of one that it cannot do."""
    return Op() if step.why else OPS.get((step.node.domain, step.node.op), Op())


def partitioned(
    steps: Sequence[Step],
    outside: Mapping[Step, str],
    later: AbstractSet[Step],
    first: AbstractSet[Step] = frozenset(),
    *,
    pads: bool = False,
) -> Parts:
    """outside: steps that cannot be compiled. later: steps that must not be in the network of what they read.

    first: the steps that have the first network for themselves. pads: inputs are padded in a network, not by NumPy.
    """
    parts = Parts()
    places: dict[str, tuple[bool, int]] = {}  # of a tensor: whether a network gives it, and its number
    for step in steps:
        reads = [places.get(tensor.name, (False, 0)) for tensor in step.tensors]
        if step in outside or not _compiled(step, any(compiled for compiled, _ in reads), pads):
            place = False, max((depth for _, depth in reads), default=0)
            parts.add_outer(place[1], step)
        else:
            own = step in later
            depth = max(depth + (own or not compiled) for compiled, depth in reads)
            place = True, max(depth, 2) if first and step not in first else depth
            parts.add_compiled(place[1], step)
        places |= dict.fromkeys((tensor.name for tensor in step.made), place)
    return parts


def moved_ends(steps: Sequence[Step]) -> set[Step]:
    """Steps that only move last states, on their way out: of them NumPy makes views."""
    readers: dict[str, list[Step]] = {}
    for step in steps:
        for tensor in step.tensors:
            readers.setdefault(tensor.name, []).append(step)
    from_ends: set[str] = set()
    movers: list[Step] = []
    for step in steps:
        if step.node.op in RECURRENT:
            from_ends |= {tensor.name for tensor in step.outputs[1:] if tensor is not None}
        elif op_of(step).moves and all(tensor.name in from_ends for tensor in step.tensors):
            from_ends |= {tensor.name for tensor in step.made}
            movers.append(step)
    found: set[Step] = set()
    for step in reversed(movers):
        if all(reader in found for tensor in step.made for reader in readers.get(tensor.name, ())):
            found.add(step)
    return found


def _compiled(step: Step, behind: bool, pads: bool) -> bool:
    """Whether a step belongs into a network. behind: whether it reads what a network gives.

    What only moves inputs is NumPy's, for a view costs next to nothing; a Pad copies.
    """
    op = op_of(step)
    floats = all(np.dtype(tensor.dtype).kind == "f" for tensor in step.made)
    here = behind or not op.moves or (pads and step.node.op == "Pad")
    return op.lower is not None and floats and bool(step.tensors) and here
