"""The records that describe bound code, and the caller's arrays, to the native call."""

from __future__ import annotations

from rnnc.backends.llvm.asm.records import Record

BINDING = Record(
    "binding",
    "ptr run, ptr context, i64 context_bytes, ptr empty, ptr dtype, ptr integers, ptr others, ptr ndarray, ptr "
    "dict, i64 most_rows, i64 most_alone, i64 brief_rows, i64 steps, i64 batch, i64 unbatched, ptr ragged, ptr "
    "outcomes, i64 arguments, i64 results, ptr groups, i64 count, ptr arrays, ptr sizes, ptr offsets, i64 tables, ptr "
    "table_records, i64 looked_up, ptr half, ptr team",
)
"""run: the generated function. context: `context_bytes` bytes, with the fields that are the same in every call. empty,
dtype, ndarray, dict: numpy.empty, a dtype object, and the types. integers, others: both dtypes of 64-bit integers that
C has. most_rows: the largest steps * batch; of a larger one, batches above most_alone are left to Python, which may
split them. brief_rows: the largest steps * batch of a run that keeps the interpreter lock. steps, batch: T and B, or -1
where a call tells. unbatched: whether arrays may lack the axis of rows, if the first one that has it otherwise does.
ragged: an i64 that says whether lengths may be given. outcomes: the calls so far, one i64 for each of
`call_forms.OUTCOMES`. groups: the arguments, then the results. count: the number of arrays of all groups; one more, of
lengths, follows them. sizes: those of all arrays, one array after the other. offsets: the places of pointers in a
context, in bytes; -1 for what is neither read nor written. looked_up: the sum of the widths of all tables. half: what
else a half of a computation needs (FIRST_HALF, SECOND_HALF), or null. team: how several threads run it
(`kernels.crew`), or null."""

GROUP = Record("group", "i64 container, i64 optional, i64 first, i64 count")
"""An argument or result, in a container (one of CONTAINERS). first, count: its arrays, among all."""
CONTAINERS = ("none", "bare", "tuple", "dict")

ARRAY = Record(
    "array",
    "ptr key, i64 kind, i64 axes, i64 first_size, i64 has_rows, i64 steps_first, i64 slabs, i64 places, "
    "i64 first_place",
)
"""A caller's array. kind: one of KINDS. axes, first_size: its sizes, in the table of sizes; each is fixed, STEPS or
BATCH. has_rows: whether one of them is BATCH. steps_first: whether the axis of steps comes before that of rows. places,
first_place: the pointers to it in a context, in the table of offsets: one per slab, or, for a single slab, any number
of the same. The pointer of an array with a value per step is followed by its strides."""
MOST_AXES = 8
"""The largest number of axes of a result."""
KINDS = ("slabs", "vectors", "numbers", "lengths")
"""C-contiguous floats; a vector per step and row, with any strides but the last; an integer per step and row; the
integers of `lengths`. Floats that are read are copied if they lie in another way."""
STEPS, BATCH = -1, -2
"""Sizes that a call tells."""

TABLE = Record("table", "i64 array, ptr rows, ptr scales, i64 format, i64 height, i64 width, i64 offset")
"""A table (height, width) whose rows an array of integers numbers. format: one of TABLE_FORMATS. scales: one number per
row, of int8 rows. offset: of what is looked up, in a context."""
TABLE_FORMATS = ("plain", "bfloat16", "int8")
"""Rows of the dtype of all values, and narrow ones (`rnnc.backends.tables`)."""

TIMED = Record("timed", "ptr array, i64 step, i64 row")
"""Three consecutive fields of a context, for an array with a value per step."""
SIZES = Record("sizes", "i64 steps, i64 batch")
"""The first fields of a context and of a call."""

CALL = Record("call", "i64 steps, i64 batch, i64 unbatched, i64 copied, i64 outcome, ptr memory")
"""A call as it goes on. steps, batch: T and B, or -1 until an argument tells. unbatched: whether arrays lack the axis
of rows, or -1 until the first one tells. copied: the bytes of arrays to copy. outcome: one of OUTCOMES. memory: the
rest of the memory of the call, of which each that needs some takes its part."""
VIEW = Record(
    "view",
    "ptr object, ptr start, i64 step, i64 row, i64 bytes, i64 copied, i64 outer, i64 outer_stride, i64 middle, "
    "i64 middle_stride, i64 inner, i64 inner_stride",
)
"""An array of a call. object: a reference, or null if it is not given. start, step, row, bytes: as the run accesses it;
strides are in bytes. copied: whether it is to be copied first; the sizes and strides of its axes follow. The first of
them have one element if it has fewer."""
COPIED_AXES = (("outer", "outer_stride"), ("middle", "middle_stride"), ("inner", "inner_stride"))
"""The fields of an array that is to be copied: the size and the stride of each axis."""

FIRST_HALF = Record(
    "first_half",
    "ptr take, ptr scratch, i64 arena_bytes, i64 places, ptr place_records, ptr derive, i64 derived_at, ptr sweep, "
    "i64 sources_at, ptr sweeps, i64 sweep_count, i64 of_one_step, ptr moves, ptr rest, i64 rest_count, "
    "i64 rest_of_one_step, ptr rest_moves, i64 rows_in_place, i64 kept_call",
)
"""take: Python's function of the memory of a call, of a number of bytes. scratch: rnnc_scratch. arena_bytes: the size
of the packed weights and the derived values. derive: rnnc_derive, or null; it takes the pointers at derived_at of a
context. sweep: rnnc_sweep, which takes those at sources_at. sweeps, moves: its tables; rest, rest_moves: those for
calls of up to rows_in_place rows, of which the run reads the other weights in place. of_one_step, rest_of_one_step:
how many of the sweeps a call of one step needs. kept_call: the offset of a KEPT_CALL in what is kept."""
ARENA_PLACE = Record("arena_place", "i64 offset, i64 skip")
"""A pointer of a context, at an offset, that leads `skip` bytes past the start of the arena."""

SECOND_HALF = Record("second_half", "i64 copies, ptr copy_records, i64 kept_call")
COPY = Record("copy", "i64 source, i64 target")
"""Results that are equal, by their numbers among all arrays: the run writes the source."""

KEPT_CALL = Record("kept_call", "i64 steps, i64 unbatched")
"""What the second half must know of the first call besides its context: T, which is more than the steps of a ragged
batch, and whether arrays lack the axis of rows."""

KEPT = Record("kept", "ptr block, i64 bytes")
"""Scratch memory that is kept from call to call: memory from malloc, of so many bytes, or null. Only one call at a time
works in it (`rnnc.backends.llvm.kernels.kept_memory`)."""
