"""A computation in parts (`rnnc.ir.parts`), behind the protocol of `rnnc.backends.base`: each is a code of its own.

A call runs one part after the other, on as many threads as each of them takes, and passes on what later parts read:
values of all rows and steps, values of sequences, and sums over rows, which are parameters of a later part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from rnnc.backends import fresh
from rnnc.backends.base import Bound, Code
from rnnc.backends.call_forms import PlainCall
from rnnc.ir.computation import Computation
from rnnc.ir.errors import RnncError
from rnnc.ir.parts import Passed, parts_of
from rnnc.ir.shape_rules import BATCH

if TYPE_CHECKING:
    from rnnc.backends.arrays import Array, ArrayLibrary

Arrays = Mapping[str, "Array"]


class CodeInParts:
    """See `rnnc.backends.base.Code`. The computation has one half."""

    def __init__(self, computation: Computation, compile: Callable[[Computation], Code], arrays: ArrayLibrary) -> None:
        """compile: makes a backend's code of a part. arrays: the library of its arrays."""
        self.parts = parts_of(computation)
        self.codes = [compile(part.computation) for part in self.parts]
        self.arrays = arrays

    @property
    def stages(self) -> tuple[str, ...]:
        """See `rnnc.backends.base.Code.stages`. They are those of each part."""
        return self.codes[0].stages

    def text(self, stage: str) -> str:
        """See `rnnc.backends.base.Code.text`."""
        return self._joined(lambda code: code.text(stage))

    def explain(self) -> str:
        """See `rnnc.backends.base.Code.explain`."""
        count = len(self.codes)
        return f"{count} parts, one after the other: rows read sums over all rows\n" + self._joined(
            lambda code: code.explain()
        )

    def _joined(self, text: Callable[[Code], str]) -> str:
        return "".join(f"# part {number}\n\n{text(code)}\n" for number, code in enumerate(self.codes))

    def saved_bytes(self, steps: int, batch: int) -> int:
        """See `rnnc.backends.base.Code.saved_bytes`: 0, as there is no second half."""
        return 0

    def bind(self, parameters: Arrays) -> BoundInParts:
        """See `rnnc.backends.base.Code.bind`."""
        return BoundInParts(self, parameters)


class BoundInParts:
    """See `rnnc.backends.base.Bound`."""

    def __init__(self, code: CodeInParts, parameters: Arrays) -> None:
        self._code = code
        self._bound: list[Bound] = [
            inner.bind({name: array for name, array in parameters.items() if name in part.inputs})
            for inner, part in zip(code.codes, code.parts, strict=True)
        ]
        self._spare: list[dict[str, Array]] = []

    def quick(self, call: PlainCall, outcomes: Array) -> None:
        """None: a call in parts allocates what it passes on."""

    def real_time(self, call: PlainCall, fixed: Arrays, outcomes: Array) -> None:
        """None, as for `quick`."""

    def quick_halves(self, first: PlainCall, second: PlainCall, outcomes: Array) -> None:
        """None, as there is no second half."""

    def start(self, inputs: Arrays, outputs: Arrays, steps: int, batch: int, lengths: Array | None) -> OneHalf:
        """See `rnnc.backends.base.Bound.start`."""
        space = self._lent()
        known = dict(inputs)
        for part, bound in zip(self._code.parts, self._bound, strict=True):
            made = {value.name: self._take(space, value, steps, batch) for value in part.passed}
            given = {name: array for name, array in known.items() if name in part.inputs}
            wanted = {name: array for name, array in outputs.items() if name in part.outputs}
            bound.start(given, wanted | made, steps, batch, lengths)
            known |= made
        self._spare.append(space)
        return OneHalf()

    def _lent(self) -> dict[str, Array]:
        """The memory of an earlier call, by the names of values, or none: calls side by side have their own."""
        try:
            return self._spare.pop()
        except IndexError:
            return {}

    def _take(self, space: dict[str, Array], value: Passed, steps: int, batch: int) -> Array:
        """The array of a value that is passed on. Its memory is reused, because fresh memory costs page faults."""
        sizes = [batch if size == BATCH else int(size) for size in value.shape]
        shape = (steps, *sizes) if value.timed else tuple(sizes)
        count = int(np.prod(shape, dtype=np.int64))
        if value.name not in space or space[value.name].size < count:
            space[value.name] = fresh.empty(count, value.dtype, self._code.arrays.xp)
        taken: Array = fresh.spoiled(space[value.name][:count].reshape(shape))
        return taken


class OneHalf:
    """The tape of a computation without a second half."""

    def finish(self, inputs: Arrays, outputs: Arrays) -> None:
        """Raises RnncError."""
        raise RnncError("a computation in parts has no second half")
