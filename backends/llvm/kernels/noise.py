"""Masks as machine code: eight blocks of Philox side by side, 64 numbers at once.

`rnnc.backends.training.noise` defines the numbers.
"""

from __future__ import annotations

from rnnc.backends.llvm.asm.builder import Function, Module, Val, define, i64, vector
from rnnc.backends.llvm.asm.dtypes import ELEMENT_BYTES, SCALARS
from rnnc.backends.llvm.asm.records import Record
from rnnc.backends.training.noise import (
    BLOCK_NUMBERS,
    LOW,
    MULTIPLIERS,
    NUMBER_SHIFT,
    ROUNDS,
    WEYL,
    Where,
    key,
    threshold,
)

BLOCKS = 8
"""The number of blocks side by side, one per lane of a vector."""
GROUP = BLOCKS * BLOCK_NUMBERS
"""The numbers per pass."""
NOISE = Record(
    "noise",
    "ptr out, double low, double high, i64 steps, i64 rows, i64 units, i64 step, i64 row, i64 first, i64 update, "
    "i64 key0, i64 key1, i64 threshold",
)
"""out: (steps, rows, units). low, high: the value for a number below the threshold, and for any other number. The other
fields place the array within the whole stream of numbers (`rnnc.backends.training.noise`)."""

_WIDE = vector(BLOCKS, "i64")
_WORDS = vector(BLOCKS, "i32")


def filled(shape: tuple[int, ...], where: Where, p: float, low: float, high: float) -> dict[str, float]:
    """The fields of NOISE, except `out`."""
    steps, rows, units = shape
    key0, key1 = key(where.seed)
    place = {"step": where.step, "row": where.row, "first": where.number << NUMBER_SHIFT, "update": where.update & LOW}
    sizes = {"steps": steps, "rows": rows, "units": units}
    return {"low": low, "high": high, "key0": key0, "key1": key1, "threshold": threshold(p)} | sizes | place


def emit_noise(module: Module, dtype: str) -> None:
    """Adds `i32 rnnc_noise(ptr given)`, which fills an array (NOISE)."""
    module.add(_emit(dtype))


def _emit(dtype: str) -> Function:
    f = define("i32 rnnc_noise(ptr given)")
    scalar, item = SCALARS[dtype], ELEMENT_BYTES[dtype]
    given = NOISE.loads(f, f.parameters[0])
    wide = given["low"], given["high"]
    choices = wide if scalar == "double" else tuple(f.value(scalar, f"fptrunc {v} to {scalar}") for v in wide)
    limit = f.value("i32", f"trunc {given['threshold']} to i32")
    drawn = f.alloca("i16", GROUP, 64)
    with f.loop(0, given["steps"]) as step, f.loop(0, given["rows"]) as row:
        place = f.mul(f.add(f.mul(step.index, given["rows"]), row.index), given["units"])
        with f.loop(0, given["units"], GROUP) as unit:
            block = f.add(given["first"], f.udiv(unit.index, BLOCK_NUMBERS))
            lanes = Val(_WIDE, f"<{', '.join(f'i64 {n}' for n in range(BLOCKS))}>")
            counter = (
                f.binary("add", f.splat(block, BLOCKS), lanes),
                f.splat(f.add(given["step"], step.index), BLOCKS),
                f.splat(f.add(given["row"], row.index), BLOCKS),
                f.splat(given["update"], BLOCKS),
            )
            _store_words(f, _philox(f, counter, (given["key0"], given["key1"])), drawn)
            target = f.element(given["out"], f.add(place, unit.index), scalar)
            left = f.sub(given["units"], unit.index)
            with f.when(f.compare("uge", left, GROUP)):
                for n in range(0, GROUP, BLOCK_NUMBERS):
                    _choose(
                        f, f.element(drawn, n, "i16"), limit, choices, f.element(target, n, scalar), BLOCK_NUMBERS, item
                    )
            with f.when(f.compare("ult", left, GROUP)), f.loop(0, left) as rest:
                at = (f.element(pointer, rest.index, kind) for pointer, kind in ((drawn, "i16"), (target, scalar)))
                source, goal = at
                _choose(f, source, limit, choices, goal, 1, item)
    f.ret(Val("i32", "0"))
    return f


def _philox(f: Function, counter: tuple[Val, Val, Val, Val], keys: tuple[Val, Val]) -> tuple[Val, Val, Val, Val]:
    """The ten rounds of Philox, on 64-bit lanes whose high halves are zero."""
    a, b, c, d = (f.binary("and", word, f.integer(LOW, _WIDE)) for word in counter)
    for turn in range(ROUNDS):
        k, m = (
            f.splat(f.binary("and", f.add(word, (turn * weyl) & LOW), i64(LOW)), BLOCKS)
            for word, weyl in zip(keys, WEYL, strict=True)
        )
        left, right = (
            f.binary("mul", word, f.integer(factor, _WIDE)) for word, factor in zip((a, c), MULTIPLIERS, strict=True)
        )
        a, b = _mixed(f, right, b, k)
        c, d = _mixed(f, left, d, m)
    return a, b, c, d


def _mixed(f: Function, product: Val, word: Val, key: Val) -> tuple[Val, Val]:
    """(high half of the product ^ word ^ key, low half of the product)."""
    high = f.binary("lshr", product, f.integer(32, _WIDE))
    mixed = f.binary("xor", f.binary("xor", high, word), key)
    return mixed, f.binary("and", product, f.integer(LOW, _WIDE))


def _store_words(f: Function, words: tuple[Val, Val, Val, Val], target: Val) -> None:
    """Stores the blocks one after the other, four words each."""
    a, b, c, d = (f.value(_WORDS, f"trunc {word} to {_WORDS}") for word in words)
    pairs = [n for block in range(BLOCKS) for n in (block, BLOCKS + block)]
    left, right = _shuffled(f, a, b, pairs), _shuffled(f, c, d, pairs)
    fours = [
        n for block in range(0, 2 * BLOCKS, 2) for n in (block, block + 1, 2 * BLOCKS + block, 2 * BLOCKS + block + 1)
    ]
    f.store(_shuffled(f, left, right, fours), target, 64)


def _shuffled(f: Function, a: Val, b: Val, order: list[int]) -> Val:
    mask = ", ".join(f"i32 {n}" for n in order)
    return f.value(vector(len(order), "i32"), f"shufflevector {a}, {b}, <{len(order)} x i32> <{mask}>")


def _choose(f: Function, source: Val, limit: Val, choices: tuple[Val, ...], target: Val, lanes: int, item: int) -> None:
    """Stores one of the two choices for each of `lanes` 16-bit numbers."""
    small, wide = (vector(lanes, "i16"), vector(lanes, "i32")) if lanes > 1 else ("i16", "i32")
    number = f.value(wide, f"zext {f.load(small, source, 2)} to {wide}")
    bound, low, high = (f.splat(value, lanes) if lanes > 1 else value for value in (limit, *choices))
    kind = vector(lanes, "i1") if lanes > 1 else "i1"
    f.store(f.select(f.value(kind, f"icmp ult {number}, {bound.name}"), low, high), target, item)
