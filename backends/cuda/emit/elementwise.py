"""The kernels of training that do not come from a plan: updates, sums of table rows, masks."""

from __future__ import annotations

from collections.abc import Mapping

from rnnc.backends.cuda.emit.kernel import Kernel
from rnnc.backends.cuda.emit.text import REALS, Scalars, Text
from rnnc.backends.training.noise import BLOCK_NUMBERS, MULTIPLIERS, NUMBER_SHIFT, ROUNDS, WEYL
from rnnc.ir.errors import BackendError
from rnnc.ir.graph import Graph, Node
from rnnc.ir.names import SLOPE
from rnnc.ir.ops import Kind

THREADS = 256
UPDATE, SUM_ROWS, NOISE = "rnnc_update", "rnnc_sum_rows", "rnnc_noise"
GRADIENT = SLOPE
"""The vector of an update that has only the rows to be changed, while the others have all rows."""


def update_kernel(graph: Graph, vectors: tuple[str, ...], numbers: tuple[str, ...]) -> Kernel:
    """The kernel of an optimiser's equations, one element per thread.

        for each i: at = rows ? rows[i / width] * width + i % width : i
            load g[i], p[at], slots[at]; the equations; store p[at], slots[at]

    Arguments: count, width, rows, the vectors, the numbers. Raises BackendError if an equation is not elementwise.
    """
    real, text = REALS[graph.dtype], Text()
    written = set(graph.outputs)
    pointers = [f"{'' if name in written else 'const '}{real}* {_vector(name)}" for name in vectors]
    scalars = [f"{real} {_number(name)}" for name in numbers]
    parameters = ", ".join(["int count", "int width", "const int* rows", *pointers, *scalars])
    with text.block(f'extern "C" __global__ void __launch_bounds__({THREADS}) {UPDATE}({parameters})'):
        head = f"for (int i = blockIdx.x * {THREADS} + threadIdx.x; i < count; i += gridDim.x * {THREADS})"
        with text.block(head):
            text.line("const size_t at = rows ? (size_t)rows[i / width] * width + i % width : (size_t)i;")
            _equations(graph, vectors, Scalars(text, real), text)
    return Kernel(UPDATE, str(text), (), THREADS)


def _equations(graph: Graph, vectors: tuple[str, ...], scalars: Scalars, text: Text) -> None:
    values: dict[Node, str] = {}
    for node in graph.nodes:
        values[node] = _value(node, values, vectors, scalars)
    for name, output in graph.outputs.items():
        assert isinstance(output, Node)
        text.line(f"{_vector(name)}[at] = {values[output]};")


def _value(node: Node, values: Mapping[Node, str], vectors: tuple[str, ...], scalars: Scalars) -> str:
    if node.op == "input":
        name = node.attr("name")
        if name not in vectors:
            return _number(name)
        return scalars.let(f"{_vector(name)}[{'i' if name == GRADIENT else 'at'}]")
    if node.op in ("const", "zeros"):
        return scalars.constant(float(node.attr("value")) if node.op == "const" else 0.0)
    if node.spec.kind is not Kind.ELEMENTWISE:
        raise BackendError(f"{node}: an update is elementwise, {node.op} is not")
    assert node.spec.emit is not None
    made: str = node.spec.emit(scalars, *(values[i] for i in node.inputs))
    return made


def _vector(name: str) -> str:
    return f"x_{name}"


def _number(name: str) -> str:
    return f"n_{name}"


def sum_rows_kernel(dtype: str) -> Kernel:
    """The kernel that sums rows with equal numbers, in their order, one block per number.

    Arguments: from, to, order, starts, width.
    """
    real = REALS[dtype]
    text = f"""\
extern "C" __global__ void __launch_bounds__({THREADS}) {SUM_ROWS}(const {real}* from, {real}* to, const int* order,
                                                            const int* starts, int width) {{
  const int group = blockIdx.x;
  for (int u = threadIdx.x; u < width; u += {THREADS}) {{
    {real} total = 0;
    for (int i = starts[group]; i < starts[group + 1]; i++) total += from[(size_t)order[i] * width + u];
    to[(size_t)group * width + u] = total;
  }}
}}
"""
    return Kernel(SUM_ROWS, text, (), THREADS)


def noise_kernel(dtype: str) -> Kernel:
    """The kernel of masks by Philox4x32-10, eight units per thread; see `rnnc.backends.training.noise`.

    Arguments: to, steps, rows, units; the place of the mask (number, step, row, update); the two words of the key; the
    threshold; low and high, the values for draws below the threshold and for others.
    """
    real = REALS[dtype]
    words = ", ".join(f"unsigned {name}" for name in ("number", "step", "row", "update", "key0", "key1", "threshold"))
    text = f"""\
extern "C" __global__ void __launch_bounds__({THREADS}) {NOISE}({real}* to, int steps, int rows, int units,
                                                         {words}, {real} low, {real} high) {{
  const int blocks = (units + {BLOCK_NUMBERS - 1}) / {BLOCK_NUMBERS}, count = steps * rows * blocks;
  for (int i = blockIdx.x * {THREADS} + threadIdx.x; i < count; i += gridDim.x * {THREADS}) {{
    const int block = i % blocks, r = i / blocks % rows, t = i / blocks / rows;
    unsigned a = (number << {NUMBER_SHIFT}) + block, b = step + t, c = row + r, d = update, k = key0, m = key1;
    for (int round = 0; round < {ROUNDS}; round++) {{
      const unsigned long long left = {MULTIPLIERS[0]}ull * a, right = {MULTIPLIERS[1]}ull * c;
      a = (unsigned)(right >> 32) ^ b ^ k;
      b = (unsigned)right;
      c = (unsigned)(left >> 32) ^ d ^ m;
      d = (unsigned)left;
      k += {WEYL[0]}u;
      m += {WEYL[1]}u;
    }}
    const unsigned word[4] = {{a, b, c, d}};
    for (int number = 0; number < {BLOCK_NUMBERS} && block * {BLOCK_NUMBERS} + number < units; number++) {{
      const unsigned drawn = word[number / 2] >> (number % 2 * 16) & 0xffffu;
      to[((size_t)t * rows + r) * units + block * {BLOCK_NUMBERS} + number] = drawn < threshold ? low : high;
    }}
  }}
}}
"""
    return Kernel(NOISE, text, (), THREADS)
