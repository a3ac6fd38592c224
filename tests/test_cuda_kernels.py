"""Planted faults in generated kernels show: as wrong numbers, as results that depend on the order of threads, as a
write beside an array, or in a report of the emulator.

What no run on a CPU can show is listed too, with the reason (`SILENT`): a test that fails once it does show.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest

import rnnc
from rnnc import backends
from rnnc.backends.cuda.emit.kernel import Kernel
from rnnc.backends.cuda.emulator import EmulatorError, find_compiler
from rnnc.backends.cuda.schedule.weight_memory import WeightMemory
from rnnc.computations import forward as forward_of
from tests.cases import TOLERANCE, Case, Result, arrays, worst_error
from tests.cuda_ways import (
    ROOMY,
    GuardedDevice,
    GuardedUnit,
    PoisonedCode,
    StrayWrite,
    Way,
    WishedBackend,
)
from tests.derivative_oracles import UserCase, forward, primal

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="running CUDA C on the CPU needs a C++ compiler")

ORDERS = (0, 1, 2)


@dataclass(frozen=True)
class Setting:
    """A network and the way it goes, on so few blocks that a group has several tiles of rows."""

    case: Case
    layout: Way
    operands: str | None = None

    @property
    def tolerance(self) -> float:
        return TOLERANCE[self.case.dtype] if self.operands is None else 2e-3


FEW = replace(ROOMY, name="few blocks", sms=2)
# Warps have columns of different number: one goes ahead where a barrier is missing.
TWO_PRODUCTS = Case("gru_before", steps=3, batch=11, hidden_size=9, seed=2)
SETTINGS = {
    "one slice": Setting(TWO_PRODUCTS, Way(WeightMemory.SHARED, "one slice", chip=FEW)),
    "two slices": Setting(replace(TWO_PRODUCTS, hidden_size=17), Way(WeightMemory.REGISTERS, "two", chip=FEW)),
    "two groups": Setting(
        replace(TWO_PRODUCTS, hidden_size=17), Way(WeightMemory.REGISTERS, "two", chip=replace(FEW, sms=4))
    ),
    "more units than threads": Setting(
        replace(TWO_PRODUCTS, hidden_size=33), Way(WeightMemory.SHARED, "two", chip=FEW)
    ),
    "sums over units": Setting(
        UserCase("layer_norm_lstm", steps=3, batch=6, hidden_size=40, seed=4),
        Way(WeightMemory.SHARED, "many", chip=replace(FEW, sms=4)),
    ),
    "launches": Setting(Case(steps=3, batch=11, hidden_size=17, seed=2), Way(WeightMemory.MEMORY, "two", chip=FEW)),
    "operands": Setting(
        Case(steps=3, batch=20, hidden_size=19, seed=2), Way(WeightMemory.REGISTERS, "two", chip=FEW), "float16"
    ),
    "parts": Setting(
        Case("rnn_tanh", steps=2, batch=3, hidden_size=33, seed=2), Way(WeightMemory.SHARED, "many", chip=ROOMY), "tf32"
    ),
}

Mutation = Callable[[str], str]


class MutatedDevice(GuardedDevice):
    """A device that changes what it compiles."""

    def __init__(self, setting: Setting, mutation: Mutation) -> None:
        super().__init__(0, setting.layout.chip)
        self._mutation = mutation

    def load(self, source: str, kernels: Sequence[Kernel]) -> GuardedUnit:
        return super().load(self._mutation(source), kernels)


class MutatedBackend(WishedBackend):
    """A backend of one device."""

    def __init__(self, setting: Setting, device: GuardedDevice) -> None:
        super().__init__(setting.layout)
        self._device = device

    def compile(self, computation: Any, *, threads: int | None, operands: str | None = None) -> PoisonedCode:
        return PoisonedCode(computation, self._way.chip, lambda: self._device, operands, self._way.restriction)


def signs(setting: Setting, mutation: Mutation, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """How a fault shows: "report", "stray write", "numbers", "orders"."""
    device = MutatedDevice(setting, mutation)
    monkeypatch.setitem(cast(dict[str, Any], sys.modules), "mutated", MutatedBackend(setting, device))
    monkeypatch.setitem(backends.MODULES, "mutated", "mutated")
    case, found, results = setting.case, set(), []
    try:
        model = rnnc.compile(case.spec(), case.params, backend="mutated", matmul=setting.operands)
    except (EmulatorError, StrayWrite) as error:  # while weights are packed
        assert "does not compile" not in str(error), error
        return {"stray write" if isinstance(error, StrayWrite) else "report"}
    values = forward(case, primal(case))
    expected = Result(values.pop("output"), tuple(values.values()))
    for device.order in ORDERS:
        try:
            results.append(case.call(model))
        except EmulatorError:
            found.add("report")
        except StrayWrite:
            found.add("stray write")
    if any(worst_error(result, expected) > setting.tolerance for result in results):
        found.add("numbers")
    if len({b"".join(array.tobytes() for array in arrays(result)) for result in results}) > 1:
        found.add("orders")
    return found


@pytest.mark.parametrize("name", SETTINGS)
def test_without_a_fault_nothing_shows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not signs(SETTINGS[name], lambda source: source, monkeypatch)


# ------------------------------------------------------------------------------------------ barriers that are left out

START = 'extern "C" __global__ void __launch_bounds__(64, 1)'
"""Where the kernels of recurrences begin; before them comes what all units share."""
UNNEEDED = {"one slice": ("a barrier between phases", "rows staged again")}
"""With one slice a group has one tile, so that a phase stages the rows that the one before has staged, and its own
barriers are between the other's stores and what is read of them."""


def without_each(source: str, text: str) -> Iterator[str]:
    """The source without each occurrence in kernels of recurrences, one at a time."""
    start = source.index(START)
    for match in re.finditer(re.escape(text), source):
        if match.start() > start:
            yield source[: match.start()] + source[match.end() :]


def source_of(setting: Setting) -> str:
    return setting.layout.code(forward_of(setting.case.spec()), setting.operands).code.source()


@pytest.mark.rare
@pytest.mark.parametrize("name", SETTINGS)
def test_every_barrier_of_a_block_is_missed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = SETTINGS[name]
    mutants = list(without_each(source_of(setting), "__syncthreads();"))
    assert len(mutants) >= 2
    silent = [text for text in mutants if not signs(setting, lambda _, text=text: text, monkeypatch)]  # type: ignore[misc]
    assert len(silent) == len(UNNEEDED.get(name, ()))


@pytest.mark.rare
@pytest.mark.parametrize(
    "name", [n for n, setting in SETTINGS.items() if setting.layout.weights_in is not WeightMemory.MEMORY][1:]
)
def test_every_barrier_of_a_group_is_missed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = SETTINGS[name]
    source = source_of(setting)
    call = re.search(r"rnnc_barrier\(counter, arrived \+= \d+\);", source)
    assert call is not None
    mutants = list(without_each(source, call[0]))
    assert len(mutants) >= 2
    for text in mutants:
        assert signs(setting, lambda _, text=text: text, monkeypatch)  # type: ignore[misc]


# ------------------------------------------------------------------------------------------ other faults


@dataclass(frozen=True)
class Fault:
    """Text by a regular expression, and what it is replaced with, wherever it stands."""

    setting: str
    pattern: str
    replacement: str

    def __call__(self, source: str) -> str:
        changed, count = re.subn(self.pattern, self.replacement, source)
        assert count and changed != source, f"{self.pattern} is nowhere"
        return changed


FAULTS = {
    "one arrival too few": Fault("two slices", r"arrived \+= 2", "arrived += 1"),
    "one arrival too many": Fault("two slices", r"arrived \+= 2", "arrived += 3"),
    "arrivals are not counted up": Fault("two slices", r"arrived \+= 2", "arrived = 2"),
    "nobody waits for the group": Fault("two slices", r"while \(\*\(volatile unsigned\*\)counter < target\)", "if (0)"),
    "a block does not wait for its first thread": Fault(
        "two slices", r"(__threadfence\(\);\n  \})\n  __syncthreads\(\);", r"\1"
    ),
    "groups count together": Fault("two groups", r"counters \+ blockIdx\.y \* 32", "counters"),
    "halves are swapped": Fault("two slices", r"was = n & 1, now = was \^ 1", "now = n & 1, was = now ^ 1"),
    "the last half is the other one": Fault("one slice", r"\(T & 1\)", "((T + 1) & 1)"),
    "a step is one too late": Fault("one slice", r"at = n \* B", "at = (n + 1) * B"),
    "the unit after": Fault("one slice", r"u = slice \* 9 \+", "u = 1 + slice * 9 +"),
    "slices overlap": Fault("two slices", r"u = slice \* 9 \+", "u = slice * 8 +"),
    "units are not bounded": Fault("two slices", r"r < count && u < 17", "r < count"),
    "units of a loop are not bounded": Fault("more units than threads", r"if \(u >= 33\) continue;", ""),
    "rows are not bounded": Fault("one slice", r"r < count && u < 9", "u < 9"),
    "rows of the state are not bounded": Fault("one slice", r"i < count \* 9", "i < tile * 9"),
    "k is not filled with zeros": Fault(
        "one slice", r"if \(r < count && k < INNER\) value", "if (r >= count || k >= INNER) continue; value"
    ),
    "k is not bounded": Fault("one slice", r"if \(r < count && k < INNER\)", "if (r < count)"),
    "another stride": Fault("one slice", r", 12, count, padded\)", ", 11, count, padded)"),
    "another row": Fault("two slices", r"\(was \* B \+ first\)", "(was * B + first + 1)"),
    "half a warp shuffles": Fault("one slice", r"__shfl_xor_sync\(0xffffffffu", "__shfl_xor_sync(0x0000ffffu"),
    "another lane": Fault("one slice", r"value\[0\], MASK\)", "value[0], 2 * MASK)"),
    "another value of a lane": Fault("one slice", r"upper \? low : high", "upper ? high : low"),
    "a column of another warp": Fault("one slice", r"(which / R\) \* WARPS \+) warp;", r"\1 (warp ^ 1);"),
    "columns are not bounded": Fault("one slice", r"lane % SHARE == 0 && c < COLUMNS", "lane % SHARE == 0"),
    "units are left out of a sum": Fault("sums over units", r"u \+= 32\)", "u += 64)"),
    "lanes are left out of a sum": Fault("sums over units", r"int mask = 16; mask;", "int mask = 8; mask;"),
    "sums lie in staged rows": Fault("one slice", r"(sums = \(float\*\))\(staged \+ 512\)", r"\1(staged + 256)"),
    "weights lie in sums": Fault("one slice", r"(shared0 = \(float\*\))\(staged \+ \d+\)", r"\1(staged + 512)"),
    "shared memory is left": Fault("one slice", r"(shared2 = \(float\*\))\(staged \+ ", r"\1(staged + 64 + "),
    "weights of another slice": Fault("two slices", r"\(size_t\)slice \* (\d+ / sizeof)", r"(size_t)(slice ^ 1) * \1"),
    "weights are not bounded": Fault("one slice", r"k < inner && unit < width", "unit < width"),
    "an output is not written": Fault("one slice", r"\*\(b\d+_output \+[^;]*;", ";"),
    "a state is not written": Fault("one slice", r"\*\(b\d+_h_l0 \+ \(size_t\)\(now[^;]*;", ";"),
    "a last state is not written": Fault("one slice", r"if \(a\d+_h_n_l0\)[^;]*;", ";"),
    "states do not start": Fault("two slices", r"\(0 \* B \+ row\)", "(1 * B + row)"),
    "another step's launch": Fault("launches", r"at = n \* B", "at = (T - 1) * B"),
    "a launch takes one half for both": Fault("launches", r"now = was \^ 1", "now = was"),
    "another row of a fragment": Fault("operands", r"(row = r \* 8 \+ 2 \* t \+) \(e & 1\)", r"\1 (e >> 1)"),
    "another column of a fragment": Fault("operands", r"g \+ \(e >> 1\) \* 8", "g + (e & 1) * 8"),
    "another word of a fragment": Fault("operands", r"\{at\[0\], at\[4\]\}", "{at[0], at[2]}"),
    "words are swapped": Fault("operands", r"\{w\.x, w\.y, w\.z, w\.w\}", "{w.x, w.z, w.y, w.w}"),
    "words of weights are swapped": Fault("operands", r"16 \+ 2 \* t \+ word / 2 \* 8", "16 + 2 * t + word % 2 * 8"),
    "operands are not filled with zeros": Fault("operands", r"k \+ 1 < INNER", "k < INNER"),
    "columns of tiles are not bounded": Fault("operands", r"if \(c < COLUMNS\) \{", "{"),
    "all parts are one": Fault("parts", r"sums \+ split \* part", "sums"),
    "a part is not added": Fault("parts", r" \+ sums\[\d{2,} \+ r [^\]]*\]", ""),
    "another range of k": Fault("parts", r"\(split \* LENGTH \+ v\) \* 8", "((1 - split) * LENGTH + v) * 8"),
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_shows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fault = FAULTS[name]
    assert signs(SETTINGS[fault.setting], fault, monkeypatch)


SILENT = {
    # The emulator runs one thread at a time, and memory is what it was last written to.
    "no fence before arriving": Fault("two slices", r"__threadfence\(\);\n    atomicAdd", "atomicAdd"),
    "no fence after waiting": Fault("two slices", r"(__nanosleep\(0\);\n    )__threadfence\(\);", r"\1"),
    "loads of what other blocks wrote by way of a cache": Fault("two slices", r"__ldcg\(", "__ldg("),
    # It runs all threads of a block until they wait before it turns to another block.
    "a block arrives before its threads do": Fault(
        "two slices", r"(unsigned target\) \{)\n  __syncthreads\(\);", r"\1"
    ),
    # What is computed of them is never read; they are only read where they are not.
    "rows past the batch are not filled with zeros": Fault(
        "one slice", r"if \(r < count && k < INNER\) value", "if (r >= count) continue; if (k < INNER) value"
    ),
    "rows of operands are not bounded": Fault("operands", r"r < count && k < INNER \?", "k < INNER ?"),
    "units of weights are not bounded": Fault("two slices", r"k < inner && unit < width", "k < inner"),
}


@pytest.mark.parametrize("name", SILENT)
def test_a_fault_that_does_not_show(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fault = SILENT[name]
    assert not signs(SETTINGS[fault.setting], fault, monkeypatch)
