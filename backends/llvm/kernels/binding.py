"""The records that describe bound code, and the caller's arrays of states, to the native call."""

from __future__ import annotations

from rnnc.backends.llvm.asm.records import Record

BINDING = Record(
    "binding",
    "ptr run, ptr context, i64 context_bytes, ptr empty, ptr dtype, ptr ndarray, ptr dict, i64 most_rows, "
    "i64 batch_first, i64 input_size, ptr table, i64 height, i64 x_at, i64 output_size, i64 output_timed, "
    "i64 output_at, i64 container, i64 returns_state, i64 states, ptr state_records, ptr slots",
)
"""run: the generated function. context: `context_bytes` bytes, with the fields that are the same in every call. empty,
dtype, ndarray, dict: numpy.empty, a dtype object, and the types. most_rows: the largest steps * batch; a larger batch
is left to Python, which may use more threads. x_at, output_at: the offset of a field in a context, in bytes (-1:
it has none); the field of a value per step is followed by its strides. table: (height, input_size), or null.
container: one of CONTAINERS. states: the number of arrays that hold states, each with a record."""

STATE = Record("state", "ptr key, i64 width, i64 slabs, i64 stacked, i64 first_slot")
"""An array (slabs, B, width), or (B, width) if it is not stacked. first_slot: the first of its consecutive slots."""
SLOT = Record("slot", "i64 initial_at, i64 final_at")
"""The offsets in a context, in bytes, of a slab's two pointers; -1 if there is none."""

CONTAINERS = (None, "bare", "tuple", "dict")

TIMED = Record("timed", "ptr array, i64 step, i64 row")
"""Three consecutive fields of a context, for an array with a value per step."""
SIZES = Record("sizes", "i64 steps, i64 batch")
"""The first fields of a context."""
