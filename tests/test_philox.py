"""Philox4x32-10 against the known answers of its authors, and what masks promise on every backend."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rnnc import backends, random
from rnnc.backends.training.noise import LOW, Where, bits16, philox

# From the known-answer vectors of the Random123 distribution (Salmon et al. 2011).
KNOWN = [
    ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ((LOW, LOW, LOW, LOW), (LOW, LOW), "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]
PLACE = Where(seed=3 + (7 << 40), update=2, number=1, row=5, step=9)


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_known_answers(counter: tuple[int, int, int, int], key: tuple[int, int], expected: str) -> None:
    assert " ".join(f"{int(word):08x}" for word in philox(counter, key)) == expected


def test_arrays_of_counters_give_what_each_gives_alone() -> None:
    steps = np.array([0, 1, LOW])
    together = philox((7, steps, 3, 1), (5, 6))
    for i, t in enumerate(steps):
        assert [int(w[i]) for w in together] == [int(w) for w in philox((7, int(t), 3, 1), (5, 6))]


def fill(backend: str, shape: tuple[int, int, int], where: Where, p: float = 0.3, dtype: str = "float32") -> Any:
    """A mask between guards that must not be written."""
    module: Any = backends.get(backend)
    size = int(np.prod(shape))
    guarded = np.full(size + 16, 7.0, dtype)
    out = guarded[8 : 8 + size].reshape(shape)
    module.compile_noise(dtype).fill(out, where, p, -1.0, 2.5)
    assert (guarded[:8] == 7).all() and (guarded[8 + size :] == 7).all()
    return out


@pytest.mark.sampled(3)
@pytest.mark.parametrize("dtype", ("float32", "float64"))
@pytest.mark.parametrize("units", (1, 7, 8, 63, 64, 65, 200))
def test_masks_are_those_of_the_counters_on_every_backend(units: int, dtype: str, backend: str) -> None:
    """Number u of a row: 16 bits of word u // 2 % 4 of the block u // 8."""
    found = fill(backend, (3, 4, units), PLACE, dtype=dtype)
    for t, b, u in np.ndindex(3, 4, units):
        words = philox(((1 << 20) + u // 8, 9 + t, 5 + b, 2), (3, 7 << 8))
        number = (int(words[u // 2 % 4]) >> 16 * (u % 2)) & 0xFFFF
        assert found[t, b, u] == (-1.0 if number < 19661 else 2.5)


def test_a_mask_fixed_over_time_has_a_step_of_its_own(backend: str) -> None:
    fixed = PLACE._replace(step=LOW)
    np.testing.assert_array_equal(fill(backend, (1, 4, 70), fixed) == -1, bits16((1, 4, 70), fixed) < 19661)


def test_a_number_depends_on_its_place_and_on_nothing_else(backend: str) -> None:
    whole = fill(backend, (5, 6, 20), PLACE)
    part = PLACE._replace(row=PLACE.row + 2, step=PLACE.step + 3)
    np.testing.assert_array_equal(fill(backend, (2, 4, 20), part), whole[3:, 2:])
    np.testing.assert_array_equal(fill(backend, (5, 6, 11), PLACE), whole[..., :11])


@pytest.mark.parametrize("change", ({"seed": 4}, {"seed": 3}, {"update": 3}, {"number": 2}, {"row": 100}))
def test_seed_update_mask_and_row_give_other_numbers(change: dict[str, int]) -> None:
    shape = (5, 6, 20)
    assert (bits16(shape, PLACE._replace(**change)) == bits16(shape, PLACE)).mean() < 0.01


def test_no_two_places_share_their_numbers() -> None:
    found = bits16((8, 8, 64), PLACE).reshape(-1, 8)
    assert len(np.unique(found, axis=0)) == len(found)


@pytest.mark.parametrize("p", (0.1, 0.5, 0.8))
def test_a_mask_is_true_as_often_as_it_should_be(p: float, backend: str) -> None:
    """Within five standard deviations, along every axis; the numbers are the same on every run."""
    found = fill(backend, (50, 64, 100), Where(0, 0, 0), p) == -1
    deviation = np.sqrt(p * (1 - p))
    assert abs(found.mean() - p) < 5 * deviation / np.sqrt(found.size)
    for axis in range(3):
        means = found.mean(tuple(a for a in range(3) if a != axis))
        assert np.abs(means - p).max() < 5 * deviation / np.sqrt(found.size / found.shape[axis])


def test_permutations_are_permutations_and_differ() -> None:
    first, second = random.permutation(0, 0, 1000), random.permutation(0, 1, 1000)
    np.testing.assert_array_equal(np.sort(first), np.arange(1000))
    np.testing.assert_array_equal(first, random.permutation(0, 0, 1000))
    assert (first == second).mean() < 0.02
    assert (first == np.arange(1000)).mean() < 0.02


def test_every_instruction_set_of_this_machine() -> None:
    from rnnc.backends.llvm.asm.target import host
    from rnnc.backends.llvm.training.masks import compile_noise

    found = []
    for target in (host(), host("generic")):
        out = np.empty((2, 3, 100), np.float32)
        compile_noise("float32", target).fill(out, PLACE, 0.3, -1.0, 2.5)
        found.append(out)
    np.testing.assert_array_equal(*found)
