"""Manifest: what calls need to know of the machine code of a computation. It is stored beside the code.

Making it takes the plan and the layout of packed weights. Reading it takes neither: it is plain data, but for the
values that are computed from parameters, or from sums over rows, which are small graphs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from rnnc.backends.llvm.kernels.context import Interface
from rnnc.ir.families import Family, operands_first

if TYPE_CHECKING:
    from rnnc.backends.llvm.kernels.stopwatch import TimedSection
    from rnnc.backends.llvm.packing.narrow import Columns, NarrowFeed
    from rnnc.backends.llvm.teams import TeamWork
    from rnnc.ir.ops import Array

FEW_ROWS = 4
"""The rows of all steps for which packing a weight takes longer than reading it where it lies."""


class SumOfRows(NamedTuple):
    """A sum over rows. late: it is computed in the second half."""

    target: Family
    late: bool


class Manifest(NamedTuple):
    """See the module.

    interface: the context of a run. arena_size: elements of packed weights. late: names of the inputs and outputs of
        the second half.
    parameters: the parameters, by name. untimed: the outputs without a batch axis, by name. sums: the sums over rows.
    sources: the values that packing reads. derived: those of them that `rnnc_derive` computes from parameters.
    packed_parameters: the names of all parameters that the sources and the narrow weights depend on. narrow: the feeds
        with narrow weights, which NumPy packs.
    tables: the tables of sweeps and of moves that packing reads. tables_of_rest: as `tables`, without the weights that
        the first half can read in place. of_one_step, rest_of_one_step: how many of the sweeps a call of one step
        needs. reads_in_place: the first half can read some weights in place.
    flops_per_row: multiplications and additions in matrix products, per step of one sequence. saved_width: the elements
        that the first half keeps for the second, per step of one sequence. sections: what profiled code times.
    team: the work that several threads may share of one stream, if they may (`rnnc.backends.llvm.teams`).
    """

    dtype: str
    interface: Interface
    arena_size: int
    late: frozenset[str]
    parameters: dict[str, Family]
    untimed: dict[str, Family]
    sums: tuple[SumOfRows, ...]
    sources: list[Family]
    derived: list[Family]
    packed_parameters: frozenset[str]
    narrow: list[NarrowFeed]
    tables: tuple[Array, Array]
    tables_of_rest: tuple[Array, Array]
    of_one_step: int
    rest_of_one_step: int
    reads_in_place: bool
    flops_per_row: int
    saved_width: int
    sections: tuple[TimedSection, ...]
    team: TeamWork | None

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles the manifest without the graph of the computation, of which sums over rows are results."""
        narrow = [columns.family for feed in self.narrow for columns in feed.blocks]
        read = [*self.parameters.values(), *self.sources, *narrow, *self.untimed.values()]
        bare = _bare(read, [total.target for total in self.sums])
        interface, sums = self.interface, tuple(bare[target] for target in self.interface.sums)
        named = {
            "interface": Interface(interface.timed, interface.rows, sums, interface.counted),
            "parameters": {name: bare[family] for name, family in self.parameters.items()},
            "untimed": {name: bare[family] for name, family in self.untimed.items()},
            "sums": tuple(SumOfRows(bare[total.target], total.late) for total in self.sums),
            "sources": [bare[family] for family in self.sources],
            "narrow": [feed._replace(blocks=_of_bare(feed, bare)) for feed in self.narrow],
            "derived": [bare[family] for family in self.derived],
        }
        return Manifest, tuple({**self._asdict(), **named}.values())


def _of_bare(feed: NarrowFeed, bare: dict[Family, Family]) -> tuple[Columns, ...]:
    return tuple(columns._replace(family=bare[columns.family]) for columns in feed.blocks)


def _bare(values: Iterable[Family], results: Iterable[Family]) -> dict[Family, Family]:
    """Copies of values and of their operands, without members. results: values without operands."""
    found = {family: replace(family, inputs=(), members={}, site=None) for family in results}
    for family in operands_first(values, found):
        inputs = tuple(found[operand] for operand in family.inputs)
        found[family] = replace(family, inputs=inputs, members={}, site=None)
    return found
