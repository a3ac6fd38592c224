"""Instruction sets: every register shape computes the same numbers on this machine, and its own code can be emitted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

import rnnc
from rnnc.backends.llvm import compile
from rnnc.backends.llvm.asm.jit import emit_assembly
from rnnc.backends.llvm.asm.target import ISAS, Target, described, host, legalized
from rnnc.backends.reference import compile as compile_reference
from rnnc.computations import forward, vjp
from rnnc.ir.computation import Computation
from rnnc.ir.errors import BackendError
from tests import user_cells
from tests.forward_calls import run_stack

pytestmark = pytest.mark.shipped

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


@pytest.mark.sampled(3)
@pytest.mark.parametrize("spec", SPECS, ids=repr)
def test_every_target_agrees_with_the_float64_reference(spec: rnnc.Spec, target: Target) -> None:
    params, stack = spec.init(seed=0), spec.stack()
    bound = compile(Computation.of_stack(stack), threads=1, target=target).bind(params)
    double = replace(spec, dtype="float64").stack()
    reference = compile_reference(Computation.of_stack(double)).bind({k: v.astype("f8") for k, v in params.items()})
    rng = np.random.default_rng(1)
    for steps, batch, ragged in SIZES:
        x = rng.standard_normal((steps, batch, spec.input_size)).astype(spec.dtype)
        lengths = rng.integers(0, steps + 1, batch) if ragged else None
        runs = (bound, stack, x), (reference, double, x.astype("float64"))
        results = [(output, *finals) for output, finals in (run_stack(*run, lengths=lengths) for run in runs)]
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
    code = compile(forward(rnnc.LSTM(128, 256)), threads=1, target=legalized(isa))
    named = code.target._replace(cpu=cpu, features="" if isa == "generic" else "+fma", tuning="")
    assembly = emit_assembly(code.text("llvm"), named, triple)
    loops = [block for block in inner_loops(assembly) if len(re.findall(multiply, block)) >= 4]
    loops = [block for block in loops if not re.search(r"\bv?divps|\bfdiv", block)]  # those are epilogues
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


# -- only the instructions that a machine says it has -------------------------------------------------

MODELS = ("haswell", "skylake", "skylake-avx512", "icelake-server", "sapphirerapids", "znver3", "znver4", "x86-64-v3")
AVX512 = ("avx512f", "avx512vl", "avx512dq", "avx512bw")
FORMS = {  # feature -> assembly that needs it
    "avx512f": r"%zmm|%[xy]mm(1[6-9]|2\d|3[01])|%k[0-7]|vpternlog|\{1to|vcvttps2udq|vp(rol|ror)",
    "avx": r"%ymm|\sv[a-z]",
    "fma": r"\svfn?m(add|sub)",
    "f16c": r"\svcvt(ph2ps|ps2ph)",
    "bmi": r"\s(andn|bextr|blsi|blsr|blsmsk|tzcnt)[lq]?\s",
    "bmi2": r"\s(mulx|rorx|sarx|shlx|shrx|pdep|pext|bzhi)[lq]?\s",
    "lzcnt": r"\slzcnt[lq]?\s",
    "popcnt": r"\spopcnt[lq]?\s",
    "movbe": r"\smovbe[lq]?\s",
    "prfchw": r"\sprefetchw\s",
    "sse3": r"\sv?(movddup|mov[sl]hdup|movsldup|haddp|lddqu)",
    "sse4.1": r"\sv?(pblend|blendv|round[ps]|pmuldq|pmulld|pinsr[dq]|pextr[dq]|insertps|pmovzx|pmovsx|ptest|dpps)",
    "ssse3": r"\sv?(pshufb|palignr|phadd|pabs)",
    "sse4a": r"\s(extrq|insertq|movnts[sd])",
    "later": r"\sv(pdpbusd|dpbf16|gf2p8|pclmul|aes)|%tmm|\{nf\}|%r(1[6-9]|2\d|3[01])[dwb]?\b|%egpr",
}
WITHIN: dict[str, set[str]] = {  # a target -> the features that it lists and those that they imply
    "generic": set(),
    "avx2": {"avx2", "fma", "avx", "sse3", "ssse3", "sse4.1"},
    "avx512": {"avx2", "fma", "avx", "sse3", "ssse3", "sse4.1", "f16c", "avx512f"},
}


@pytest.mark.rare
@pytest.mark.parametrize("isa", ISAS)
def test_code_has_no_instruction_that_the_machine_did_not_list(isa: str) -> None:
    """Of eight processor models in virtual machines that hide all but what the target needs, and all but AVX-512."""
    layout, extra = legalized(isa), {"bmi2", "prfchw"}
    alone = compile(forward(rnnc.RNN(3, 5)), threads=1, target=layout).text("llvm")
    both = compile(vjp(rnnc.RNN(3, 5)), threads=1, target=layout).text("llvm")
    needed = {"avx2", "fma", *(AVX512 if isa == "avx512" else ())}
    for text, cpu, listed in (*((alone, cpu, set[str]()) for cpu in MODELS), (both, "znver4", extra)):
        target = described(cpu, dict.fromkeys(needed | listed, True), isa)
        assembly = emit_assembly(text, target, "x86_64-unknown-linux-gnu")
        allowed = WITHIN[isa] | (listed if isa != "generic" else set())
        for feature, form in FORMS.items():
            if feature not in allowed and (found := re.search(form, assembly)):
                line = assembly.count("\n", 0, found.start())
                pytest.fail(f"{cpu}: {feature} is not listed: {assembly.splitlines()[line]}")


def test_the_best_target_is_one_whose_features_are_all_there() -> None:
    everything = dict.fromkeys(("avx2", "fma", *AVX512), True)
    assert described("znver4", everything).name == "avx512"
    for hidden in AVX512:
        assert described("znver4", everything | {hidden: False}).name == "avx2"
    assert described("znver4", {"avx2": True}).name == "generic"
    with pytest.raises(BackendError, match="'avx2' needs the CPU features fma"):
        described("znver4", {"avx2": True}, "avx2")


def test_targets_that_may_use_other_instructions_are_other_entries_of_the_cache() -> None:
    keys = {repr(described(cpu, {"avx2": True, "fma": True, "bmi2": b})) for cpu in MODELS for b in (False, True)}
    assert len(keys) == 2 * len(MODELS)
