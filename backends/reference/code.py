"""The reference backend's Code, Bound and Tape: a computation and its interpreter."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property

import numpy as np

from rnnc.backends.call_forms import PlainCall
from rnnc.backends.products import PLAIN, ProductFormat, check_dtype
from rnnc.backends.reference.interpreter import Execution, evaluate_bind
from rnnc.ir import names
from rnnc.ir.computation import Computation, members, split
from rnnc.ir.ops import Array
from rnnc.ir.pipeline import PIPELINE, Artefacts, own_stages
from rnnc.ir.program import Program, Statement
from rnnc.ir.shape_rules import BATCH

Arrays = Mapping[str, Array]


class ReferenceCode:
    """See `rnnc.backends.base.Code`."""

    stages = own_stages(PIPELINE)

    def __init__(self, computation: Computation, product: ProductFormat = PLAIN) -> None:
        self.computation = computation
        self.product = product
        self.dense = computation.program()
        check_dtype(product, self.dense.dtype)

    @cached_property
    def ragged(self) -> Program:
        """The program that masks rows past their length. It is made when lengths are first given."""
        return self.computation.program(lengths=True)

    def text(self, stage: str) -> str:
        return Artefacts(PIPELINE, self.computation).text(stage)

    def explain(self) -> str:
        rounded = f"products: {self.product}\n" if self.product != PLAIN else ""
        return (
            "reference: the rolled program is interpreted value by value with NumPy; nothing is fused or packed.\n"
            + rounded
        )

    def saved_bytes(self, steps: int, batch: int) -> int:
        """See `rnnc.backends.base.Code.saved_bytes`. The interpreter keeps every timed value of the first half."""
        first = split(self.dense, self.computation.late)[0] if self.computation.late else []
        widths = [math.prod(int(s) for s in f.shape if s != BATCH) for s in first for f in members(s) if f.timed]
        return steps * batch * sum(widths) * np.dtype(self.dense.dtype).itemsize

    def bind(self, parameters: Arrays) -> ReferenceBound:
        """See `rnnc.backends.base.Code.bind`."""
        return ReferenceBound(self, dict(parameters))


class ReferenceBound:
    """See `rnnc.backends.base.Bound`."""

    def __init__(self, code: ReferenceCode, parameters: dict[str, Array]) -> None:
        self._code = code
        self._parameters = parameters

    def quick(self, call: PlainCall, outcomes: Array) -> None:
        """None: there is no quick call, as every call is interpreted in Python."""

    def real_time(self, call: PlainCall, fixed: Arrays, outcomes: Array) -> None:
        """None, as `quick`."""

    def quick_halves(self, first: PlainCall, second: PlainCall, outcomes: Array) -> None:
        """None, as `quick`."""

    def start(self, inputs: Arrays, outputs: Arrays, steps: int, batch: int, lengths: Array | None) -> ReferenceTape:
        """See `rnnc.backends.base.Bound.start`."""
        program = self._code.dense if lengths is None else self._code.ragged
        late = self._code.computation.late
        feeds = _zeros(program, batch, late) | {name: np.array(array) for name, array in inputs.items()}
        if lengths is not None:
            feeds[names.VALID] = np.asarray(np.arange(steps)[:, None, None] < lengths[None, :, None])
        first, second = split(program, late)
        execution = Execution(program, evaluate_bind(program, self._parameters | feeds), steps, self._code.product)
        execution.feed(feeds)
        execution.run(first)
        for name, array in outputs.items():
            array[...] = execution.output(name)
        return ReferenceTape(execution, second)


class ReferenceTape:
    """See `rnnc.backends.base.Tape`. It holds an execution that stopped at the start of the second half."""

    def __init__(self, execution: Execution, rest: list[Statement]) -> None:
        self._execution = execution
        self._rest = rest

    def finish(self, inputs: Arrays, outputs: Arrays) -> None:
        """See `rnnc.backends.base.Tape.finish`."""
        execution = self._execution.copy()
        execution.feed(inputs)
        execution.run(self._rest)
        for name, array in outputs.items():
            array[...] = execution.output(name)


def _zeros(program: Program, batch: int, late: frozenset[str]) -> dict[str, Array]:
    """Zeros for each input of the first half with one row per sequence, in case it is not given."""
    rows = [f for f in program.inputs if not f.timed and BATCH in f.shape and f.name not in late]
    return {f.name: np.zeros([batch if size == BATCH else int(size) for size in f.shape], program.dtype) for f in rows}
