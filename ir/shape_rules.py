"""Shape rules of the op table: each returns the shape of a result, given the operands' shapes and the attributes.

A rule raises IRError, with the shapes, if the operands do not fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from rnnc.ir.errors import IRError

BATCH = "B"
"""The symbolic batch size, the only dimension that is unknown when a graph is built."""

MOST_EXACT = 1 << 24
"""The integers up to this one are exact in float32."""

Dim = int | str
Shape = tuple[Dim, ...]
AttrValue = int | float | bool | str


def broadcast(shapes: Sequence[Shape]) -> Shape:
    """The shape that the given shapes broadcast to by NumPy's rule; they may contain the symbolic batch size."""
    first = shapes[0] if shapes else ()
    if all(shape == first for shape in shapes):
        return first
    rank = max(map(len, shapes))
    result: list[Dim] = []
    for axis in range(-rank, 0):
        sizes = {s[axis] for s in shapes if len(s) >= -axis} - {1}
        if len(sizes) > 1:
            listed = ", ".join(map(str, shapes))
            raise IRError(f"shapes {listed} do not broadcast: axis {axis} has {sorted(map(str, sizes))}")
        result.append(sizes.pop() if sizes else 1)
    return tuple(result)


def elementwise(shapes: Sequence[Shape], attrs: Mapping[str, AttrValue]) -> Shape:
    return broadcast(shapes)


def same(shapes: Sequence[Shape], attrs: Mapping[str, AttrValue]) -> Shape:
    return shapes[0]


def declared(shapes: Sequence[Shape], attrs: Mapping[str, AttrValue]) -> Shape:
    raise IRError("a leaf's shape is given, not inferred")


def scalar(shapes: Sequence[Shape], attrs: Mapping[str, AttrValue]) -> Shape:
    return ()


def matmul(shapes: Sequence[Shape], attrs: Mapping[str, AttrValue]) -> Shape:
    a, b = shapes
    if len(a) != 2 or len(b) != 2:
        raise IRError(f"matmul needs two matrices, got shapes {a} and {b}")
    if BATCH in b:
        raise IRError(
            f"matmul of shapes {a} and {b}: the right operand has a batch axis, and rows of a batch do not mix; "
            "multiply by a parameter, or write total(a * b) for the products of two values row by row, matvec(m, a) "
            "for a matrix of each row"
        )
    rows, inner = a
    inner_b, columns = (b[1], b[0]) if attrs["transpose_b"] else b
    if inner != inner_b:
        form = f"transpose_b={attrs['transpose_b']}"
        raise IRError(f"matmul of shapes {a} and {b} ({form}): inner sizes {inner} and {inner_b} differ")
    return (rows, columns)


def outer(shapes: Sequence[Shape], attrs: Mapping[str, AttrValue]) -> Shape:
    a, b = shapes
    if len(a) != 2 or len(b) != 2 or a[0] != b[0]:
        raise IRError(f"outer needs two matrices with the same rows, got shapes {a} and {b}")
    return (a[1], b[1])


def all_same(shapes: Sequence[Shape], attrs: Mapping[str, AttrValue]) -> Shape:
    if len(set(shapes)) > 1:
        raise IRError(f"a sum over time needs operands of one shape, got {', '.join(map(str, shapes))}")
    return shapes[0]


def reduce_rows(shapes: Sequence[Shape], attrs: Mapping[str, AttrValue]) -> Shape:
    if len(shapes[0]) != 2:
        raise IRError(f"reduce_rows needs a matrix, got shape {shapes[0]}")
    return (1, *shapes[0][1:]) if attrs["keep"] else shapes[0][1:]


def slice_(shapes: Sequence[Shape], attrs: Mapping[str, AttrValue]) -> Shape:
    axis, start, stop = (int(attrs[k]) for k in ("axis", "start", "stop"))
    size = shapes[0][axis]
    if not isinstance(size, int) or not 0 <= start < stop <= size:
        raise IRError(f"slice {start}:{stop} does not fit axis {axis} of shape {shapes[0]}")
    return _replace(shapes[0], axis, stop - start)


def concat(shapes: Sequence[Shape], attrs: Mapping[str, AttrValue]) -> Shape:
    axis = int(attrs["axis"])
    total = 0
    for s in shapes:
        if len(s) != len(shapes[0]) or _replace(s, axis, 0) != _replace(shapes[0], axis, 0):
            raise IRError(f"concat along axis {axis} of shapes {', '.join(map(str, shapes))}: the other axes differ")
        total += int(s[axis])
    return _replace(shapes[0], axis, total)


def reduce(shapes: Sequence[Shape], attrs: Mapping[str, AttrValue]) -> Shape:
    return _replace(shapes[0], -1, 1)


def expand(shapes: Sequence[Shape], attrs: Mapping[str, AttrValue]) -> Shape:
    outer, size, inner = _groups("expand", shapes[0], attrs, 1)
    return _replace(shapes[0], -1, outer * size * inner)


def group(shapes: Sequence[Shape], attrs: Mapping[str, AttrValue]) -> Shape:
    outer, _, inner = _groups("a sum or maximum of groups", shapes[0], attrs, int(attrs["size"]))
    return _replace(shapes[0], -1, outer * inner)


def _groups(what: str, shape: Shape, attrs: Mapping[str, AttrValue], each: int) -> tuple[int, int, int]:
    """The last axis as (outer, size, inner); the operand has `each` of size. Raises IRError if it does not divide."""
    size, inner = int(attrs["size"]), int(attrs["inner"])
    if size < 1 or inner < 1 or not shape or int(shape[-1]) % (each * inner):
        raise IRError(f"{what} of shape {shape}: size={size}, inner={inner} do not divide its last axis")
    return int(shape[-1]) // (each * inner), size, inner


def transpose(shapes: Sequence[Shape], attrs: Mapping[str, AttrValue]) -> Shape:
    if len(shapes[0]) != 2 or BATCH in shapes[0]:
        raise IRError(f"transpose needs a matrix without a batch axis, got shape {shapes[0]}")
    return shapes[0][::-1]


def permute(shapes: Sequence[Shape], attrs: Mapping[str, AttrValue]) -> Shape:
    axes = numbers_of(attrs["axes"])
    if BATCH in shapes[0] or sorted(axes) != list(range(len(shapes[0]))):
        raise IRError(f"permute {attrs['axes']} needs {len(axes)} axes, none of them the batch; got {shapes[0]}")
    return tuple(shapes[0][axis] for axis in axes)


def reshape(shapes: Sequence[Shape], attrs: Mapping[str, AttrValue]) -> Shape:
    made = numbers_of(attrs["shape"])
    if BATCH in shapes[0] or prod(map(int, shapes[0])) != prod(made):
        raise IRError(f"reshape to {attrs['shape']} needs a value without a batch axis, of that size; got {shapes[0]}")
    return made


def iota(shapes: Sequence[Shape], attrs: Mapping[str, AttrValue]) -> Shape:
    if BATCH in shapes[0] or len(shapes[0]) != 1:
        raise IRError(f"iota counts the elements of a vector without a batch axis; got shape {shapes[0]}")
    if int(shapes[0][0]) > MOST_EXACT:
        raise IRError(f"iota of {shapes[0][0]} elements: float32 holds integers up to {MOST_EXACT} exactly")
    return shapes[0]


def numbers_of(attr: AttrValue) -> tuple[int, ...]:
    """The axes or sizes that an attribute spells, such as "3x4"."""
    return tuple(int(number) for number in str(attr).split("x"))


def _replace(shape: Shape, axis: int, size: Dim) -> Shape:
    sizes = list(shape)
    sizes[axis] = size
    return tuple(sizes)
