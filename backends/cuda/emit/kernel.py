"""Kernels of a translation unit, and the sources of their arguments."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from functools import cached_property

from rnnc.backends.cuda.emit.text import BYTES, REALS
from rnnc.backends.planning.plan import Buffer, Space
from rnnc.ir.families import Family

VECTOR_BYTES = 16
"""The most bytes that one load instruction reads. Rows of internal buffers are multiples of it."""

TIMED = (Space.INPUT, Space.OUTPUT, Space.TIMED, Space.LINE, Space.CHUNK)
"""The spaces with a row per step and sequence: row t * B + b; in a line, after the rows of the steps before the first.
"""


def stride_of(buffer: Buffer, dtype: str) -> int:
    """The number of elements from one row of a buffer to the next."""
    unit = VECTOR_BYTES // BYTES[dtype] if buffer.padded else 1
    return -(-buffer.width // unit) * unit


@dataclass(frozen=True)
class Weights:
    """The packed weights of one product. number: their number. element: the C type of an element."""

    number: int
    element: str


@dataclass(frozen=True)
class Named:
    """An input or output of the caller with one row per sequence, by its name."""

    name: str


@dataclass(frozen=True)
class Size:
    """An integer known at run time, such as "T", "B", "rows", "tile" or "n"."""

    name: str


@dataclass(frozen=True)
class Counter:
    """The barrier counters of a launch, which are zero at its start."""


Source = Buffer | Family | Weights | Named | Size | Counter
"""The source of an argument. A Family is a value without a batch axis."""


@dataclass(frozen=True)
class KernelArgument:
    """A parameter of a kernel: its C declaration, and the source of its value."""

    declaration: str
    source: Source


@dataclass
class Parameters:
    """The parameters of a kernel that is being written. A source is declared at its first use."""

    dtype: str
    listed: dict[Source, KernelArgument] = field(default_factory=dict)

    def use(self, source: Source, written: bool = False) -> str:
        """The name of the parameter for this source."""
        known = self.listed.get(source)
        name = known.declaration.rsplit(" ", 1)[1] if known else self._name(source)
        if isinstance(source, Size):
            declaration = f"int {name}"
        elif isinstance(source, Counter):
            declaration = f"unsigned* {name}"
        elif isinstance(source, Weights):
            declaration = f"const {source.element}* {name}"
        else:
            # Never __restrict__: a kernel that runs all steps reads values that its other threads wrote.
            changed = written or (known is not None and not known.declaration.startswith("const"))
            declaration = f"{'' if changed else 'const '}{REALS[self.dtype]}* {name}"
        self.listed[source] = KernelArgument(declaration, source)
        return name

    def _name(self, source: Source) -> str:
        match source:
            case Buffer():
                return f"b{len(self.listed)}_{_plain(source.name)}"
            case Family():
                return f"p{len(self.listed)}_{_plain(source.name)}"
            case Weights(number, _):
                return f"w{number}"
            case Named(name):
                return f"a{len(self.listed)}_{_plain(name)}"
            case Size(name):
                return name
        return "counters"

    def declared(self) -> str:
        """The text of the parameter list."""
        return ", ".join(p.declaration for p in self.listed.values())

    def names(self) -> tuple[str, ...]:
        """The names of the parameters, in order."""
        return tuple(p.declaration.rsplit(" ", 1)[1] for p in self.listed.values())

    def sources(self) -> tuple[Source, ...]:
        """The sources of the arguments, in order."""
        return tuple(self.listed)


@dataclass(frozen=True)
class Kernel:
    """A kernel: its text, the sources of its arguments, and its launch shape.

    parameters: names, in order. threads: per block. shared: bytes of dynamic shared memory per block. use: the name of
    the kernel in whose place this one is launched, if it serves several.
    """

    name: str
    text: str
    arguments: tuple[Source, ...]
    threads: int
    shared: int = 0
    parameters: tuple[str, ...] = ()
    use: str = ""

    @cached_property
    def pattern(self) -> str:
        """The text without names and comments. It is equal for kernels that do the same to different arrays."""
        places = {name: f"${number}" for number, name in enumerate((self.name, *self.parameters))}
        text = re.sub(r"\b\w+\b", lambda found: places.get(found[0], found[0]), self.text)
        return re.sub(r"^ *//.*\n", "", text, flags=re.MULTILINE)

    def for_(self, other: Kernel) -> Kernel:
        """This kernel with the arguments of another one that does the same."""
        return replace(self, arguments=other.arguments, use=other.name)

    def __str__(self) -> str:
        return f"{self.use} by kernel {self.name}" if self.use else self.name


def _plain(name: str) -> str:
    return re.sub(r"\W", "_", name, flags=re.ASCII)
