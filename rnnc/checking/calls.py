"""Checks of the arguments of a model's call, and the arrays that the backend then reads and writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rnnc.backends import fresh
from rnnc.backends.arrays import NUMPY
from rnnc.checking import checks
from rnnc.checking.arrays import as_array, attribute, check_dtype, check_shape, reader
from rnnc.ir.errors import ArgumentError, ArgumentTypeError, DtypeError, LengthError, RnncError, ShapeError

if TYPE_CHECKING:
    from rnnc.backends.arrays import Array, ArrayLibrary
    from rnnc.specs import Spec

    State = Array | tuple[Array, ...]


class Call(NamedTuple):
    """A checked call. Its arrays are time first and batched, in whatever layout the user gave them.

    result: the output and state in the user's layout. batched: True if the user's x has a batch axis.
    """

    x: Array
    states: tuple[Array, ...] | None
    lengths: Array | None
    output: Array
    finals: tuple[Array, ...]
    result: tuple[Array, State]
    batched: bool

    def arguments(self) -> Sequence[Array]:
        """The arrays that the call reads."""
        return (self.x, *(self.states or ()))


class Signature(NamedTuple):
    """The requirements of a spec and a backend on the arrays of a call.

    rows: num_layers * D. widths: the size of the last axis of each state, by name. arrays: the library of all arrays.
    """

    dtype: np.dtype[Any]
    input_size: int
    output_size: int
    rows: int
    widths: dict[str, int]
    batch_first: bool
    arrays: ArrayLibrary

    @staticmethod
    def of(spec: Spec, arrays: ArrayLibrary) -> Signature:
        """The signature of a spec's models."""
        rows = spec.num_layers * spec.num_directions
        dtype = np.dtype(spec.dtype)
        return Signature(dtype, spec.input_size, spec.output_size, rows, spec.states, spec.batch_first, arrays)

    def check(self, x: object, state: object, lengths: object, out: object) -> Call:
        """The checked call.

        Raises ShapeError, DtypeError, LengthError, ArgumentError or ArgumentTypeError.
        """
        steps_in, batched = self._x(x)
        steps, batch, _ = steps_in.shape
        states = None if state is None else self._states("state", state, batch, batched)
        counts = None if lengths is None else check_lengths(lengths, steps, batch, batched, self.arrays)
        if states is not None:
            states = tuple(self.arrays.compact("state", s) for s in states)
        if out is None:
            made, finals, result = self._new(steps, batch, batched)
            return Call(steps_in, states, counts, made, finals, result, batched)
        output, final = self._out(out, steps, batch, batched)
        finals = self._states("out[1]", final, batch, batched)
        call = Call(steps_in, states, counts, self._time_first(output), finals, (output, final), batched)
        _check_apart((output, *finals), call.arguments(), self.arrays)
        return call

    # ---- derivatives: arrays like those of a call

    def new_result(self, call: Call) -> tuple[Array, tuple[Array, ...], tuple[Array, State]]:
        """New arrays for an output and a final state: time first and batched, and then both in the user's layout."""
        steps, batch, _ = call.x.shape
        return self._new(steps, batch, call.batched)

    def new_states(self, call: Call) -> tuple[tuple[Array, ...], State]:
        """New arrays for a state: batched, and then in the user's layout."""
        return self._new_states(call.x.shape[1], call.batched)

    def new_like_x(self, call: Call) -> tuple[Array, Array]:
        """A new array for a gradient of x: time first, and then in the user's layout."""
        shown = fresh.empty(self._shape(call, self.input_size), self.dtype, self.arrays.xp)
        return self._time_first(shown), shown

    def check_x(self, name: str, value: object, call: Call) -> Array:
        """An array shaped like x, time first. None becomes zeros."""
        return self._timed(name, value, call, self.input_size)

    def check_result(self, what: str, output: object, state: object, call: Call) -> tuple[Array, tuple[Array, ...]]:
        """Arrays shaped like the output (time first) and the state. None becomes zeros.

        what: for messages, the name of the tuple that held them, or an empty text.
        """
        names = (f"{what}[0]", f"{what}[1]") if what else ("d_output", "d_state")
        return self._timed(names[0], output, call, self.output_size), self.check_states(names[1], state, call)

    def check_states(self, name: str, value: object, call: Call) -> tuple[Array, ...]:
        """Arrays shaped like the states, batched and C-contiguous. None becomes zeros."""
        if value is None:
            return tuple(self.arrays.xp.zeros(final.shape, self.dtype) for final in call.finals)
        states = self._states(name, value, call.x.shape[1], call.batched)
        return tuple(self.arrays.compact(name, s) for s in states)

    def _timed(self, name: str, value: object, call: Call, width: int) -> Array:
        shape = self._shape(call, width)
        if value is None:
            return self._time_first(self.arrays.xp.broadcast_to(self.arrays.xp.zeros(1, self.dtype), shape))
        array = as_array(name, value, self.arrays)
        check_dtype(name, array, self.dtype)
        check_shape(name, array, shape)
        return self._time_first(self.arrays.aligned(name, array))

    def _shape(self, call: Call, width: int) -> tuple[int, ...]:
        """The shape, in the user's layout, of a value of each step."""
        steps, batch, _ = call.x.shape
        return self._sizes(steps, batch, call.batched, width)

    def _sizes(self, steps: int, batch: int, batched: bool, width: int) -> tuple[int, ...]:
        sizes = ((batch, steps) if self.batch_first else (steps, batch)) if batched else (steps,)
        return (*sizes, width)

    # ---- parts of a call

    def _x(self, value: object) -> tuple[Array, bool]:
        """x as (T, B, I), aligned, and True if it had a batch axis."""
        x = as_array("x", value, self.arrays)
        check_dtype("x", x, self.dtype)
        if x.ndim not in (2, 3) or x.shape[-1] != self.input_size:
            layout = "(B, T, I)" if self.batch_first else "(T, B, I)"
            raise ShapeError(f"x: expected {layout} or unbatched (T, I) with I = {self.input_size}, got {x.shape}")
        steps_in = self._time_first(self.arrays.aligned("x", x))
        if steps_in.shape[0] == 0:
            raise ShapeError(f"x: expected at least one time step, got shape {x.shape}")
        return steps_in, x.ndim == 3

    def _time_first(self, array: Array) -> Array:
        """A view (T, B, N) of an array (T, B, N), (B, T, N) or (T, N) in the user's layout."""
        if array.ndim == 2:
            return array[:, None]
        return array.swapaxes(0, 1) if self.batch_first else array

    def _states(self, name: str, value: object, batch: int, batched: bool) -> tuple[Array, ...]:
        """One array (rows, B, width) per state. A cell with one state takes it bare; others take a tuple."""
        names = ", ".join(self.widths)
        if not isinstance(value, (tuple, list)):
            if len(self.widths) > 1:
                raise ArgumentTypeError(f"{name}: expected a tuple ({names}), got {_kind(value)}")
            labels, items = [name], [value]
        elif len(value) != len(self.widths):
            raise ArgumentError(f"{name}: expected {len(self.widths)} arrays ({names}), got {len(value)}")
        else:
            labels, items = [f"{name}[{i}]" for i in range(len(value))], list(value)
        widths = self.widths.values()
        return tuple(
            self._state(label, item, batch if batched else None, width)
            for label, item, width in zip(labels, items, widths, strict=True)
        )

    def _state(self, name: str, value: object, batch: int | None, width: int) -> Array:
        array = as_array(name, value, self.arrays)
        check_dtype(name, array, self.dtype)
        if batch is None:
            check_shape(name, array, (self.rows, width), "(num_layers * D, width)")
            return array[:, None]
        check_shape(name, array, (self.rows, batch, width), "(num_layers * D, B, width)")
        return array

    def _out(self, out: object, steps: int, batch: int, batched: bool) -> tuple[Array, State]:
        """The output and the final state of `out`, in the user's layout. A state that it lacks is new."""
        shape = self._sizes(steps, batch, batched, self.output_size)
        if isinstance(out, (tuple, list)):
            if len(out) != 2:
                raise ArgumentError(f"out: expected an array or (output, state), got {len(out)} items")
            output, final = out
            self._check_writable_states(final)
            name = "out[0]"
        else:
            output, final, name = out, self._new_states(batch, batched)[1], "out"
        _check_writable(name, output, self.arrays)
        check_dtype(name, output, self.dtype)
        check_shape(name, output, shape)
        return output, tuple(final) if isinstance(final, list) else final

    def _new(self, steps: int, batch: int, batched: bool) -> tuple[Array, tuple[Array, ...], tuple[Array, State]]:
        """New arrays for an output and a state: time first and batched, and then both in the user's layout."""
        shape = self._sizes(steps, batch, batched, self.output_size)
        output = fresh.empty(shape, self.dtype, self.arrays.xp)
        states, shown = self._new_states(batch, batched)
        return self._time_first(output), states, (output, shown)

    def _new_states(self, batch: int, batched: bool) -> tuple[tuple[Array, ...], State]:
        sizes = (self.rows, batch) if batched else (self.rows,)
        xp = self.arrays.xp
        shown = tuple(fresh.empty((*sizes, width), self.dtype, xp) for width in self.widths.values())
        states = shown if batched else tuple(array[:, None] for array in shown)
        return states, shown if len(shown) > 1 else shown[0]

    def _check_writable_states(self, final: object) -> None:
        items: Sequence[object] = final if isinstance(final, (tuple, list)) else (final,)
        for item in items:
            _check_writable("out[1]", item, self.arrays)
            if not item.flags.c_contiguous:  # type: ignore[attr-defined]
                raise ArgumentError(
                    "out[1]: the state to write into must be C-contiguous; "
                    f"use {self.arrays.module}.empty(shape, dtype)"
                )


def check_lengths(value: object, steps: int, batch: int, batched: bool, arrays: ArrayLibrary = NUMPY) -> Array:
    """A copy of the lengths as int64 (B,) of the library, each in 0..T. For an unbatched x, they may be one number.

    Lengths on the host are checked. Lengths on a device are clipped to 0..T, because a check would need a device
    synchronisation. Raises LengthError, ShapeError, DtypeError, ArgumentError or ArgumentTypeError.
    """
    source = reader(value, arrays)
    try:
        found = np.asarray(value) if isinstance(value, (list, tuple, int)) else as_array("lengths", value, source)
    except (RnncError, MemoryError):
        raise
    except Exception as error:  # ragged lists, and lists of objects with a faulty array protocol
        raise ArgumentError(f"lengths: not one row of integers: {error}") from error
    empty_list = source.on_host and found.shape == (0,)  # NumPy makes it a float array
    if found.dtype.kind not in "iu" and not empty_list:
        raise DtypeError(f"lengths: expected integers, got {found.dtype}; pass lengths.astype(np.int64)")
    if not batched and found.shape == ():
        found = found[None]
    if found.shape != (batch,):
        what = f"one integer per row of the batch, shape ({batch},)" if batched else "one integer, x is unbatched"
        raise ShapeError(f"lengths: expected {what}, got shape {found.shape}")
    if not source.on_host:
        most = min(steps, int(np.iinfo(found.dtype).max))
        return source.aligned("lengths", found).clip(0, most).astype(np.int64)
    bad = np.flatnonzero((found < 0) | (found > steps))
    if bad.size:
        row = int(bad[0])
        raise LengthError(f"lengths: expected 0 <= length <= T = {steps}, got {found[row]} in row {row}")
    return arrays.from_host(np.array(found, dtype=np.int64, order="C"))


def _check_writable(name: str, value: object, arrays: ArrayLibrary) -> None:
    if not isinstance(value, arrays.array_type):
        raise ArgumentTypeError(f"{name}: expected a {arrays.name} array to write into, got {_kind(value)}")
    array: Array = value  # type: ignore[assignment]
    arrays.check_writable(name, array)
    if array.size and _overlaps_itself(array):
        raise ArgumentError(f"{name}: several elements of the array to write into lie at one place; pass value.copy()")


def _overlaps_itself(array: Array) -> bool:
    """True if elements may share memory, as in a broadcast: a stride lies within the span of the smaller strides."""
    span = array.itemsize
    for stride, size in sorted((abs(stride), size) for stride, size in zip(array.strides, array.shape, strict=True)):
        if size > 1 and stride < span:
            return True
        span += stride * (size - 1)
    return False


def _check_apart(written: Sequence[Array], read: Sequence[Array], arrays: ArrayLibrary) -> None:
    """Raises ArgumentError if a written array overlaps another one, as a step would read what another one wrote."""
    for i, array in enumerate(written):
        for other in (*read, *written[:i]):
            if arrays.share_memory(array, other):
                what = "x or state" if any(other is r for r in read) else "another array of out"
                raise ArgumentError(f"out: shares memory with {what}; pass an array of its own")


def _kind(value: object) -> str:
    shape = attribute(value, "shape")
    return f"an array of shape {shape}" if isinstance(shape, tuple) else checks.came(value)
