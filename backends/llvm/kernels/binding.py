"""What the native call knows of a bound code: its record, and those of the caller's arrays of states."""

from __future__ import annotations

from rnnc.backends.llvm.asm.records import Record

BINDING = Record(
    "binding",
    "ptr run, ptr context, i64 context_bytes, ptr empty, ptr dtype, ptr ndarray, ptr dict, i64 most_rows, "
    "i64 batch_first, i64 input_size, ptr table, i64 height, i64 x_at, i64 output_size, i64 output_timed, "
    "i64 output_at, i64 container, i64 returns_state, i64 states, ptr state_records, ptr slots",
)
"""run: the generated function. context: one of `context_bytes`, filled with what stays the same. empty, dtype, ndarray,
dict: numpy.empty, a dtype object, and the types. most_rows: steps * batch beyond which a batch is left to Python, which
may use more threads. x_at, output_at: bytes from the beginning of a context to a field (-1: it has none);
that of a value of each step is followed by its strides. table: (height, input_size), or null. container: one of
CONTAINERS. states: how many arrays hold states, each with a record."""

STATE = Record("state", "ptr key, i64 width, i64 slabs, i64 stacked, i64 first_slot")
"""An array (slabs, B, width), or (B, width) if it is not stacked. first_slot: its slots follow one another."""
SLOT = Record("slot", "i64 initial_at, i64 final_at")
"""Where in a context a slab's two pointers go, or -1."""

CONTAINERS = (None, "bare", "tuple", "dict")

TIMED = Record("timed", "ptr array, i64 step, i64 row")
"""Three fields of a context: a value of each step."""
SIZES = Record("sizes", "i64 steps, i64 batch")
"""The first fields of a context."""
