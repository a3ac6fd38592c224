"""Tensors with other axes: indices, readouts over the steps, reshapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rnnc.ir.errors import TorchError
from rnnc.layers import Activation, First, Last, Readout, Select, Sum
from rnnc.torch.traced import BATCH, ONE, STEPS, WIDTH, Dim, TracedTensor

if TYPE_CHECKING:
    from rnnc.torch.reading import Reader

__all__ = ["expanded", "indexed", "merged", "read_out", "reshaped"]


# ---- indices


def indexed(r: Reader, value: TracedTensor, index: Any) -> TracedTensor:
    """value[index]."""
    items = list(index) if isinstance(index, tuple) else [index]
    dots = [at for at, item in enumerate(items) if item is Ellipsis]
    missing = len(value.axes) - sum(item is not None and item is not Ellipsis for item in items)
    if missing < 0 or len(dots) > 1:
        raise TorchError(f"index {index!r} of {value}")
    at = dots[0] if dots else len(items)
    items[at : at + len(dots)] = [slice(None)] * missing
    at = 0
    for item in items:
        count = len(value.axes)
        value = _item(r, value, at, item)
        at += 0 if len(value.axes) < count else 1
    return value


def _item(r: Reader, value: TracedTensor, at: int, item: Any) -> TracedTensor:
    if item is None:
        return value.unsqueezed(at)
    if isinstance(item, slice) and item == slice(None):
        return value
    label = value.label(at)
    if isinstance(item, int) and not isinstance(item, bool):
        return _number(r, value, at, item)
    if isinstance(item, list) and label == WIDTH and all(isinstance(number, int) for number in item):
        width = r.sized(value, at)
        if all(-width <= number < width for number in item):
            return r.columns(value, [number % width for number in item])
    if isinstance(item, slice) and all(part is None or isinstance(part, int) for part in (item.start, item.stop)):
        if label == WIDTH:
            return r.columns(value, range(r.sized(value, at))[item])
        if label.startswith("S"):
            return value.taken(at, item)
        if label == STEPS and item.step in (None, 1):
            return _steps(r, value, at, item)
    raise TorchError(f"index {item!r} of axis {label} of {value}")


def _number(r: Reader, value: TracedTensor, at: int, number: int) -> TracedTensor:
    label = value.label(at)
    if label.startswith("S"):
        return value.taken(at, number)
    if label == STEPS and number in (0, -1):
        return read_out(r, First() if number == 0 else Last(), value, at, False)
    if label == WIDTH:
        width = r.sized(value, at)
        if -width <= number < width:
            return r.columns(value, range(number % width, number % width + 1)).without(at)
    if label == ONE and number in (0, -1):
        return value.without(at)
    hint = "; of the steps, the first and the last can be taken" if label == STEPS else ""
    raise TorchError(f"index {number} of axis {label} of {value}{hint}")


def _steps(r: Reader, value: TracedTensor, at: int, item: slice) -> TracedTensor:
    if (item.start, item.stop) in ((-1, None), (0, 1), (None, 1)):
        return read_out(r, Last() if item.start == -1 else First(), value, at, True)
    if item.start in (None, 0) and isinstance(item.stop, int) and item.stop < 0:
        return r.cut(value, -item.stop)
    raise TorchError(f"the steps {item.start}:{item.stop} of {value}; a layer gives all steps, the first or the last")


def read_out(r: Reader, layer: Readout, input: Any, dim: Any, keepdim: bool) -> TracedTensor:
    """One value per row of those of its steps."""
    value = r.tensor(input)
    dim = dim[0] if isinstance(dim, (tuple, list)) and len(dim) == 1 else dim
    if dim is None or not value.timed or value.label(dim) != STEPS:
        raise TorchError(f"dim={dim!r} of {value}; expected the axis of the steps")
    at = value.axis(dim)
    if isinstance(layer, Last) and r.reads_ahead(value):  # PyTorch's is the last step, of both directions
        value = r.each(Activation("identity"), value)
    pools = value.scores is not None and isinstance(layer, Sum)
    made = r.pooled(value) if pools else r.apply(layer, (r.plain(value),), value)
    kept = (ONE,) if keepdim else ()
    return replace(made, axes=(*value.axes[:at], *kept, *value.axes[at + 1 :]), timed=False)


# ---- reshapes


def merged(r: Reader, value: TracedTensor, start: int, end: int) -> TracedTensor:
    """Axes start .. end as one: the numbers of several last values side by side, or an axis and axes of size 1."""
    for at in range(end, start - 1, -1):
        if value.label(at).startswith("S") and value.size(at) == 1:
            value, end = value.taken(at, 0), end - 1
    group = value.axes[start : end + 1]
    several = tuple(label for label in group if label != ONE)
    if len(several) < 2:
        new = several or (ONE,)
        return replace(value, axes=(*value.axes[:start], *new, *value.axes[end + 1 :]))
    if set(several) <= {BATCH, STEPS}:
        return replace(value, axes=(*value.axes[:start], "*".join(several), *value.axes[end + 1 :]))
    places, width = value.places, value.width
    inner = several[:-1]
    whole = places is not None and len(inner) == places.ndim and all(label.startswith("S") for label in inner)
    if not whole or several[-1] != WIDTH or places is None or width is None:
        what = f"it makes one axis of {', '.join(group)} of {value}"
        raise TorchError(f"{what}; a layer keeps rows, steps and numbers apart")
    order = places.transpose([int(label[1:]) for label in inner]).ravel()
    columns = [column for place in order for column in range(place * width, (place + 1) * width)]
    axes = (*value.axes[:start], WIDTH, *value.axes[end + 1 :])
    side = TracedTensor(value.source, axes, value.slabs * width, value.timed)
    if columns == list(range(value.slabs * width)):
        return side
    return r.apply(Select(tuple(columns)), (side,), side)


def reshaped(r: Reader, value: TracedTensor, sizes: Sequence[Any]) -> TracedTensor:
    """view(*sizes): axes as they are, several as one, one that was several as these."""
    sizes = tuple(sizes)
    if value.axes[:1] == ("S0",) and len(sizes) == len(value.axes) + 1 and all(isinstance(s, int) for s in sizes[:2]):
        if value.places is not None and sizes[0] * sizes[1] == value.places.shape[0]:
            value = value.split_slabs((sizes[0], sizes[1]))
    value = replace(value, axes=tuple(label for axis in value.axes for label in axis.split("*")))
    open_at = sizes.index(-1) if -1 in sizes else len(sizes)
    rest = list(value.axes)
    front = [_taken(value, rest, size, 0) for size in sizes[:open_at]]
    back = [_taken(value, rest, size, -1) for size in reversed(sizes[open_at + 1 :])][::-1]
    counts = [*front, *([len(rest)] if open_at < len(sizes) else []), *back]
    if sum(counts) != len(value.axes) or -1 in (*sizes[:open_at], *sizes[open_at + 1 :]):
        raise TorchError(f"the sizes {sizes} of {value}; give the sizes of rows and steps by x.shape, or -1")
    end = len(value.axes)
    for count in reversed(counts):
        value = merged(r, value, end - count, end - 1) if count else value.unsqueezed(end)
        end -= count
    return value


def _taken(value: TracedTensor, rest: list[str], size: Any, end: int) -> int:
    """How many of the axes that are left, at their front or back, make one of this size; they are taken off."""
    if isinstance(size, Dim):
        labels = size.label.split("*")
        count = len(labels)
        fits = labels == (rest[-count:] if end else rest[:count])
    else:
        count, product = 0, 1
        while count < len(rest) and (product != size or (size == 1 and not count)):
            found = value.size(value.axes.index(rest[-1 - count if end else count]))
            if isinstance(found, Dim) or (size == 1 and found != 1):
                break
            product, count = product * found, count + 1
        fits = product == size
    if not fits:
        what = f"the axis {size.label}" if isinstance(size, Dim) else str(size)
        raise TorchError(f"{value} has no axes that make one of size {what} there; axes keep their order")
    del rest[len(rest) - count if end else 0 : len(rest) if end else count]
    return count


def expanded(r: Reader, value: TracedTensor, sizes: Sequence[Any]) -> TracedTensor:
    """expand(*sizes): an axis of size 1 as that of the rows or the steps."""
    if len(sizes) != len(value.axes):
        raise TorchError(f"the sizes {tuple(sizes)} of {value}; expected one per axis")
    axes = []
    for at, size in enumerate(sizes):
        own = value.size(at)
        if size in (-1, own):
            axes.append(value.axes[at])
        elif value.axes[at] == ONE and isinstance(size, Dim):
            value = r.at_every_step(value, size.of) if size.label == STEPS else value
            axes.append(size.label)
        else:
            raise TorchError(f"size {size} for axis {value.axes[at]} of {value}; expected {own}, or -1")
    return replace(value, axes=tuple(axes))
