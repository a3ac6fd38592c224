"""What a loss is, in a text that is the same in every process: for checkpoints, which belong to one loss."""

from __future__ import annotations

import hashlib
from dataclasses import fields, is_dataclass

from rnnc.ir.graph import Graph
from rnnc.ir.names import OUTPUT
from rnnc.ir.shape_rules import BATCH
from rnnc.ir.text import print_graph
from rnnc.losses.attaching import add_loss
from rnnc.losses.base import Loss

PLAIN = (bool, int, float, str, type(None))


def identity(loss: Loss, size: int, dtype: str, timed: bool = True) -> str:
    """The class of a loss with its plain arguments, and a digest of its equations and constants.

    A function has no name that says what it computes; the graph that it makes does. A function whose text has changed,
    but not its equations, is the same loss.
    size: the width of the output. timed: whether the output has a value per step.
    """
    graph = Graph(dtype, 2, share=False)
    steps = tuple(graph.input("z", (BATCH, size), t) for t in range(graph.steps))
    graph.outputs[OUTPUT] = steps if timed else graph.input("z", (BATCH, size))
    add_loss(graph, loss)
    digest = hashlib.sha256(print_graph(graph).encode())
    for name, value in loss.constants(size, dtype).items():
        digest.update(name.encode() + value.tobytes())
    return f"{type(loss).__name__}({_arguments(loss)}) {digest.hexdigest()[:16]}"


def _arguments(loss: Loss) -> str:
    if not is_dataclass(loss):
        return ""
    given = {field.name: getattr(loss, field.name) for field in fields(loss)}
    return ", ".join(f"{name}={value!r}" for name, value in given.items() if _plain(value))


def _plain(value: object) -> bool:
    return all(map(_plain, value)) if isinstance(value, tuple) else isinstance(value, PLAIN)
