"""Functions of torch and methods of tensors, by their names: products, joins, parts, readouts and other axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rnnc.ir.errors import TorchError
from rnnc.layers import Activation, AvgPool1d, Concat, Embedding, Linear, Max, MaxPool1d, Mean, Multiply, Sum
from rnnc.torch import axes
from rnnc.torch.elementwise import ELEMENTWISE
from rnnc.torch.traced import BATCH, ONE, STEPS, WIDTH, Argument, Dim, Opaque, Pair, TracedTensor, Weight, ZeroTensor

if TYPE_CHECKING:
    from rnnc.torch.reading import Reader

__all__ = ["FUNCTIONS"]

# ---- products with parameters that forward() reads itself


def linear(r: Reader, input: Any, weight: Any, bias: Any = None) -> TracedTensor:
    """A product with a parameter, such as the table of an embedding."""
    if not isinstance(weight, Weight) or weight.tensor.ndim != 2 or not isinstance(bias, Weight | None):
        raise TorchError(f"it multiplies by {weight}; expected a parameter of two axes")
    shape = weight.tensor.shape[::-1] if weight.turned else weight.tensor.shape
    layer = Linear(shape[1], shape[0], bias is not None)
    return r.per_step(layer, input, {"weight": weight} | ({} if bias is None else {"bias": bias}))


def matmul(r: Reader, input: Any, other: Any) -> TracedTensor:
    """A product with a parameter, (N, M), or of values with a softmax over their steps."""
    if isinstance(other, Weight):
        return linear(r, input, replace(other, turned=not other.turned))
    one, two = r.tensor(input), r.tensor(other)
    if one.weights and one.axes[2:] == (STEPS,) and two.axes == (BATCH, STEPS, WIDTH):
        return replace(r.pooled(r.weighted(two, one.swapped(1, 2))), axes=(BATCH, ONE, WIDTH), timed=False)
    if two.weights and two.axes[1:2] == (STEPS,) and one.axes == (BATCH, WIDTH, STEPS):
        return replace(r.pooled(r.weighted(one.swapped(1, 2), two)), axes=(BATCH, WIDTH, ONE), timed=False)
    raise TorchError(f"it multiplies {one} by {two}; expected a parameter of two axes")


def embedding(
    r: Reader, input: Any, weight: Any, padding_idx: int | None = None, max_norm: None = None
) -> TracedTensor:
    """Rows of a parameter."""
    if not isinstance(weight, Weight) or max_norm is not None:
        raise TorchError("expected a parameter as the table, and max_norm=None")
    height, width = weight.tensor.shape
    return r.looked_up(Embedding(height, width, padding_idx), input, {"weight": weight})


# ---- joins and parts


def cat(r: Reader, tensors: Sequence[Any], dim: int = 0, *, axis: int | None = None) -> Any:
    """Values side by side."""
    values = [r.plain(r.tensor(value)) for value in tensors]
    first, dim = values[0], dim if axis is None else axis
    if any(value.axes != first.axes for value in values) or first.label(dim) != WIDTH:
        came = ", ".join(map(str, values))
        raise TorchError(f"dim={dim} of {came}; expected values of the same axes, joined along that of their numbers")
    return values[0] if len(values) == 1 else r.joined(Concat(), values)


def chunk(r: Reader, input: Any, chunks: int, dim: int = 0) -> tuple[Any, ...]:
    """The numbers of a step in equal parts."""
    return split(r, input, -(-r.sized(input, dim) // chunks), dim)


def split(r: Reader, tensor: Any, split_size_or_sections: Any, dim: int = 0) -> tuple[Any, ...]:
    """The numbers of a step in parts."""
    width, sizes = r.sized(tensor, dim), split_size_or_sections
    if isinstance(sizes, int):
        sizes = [min(sizes, width - start) for start in range(0, width, sizes)]
    starts = [sum(sizes[:number]) for number in range(len(sizes))]
    return tuple(r.columns(tensor, range(at, at + size)) for at, size in zip(starts, sizes, strict=True))


def getitem(r: Reader, input: Any, index: Any) -> Any:
    """A part of a tuple, or of a tensor."""
    if isinstance(input, (tuple, list, dict)) and not isinstance(index, (TracedTensor, Argument)):
        return input[index]
    if isinstance(input, Argument) and r.is_state(input):
        return input  # h, c = state
    return axes.indexed(r, r.tensor(input), index)


def glu(r: Reader, input: Any, dim: int = -1) -> TracedTensor:
    """One half of the numbers of a step times the sigmoid of the other."""
    first, second = chunk(r, input, 2, dim)
    return r.joined(Multiply(), (first, r.each(Activation("sigmoid"), second)))


# ---- over the steps


def mean(r: Reader, input: Any, dim: Any = None, keepdim: bool = False, *, dtype: None = None) -> TracedTensor:
    """The mean over the steps."""
    return axes.read_out(r, Mean(), input, dim, keepdim)


def total(r: Reader, input: Any, dim: Any = None, keepdim: bool = False, *, dtype: None = None) -> TracedTensor:
    """The sum over the steps; of values times a softmax over the steps, their weighted mean."""
    return axes.read_out(r, Sum(), input, dim, keepdim)


def amax(r: Reader, input: Any, dim: Any = None, keepdim: bool = False) -> TracedTensor:
    """The largest of the steps."""
    return axes.read_out(r, Max(), input, dim, keepdim)


def largest(r: Reader, input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """(the largest of the steps, where it was)."""
    return Pair((amax(r, input, dim, keepdim), Opaque("the index of a maximum")))


def _pooled(layer: Any, readout: Callable[..., Any]) -> Callable[..., Any]:
    """F.max_pool1d or F.avg_pool1d: of a window, or of all steps, where the window is x.size(-1)."""

    def read(
        r: Reader,
        input: Any,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        *others: Any,
        **options: Any,
    ) -> TracedTensor:
        (kernel,), (stride,), (pad,) = (
            tuple(size) if isinstance(size, (tuple, list)) else (size,) for size in (kernel_size, stride, padding)
        )
        usual = {"dilation": 1, "ceil_mode": False, "return_indices": False, "count_include_pad": True}
        if others or any(usual.get(name, value) != value for name, value in options.items()):
            raise TorchError(f"{(*others, *options.items())}; rnnc reads kernel_size, stride and padding")
        if isinstance(kernel, Dim):
            value = r.channels(r.tensor(input))
            if kernel.label != STEPS or value.label(-1) != STEPS or pad:
                raise TorchError(f"kernel_size is the size of {kernel.label} of {value}; expected all steps")
            return readout(r, value, -1, keepdim=True)  # type: ignore[no-any-return]
        return r.over_steps(layer(kernel, stride or kernel, (pad, pad)), input, {})

    return read


# ---- other axes


def transpose(r: Reader, input: Any, dim0: int, dim1: int) -> Any:
    if isinstance(input, Weight):
        return t(r, input)
    return r.tensor(input).swapped(dim0, dim1)


def t(r: Reader, input: Any) -> Any:
    """The transpose of a matrix."""
    if isinstance(input, Weight) and input.tensor.ndim == 2:
        return replace(input, turned=not input.turned)
    return r.tensor(input).swapped(0, 1)


def permute(r: Reader, input: Any, *dims: Any) -> TracedTensor:
    value = r.tensor(input)
    return value.permuted(tuple(value.axis(dim) for dim in _flat(dims)))


def squeeze(r: Reader, input: Any, dim: Any = None) -> TracedTensor:
    if dim is None:
        raise TorchError("squeeze() without dim drops whatever axes are of size 1 in a call; give dim")
    return r.tensor(input).squeezed(dim)


def unsqueeze(r: Reader, input: Any, dim: Any) -> TracedTensor:
    return r.tensor(input).unsqueezed(dim)


def flatten(r: Reader, input: Any, start_dim: int = 0, end_dim: int = -1) -> TracedTensor:
    value = r.tensor(input)
    return axes.merged(r, value, value.axis(start_dim), value.axis(end_dim))


def reshape(r: Reader, input: Any, *shape: Any) -> Any:
    return input if isinstance(input, ZeroTensor) else axes.reshaped(r, r.tensor(input), _flat(shape))


def expand(r: Reader, input: Any, *sizes: Any) -> Any:
    return input if isinstance(input, ZeroTensor) else axes.expanded(r, r.tensor(input), _flat(sizes))


def repeat(r: Reader, input: Any, *repeats: Any) -> Any:
    """A value per row at each step, repeat(1, T, 1)."""
    if isinstance(input, ZeroTensor):
        return input
    value, sizes = r.tensor(input), _flat(repeats)
    if len(sizes) != len(value.axes) or any(s != 1 and a != ONE for s, a in zip(sizes, value.axes, strict=True)):
        raise TorchError(f"repeat{sizes} of {value}; expected repeats of an axis of size 1")
    return axes.expanded(r, value, tuple(-1 if size == 1 else size for size in sizes))


def _flat(sizes: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else sizes


def size(r: Reader, input: Any, dim: int | None = None) -> Any:
    """The sizes that are known, and of rows and steps what they are the size of."""
    shape = r.shape(input)
    return shape if dim is None else shape[dim]


def dimensions(r: Reader, input: Any) -> int:
    """The number of axes."""
    return len(r.shape(input))


def attribute(r: Reader, input: Any, name: str, default: Any = None) -> Any:
    """An attribute of a tensor."""
    if name == "data":
        return detach(r, input)
    if name in ("device", "dtype"):
        return Opaque(f"a {name}")
    if name == "shape":
        return size(r, input)
    if name == "ndim":
        return dimensions(r, input)
    if name in ("T", "mT"):
        return t(r, input)
    if isinstance(input, Pair) and name == "values":
        return input[0]
    raise TorchError(f"attribute {name!r} of a tensor")


def pad(r: Reader, input: Any, pad: Any, mode: str = "constant", value: Any = None) -> TracedTensor:
    """ZeroTensor before and after the steps, which the convolution that reads them has as its padding."""
    if mode != "constant" or value not in (None, 0):
        raise TorchError(f"mode={mode!r}, value={value!r}; rnnc pads with zeros")
    found = r.tensor(input)
    sides = (pad, pad) if isinstance(pad, int) else tuple(pad)
    before, after = found.pads
    for number in range(len(sides) // 2):
        pair = sides[2 * number : 2 * number + 2]
        if any(pair) and found.label(-1 - number) != STEPS or min(pair) < 0:
            raise TorchError(f"pad={pad!r} of {found}; expected zeros before and after its steps")
        before, after = before + pair[0], after + pair[1]
    return replace(found, pads=(before, after))


# ---- what changes nothing


def same(r: Reader, input: Any, *args: Any, **kwargs: Any) -> Any:
    """The same numbers: contiguous(), clone(), to(device), and to() the dtype that they have."""
    for given in (*args, *kwargs.values()):
        kind, _, dtype = str(given).partition(".")
        if kind == "torch":
            r.casts.add(dtype)
    return input


def as_float(r: Reader, input: Any) -> Any:
    """float(), of a network in float32."""
    r.casts.add("float32")
    return input


def as_double(r: Reader, input: Any) -> Any:
    """double(), of a network in float64."""
    r.casts.add("float64")
    return input


def as_numbers(r: Reader, input: Any) -> Any:
    """long() and int() of numbers of rows."""
    value = r.tensor(input)
    if r.roles.get(value.source) != "numbers":
        raise TorchError("it turns numbers of the network into integers")
    return value


def detach(r: Reader, input: Any) -> ZeroTensor:
    """Of zeros, such as an initial state."""
    if not isinstance(input, ZeroTensor):
        raise TorchError("it stops gradients, and training in rnnc would not; remove it, or train in PyTorch")
    return input


def zeros(r: Reader, *size: Any, **options: Any) -> ZeroTensor:
    return ZeroTensor()


def nothing(r: Reader, *args: Any) -> None:
    """An assertion of torch.fx about an argument that is fixed."""


# ---- rows of several lengths


def pack(r: Reader, input: Any, lengths: Any, batch_first: bool = False, enforce_sorted: bool = True) -> TracedTensor:
    """Rows of several lengths: those of the network's call."""
    value, expected = r.tensor(input), (BATCH, STEPS) if batch_first else (STEPS, BATCH)
    if value.axes[:2] != expected:
        raise TorchError(f"batch_first={batch_first}, but {value} came")
    if not isinstance(lengths, Argument):
        raise TorchError("expected lengths as an argument of forward()")
    r.roles[lengths.name] = "lengths"
    return replace(value, packed=True)


def unpack(
    r: Reader, sequence: Any, batch_first: bool = False, padding_value: float = 0.0, total_length: Any = None
) -> tuple[TracedTensor, Opaque]:
    """ZeroTensor behind the end of a row, as all values of the network have."""
    value = r.tensor(sequence)
    if not value.packed or padding_value != 0:
        raise TorchError(f"padding_value={padding_value} of {value}; expected a PackedSequence and 0")
    order = (BATCH, STEPS, WIDTH) if batch_first else (STEPS, BATCH, WIDTH)
    return replace(value, axes=order, packed=False), Opaque("the lengths of a batch")


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    **ELEMENTWISE,
    **{"linear": linear, "matmul": matmul, "mm": matmul, "bmm": matmul, "embedding": embedding, "glu": glu},
    **{"cat": cat, "concat": cat, "concatenate": cat, "chunk": chunk, "split": split, "getitem": getitem},
    **{"mean": mean, "sum": total, "amax": amax, "max": largest},
    **{"max_pool1d": _pooled(MaxPool1d, amax), "avg_pool1d": _pooled(AvgPool1d, mean)},
    **{"transpose": transpose, "swapaxes": transpose, "swapdims": transpose, "permute": permute, "t": t},
    **{"squeeze": squeeze, "unsqueeze": unsqueeze, "flatten": flatten, "reshape": reshape, "view": reshape},
    **{"expand": expand, "repeat": repeat, "size": size, "dim": dimensions, "getattr": attribute, "pad": pad},
    **{"contiguous": same, "clone": same, "to": same, "cpu": same, "long": as_numbers, "int": as_numbers},
    **{"float": as_float, "double": as_double},
    **{"zeros": zeros, "zeros_like": zeros, "new_zeros": zeros, "_assert_is_none": nothing, "_assert": nothing},
    **{"detach": detach, "requires_grad": detach, "cuda": same},
    **{"pack_padded_sequence": pack, "pad_packed_sequence": unpack, "eq": nothing},
}
"""Name of a function or method -> what reads a call of it: (reader, *arguments) -> its result."""
