"""Kernels of batched phases: equations at every row and unit, after the library's Gemms, and sums over units."""

from __future__ import annotations

from rnnc.backends.cuda.emit.equations import Addresses, Equations, Frame
from rnnc.backends.cuda.emit.kernel import Kernel, Parameters, Size
from rnnc.backends.cuda.emit.reductions import emit_grid_reductions, emit_row_reduction
from rnnc.backends.cuda.emit.text import Text
from rnnc.backends.planning.plan import Buffer, Phase, Place

MAP_THREADS = 256
ROW_WARPS = 4


def emit_map(phase: Phase, name: str, dtype: str, accumulators: Buffer | None) -> Kernel:
    """A kernel with one thread per row and unit, which strides over the grid.

    accumulators: the buffer with the results of the phase's Gemms, if it has any.
    """
    text, parameters = Text(), Parameters(dtype)
    start, rows = _sizes(parameters)
    equations = Equations(phase, text, Addresses(parameters, _written(phase)))
    width = phase.width
    with text.block(f"for (size_t i = (size_t)blockIdx.x * {MAP_THREADS} + threadIdx.x; i < (size_t){rows} * {width}; "
                    f"i += (size_t)gridDim.x * {MAP_THREADS})"):  # fmt: skip
        text.line(f"const int row = {start} + (int)(i / {width}), u = (int)(i % {width});")
        frame = Frame("u", "row", "row % B")
        known = {}
        for number, family in enumerate(phase.accumulators):
            assert accumulators is not None
            place = Place(accumulators, number * width)
            known[family] = equations.scalars.let(f"*({equations.addresses.pointer(place, frame, 'u')})")
        equations.stores(frame, equations.values(frame, known))
    return _kernel(name, text, parameters, MAP_THREADS)


def reduction_threads(phase: Phase) -> int:
    """The threads per row of `emit_reduction`."""
    return ROW_WARPS * 32 if phase.axes else 32


def emit_reduction(phase: Phase, name: str, dtype: str) -> Kernel:
    """A kernel with one warp per row, or with one block per row if the phase walks a grid."""
    text, parameters = Text(), Parameters(dtype)
    start, rows = _sizes(parameters)
    equations = Equations(phase, text, Addresses(parameters, _written(phase)))
    if phase.axes:
        with text.block(f"for (int i = blockIdx.x; i < {rows}; i += gridDim.x)"):
            text.line(f"const int row = {start} + i;")
            emit_grid_reductions(equations, Frame("u", "row", "row % B"), ROW_WARPS * 32)
        return _kernel(name, text, parameters, ROW_WARPS * 32)
    with text.block(f"for (int i = blockIdx.x * {ROW_WARPS} + threadIdx.x / 32; i < {rows}; "
                    f"i += gridDim.x * {ROW_WARPS})"):  # fmt: skip
        text.line(f"const int row = {start} + i;")
        emit_row_reduction(equations, Frame("u", "row", "row % B"))
    return _kernel(name, text, parameters, ROW_WARPS * 32)


def _sizes(parameters: Parameters) -> tuple[str, str]:
    """The names of the first row and of the number of rows."""
    names = [parameters.use(Size(name)) for name in ("start", "rows", "B")]
    return names[0], names[1]


def _written(phase: Phase) -> frozenset[object]:
    return frozenset(place.buffer for _, place in phase.stores)


def _kernel(name: str, text: Text, parameters: Parameters, threads: int) -> Kernel:
    head = f'extern "C" __global__ void __launch_bounds__({threads}) {name}({parameters.declared()})'
    whole = Text()
    with whole.block(head):
        whole.line(str(text).rstrip())
    return Kernel(name, str(whole), parameters.sources(), threads, 0, parameters.names())
