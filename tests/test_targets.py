"""Instruction sets: every register shape computes the same numbers on this machine, and its own code can be emitted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

import rnnc
from rnnc.backends.llvm.executable import LlvmExecutable, compile
from rnnc.backends.llvm.jit import emit_assembly
from rnnc.backends.llvm.target import ISAS, Target, host, legalized
from rnnc.backends.reference import compile as compile_reference
from rnnc.ir.errors import BackendError
from tests import user_cells

SPECS = [
    rnnc.RNN(5, 33, 2, bidirectional=True),
    rnnc.GRU(3, 16),
    rnnc.GRU(7, 50, reset_after=False, dtype="float64"),
    rnnc.LSTM(1, 1, dtype="float64"),
    rnnc.LSTM(9, 33, 2, proj_size=5, bidirectional=True),
    rnnc.Recurrent(user_cells.LayerNormLSTM(), 4, 21),
]
SIZES = [(1, 1, False), (3, 2, False), (2, 5, False), (4, 13, False), (6, 8, True)]


def runnable() -> Iterator[pytest.param]:  # type: ignore[valid-type]
    """Targets whose code runs here: each set the machine has, and the register shapes of those that it lacks."""
    for isa in ISAS:
        yield pytest.param(lambda isa=isa: host(isa), id=isa)
        yield pytest.param(lambda isa=isa: legalized(isa), id=f"{isa} layout")


@pytest.fixture(params=list(runnable()))
def target(request: pytest.FixtureRequest) -> Target:
    try:
        made: Target = request.param()
    except BackendError as error:
        pytest.skip(str(error))
    return made


@pytest.mark.parametrize("spec", SPECS, ids=repr)
def test_every_target_agrees_with_the_float64_reference(spec: rnnc.Spec, target: Target) -> None:
    params = spec.init(seed=0)
    runner = compile(spec.stack(), threads=1, target=target).bind(params)
    double = replace(spec, dtype="float64")
    reference = compile_reference(double.stack(), threads=1).bind({k: v.astype("f8") for k, v in params.items()})
    rng = np.random.default_rng(1)
    for steps, batch, ragged in SIZES:
        x = rng.standard_normal((steps, batch, spec.input_size)).astype(spec.dtype)
        lengths = rng.integers(0, steps + 1, batch) if ragged else None
        results = []
        for run, dtype in ((runner.run, spec.dtype), (reference.run, "float64")):
            output = np.full((steps, batch, spec.output_size), np.nan, dtype)
            rows = spec.num_layers * spec.num_directions
            finals = tuple(np.full((rows, batch, w), np.nan, dtype) for w in spec.states.values())
            run(x.astype(dtype), None, lengths, output, finals)
            results.append((output, *finals))
        for got, want in zip(*results, strict=True):
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 if spec.dtype == "float32" else 1e-12)


CPUS = [  # a CPU of each kind, and how it multiplies and adds in its widest registers
    ("avx512", "x86_64-unknown-linux-gnu", "znver4", r"vfmadd\w+\s.*%zmm"),
    ("avx2", "x86_64-unknown-linux-gnu", "haswell", r"vfmadd\w+\s.*%ymm"),
    ("generic", "x86_64-unknown-linux-gnu", "x86-64", r"mulps\s.*%xmm"),
    ("generic", "aarch64-unknown-linux-gnu", "generic", r"fml[as]\s+v\d+\.4s"),
]


@pytest.mark.parametrize(("isa", "triple", "cpu", "multiply"), CPUS, ids=lambda v: str(v).split("-")[0])
def test_the_loop_over_k_stays_in_registers(isa: str, triple: str, cpu: str, multiply: str) -> None:
    executable: LlvmExecutable = compile(rnnc.LSTM(128, 256).stack(), threads=1, target=legalized(isa))
    named = replace(executable.target, cpu=cpu, features="" if isa == "generic" else "+fma")
    assembly = emit_assembly(executable.text("llvm"), named, triple)
    loops = [block for block in inner_loops(assembly) if len(re.findall(multiply, block)) >= 4]
    assert loops, "no loop multiplies and adds in the widest registers"
    stack = r"\(%rsp|\(%rbp|\[sp"
    for block in loops:
        stores = [
            line
            for line in block.splitlines()
            if re.search(stack, line) and re.search(r"\bv?mov[au]ps|\bst[rp]\b", line)
        ]
        assert not stores, "accumulators go to the stack within a loop over k:\n" + "\n".join(stores)


def inner_loops(assembly: str) -> Iterator[str]:
    """Blocks that jump back to their own label."""
    label, lines = "", []
    for line in assembly.splitlines():
        if match := re.match(r"(\.L\w+):", line):
            label, lines = match[1], []
        lines.append(line)
        if label and re.search(rf"\b(j\w+|b\.\w+|b|cb\w+|tb\w+)\b.*{re.escape(label)}\b", line):
            yield "\n".join(lines)


def test_unknown_and_missing_instruction_sets() -> None:
    with pytest.raises(BackendError, match="isa: got 'mmx', expected one of 'avx512', 'avx2', 'generic'"):
        host("mmx")
