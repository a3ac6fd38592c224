"""How recurrences are laid on a chip: what any schedule must hold to, and where a step needs barriers."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnnc.backends.cuda.code import generate
from rnnc.backends.cuda.emit.tensor_products import KINDS
from rnnc.backends.cuda.schedule.chip import A100, B200, EMULATED, H100, Chip
from rnnc.backends.cuda.schedule.layouts import OTHER_REGISTERS, RecurrenceLayout, Restriction, choose_layouts
from rnnc.backends.cuda.schedule.weight_memory import WeightMemory
from rnnc.backends.planning.hazards import barriers
from rnnc.backends.planning.plan import Buffer, Feed, Phase, Place, Region, Space
from rnnc.backends.planning.planner import plan
from rnnc.ir.computation import Computation
from rnnc.ir.errors import BackendError
from rnnc.ir.families import Family
from rnnc.ir.stacks import Stack
from tests.networks import CELLS, stack_of
from tests.random_cells import stacks

CHIPS = (EMULATED, A100, H100, B200)


def regions_of(stack: Stack) -> list[Region]:
    """The recurrences of a stack."""
    return [region for region in plan(Computation.of_stack(stack).program()).regions if region.steps]


def check(layout: RecurrenceLayout, chip: Chip, together: int) -> None:
    """What holds for any schedule."""
    registers = OTHER_REGISTERS
    if layout.weights_in is WeightMemory.REGISTERS:
        registers += sum(product.registers for shape in layout.phases for product in shape.products)
    assert chip.resident_blocks(layout.threads, registers, layout.shared) >= 1
    assert 1 <= layout.slices <= max(1, chip.sms // together)
    assert math.isfinite(layout.microseconds) and layout.microseconds > 0
    assert [shape.phase for shape in layout.phases] == layout.region.steps
    for shape in layout.phases:
        units = [u for s in range(layout.slices) for u in range(s * shape.units, (s + 1) * shape.units)]
        assert sorted(set(units)) == units and set(units) >= set(range(shape.phase.width))
        covered = sorted(
            n
            for product in shape.products
            if product.product.fresh
            for n in range(product.product.first, product.product.stop)
        )
        assert covered == list(range(len(shape.phase.accumulators)))
        for product in shape.products:
            assert product.row_bytes * layout.rows <= layout.staged and product.row_bytes % 16 == 0
    assert max(shape.phase.width for shape in layout.phases) > (layout.slices - 1) * max(s.units for s in layout.phases)


@settings(max_examples=40)
@given(
    stack=stacks(),
    chip=st.sampled_from(CHIPS),
    operands=st.sampled_from((None, *KINDS)),
    together=st.integers(1, 3),
)
def test_layouts_of_random_cells(stack: Stack, chip: Chip, operands: str | None, together: int) -> None:
    dtype = "float64" if operands is None else "float32"
    for region in regions_of(stack._replace(dtype=dtype)):
        check(choose_layouts(region, dtype, chip, operands, together), chip, together)


@settings(max_examples=40)
@given(
    cell=st.sampled_from(tuple(CELLS)),
    hidden_size=st.integers(2, 3000),
    chip=st.sampled_from(CHIPS[1:]),
    operands=st.sampled_from((None, None, *KINDS)),
    dtype=st.sampled_from(("float32", "float64")),
)
def test_layouts_of_any_size(cell: str, hidden_size: int, chip: Chip, operands: str | None, dtype: str) -> None:
    if operands:  # sixteen rows of a longer state do not fit a block's shared memory: an error says so
        dtype, hidden_size = "float32", min(hidden_size, 2048)
    for region in regions_of(stack_of(cell, hidden_size=hidden_size, dtype=dtype)):
        check(choose_layouts(region, dtype, chip, operands), chip, 1)


@settings(max_examples=15)
@given(
    cell=st.sampled_from(tuple(CELLS)),
    hidden_size=st.integers(2, 200),
    weights_in=st.sampled_from(WeightMemory),
    slices=st.sampled_from((1, 2)),
    operands=st.sampled_from((None, *KINDS)),
)
def test_a_restriction_is_kept(
    cell: str, hidden_size: int, weights_in: WeightMemory, slices: int, operands: str | None
) -> None:
    restriction = Restriction(slices=slices, weights_in=weights_in)
    roomy = replace(
        H100, registers_per_thread=10**6, registers_per_sm=10**9, shared_per_block=10**8, shared_per_sm=10**8
    )
    for region in regions_of(stack_of(cell, hidden_size=hidden_size, dtype="float32")):
        if max(phase.width for phase in region.steps) >= slices:
            layout = choose_layouts(region, "float32", roomy, operands, 1, restriction)
            assert (layout.weights_in, layout.slices) == (weights_in, slices)
            check(layout, roomy, 1)


@pytest.mark.parametrize("restriction", (None, Restriction(weights_in=WeightMemory.REGISTERS, slices=1)))
def test_what_does_not_fit_is_an_error(restriction: Restriction | None) -> None:
    """Rows and accumulators of a step do not fit a chip's shared memory, or weights of a wish its registers."""
    chip = replace(EMULATED, shared_per_block=2048, shared_per_sm=4096) if restriction is None else EMULATED
    (region,) = regions_of(stack_of("lstm", hidden_size=3000, dtype="float64"))
    with pytest.raises(
        BackendError, match=rf"region {region.name}: .* bytes of shared memory of emulated; fewer units"
    ):
        choose_layouts(region, "float64", chip, None, 1, restriction)


@pytest.mark.parametrize("operands", (None, "float16", "tf32"))
@pytest.mark.parametrize("cell", ("gru_reset_first", "layer_norm_lstm", "fast_and_slow"))
def test_parts_of_shared_memory_do_not_overlap(cell: str, operands: str | None) -> None:
    """In the generated text: staged rows, then sums, then the weights of each dot, up to the size of a launch."""
    stack = stack_of(cell, hidden_size=50, dtype="float32")
    code = generate(
        plan(Computation.of_stack(stack).program()), H100, operands, Restriction(weights_in=WeightMemory.SHARED)
    )
    for layout in code.layouts:
        (kernel,) = (k for k in code.kernels if layout.region.name in re.split(r"_(?=loop)", k.name))
        found = [int(n) for n in re.findall(r"\)\(staged \+ (\d+)\)", kernel.text)]
        sizes = [
            layout.staged,
            layout.sums,
            *(product.weight_bytes for shape in layout.phases for product in shape.products),
        ]
        assert found == [sum(sizes[: n + 1]) for n in range(len(found))] and len(found) == len(sizes) - 1
        assert all(offset % 16 == 0 for offset in found)
        assert kernel.shared >= sum(sizes)


# ------------------------------------------------------------------------------------------ barriers

WIDTH = 4


@dataclass(eq=False)
class Value:
    """A value of one row a sequence, as far as barriers look at it."""

    shape: tuple[str, int]


def family(width: int = WIDTH) -> Family:
    return cast(Family, Value(("B", width)))


def phase(
    reads: dict[Family, Place] | None = None,
    stores: Sequence[Place] = (),
    product: Place | None = None,
    width: int = WIDTH,
) -> Phase:
    """A phase of so many units. product: the left operand of a matrix product."""
    feeds = [] if product is None else [Feed(product, WIDTH, ())]
    return Phase("p", width, feeds=feeds, loads=reads or {}, stores=[(family(width), place) for place in stores])


def state(double: bool = True) -> Buffer:
    return Buffer("h", Space.STATE, WIDTH, double)


def needed(*phases: Phase) -> set[int]:
    return barriers(Region("loop", 1, [], [], list(phases)))


def test_a_product_of_the_state_waits_for_the_step_before() -> None:
    h = state()
    assert needed(phase(product=Place(h, previous=True), stores=[Place(h)])) == {0}


def test_a_state_without_a_product_waits_for_nobody() -> None:
    """Each thread reads what it has written itself."""
    h = state()
    assert needed(phase({family(): Place(h, previous=True)}, [Place(h)])) == set()
    single = state(double=False)
    assert needed(phase({family(): Place(single)}, [Place(single)])) == set()


def test_a_product_of_a_value_of_the_step_waits_for_it() -> None:
    """And what is overwritten in the next step for those who still read it."""
    h, rh = state(), Buffer("rh", Space.STEP, WIDTH)
    first = phase(product=Place(h, previous=True), stores=[Place(rh)])
    second = phase(product=Place(rh), stores=[Place(h)])
    assert needed(first, second) == {0, 1}


def test_a_single_state_may_not_be_overwritten_while_it_is_read() -> None:
    h = state(double=False)
    reader = phase(product=Place(h), stores=[Place(Buffer("u", Space.STEP, WIDTH))])
    assert needed(reader, phase(stores=[Place(h)])) == {0, 1}


def test_a_value_of_all_steps_is_never_overwritten() -> None:
    h, y = state(), Buffer("y", Space.TIMED, WIDTH)
    assert needed(phase({family(): Place(h, previous=True)}, [Place(h), Place(y)])) == set()
    assert needed(phase(stores=[Place(y)]), phase(product=Place(y), stores=[Place(h)])) == {1}


def test_the_same_unit_is_the_same_thread() -> None:
    """In phases of equal width only: else unit u of one reads what another thread has written."""
    pair, h = Buffer("pair", Space.STEP, 2 * WIDTH), [Place(Buffer("y", Space.TIMED, WIDTH))]
    reader = phase({family(): Place(pair, WIDTH)}, h)
    assert needed(phase(stores=[Place(pair), Place(pair, WIDTH)]), reader) == set()
    assert needed(phase(stores=[Place(pair)], width=2 * WIDTH), reader) == {0, 1}


def test_one_number_for_all_units_is_waited_for() -> None:
    pair = Buffer("pair", Space.STEP, WIDTH)
    reader = phase({family(1): Place(pair)}, [Place(Buffer("y", Space.TIMED, WIDTH))])
    assert needed(phase(stores=[Place(pair)]), reader) == {0, 1}


def test_a_sum_over_units_waits_for_all_of_them() -> None:
    """The sum, and its readers: all of this step, and what the next one overwrites."""
    u, total, summed = Buffer("u", Space.STEP, WIDTH), Buffer("total", Space.STEP, 1), family(1)
    reduction = Phase("sum", WIDTH, sums=[summed], loads={family(): Place(u)}, stores=[(summed, Place(total))])
    reader = phase({family(1): Place(total)}, [Place(Buffer("y", Space.TIMED, WIDTH))])
    found = needed(phase(stores=[Place(u)]), reduction, reader)
    assert {1, 2} <= found
    assert needed(phase(stores=[Place(u)]), reduction) >= {0, 1}


@pytest.mark.parametrize("cell", CELLS)
def test_cells_need_no_barrier_more_than_phases(cell: str) -> None:
    """A barrier a phase is enough, and what reads no other unit of the step before needs none."""
    for region in regions_of(stack_of(cell, hidden_size=6)):
        found = barriers(region)
        assert found <= set(range(len(region.steps)))
        crosses = any(phase.feeds or phase.sums for phase in region.steps)
        assert bool(found) == crosses
