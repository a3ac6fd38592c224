"""Texts of stages: what is printed, parsed and compiled is the same machine code, and a changed text another one."""

from __future__ import annotations

import pickle
import random
import re

import numpy as np
import pytest

import rnnc
from rnnc.backends.llvm.asm.target import host
from rnnc.backends.llvm.stages import STAGES, Given
from rnnc.backends.products import PLAIN
from rnnc.computations import DERIVATIVES, forward
from rnnc.ir.computation import Computation
from rnnc.ir.edited import EDITABLE, edited
from rnnc.ir.errors import IRError, ParseError, RnncError
from rnnc.ir.parse_program import parse_program
from rnnc.ir.pipeline import PIPELINE, Artefacts
from tests.cases import Case
from tests.matrix import cases
from tests.matrix_cells import DeltaRule, MatrixLSTM
from tests.odd_cells import ODD
from tests.refusals import raises_saying

SPECS = {str(case): case.spec() for case in cases(1)}
SPECS |= {str(cell): rnnc.Recurrent(cell, 3, 4, 2, bidirectional=True) for cell in ODD}
SPECS |= {type(cell).__name__: rnnc.Recurrent(cell, 3, 4) for cell in (MatrixLSTM(2), DeltaRule())}
NETWORKS = {
    "convolutions": rnnc.Sequential(rnnc.Conv1d(3, 4, 5), rnnc.GRU(4, 4), rnnc.Linear(4, 2)),
    "ahead": rnnc.Sequential(rnnc.Conv1d(3, 4, 3, padding="same"), rnnc.GRU(4, 3, bidirectional=True), readout="mean"),
}


def emitted(computation: Computation) -> str:
    """LLVM's assembly, which decides the machine code."""
    return Artefacts(STAGES, computation, given=Given(host(), PLAIN)).text("llvm")


def assert_same_code(computation: Computation, stage: str) -> None:
    text = Artefacts(PIPELINE, computation).text(stage)
    again = edited(stage, text, computation)
    if stage != "optimized":  # whose text says what the passes did
        assert Artefacts(PIPELINE, again).text(stage) == text
    assert emitted(again) == emitted(computation)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", SPECS)
def test_a_rolled_text_gives_the_same_machine_code(name: str) -> None:
    assert_same_code(forward(SPECS[name]), "rolled")


@pytest.mark.sampled(4)
@pytest.mark.parametrize("derivative", DERIVATIVES)
@pytest.mark.parametrize("cell", ["lstm", "gru_before", "rnn_relu", *ODD[::3]], ids=str)
def test_so_do_those_of_derivatives(cell: object, derivative: str) -> None:
    spec = Case(cell, hidden_size=5).spec() if isinstance(cell, str) else rnnc.Recurrent(cell, 3, 4)  # type: ignore[arg-type]
    assert_same_code(DERIVATIVES[derivative](spec), "rolled")


@pytest.mark.parametrize("name", NETWORKS)
def test_so_do_those_of_networks(name: str) -> None:
    assert_same_code(forward(NETWORKS[name]), "rolled")


@pytest.mark.sampled(3)
@pytest.mark.parametrize("stage", EDITABLE)
def test_every_stage_that_can_be_edited_gives_the_same_machine_code(stage: str) -> None:
    assert_same_code(forward(Case("lstm", 2, True, hidden_size=5).spec()), stage)


SPEC = rnnc.GRU(3, 4, bidirectional=True)
PROGRAM = rnnc.compile(SPEC, backend="llvm")
X = np.random.default_rng(0).standard_normal((7, 2, 3), dtype=np.float32)


def test_a_changed_text_is_another_network(backend: str) -> None:
    """Its numbers are those of a cell that is written so."""
    params = rnnc.RNN(3, 4).init(1)
    program = rnnc.compile(rnnc.RNN(3, 4), backend=backend)
    expected = rnnc.compile(rnnc.RNN(3, 4, nonlinearity="relu"), params, backend=backend)(X)[0]
    for stage in ("lowered", "gate_fusion", "rolled"):
        changed = program.with_stage(stage, program.ir(stage).replace("tanh(", "relu("))
        np.testing.assert_array_equal(changed.bind(params)(X)[0], expected)
        assert "relu(" in changed.ir("rolled") and changed.ir("rolled") != program.ir("rolled")


def test_the_assembly_and_the_results_are_the_same_to_the_bit() -> None:
    params = SPEC.init(1)
    again = PROGRAM.with_stage("rolled", PROGRAM.ir("rolled"))
    assert again.ir("asm") == PROGRAM.ir("asm")
    for copy in (again, pickle.loads(pickle.dumps(again))):
        np.testing.assert_array_equal(copy.bind(params)(X)[0], PROGRAM.bind(params)(X)[0])


def test_an_edited_program_says_what_it_does_not_have() -> None:
    again = PROGRAM.with_stage("rolled", PROGRAM.ir("rolled"))
    with raises_saying(rnnc.ArgumentError, "lengths", "'rolled'"):
        again.bind(SPEC.init())(X, lengths=[7, 3])
    with raises_saying(rnnc.ArgumentError, "no earlier stages"):
        again.ir("lowered")
    unrolled = PROGRAM.with_stage("lowered", PROGRAM.ir("lowered"))
    with raises_saying(rnnc.ArgumentError, "3 steps"):
        unrolled.ir("lowered", steps=4)


TEXT = PROGRAM.ir("rolled")


@pytest.mark.parametrize(
    ("stage", "text", "error", "message"),
    [
        ("rolle", TEXT, rnnc.ArgumentError, "(did you mean 'rolled'?)"),
        ("plan", TEXT, rnnc.ArgumentError, "expected one of dead_code"),
        ("rolled", 3, rnnc.ArgumentTypeError, "expected the text of a stage, got 3 (int)"),
        ("lowered", PROGRAM.ir("lowered", 2), rnnc.ArgumentError, "expected a graph of 3 steps"),
        ("rolled", PROGRAM.ir("lowered"), ParseError, "line 1: expected 'program', found 'graph'"),
        ("rolled", rnnc.compile(rnnc.GRU(3, 4)).ir("rolled"), rnnc.ArgumentError, "'output' is float32[T, B, 4]"),
        (
            "rolled",
            rnnc.compile(rnnc.GRU(2, 4)).ir("rolled"),
            rnnc.ArgumentError,
            "input 'weight_ih_l0' is float32[12, 2]",
        ),
    ],
)
def test_wrong_texts(stage: str, text: object, error: type[Exception], message: str) -> None:
    with raises_saying(error, message):
        PROGRAM.with_stage(stage, text)  # type: ignore[arg-type]


def changed(old: str, new: str, count: int = 1) -> str:
    found = re.sub(old, new, TEXT, count=count)
    assert found != TEXT
    return found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (changed(r"program float32", "program float16"), "line 1: expected float32 or float64, found 'float16'"),
        (changed(r"\[B, 4\]", "[B, 5]"), r"is float32\[B, 5\], by what it is computed from"),
        (changed(r"sigmoid\(", "sigmoyd("), "sigmoyd"),
        (changed(r"gemm  ", "gemn  "), "unknown keyword 'gemn'"),
        (changed(r"    gemm   (%\d+)( .*)", r"    gemm   %9999\2"), r"is read before it is defined"),
        (changed("@ weight_hh_l0'", "@ weight_hh_l0"), "inner sizes"),
        (changed(r"x\[t\] @", "x @"), r"x is a value at each step: write it with \[t\]"),
        (changed(r"\[t-1\]", "[t+1]"), "reads a step that the loop has not done"),
        (changed(r"0 \.\. T-1", "0 .. T-2"), "expected 0 .. T-1 or T-1 .. 0"),
        (changed(r'state="h_l0_reverse"', 'state="h_l0"', 1), "carried twice"),
        (changed(r"return .*", "return output=%99999"), "read before it is defined"),
        (changed(r"  final  .*\n", ""), "read before it is defined"),
        (changed(r"\{0:4\}", "{0:40}"), "does not fit"),
        (changed(r"    carry .*\n", ""), "at least one carry|read before it is defined"),
        (changed(r"    map    (%\d+) .*\n", r"    map    \1 = tanh(%7) [B, 4]\n"), "."),
        (TEXT + "x", "expected|is read"),
        (TEXT[: len(TEXT) // 2], "expected"),
        ("", "expected 'program', found the end of the text"),
    ],
)
def test_errors_name_the_line(text: str, message: str) -> None:
    with pytest.raises(ParseError, match=message) as caught:
        parse_program(text)
    assert str(caught.value).startswith("line ")


TOKENS = ("add", "mul", "tanh", "[t]", "4", "8", "'", "T")
OTHERS = ("sub", "", "[t]", "0", "neg", "B")


@pytest.mark.parametrize("seed", range(40))
def test_damaged_texts_raise_errors_of_rnnc_and_nothing_else(seed: int) -> None:
    """Lines are dropped, doubled and exchanged, and tokens too: what still compiles, runs."""
    rng = random.Random(seed)
    lines = TEXT.splitlines()
    for _ in range(rng.randint(1, 2)):
        at, other = rng.randrange(1, len(lines)), rng.randrange(1, len(lines))
        kind = rng.randrange(4)
        if kind == 0:
            del lines[at]
        elif kind == 1:
            lines[at], lines[other] = lines[other], lines[at]
        elif kind == 2:
            values = re.findall(r"%\d+(?:\[t\])?", TEXT)
            lines[at] = re.sub(r"%\d+(\[t\])?(?=[,)])", rng.choice(values), lines[at], count=1)
        else:
            lines[at] = lines[at].replace(rng.choice(TOKENS), rng.choice(OTHERS), 1)
    try:
        program = PROGRAM.with_stage("rolled", "\n".join(lines) + "\n")
    except RnncError as error:
        assert str(error)
        return
    output, _ = program.bind(SPEC.init(1))(X)
    assert output.shape == (7, 2, 8)


def test_a_text_alone_can_be_compiled() -> None:
    alone = edited("rolled", TEXT)
    assert emitted(alone) == emitted(forward(SPEC)) and not alone.late
    with pytest.raises(IRError, match="line 1"):
        edited("lowered", TEXT)
