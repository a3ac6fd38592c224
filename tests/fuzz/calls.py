"""Subject: calls of bound models, networks and derivatives, with arguments in all layouts, and damaged ones.

Models are made once per process and called many times. A call's arguments start from plain arrays, whose right result
the reference backend gave; each is then changed (`arguments`) or left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

import rnnc
from rnnc.ir.errors import RnncError
from tests.fuzz.agreement import TOLERANCE, Data, Point, error, flat
from tests.fuzz.arguments import FLOATS, LENGTHS, NAMED_STATES, NUMBERS, PARAMS, STATES, T_PARAMS, Change, expected
from tests.fuzz.faults import Fault, Tally, foreign, refused
from tests.fuzz.source import Source
from tests.user_cells import FastAndSlow, LayerNormLSTM

__all__ = ["Call", "Case", "Data"]

SPECS: Mapping[str, Any] = {
    "rnn": rnnc.RNN(3, 4),
    "lstm": rnnc.LSTM(3, 5),
    "gru": rnnc.GRU(4, 9, batch_first=True, dtype="float64"),
    "deep": rnnc.LSTM(2, 8, 2, bidirectional=True),
    "projected": rnnc.LSTM(3, 6, proj_size=2, batch_first=True, bidirectional=True),
    "user": rnnc.Recurrent(FastAndSlow(), 5, 7, dtype="float64"),
    "normed": rnnc.Recurrent(LayerNormLSTM(), 3, 17),
}
NETWORKS: Mapping[str, Callable[[str], Any]] = {
    "tagger": lambda dtype: rnnc.Sequential(rnnc.Embedding(7, 4), rnnc.GRU(4, 5, dtype=dtype), rnnc.Linear(5, 3)),
    "last": lambda dtype: rnnc.Sequential(
        rnnc.LSTM(3, 4, 2, batch_first=True, dtype=dtype), rnnc.Linear(4, 2), readout="last"
    ),
    "mean": lambda dtype: rnnc.Sequential(
        rnnc.Embedding(7, 3), rnnc.RNN(3, 4, bidirectional=True, dtype=dtype), rnnc.Linear(8, 2), readout="mean"
    ),
    "vectors": lambda dtype: rnnc.Sequential(rnnc.RNN(3, 6, batch_first=True, dtype=dtype), rnnc.Linear(6, 5)),
}
DERIVED = ("lstm", "gru", "user")
"""Specs whose derivatives are called."""

STEPS, ROWS, MOST_CALLS = (1, 2, 3, 5, 8), (1, 2, 3, 5, 9, 0, None), 400

KINDS: Mapping[str, Mapping[str, Change]] = {
    "x": FLOATS, "t_x": FLOATS, "d_output": FLOATS, "t_d_output": FLOATS, "numbers": NUMBERS, "lengths": LENGTHS,
    "params": PARAMS, "t_params": T_PARAMS, "state": STATES, "t_state": STATES, "d_state": STATES, "t_d_state": STATES,
    "states": NAMED_STATES,
}  # fmt: skip
"""Argument -> its changes. "numbers" is an x of integers, "states" the state of a network."""


ARGUMENTS: Mapping[str, tuple[str, ...]] = {
    "forward": (),
    "vjp": ("params", "d_output", "d_state"),
    "jvp": ("params", "t_params", "t_x", "t_state"),
    "hvp": ("params", "d_output", "d_state", "t_params", "t_x", "t_state", "t_d_output", "t_d_state"),
}
"""Function of a spec -> its arguments beyond x, state and lengths."""


@dataclass(frozen=True)
class Call:
    """function: "forward", "vjp", "jvp", "hvp", "network" or "advance". changes: (argument, name, number).

    out: "" or the name of a way to give it, see `OUTS`.
    """

    function: str
    data: Data
    changes: tuple[tuple[str, str, int], ...] = ()
    out: str = ""


@dataclass(frozen=True)
class Case:
    """Calls of one model, one after the other."""

    model: str
    calls: tuple[Call, ...]


# ------------------------------------------------------------------------------------------ drawing


def draw(source: Source) -> Case:
    model = source.pick((*SPECS, *NETWORKS))
    return Case(model, tuple(source.many(lambda: draw_call(source, model), 1, MOST_CALLS, more=99)))


def draw_call(source: Source, model: str) -> Call:
    function = "forward"
    if model in NETWORKS:
        function = "advance" if _causal(model) and source.chance(50) else "network"
    elif model in DERIVED and source.chance(12):
        function = source.pick(("vjp", "jvp", "hvp"))
    steps, rows = source.pick(STEPS), source.pick(ROWS if model in SPECS else ROWS[:-1])
    initial = source.chance(50) and function != "network"
    lengths = None
    seed = source.below(3)
    if source.chance(30):
        rng = np.random.default_rng((seed, steps))
        lengths = tuple(int(n) for n in rng.integers(0, steps, 1 if rows is None else rows, endpoint=True))
    data = Data(steps, rows, lengths, initial, seed)
    names = _names(model, function, data)

    def change() -> tuple[str, str, int]:
        name = source.pick(names)
        return name, source.pick(tuple(KINDS[name])), source.below(1000)

    changes = source.many(change, 0, 2, more=60)
    out = source.pick(tuple(OUTS)) if function == "forward" and source.chance(20) else ""
    return Call(function, data, tuple({name: (name, what, n) for name, what, n in changes}.values()), out)


def _causal(model: str) -> bool:
    return bool(NETWORKS[model]("float32").causal) and NETWORKS[model]("float32").readout != "mean"


def _names(model: str, function: str, data: Data) -> tuple[str, ...]:
    """The arguments of a call, which may change."""
    lengths = () if data.lengths is None else ("lengths",)
    if model in NETWORKS:
        x = "x" if NETWORKS[model]("float32").embedding is None else "numbers"
        return x, *(("states",) if data.initial else ()), *lengths
    state = ("state",) if data.initial else ()
    return "x", *state, *lengths, *ARGUMENTS[function]


# ------------------------------------------------------------------------------------------ what is called


class _SpecTarget:
    """One function of a spec."""

    def __init__(self, spec: Any, function: str) -> None:
        self.spec, self.mode = spec, function
        double = replace(spec, dtype="float64")
        params = Point(spec, Data(1, 1, None, False, 0)).params
        self.params = params  # of all calls: a model is bound to its parameters
        if function == "forward":
            self.f = rnnc.compile(spec, params, threads=1)
            wide = {name: array.astype("float64") for name, array in params.items()}
            self.right: Any = rnnc.compile(double, wide, backend="reference")
        else:
            self.f = getattr(rnnc, function)(spec, threads=1)
            self.right = getattr(rnnc, function)(double, backend="reference")

    def arguments(self, data: Data, double: bool = False) -> dict[str, Any]:
        """Plain arguments by name."""
        point = Point(self.spec, data)
        point.params = self.params
        point = point.cast("float64") if double else point
        found: dict[str, Any] = {"x": point.x}
        if point.state is not None:
            found["state"] = point.state
        others = {
            "params": point.params,
            **dict(zip(("d_output", "d_state"), point.seeds, strict=True)),
            **dict(zip(("t_params", "t_x", "t_state"), point.along, strict=True)),
            **dict(zip(("t_d_output", "t_d_state"), point.seeds_along, strict=True)),
        }
        return found | point.options | {name: others[name] for name in ARGUMENTS[self.mode]}

    def call(self, f: Any, a: Mapping[str, Any]) -> Any:
        options = {name: a[name] for name in ("lengths", "out") if name in a}
        state = a.get("state")
        if self.mode == "forward":
            return f(a["x"], state, **options)
        if self.mode == "vjp":
            result, pullback = f(a["params"], a["x"], state, **options)
            return result, pullback(a["d_output"], a["d_state"])
        primals, along = (a["params"], a["x"], state), (a["t_params"], a["t_x"], a["t_state"])
        if self.mode == "jvp":
            return f(primals, along, **options)
        return f(primals, (a["d_output"], a["d_state"]), along, (a["t_d_output"], a["t_d_state"]), **options)


class _NetworkTarget:
    """One function of a network."""

    def __init__(self, make: Callable[[str], Any], function: str) -> None:
        self.mode = function
        self.spec = make("float32")
        params = self.spec.init(1)
        self.net = self.spec.compile(params, threads=1)
        double = {name: array.astype("float64") for name, array in params.items()}
        other = make("float64").compile(double, backend="reference")
        self.f = self._function(self.net)
        self.right: Any = self._function(other)

    def _function(self, net: Any) -> Any:
        return net if self.mode == "network" else net.advance

    def arguments(self, data: Data, double: bool = False) -> dict[str, Any]:
        rng = np.random.default_rng((data.seed, data.steps))
        sizes = (data.rows, data.steps) if self.spec.batch_first else (data.steps, data.rows)
        dtype = "float64" if double else "float32"
        found: dict[str, Any] = {}
        if self.spec.embedding is not None:
            found["numbers"] = rng.integers(0, 7, sizes)
        else:
            found["x"] = rng.standard_normal((*sizes, self.spec.input_size)).astype("float32").astype(dtype)
        if data.initial:
            widths = rnnc.networks.lowering.state_shapes(self.spec)
            found["states"] = {
                name: rng.standard_normal((data.rows, width)).astype("float32").astype(dtype)
                for name, (_, _, width) in widths.items()
            }
        return found | ({} if data.lengths is None else {"lengths": np.array(data.lengths, np.int64)})

    def call(self, f: Any, a: Mapping[str, Any]) -> Any:
        x = a["x"] if "x" in a else a["numbers"]
        options = {"lengths": a["lengths"]} if "lengths" in a else {}
        return f(x, **options) if self.mode == "network" else f(x, a.get("states"), **options)


@cache
def _target(model: str, function: str) -> Any:
    if model in NETWORKS:
        return _NetworkTarget(NETWORKS[model], function)
    return _SpecTarget(SPECS[model], function)


class _Plain:
    """Plain arguments, their right result, and the bytes that a first call of them gave."""

    def __init__(self, target: Any, data: Data) -> None:
        self.arguments = target.arguments(data)
        with np.errstate(all="ignore"):
            self.expected = list(flat(target.call(target.right, target.arguments(data, double=True))).values())
        self.bytes: list[bytes] | None = None


@cache
def _plain(model: str, function: str, data: Data) -> _Plain:
    return _Plain(_target(model, function), data)


# ------------------------------------------------------------------------------------------ arrays to write into


def _arrays_like(result: Any) -> Any:
    output, state = result
    states = tuple(map(np.empty_like, state)) if isinstance(state, tuple) else np.empty_like(state)
    return np.empty_like(output), states


def _out_state(result: Any, change: Callable[[Any], Any]) -> Any:
    output, state = _arrays_like(result)
    return output, tuple(map(change, state)) if isinstance(state, tuple) else change(state)


def _one_place(a: Any) -> Any:
    """An array all of whose elements lie in one place."""
    return np.lib.stride_tricks.as_strided(np.zeros(1, a.dtype), a.shape, (0,) * a.ndim)


OUTS: Mapping[str, tuple[bool | None, Callable[[Any, Any], Any]]] = {
    "both": (True, lambda x, r: _arrays_like(r)),
    "output": (True, lambda x, r: _arrays_like(r)[0]),
    "list": (True, lambda x, r: list(_arrays_like(r))),
    "strided": (True, lambda x, r: FLOATS["strided"].make(_arrays_like(r)[0], 1)),
    "reversed": (True, lambda x, r: FLOATS["reversed"].make(_arrays_like(r)[0], 3)),
    "swapped": (True, lambda x, r: FLOATS["swapped"].make(_arrays_like(r)[0], 5)),
    "three": (False, lambda x, r: (*_arrays_like(r), None)),
    "text": (False, lambda x, r: "out"),
    "readonly": (False, lambda x, r: FLOATS["readonly"].make(_arrays_like(r)[0], 0)),
    "longer": (False, lambda x, r: np.empty((*r[0].shape[:-1], r[0].shape[-1] + 1), r[0].dtype)),
    "shorter": (False, lambda x, r: np.empty((*r[0].shape[:-1], r[0].shape[-1] - 1), r[0].dtype)),
    "other dtype": (False, lambda x, r: np.empty(r[0].shape, "int32")),
    "no state": (False, lambda x, r: (_arrays_like(r)[0], None)),
    "state of text": (False, lambda x, r: _out_state(r, lambda s: "s")),
    "longer state": (False, lambda x, r: _out_state(r, lambda s: np.empty((s.shape[0] + 1, *s.shape[1:]), s.dtype))),
    "readonly state": (None, lambda x, r: _out_state(r, lambda s: FLOATS["readonly"].make(s, 0))),
    "strided state": (None, lambda x, r: _out_state(r, lambda s: FLOATS["strided"].make(s, 1))),
    "x itself": (None, lambda x, r: x),
    "one place": (None, lambda x, r: _one_place(r[0])),
}  # fmt: skip
"""Ways to give `out`, from x and a result: whether it fits, and what to pass."""


# ------------------------------------------------------------------------------------------ checking


def check(case: Case, tally: Tally) -> None:
    for call in case.calls:
        with np.errstate(all="ignore"):
            _check(case.model, call, tally)


def _check(model: str, call: Call, tally: Tally) -> None:
    target, plain = _target(model, call.function), _plain(model, call.function, call.data)
    if plain.bytes is None:
        plain.bytes = _first(target, plain, f"{model} {call.function}")
    arguments = dict(plain.arguments)
    fits: list[bool | None] = []
    for name, what, number in call.changes:
        change = KINDS[name][what]
        arguments[name] = change.make(arguments[name], number)
        fits.append(change.fits)
    if call.out:
        fit, make = OUTS[call.out]
        arguments["out"] = make(arguments["x"], _result(plain, target))
        fits.append(fit)
    where = " ".join([call.function, *(f"{name} {what}" for name, what, _ in call.changes), call.out]).strip()
    before = _bytes(arguments)
    result = _outcome(target, arguments, expected(fits), where, tally)
    if result is not None and expected(fits):
        _check_result(target, plain, result, where)
    if _bytes(arguments) != before:
        raise Fault("changed", where, "an argument was written to")


def _result(plain: _Plain, target: Any) -> Any:
    return target.call(target.f, plain.arguments)


def _outcome(target: Any, arguments: Mapping[str, Any], fits: bool | None, where: str, tally: Tally) -> Any:
    """The result; None if the call was refused, as it should be or may be."""
    tally["calls"] += 1
    try:
        result = target.call(target.f, arguments)
    except RnncError as error:
        if fits:
            raise refused(where, error) from error
        tally[type(error).__name__] += 1
        return None
    except MemoryError as error:
        if "huge" not in where:
            raise foreign(where, error) from error
        tally["MemoryError"] += 1
        return None
    except Exception as error:
        raise foreign(where, error) from error
    if fits is False:
        raise Fault("accepted", where, "no error")
    tally["ok"] += 1
    return result


def _first(target: Any, plain: _Plain, where: str) -> list[bytes]:
    found = list(flat(target.call(target.f, plain.arguments)).values())
    for array, wanted in zip(found, plain.expected, strict=True):
        if array.shape != wanted.shape or not error(array, wanted) <= TOLERANCE[str(array.dtype)]:
            raise Fault("wrong", where, f"{array.dtype} {array.shape} is {error(array, wanted):.3g} off")
    return [array.tobytes() for array in found]


def _check_result(target: Any, plain: _Plain, result: Any, where: str) -> None:
    found = list(flat(result).values())
    assert plain.bytes is not None
    if [array.tobytes() for array in found] == plain.bytes:
        return
    for array, wanted in zip(found, plain.expected, strict=True):
        if array.shape != wanted.shape or not error(array, wanted) <= TOLERANCE[str(array.dtype)]:
            raise Fault("wrong", where, f"{array.dtype} {array.shape} is {error(array, wanted):.3g} off")


def _bytes(arguments: Mapping[str, Any]) -> list[bytes]:
    """The contents of the arrays that are read."""
    found: list[bytes] = []
    for name, value in arguments.items():
        if name == "out":
            continue
        items = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple) else (value,)
        found += [item.tobytes() for item in items if type(item) is np.ndarray and item.nbytes < 1 << 16]
    return found
