"""Vector code against NumPy: every elementwise op of the table, and how accurate the functions are."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rnnc.backends.llvm.asm.builder import Function, Module, Val
from rnnc.backends.llvm.asm.jit import MachineCode, compile_assembly
from rnnc.backends.llvm.asm.target import ISAS, host
from rnnc.backends.llvm.asm.vectormath import VectorMath
from rnnc.ir.errors import BackendError
from rnnc.ir.ops import OPS, Kind, Op

Array = NDArray[Any]
Emit = Callable[..., Val]

SCALARS = {"float32": "float", "float64": "double"}
WIDER = {"float32": np.float64, "float64": np.longdouble}
FUNCTIONS = {
    "exp": 1.75,
    "log": 1.0,
    "sigmoid": 2.5,
    "tanh": 2.5,
    "sin": 2.25,
    "cos": 2.25,
    "log1p": 1.75,
    "expm1": 4.0,
    "power": 2.5,
}
"""The functions that are approximated, and how many units in the last place they may be off: what they measure at,
rounded up. The promise is 4."""

TERMS = 3
"""Operands given to an op that takes any number of them."""

ELEMENTWISE = {name: op for name, op in OPS.items() if op.kind is Kind.ELEMENTWISE}


def here() -> tuple[str, ...]:
    """The instruction sets of this machine; vectors wider than theirs are split."""
    found = []
    for isa in ISAS:
        try:
            host(isa)
        except BackendError:
            continue
        found.append(isa)
    return tuple(found)


VECTORS = [
    pytest.param(dtype, lanes, isa, id=f"{dtype}x{lanes}-{isa}")
    for dtype, widths in (("float32", (4, 8, 16)), ("float64", (2, 4, 8)))
    for lanes in widths
    for isa in here()
]
DTYPES = [
    pytest.param(dtype, lanes, isa, id=f"{dtype}-{isa}")
    for dtype, lanes in (("float32", 8), ("float64", 4))
    for isa in here()
]


def arity(op: Op) -> int:
    return TERMS if op.arity is None else op.arity


def kernel(name: str, emit: Emit, operands: int, scalar: str, lanes: int) -> Function:
    """A loop that reads operands, applies `emit` and writes the result."""
    sources = [Val("ptr", f"%x{k}") for k in range(operands)]
    target, size = Val("ptr", "%y"), Val("i64", "%size")
    function = Function(name, [*sources, target, size])
    math = VectorMath(function, scalar, lanes)
    with function.loop(0, size, lanes) as loop:
        values = [function.load(math.type, function.element(p, loop.index, scalar), 4) for p in sources]
        function.store(emit(math, *values), function.element(target, loop.index, scalar), 4)
    function.ret()
    return function


def on_floats(op: Op) -> Emit:
    """The op's code where masks come and go as numbers: positive, or 1, is true."""

    def emit(e: VectorMath, *values: Val) -> Val:
        assert op.emit is not None
        if op.name == "select":
            values = (e.greater(values[0], e.constant(0.0)), *values[1:])
        result: Val = op.emit(e, *values)
        return e.select(result, e.constant(1.0), e.constant(0.0)) if op.boolean else result

    return emit


@dataclass(frozen=True)
class Kernels:
    """Compiled kernels. Those with equal code are one function, under one of their names."""

    text: str
    names: Mapping[str, str]
    compiled: MachineCode

    def address(self, name: str) -> int:
        return self.compiled.address(self.names[name])


def compile_kernels(functions: Sequence[Function], isa: str) -> Kernels:
    unit = Module()
    names = {function.name: unit.add(function) for function in functions}
    return Kernels(unit.text(), names, compile_assembly(unit.text(), host(isa)))


@cache
def kernels(dtype: str, lanes: int, isa: str) -> Kernels:
    """One kernel for each elementwise op."""
    scalar = SCALARS[dtype]
    return compile_kernels(
        [kernel(f"do_{name}", on_floats(op), arity(op), scalar, lanes) for name, op in ELEMENTWISE.items()], isa
    )


def call(compiled: Kernels, name: str, lanes: int, *operands: Array) -> Array:
    """Runs a kernel on arrays of any one size."""
    size = operands[0].size
    padding = (0, -size % lanes)
    padded = [np.ascontiguousarray(np.pad(x, padding)) for x in operands]
    result = np.empty_like(padded[0])
    pointers = [ctypes.c_void_p(x.ctypes.data) for x in (*padded, result)]
    ctypes.CFUNCTYPE(None)(compiled.address(name))(*pointers, ctypes.c_int64(result.size))
    return result[:size]


def run(name: str, dtype: str, lanes: int, isa: str, *operands: Array) -> Array:
    return call(kernels(dtype, lanes, isa), f"do_{name}", lanes, *operands)


def meaning(op: Op, *operands: Array) -> Array:
    assert op.meaning is not None
    if op.name == "select":
        operands = (operands[0] > 0, *operands[1:])
    with np.errstate(all="ignore"):
        return np.asarray(op.meaning(*operands))


# -- samples ----------------------------------------------------------------------------------------


def special(dtype: str) -> Array:
    info = np.finfo(dtype)
    positive = [0.0, np.inf, np.nan, 1.0, 0.5, 2.0, 88.5, 710.0, info.tiny, info.smallest_subnormal, info.eps]
    return np.array([sign * v for v in (*positive, info.max, np.nextafter(info.tiny, 0)) for sign in (1, -1)], dtype)


@cache
def samples(dtype: str) -> Array:
    """Both signs of every magnitude, dense where the functions bend, and the special values."""
    random, info, count = np.random.default_rng(7), np.finfo(dtype), 30_000
    lowest, highest = float(np.log2(info.smallest_subnormal)), float(np.log2(info.max))
    end = 1.02 * abs(float(np.log(info.smallest_subnormal)))
    sizes = [
        2.0 ** random.uniform(lowest, highest, count),
        2.0 ** random.uniform(-13, 7, 3 * count),
        random.uniform(0.0, end, count),
        random.uniform(0.5, 1.5, count),
        np.arange(1, 400) * np.log(2) / 2,
    ]
    positive = np.concatenate(sizes)
    return np.concatenate([special(dtype), positive.astype(dtype), -positive.astype(dtype)])


@cache
def expected(name: str, dtype: str) -> Array:
    """The function at the samples, in the next wider format."""
    return meaning(OPS[name], samples(dtype).astype(WIDER[dtype]))


def ulps(got: Array, exact: Array) -> Array:
    """Distances in units of the last place of the exact value; infinite where only one of the two is NaN."""
    largest = np.finfo(got.dtype).max
    size = np.minimum(np.abs(exact), np.nextafter(largest, got.dtype.type(0)))
    unit = np.spacing(size.astype(got.dtype)).astype(exact.dtype)
    with np.errstate(all="ignore"):
        rounded = exact.astype(got.dtype)
        distance = np.abs(got.astype(exact.dtype) - exact) / unit
    same = (got == rounded) | (np.isnan(got) & np.isnan(exact))
    near_overflow = (np.abs(got) == largest) & np.isinf(rounded) & np.isfinite(exact)
    distance = np.where((same & ~np.isfinite(got)) | near_overflow, 0.0, distance)
    return np.asarray(np.where(np.isnan(distance), np.inf, distance), float)


def report(operands: Sequence[Array], got: Array, wanted: Array, wrong: Array) -> str:
    i = int(np.argmax(wrong))
    return f"at {', '.join(repr(x[i]) for x in operands)}: got {got[i]!r}, expected {wanted[i]!r}"


# -- the table's test -------------------------------------------------------------------------------


def operands_for(op: Op, dtype: str) -> list[Array]:
    """Every combination of special values, and random ones of all magnitudes."""
    random, count, end = np.random.default_rng(3), arity(op), special(dtype)
    grids = [grid.ravel() for grid in np.meshgrid(*[end] * count)]
    scales = (2.0 ** random.integers(-20, 20, 500) for _ in range(count))
    return [
        np.concatenate([g, (random.standard_normal(500) * s).astype(dtype)]) for g, s in zip(grids, scales, strict=True)
    ]


def agree(op: Op, got: Array, operands: Sequence[Array], dtype: str) -> None:
    """Functions close to their value, everything else as NumPy rounds it; zeros may differ in sign."""
    if op.name in FUNCTIONS:
        wanted = meaning(op, *(x.astype(WIDER[dtype]) for x in operands))
        wrong = ulps(got, wanted)
        assert wrong.max() <= FUNCTIONS[op.name], report(operands, got, wanted, wrong)
        return
    wanted = meaning(op, *operands).astype(dtype)
    unequal = (got != wanted) & ~(np.isnan(got) & np.isnan(wanted))
    assert not unequal.any(), report(operands, got, wanted, unequal)


@pytest.mark.parametrize(("dtype", "lanes", "isa"), VECTORS)
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_code_of_an_op_means_what_the_table_says(name: str, dtype: str, lanes: int, isa: str) -> None:
    op = OPS[name]
    operands = operands_for(op, dtype)
    agree(op, run(name, dtype, lanes, isa, *operands), operands, dtype)


def test_every_primitive_is_reached_by_some_op() -> None:
    """What no op of the table emits would be tested by nothing here."""
    used: set[str] = set()

    class Recorder:
        def __getattr__(self, name: str) -> Callable[..., None]:
            return lambda *_: used.add(name)

    for op in ELEMENTWISE.values():
        assert op.emit is not None
        op.emit(Recorder(), *[None] * arity(op))
    members = {n: v for parts in VectorMath.__mro__[:-1] for n, v in vars(parts).items()}
    primitives = {n for n, v in members.items() if callable(v) and not n.startswith("_")}
    assert used == primitives


# -- accuracy ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "lanes", "isa"), VECTORS)
@pytest.mark.parametrize("name", [name for name in FUNCTIONS if OPS[name].arity == 1])
def test_functions_are_accurate_everywhere(name: str, dtype: str, lanes: int, isa: str) -> None:
    x, wanted = samples(dtype), expected(name, dtype)
    got = run(name, dtype, lanes, isa, x)
    wrong = ulps(got, wanted)
    assert wrong.max() <= FUNCTIONS[name], f"{wrong.max():.2f} units " + report([x], got, wanted, wrong)


@pytest.mark.parametrize(("dtype", "lanes", "isa"), DTYPES)
@pytest.mark.parametrize(
    ("name", "x", "value"),
    [
        ("tanh", -0.0, -0.0),
        ("tanh", 0.0, 0.0),
        ("tanh", np.inf, 1.0),
        ("tanh", -np.inf, -1.0),
        ("tanh", 25.0, 1.0),
        ("sigmoid", 0.0, 0.5),
        ("sigmoid", 1000.0, 1.0),
        ("sigmoid", np.inf, 1.0),
        ("sigmoid", -1000.0, 0.0),
        ("sigmoid", -np.inf, 0.0),
        ("exp", 0.0, 1.0),
        ("exp", np.inf, np.inf),
        ("exp", 720.0, np.inf),
        ("exp", -np.inf, 0.0),
        ("exp", -760.0, 0.0),
        ("log", 1.0, 0.0),
        ("log", 0.0, -np.inf),
        ("log", -0.0, -np.inf),
        ("log", np.inf, np.inf),
        ("log", -1.0, np.nan),
        ("log", -np.inf, np.nan),
        ("sin", 0.0, 0.0),
        ("sin", np.inf, np.nan),
        ("sin", -np.inf, np.nan),
        ("cos", 0.0, 1.0),
        ("cos", np.inf, np.nan),
        ("log1p", -1.0, -np.inf),
        ("log1p", -2.0, np.nan),
        ("log1p", np.inf, np.inf),
        ("expm1", -np.inf, -1.0),
        ("expm1", 720.0, np.inf),
        ("expm1", 0.0, 0.0),
    ],
)
def test_ends_are_exact(name: str, x: float, value: float, dtype: str, lanes: int, isa: str) -> None:
    got = run(name, dtype, lanes, isa, np.full(lanes, x, dtype))
    wanted = np.full(lanes, value, dtype)
    np.testing.assert_array_equal(got, wanted)
    if not np.isnan(value):
        np.testing.assert_array_equal(np.signbit(got), np.signbit(wanted))


LARGE_ANGLES = {
    6381956970095103.0 * 2.0**797: (1.0, -4.687165924254627611122583e-19),  # the float64 closest to a zero of either
    1.7976931348623157e308: (0.004961954789184061790502671, -0.9999876894265599374648701),
    1e22: (-0.8522008497671888017727059, 0.5232147853951389454975945),
    22.0: (-0.008851309290403875921690257, -0.9999608263946371264541747),
}
"""x: (sin x, cos x), with 2,400 bits."""


@pytest.mark.parametrize("isa", here())
def test_sine_and_cosine_of_large_angles(isa: str) -> None:
    """One lane beyond the short reduction must not change the others."""
    x = np.array([*LARGE_ANGLES], np.float64)
    for number, name in enumerate(("sin", "cos")):
        wanted = np.array([pair[number] for pair in LARGE_ANGLES.values()], np.longdouble)
        for lanes in (2, 4):
            assert ulps(run(name, "float64", lanes, isa, x), wanted).max() <= FUNCTIONS[name]


@pytest.mark.parametrize(("dtype", "lanes", "isa"), DTYPES)
def test_powers_whose_exponent_is_large(dtype: str, lanes: int, isa: str) -> None:
    """The error of b log(a) is the result's: bases near 1 and results at both ends of the format."""
    random, info = np.random.default_rng(5), np.finfo(dtype)
    end = 0.99 * float(np.log(info.max))
    a = np.concatenate([2.0 ** random.uniform(-3, 3, 20_000), 1 + random.uniform(1e-4, 1e-3, 20_000)]).astype(dtype)
    b = (random.uniform(-end, end, a.size) / np.log(a.astype(float))).astype(dtype)
    wanted = meaning(OPS["power"], a.astype(WIDER[dtype]), b.astype(WIDER[dtype]))
    wrong = ulps(run("power", dtype, lanes, isa, a, b), wanted)
    assert wrong.max() <= FUNCTIONS["power"], report([a, b], a, wanted, wrong)


@pytest.mark.parametrize(("dtype", "lanes", "isa"), DTYPES)
def test_sigmoid_underflows_step_by_step(dtype: str, lanes: int, isa: str) -> None:
    """Where exp(-x) overflows, sigmoid(x) is still subnormal, not yet zero."""
    info = np.finfo(dtype)
    start, end = float(np.log(info.tiny)), float(np.log(info.smallest_subnormal))
    x = np.linspace(start - 0.1, end + 0.1, 64).astype(dtype)
    got = run("sigmoid", dtype, lanes, isa, x)
    assert ((got > 0) & (got < info.tiny)).all()
    assert (np.diff(got) <= 0).all()


@pytest.mark.parametrize(("dtype", "lanes", "isa"), DTYPES)
def test_tanh_is_odd_and_bounded(dtype: str, lanes: int, isa: str) -> None:
    x = np.concatenate([np.linspace(0.0, 25.0, 200_001), np.linspace(7.0, 10.0, 200_001)]).astype(dtype)
    got = run("tanh", dtype, lanes, isa, x)
    assert got.max() == 1
    np.testing.assert_array_equal(run("tanh", dtype, lanes, isa, -x), -got)


@pytest.mark.parametrize(("dtype", "lanes", "isa"), DTYPES)
def test_sigmoid_is_bounded(dtype: str, lanes: int, isa: str) -> None:
    got = run("sigmoid", dtype, lanes, isa, np.linspace(-50.0, 50.0, 400_001).astype(dtype))
    assert got.min() > 0
    assert got.max() == 1


# -- constants, calls -------------------------------------------------------------------------------


@pytest.mark.parametrize("number", (0.0, -2.5, np.inf, np.nan))
@pytest.mark.parametrize("name", ("maximum", "minimum"))
def test_extremes_of_a_constant_let_nan_through(name: str, number: float) -> None:
    """A constant saves the test for NaN, on either side, unless it is NaN itself."""
    x = special("float32")

    def right(e: VectorMath, v: Val) -> Val:
        return getattr(e, name)(v, e.constant(number))  # type: ignore[no-any-return]

    def left(e: VectorMath, v: Val) -> Val:
        return getattr(e, name)(e.constant(number), v)  # type: ignore[no-any-return]

    compiled = compile_kernels([kernel("right", right, 1, "float", 4), kernel("left", left, 1, "float", 4)], "generic")
    wanted = getattr(np, name)(x, np.float32(number))
    np.testing.assert_array_equal(call(compiled, "right", 4, x), wanted)
    np.testing.assert_array_equal(call(compiled, "left", 4, x), wanted)


@pytest.mark.parametrize(("dtype", "lanes", "isa"), VECTORS)
def test_nothing_is_called(dtype: str, lanes: int, isa: str) -> None:
    """Only portable intrinsics that become instructions: never a call to libm."""
    declared = set(re.findall(r"^declare .* @(llvm\.\w+)", kernels(dtype, lanes, isa).text, re.MULTILINE))
    assert declared == {"llvm.fmuladd", "llvm.fabs", "llvm.sqrt", "llvm.vector"}
    assert not re.findall(r"^\s+(?:callq?|bl|blr)\s.*$", kernels(dtype, lanes, isa).compiled.assembly(), re.MULTILINE)
