"""Matrix products by ordinary arithmetic: the lanes of a warp share the k's of a few columns, and sum their parts.

lane:           0        1       ...  31
k of a vector:  0..3     4..7         124..127      then 128.. and so on
"""

from __future__ import annotations

from dataclasses import dataclass

from rnnc.backends.cuda.emit.text import BYTES, REALS, Text
from rnnc.backends.cuda.schedule.chip import WARP, Chip
from rnnc.backends.cuda.schedule.products import StepProduct
from rnnc.backends.cuda.schedule.weight_memory import WeightMemory

PACK = "rnnc_pack"


@dataclass(frozen=True)
class WarpProduct:
    """One product on one block.

    units: the units of one slice. rows: the most rows per tile, a power of two. padded: `inner`, rounded up to whole
    vectors of all lanes. vector: elements per load. passes, group: a warp computes passes x group columns, `group` of
    them at once. Packed weights: [slice][column][k].
    """

    product: StepProduct
    dtype: str
    units: int
    threads: int
    rows: int
    padded: int
    vector: int
    passes: int
    group: int

    parts = 1
    pack = PACK

    @staticmethod
    def of(product: StepProduct, dtype: str, units: int, threads: int, rows: int) -> WarpProduct:
        """The product with `units` units per block."""
        columns = len(product.weights) * units
        vector = 16 // BYTES[dtype]
        while vector > 1 and WARP * vector > -(-product.inner // WARP) * WARP:
            vector //= 2
        padded = -(-product.inner // (WARP * vector)) * WARP * vector
        each = -(-columns // (threads // WARP))
        group = 1
        while group < each and group < 4 and group * rows < WARP:
            group *= 2
        return WarpProduct(product, dtype, units, threads, rows, padded, vector, -(-each // group), group)

    # ---- sizes

    @property
    def columns(self) -> int:
        """The number of columns of a slice."""
        return len(self.product.weights) * self.units

    @property
    def registers(self) -> int:
        """The 32-bit registers per thread for weights, if registers hold them."""
        return self.passes * self.group * self.padded // WARP * BYTES[self.dtype] // 4

    @property
    def working(self) -> int:
        """The 32-bit registers per thread for partial sums, and for the elements of rows that they are made of."""
        return self.rows * (self.group + self.vector) * BYTES[self.dtype] // 4

    @property
    def weight_bytes(self) -> int:
        """The bytes of a slice's weights."""
        return self.columns * self.padded * BYTES[self.dtype]

    @property
    def row_bytes(self) -> int:
        """The bytes of shared memory for a staged row."""
        return self.padded * BYTES[self.dtype]

    def layout(self) -> tuple[int, ...]:
        """The further arguments of the packing kernel: the length of a column."""
        return (self.padded,)

    def cycles(self, rows: int, chip: Chip, weights_in: WeightMemory) -> float:
        """The fewest clocks for `rows` rows, limited by arithmetic or by reads of shared memory."""
        lanes = chip.fp32_lanes if self.dtype == "float32" else chip.fp64_lanes
        products = self.passes * self.group * self.threads // WARP * self.padded
        held = products * -(-rows // self.rows) if weights_in is WeightMemory.SHARED else 0
        read = products // self.group * rows
        return max(rows * products / lanes, (held + read) * BYTES[self.dtype] / chip.shared_bytes_per_clock)

    # ---- code

    @property
    def real(self) -> str:
        """The C type of accumulators."""
        return REALS[self.dtype]

    @property
    def element(self) -> str:
        """The C type of an element of packed weights."""
        return self.real

    @property
    def vector_type(self) -> str:
        """The C type of one load."""
        return f"rnnc_pack_of<{self.real}, {self.vector}>"

    def hold(self, text: Text, name: str, source: str) -> None:
        """Emits the declaration and the loads of this thread's weights."""
        count = self.passes * self.group * self.padded // (WARP * self.vector)
        sizes = f"{self.group}, {self.passes}, {self.columns}, {self.padded}, {self.vector}, {self.threads}"
        text.line(f"{self.vector_type} {name}[{count}];")
        text.line(f"rnnc_hold<{self.real}, {sizes}>({name}, {source});")

    def stage(self, text: Text, source: str, stride: int, aligned: bool) -> None:
        """Emits the copy of `count` rows to shared memory, padded to the next variant."""
        text.line(f"const int padded = {_at_least('count', self._variants())};")
        vector = self.vector if aligned and self.product.inner % self.vector == 0 else 1
        sizes = f"{self.product.inner}, {self.padded}, {vector}, {self.threads}"
        text.line(f"rnnc_stage<{self.real}, {sizes}>(({self.real}*)staged, {source}, {stride}, count, padded);")

    def compute(self, text: Text, weights: str, weights_in: WeightMemory, sums: str, width: int) -> None:
        """Emits the product of the staged rows, which sets or adds to `sums`."""
        held, fresh = str(weights_in is WeightMemory.REGISTERS).lower(), str(self.product.fresh).lower()
        rest = f"{self.passes}, {self.columns}, {self.padded}, {self.vector}, {self.threads}, {held}, {fresh}"
        text.line(f"const int padded = {_at_least('count', self._variants())};")
        with text.block("switch (padded)"):
            for rows in self._variants():
                call = f"rnnc_dot<{self.real}, {rows}, {self.group}, {rest}>"
                text.line(f"case {rows}: {call}((const {self.real}*)staged, {weights}, {sums}, {width}); break;")

    def _variants(self) -> list[int]:
        return [1 << n for n in range(self.rows.bit_length())]


def _at_least(count: str, variants: list[int]) -> str:
    """The C expression of the smallest variant >= count."""
    result = str(variants[-1])
    for size in reversed(variants[:-1]):
        result = f"{count} <= {size} ? {size} : {result}"
    return result
