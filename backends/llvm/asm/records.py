"""Records: fields that Python fills in and generated code reads, declared once.

    LOOK_UP = Record("look_up", "i64 member, i64 members, ptr numbers, ...")

    batch = LOOK_UP.load(f, pointer, "member")        generated code
    given = LOOK_UP.new(member=0, numbers=array)      Python

Generated code addresses a field through the record's structure type, so its place follows from the data layout of the
*target*. Python's copy is a ctypes structure, laid out as the host's C compiler would lay it out.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from rnnc.backends.llvm.asm.builder import Function, Val
    from rnnc.ir.ops import Array

_CTYPES: dict[str, Any] = {
    "ptr": ctypes.c_void_p,
    "i64": ctypes.c_int64,
    "i32": ctypes.c_int32,
    "float": ctypes.c_float,
    "double": ctypes.c_double,
}
_ALIGN = {"ptr": 8, "i64": 8, "i32": 4, "float": 4, "double": 8}
CACHE_LINE = 64


def address(array: Array | None) -> int:
    """The address of an array's first element; 0 for None."""
    return 0 if array is None else _pointer(id(array) + OBJECT_HEADER).value or 0


# A call needs dozens of addresses. NumPy's C interface guarantees that the data pointer follows the object's header.
# Reading it there takes a seventh of the time of __array_interface__. Generated code reads more of these fields
# (`rnnc.backends.llvm.kernels.python_objects`).
_pointer = ctypes.c_void_p.from_address
OBJECT_HEADER = object.__basicsize__
OBJECT_TYPE = OBJECT_HEADER - ctypes.sizeof(ctypes.c_void_p)
"""The offset of an object's type, the last field of its header."""


class _Fields(ctypes.Structure):
    """NumPy's PyArrayObject_fields, behind the header."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("axes", ctypes.c_int32),
        ("shape", ctypes.POINTER(ctypes.c_ssize_t)),
        ("strides", ctypes.POINTER(ctypes.c_ssize_t)),
        ("base", ctypes.c_void_p),
        ("dtype", ctypes.c_void_p),
        ("flags", ctypes.c_int32),
    ]


class _DtypeFields(ctypes.Structure):
    """The first fields of NumPy's PyArray_Descr, behind the header."""

    _fields_ = [("scalar", ctypes.c_void_p), ("letters", ctypes.c_char * 4)]


def _is_laid_out_as_known() -> bool:
    sample = np.zeros((2, 3))
    fields = _Fields.from_address(id(sample) + OBJECT_HEADER)
    if fields.data != sample.__array_interface__["data"][0] or fields.axes != 2:
        return False
    known = (_pointer(id(sample) + OBJECT_TYPE).value, fields.dtype, fields.flags)
    if known != (id(np.ndarray), id(sample.dtype), sample.flags.num):
        return False
    dtype = _DtypeFields.from_address(id(sample.dtype) + OBJECT_HEADER)
    letters = f"{sample.dtype.kind}{sample.dtype.char}{sample.dtype.byteorder}".encode()
    if (dtype.scalar, dtype.letters[:3]) != (id(sample.dtype.type), letters):
        return False
    return (tuple(fields.shape[:2]), tuple(fields.strides[:2])) == (sample.shape, sample.strides)


if not _is_laid_out_as_known():
    raise ImportError(f"this NumPy, {np.__version__}, lays out arrays as none before it; please tell rnnc's authors")


class Struct(ctypes.Structure):
    """A record in memory. It keeps alive the arrays and records that its pointers lead to."""

    def fill(self, values: Mapping[str, Any]) -> None:
        """Sets some fields to numbers or addresses, or to point to arrays or records."""
        for name, value in values.items():
            setattr(self, name, self._number(name, value))

    def _number(self, name: str, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            self.__dict__[f"kept {name}"] = value
            return address(value)
        if isinstance(value, (ctypes.Structure, ctypes.Array)):
            self.__dict__[f"kept {name}"] = value
            return ctypes.addressof(value)
        return value

    @property
    def address(self) -> int:
        """The address of the record."""
        return ctypes.addressof(self)


class Record:
    """Named fields of the types "ptr", "i64", "i32", "float" and "double", in the order of memory."""

    def __init__(self, name: str, fields: str | Sequence[tuple[str, str]]) -> None:
        """fields: (type, name) of each, or the same as text: "ptr table, i64 count"."""
        self.name = name
        self.types = dict(_pairs(fields))
        self._index = {field: number for number, field in enumerate(self.types)}

    @cached_property
    def llvm_type(self) -> str:
        """The structure in LLVM's notation."""
        return f"{{ {', '.join(self.types.values())} }}"

    # ---- generated code

    def place(self, f: Function, record: Val, field: str) -> Val:
        """The address of a field."""
        if not self._index[field]:
            return record
        return f.value("ptr", f"getelementptr inbounds {self.llvm_type}, {record}, i64 0, i32 {self._index[field]}")

    def load(self, f: Function, record: Val, field: str) -> Val:
        """The value of a field."""
        type_ = self.types[field]
        return f.load(type_, self.place(f, record, field), _ALIGN[type_])

    def loads(self, f: Function, record: Val) -> dict[str, Val]:
        """The values of all fields, by name."""
        return {field: self.load(f, record, field) for field in self.types}

    def element(self, f: Function, table: Val, index: Val | int) -> Val:
        """The address of the record at an index of a table of records."""
        from rnnc.backends.llvm.asm.builder import i64

        return f.element(table, i64(index) if isinstance(index, int) else index, self.llvm_type)

    # ---- Python

    @cached_property
    def struct(self) -> type[Struct]:
        """The class of this record in memory."""
        fields = [(field, _CTYPES[type_]) for field, type_ in self.types.items()]
        return type(f"{self.name}_record", (Struct,), {"_fields_": fields})

    def new(self, **values: Any) -> Struct:
        """A new record. Fields that are not given are zero."""
        made = self.struct()
        made.fill(values)
        return made

    def offset(self, field: str) -> int:
        """The offset of a field in bytes, on the host."""
        return int(getattr(self.struct, field).offset)

    def number(self, field: str) -> int:
        """The position of a field among the others."""
        return self._index[field]

    def several(self, values: Sequence[Mapping[str, Any]], *, apart: bool = False) -> list[Struct]:
        """Records one after the other in memory. apart: each on its own cache lines, for threads that write to them."""
        size = ctypes.sizeof(self.struct)
        step = -(-size // CACHE_LINE) * CACHE_LINE if apart else size
        block = np.zeros(max(1, len(values)) * step + CACHE_LINE, np.uint8)
        first = -address(block) % CACHE_LINE
        made = []
        for number, given in enumerate(values):
            struct = self.struct.from_buffer(block.data, first + number * step)  # it keeps the block alive
            struct.fill({field: value for field, value in given.items() if field in self.types})
            made.append(struct)
        return made

    def table(self, rows: Iterable[Sequence[int]]) -> Array:
        """Records whose fields are all "i64", one after the other, as an int64 array (rows, fields)."""
        assert set(self.types.values()) == {"i64"}
        return np.array(list(rows), np.int64).reshape(-1, len(self.types))


def fill_all(records: Iterable[Struct], values: Mapping[str, float]) -> None:
    """Sets fields of all records to numbers and addresses. The caller keeps alive the memory at the addresses."""
    for record in records:
        for name, value in values.items():
            setattr(record, name, value)


def _pairs(fields: str | Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """(name, type) of each field."""
    if isinstance(fields, str):
        pairs = [tuple(field.split()) for field in fields.split(",")]
        return [(name, type_) for type_, name in pairs]
    return [(name, type_) for type_, name in fields]
