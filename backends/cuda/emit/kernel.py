"""Kernels: what a translation unit is made of, and how the host finds the arguments of each."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from functools import cached_property

from rnnc.backends.cuda.emit.text import BYTES, REALS
from rnnc.backends.planning.plan import Buffer, Space
from rnnc.ir.families import Family

VECTOR_BYTES = 16
"""What one load instruction takes at most; rows of internal buffers are whole multiples of it."""

TIMED = (Space.INPUT, Space.OUTPUT, Space.TIMED, Space.CHUNK)
"""Spaces whose rows are those of all steps: row t * B + b."""


def stride_of(buffer: Buffer, dtype: str) -> int:
    """Elements from one row of a buffer to the next."""
    unit = VECTOR_BYTES // BYTES[dtype] if buffer.padded else 1
    return -(-buffer.width // unit) * unit


@dataclass(frozen=True)
class Weights:
    """Packed weights of one product: its number, and the C type of an element."""

    number: int
    element: str


@dataclass(frozen=True)
class Named:
    """An array of one row a sequence, given or wanted by the caller under this name."""

    name: str


@dataclass(frozen=True)
class Size:
    """A number known at run time: "T", "B", "rows", "tile", "n"."""

    name: str


@dataclass(frozen=True)
class Counter:
    """Barrier counters of a launch, zero at its start."""


Source = Buffer | Family | Weights | Named | Size | Counter
"""Where the host finds an argument; a Family is a value without a batch axis."""


@dataclass(frozen=True)
class KernelArgument:
    """A parameter of a kernel: its C declaration, and where its value comes from."""

    declaration: str
    source: Source


@dataclass
class Parameters:
    """The parameters of a kernel that is being written: each source is declared when it is first used."""

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
            # Never __restrict__: a kernel that runs all steps reads what other threads of it wrote.
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
        """The text between the parentheses."""
        return ", ".join(p.declaration for p in self.listed.values())

    def names(self) -> tuple[str, ...]:
        """The names, in order."""
        return tuple(p.declaration.rsplit(" ", 1)[1] for p in self.listed.values())

    def sources(self) -> tuple[Source, ...]:
        """Where the host finds the arguments, in order."""
        return tuple(self.listed)


@dataclass(frozen=True)
class Kernel:
    """A kernel: its text, where its arguments come from, and its launch shape.

    parameters: names, in order. threads: a block's. shared: bytes of a block. use: what it is launched for, where one
    kernel serves several recurrences.
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
        """The text without names and comments: equal for kernels that do the same to different arrays."""
        places = {name: f"${number}" for number, name in enumerate((self.name, *self.parameters))}
        text = re.sub(r"\b\w+\b", lambda found: places.get(found[0], found[0]), self.text)
        return re.sub(r"^ *//.*\n", "", text, flags=re.MULTILINE)

    def for_(self, other: Kernel) -> Kernel:
        """This kernel, launched with the arguments of another one that does the same."""
        return replace(self, arguments=other.arguments, use=other.name)

    def __str__(self) -> str:
        return f"{self.use} by kernel {self.name}" if self.use else self.name


def _plain(name: str) -> str:
    return re.sub(r"\W", "_", name, flags=re.ASCII)
