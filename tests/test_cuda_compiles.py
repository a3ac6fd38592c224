"""Generated kernels compile with NVRTC for every architecture, and fit the registers and shared memory of its chip.

A part of the units, each for one architecture; `python -m benchmarks.cuda_compiles` goes through them all.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from rnnc.backends.cuda.schedule.chip import A100, B200, H100, Usage, usage_fits
from rnnc.backends.cuda.schedule.weight_memory import WeightMemory
from rnnc.backends.cuda.tools import nvrtc as toolkit
from tests.cuda_units import MOST_SPILLS, Unit, compiled, some_units

pytestmark = pytest.mark.skipif(not toolkit.available()[0], reason=toolkit.available()[1])

AT_SIZE = [
    Unit("lstm", hidden_size=128, chip=A100),
    Unit("gru", hidden_size=512, operands="tf32", chip=B200),
    Unit("lstm", hidden_size=1024, operands="float16", chip=H100),
    Unit("layer_norm_lstm", hidden_size=512, chip=H100),
    Unit("rnn", hidden_size=2048, chip=A100),
]


@pytest.mark.rare
@pytest.mark.parametrize("unit", [*some_units()[::3], *AT_SIZE], ids=str)
def test_units_compile_and_fit(unit: Unit) -> None:
    if unit.chip.arch not in toolkit.architectures():
        pytest.skip(f"{toolkit.available()[1]} does not compile for {unit.chip.arch}")
    made = compiled(unit)
    assert {kernel.name for kernel in made.code.kernels} == set(made.usage)
    assert not list(made.problems())
    assert list(made.recurrences())


def test_a_kernel_that_does_not_fit_is_a_problem() -> None:
    """The checks themselves can fail: on a chip of fewer registers, and with spills."""
    made = compiled(Unit("rnn", hidden_size=16, weights_in=WeightMemory.REGISTERS))
    (name, _), *_ = made.recurrences()
    small = replace(made, usage={**made.usage, name: Usage(256)})
    assert [problem.split(":")[0] for problem in small.problems()] == [name]
    spilled = replace(made, usage={**made.usage, name: Usage(100, spill_stores=MOST_SPILLS + 1)})
    assert [problem.split(" ")[:2] for problem in spilled.problems()] == [[name, "spills:"]]
    assert usage_fits(made.usage[name], 256, H100) is None
