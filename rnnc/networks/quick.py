"""Quick calls of networks whose arrays are not those of the code: outputs are columns of one, steps are in frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.checking.network_calls import parts

if TYPE_CHECKING:
    from rnnc.graph import Graph

Quick = Callable[..., Any]
"""(x, state, lengths, out) -> the output, or (output, state) if it is stateful; None if the arguments are not plain.

The last two may be left out. A network has no out; it is None."""


def parted(quick: Quick, columns: Mapping[str, tuple[int, int]], stateful: bool) -> Quick:
    """A quick call that returns several outputs, given one whose output is all of them side by side."""

    def call(x: object, state: object, *options: object) -> Any:
        found = quick(x, state, *options)
        if found is None:
            return None
        return (parts(found[0], columns), found[1]) if stateful else parts(found, columns)

    return call


def fits_in_frames(graph: Graph, *, pieces: bool) -> bool:
    """Whether a view of x in frames is an argument of the code: of one input of vectors, whose full frames are full of
    steps of all values. pieces: of a stream, which are full in any case.
    """
    one = len(graph.inputs) == 1 and not graph.tables and (len(graph.outputs) == 1 or graph.columns is not None)
    paces = {pace for kind in graph.kinds.values() for pace in kind.paces}
    return one and (pieces or all(0 <= pace.fewer < pace.stride and not pace.more for pace in paces))


def in_frames(quick: Quick, graph: Graph, stateful: bool) -> Quick:
    """A quick call of steps without lengths, given one of frames. x is C-contiguous, of one row if time comes first."""
    size, batch_first = graph.frame, graph.batch_first
    source = next(iter(graph.outputs.values()))
    positions = graph.timing(False).positions(source) if graph.kinds[source].timed else 1

    def call(x: Any, state: object, lengths: object = None, out: None = None) -> Any:
        if lengths is not None or type(x) is not np.ndarray or x.ndim != 3 or not x.flags.c_contiguous:
            return None
        first, second, width = x.shape
        if batch_first and not second % size:
            framed = x.reshape(first, second // size, size * width)
        elif not batch_first and second == 1 and not first % size:
            framed = x.reshape(first // size, 1, size * width)
        else:
            return None
        found = quick(framed, state)
        if found is None or positions == 1:
            return found
        output = found[0] if stateful else found
        lead = (first, -1) if batch_first else (-1, 1)
        output = output.reshape(*lead, output.shape[-1] // positions)
        return (output, found[1]) if stateful else output

    return call
