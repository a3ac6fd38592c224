"""Quick calls of networks with several inputs, tables and outputs: what the checked call gives, or nothing at all."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import rnnc
from rnnc.layers import Concat, Last
from tests.refusals import raises_saying


def graph(*, batch_first: bool = False, dtype: str = "float32", outputs: Any = ("g", "last")) -> rnnc.Graph:
    """Two inputs of vectors and one of integers, which two tables read; outputs per step and per sequence."""
    layers: dict[str, Any] = {
        "e": (rnnc.Embedding(9, 2), "n"),
        "e2": (rnnc.Embedding(9, 3), "n"),
        "c": (Concat(), "a", "e", "b", "e2"),
        "g": (rnnc.LSTM(12, 4, batch_first=batch_first, dtype=dtype), "c"),
        "d": (rnnc.Linear(4, 2), "g"),
        "last": (Last(), "d"),
    }
    return rnnc.Graph({"a": 3, "n": "numbers", "b": 4}, layers, outputs, batch_first=batch_first, dtype=dtype)


GRAPHS = {
    "outputs of both kinds": graph(),
    "columns of one": graph(outputs=("g", "d")),
    "one output, batch first": graph(batch_first=True, outputs="last"),
    "both kinds, batch first, float64": graph(batch_first=True, dtype="float64"),
}


def x_of(model: rnnc.Graph, steps: int, batch: int) -> dict[str, Any]:
    rng = np.random.default_rng(steps)
    lead = (batch, steps) if model.batch_first else (steps, batch)
    floats = {k: rng.standard_normal((*lead, width)).astype(model.dtype) for k, width in (("a", 3), ("b", 4))}
    return {"a": floats["a"], "n": rng.integers(0, 9, lead), "b": floats["b"]}


def compiled(model: rnnc.Graph) -> Any:
    return model.compile(model.init(1), threads=1)


def same(one: Any, other: Any) -> bool:
    """Whether results are equal bit for bit, and their dicts list the same names in the same order."""
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    return len(one) == len(other) and all(map(same, one, other))


@pytest.mark.parametrize("name", GRAPHS)
def test_a_quick_call_gives_what_the_checked_one_does(name: str) -> None:
    made = compiled(GRAPHS[name])
    for steps, batch in ((1, 1), (4, 1), (5, 3)):
        x = x_of(made.model, steps, batch)
        quick = made._quick_call(x, None)
        assert quick is not None, "declined"
        assert same(quick, made(x, lengths=[steps] * batch))
    assert "enter machine code" in made.explain()


@pytest.mark.parametrize("name", GRAPHS)
def test_it_goes_on_from_a_state(name: str) -> None:
    made, state = compiled(GRAPHS[name]), None
    for steps in (1, 3, 1):
        x = x_of(made.model, steps, 2)
        quick = made._quick_advance(x, state)
        assert quick is not None, "declined"
        checked = made.advance(x, state, lengths=[steps, steps])
        assert same(quick, checked)
        state = quick[1]


def test_strides_are_taken_as_they_are() -> None:
    made = compiled(graph())
    x = x_of(made.model, 4, 3)
    wanted = made._quick_call(x, None)
    for axes in ((1, 0, 2), (0, 1, 2)):
        turned = {k: np.ascontiguousarray(v.transpose(axes[: v.ndim])).transpose(axes[: v.ndim]) for k, v in x.items()}
        assert same(made._quick_call(turned, None), wanted)
    wide = {k: np.repeat(v, 2, axis=0)[::2] for k, v in x.items()}
    assert same(made._quick_call(wide, None), wanted)
    reversed_ = {k: v[::-1].copy()[::-1] for k, v in x.items()}
    assert same(made._quick_call(reversed_, None), wanted)
    shared = dict(x, b=np.concatenate([x["a"], x["a"][..., :1]], -1))
    shared["a"] = shared["b"][..., :3]  # arguments may overlap: they are read only
    assert same(made._quick_call(shared, None), made(shared, lengths=[4] * 3))


def unaligned(array: Any) -> Any:
    return np.frombuffer(b"_" + array.tobytes(), np.uint8)[1:].view(array.dtype).reshape(array.shape)


OTHER_LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "last axis": lambda v: np.repeat(v, 2, axis=-1)[..., ::2],
    "backwards": lambda v: v[..., ::-1].copy()[..., ::-1],
    "Fortran's order": np.asfortranarray,
    "unaligned": unaligned,
    "one number": lambda v: np.broadcast_to(v[..., :1], v.shape),
}


@pytest.mark.parametrize("layout", OTHER_LAYOUTS)
def test_floats_in_another_layout_are_copied_first(layout: str) -> None:
    made, other = compiled(graph()), OTHER_LAYOUTS[layout]
    x = x_of(made.model, 4, 3)
    state = {key: other(value) for key, value in made.advance(x)[1].items()}
    moved = {key: other(value) if value.dtype.kind == "f" else value for key, value in x.items()}
    dense = [{key: np.ascontiguousarray(value) for key, value in given.items()} for given in (moved, state)]
    assert same(made._quick_advance(moved, state), made._quick_advance(*dense))


def read_only(array: Any) -> Any:
    array = array.copy()
    array.flags.writeable = False
    return array


def test_arrays_that_cannot_be_written_to_are_plain() -> None:
    made = compiled(graph())
    x = x_of(made.model, 2, 2)
    assert same(made._quick_call({k: read_only(v) for k, v in x.items()}, None), made._quick_call(x, None))


CHANGES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "dtype": ("a", lambda v: v.astype(np.float64)),
    "dtype of integers": ("n", lambda v: v.astype(np.int32)),
    "unsigned": ("n", lambda v: v.astype(np.uint64)),
    "big-endian": ("b", lambda v: v.astype(v.dtype.newbyteorder(">"))),
    "big-endian integers": ("n", lambda v: v.astype(v.dtype.newbyteorder(">"))),
    "width": ("b", lambda v: v[..., :3].copy()),
    "steps": ("b", lambda v: v[:1].copy()),
    "rows": ("n", lambda v: v[:, :1].copy()),
    "axes": ("a", lambda v: v[0]),
    "subclass of arrays": ("a", np.ma.masked_array),
    "list": ("a", lambda v: v.tolist()),
    "none": ("n", lambda v: None),
    "beyond the table": ("n", lambda v: v + 9),
    "below the table": ("n", lambda v: v - 9),
    "no steps": ("a", lambda v: v[:0]),
    "no alignment of integers": ("n", lambda v: unaligned(v)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_array_that_is_not_plain_is_declined(change: str) -> None:
    made = compiled(graph())
    x = x_of(made.model, 3, 2)
    key, changed = CHANGES[change]
    bad = {**x, key: changed(x[key])}
    assert made._quick_call(bad, None) is None and made._quick_advance(bad, None) is None


class Own(dict[str, Any]):
    """A dict with ways of its own."""


def test_more_steps_than_fit_memory() -> None:
    """An x without strides may have any number of steps. Sizes in bytes must not overflow."""
    net = rnnc.Sequential(rnnc.Embedding(9, 16), rnnc.GRU(16, 4), readout="last")
    made, x = net.compile(net.init(0), threads=1), np.broadcast_to(np.int64(3), (1 << 58, 1))
    assert made._quick_call(x, None) is None
    assert made._quick_call(x[:4], None) is not None


def test_a_dict_of_other_names_or_another_class_is_declined() -> None:
    made = compiled(graph())
    x = x_of(made.model, 3, 2)
    missing = {key: x[key] for key in ("a", "n")}
    others: list[Any] = [missing, x | {"c": x["a"]}, missing | {"B": x["b"]}, {1: x["a"], 2: x["n"], 3: x["b"]}, {}]
    others += [Own(x), OrderedDict(x), tuple(x.values()), list(x.values()), x["a"], None]
    assert all(made._quick_call(other, None) is None for other in others)
    assert same(made(OrderedDict(x)), made(x)), "checked in Python, it is as good"
    with raises_saying(rnnc.ArgumentTypeError, "x", "'a'", "'b'"):
        made(missing)
    with raises_saying(rnnc.ShapeError, "as many steps and rows"):
        made(x | {"b": x["b"][:1]})
    assert made._quick_call(dict(reversed(x.items())), None) is not None, "in any order"


def test_states_that_are_not_plain_are_declined() -> None:
    made = compiled(graph())
    x = x_of(made.model, 3, 2)
    _, state = made.advance(x)
    h, *_ = state
    for other in (state[h].astype("f8"), state[h][:1], state[h].astype(">f4"), None, 3):
        assert made._quick_advance(x, state | {h: other}) is None
    for bad in ({}, Own(state), {h: state[h]}, state | {"more": state[h]}, tuple(state.values())):
        assert made._quick_advance(x, bad) is None


@pytest.mark.parametrize("name", GRAPHS)
def test_no_references_stay(name: str) -> None:
    made = compiled(GRAPHS[name])
    x = x_of(made.model, 2, 2)
    _, state = made.advance(x)
    bad = x | {"n": x["n"] + 9}

    def calls() -> None:
        for _ in range(100):
            assert made._quick_call(x, None) is not None and made._quick_advance(x, state) is not None
            assert made._quick_call(bad, None) is None and made._quick_advance(x | {"b": None}, state) is None

    calls()
    before, held = sys.getallocatedblocks(), [sys.getrefcount(v) for v in (*x.values(), *state.values())]
    calls()
    assert sys.getallocatedblocks() - before < 50
    assert [sys.getrefcount(v) for v in (*x.values(), *state.values())] == held
