"""Subject: batches given to training steps and evaluations, in all layouts and damaged.

A step with a batch that fits gives the loss, the norm and the parameters of the reference backend. A refused batch
changes nothing: neither parameters, nor what the optimiser keeps, nor the number of updates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

import rnnc
from rnnc import train
from rnnc.ir.errors import RnncError
from rnnc.networks.lowering import state_shapes
from rnnc.optimizers import SGD
from tests.fuzz.agreement import error
from tests.fuzz.arguments import FLOATS, LENGTHS, NAMED_STATES, NUMBERS, PARAMS, Change, expected
from tests.fuzz.faults import Fault, Tally, foreign
from tests.fuzz.source import Source

__all__ = ["Call", "Case"]

WORDS, CLASSES = 7, 3
MODELS: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "series": ("mse", lambda dtype: rnnc.Sequential(rnnc.LSTM(3, 5, dtype=dtype), rnnc.Linear(5, 2))),
    "tagger": (
        "cross_entropy",
        lambda dtype: rnnc.Sequential(rnnc.Embedding(WORDS, 4), rnnc.GRU(4, 9, dtype=dtype), rnnc.Linear(9, CLASSES)),
    ),
    "last": (
        "cross_entropy",
        lambda dtype: rnnc.Sequential(
            rnnc.Embedding(WORDS, 3),
            rnnc.RNN(3, 4, bidirectional=True, dtype=dtype),
            rnnc.Linear(8, CLASSES),
            readout="last",
        ),
    ),
    "mean": (
        "mse",
        lambda dtype: rnnc.Sequential(rnnc.RNN(2, 17, 2, dtype=dtype), rnnc.Linear(17, 3), readout="mean"),
    ),
}
"""Name -> loss and network."""

NARROW = ("tagger",)
"""Those in float32, whose tables are read by rows of four floats."""

TOLERANCE = {"float32": 1e-4, "float64": 1e-10}


def _value(value: Any, fits: bool | None = False) -> Change:
    return Change(fits, lambda a, n: value)


RATES: Mapping[str, Change] = {
    "zero": _value(0.0, None),
    "negative": _value(-0.1, None),
    "nan": _value(np.nan, None),
    "infinite": _value(np.inf, None),
    "overflows": _value(1e39, None),
    "text": _value("fast"),
    "list": _value([0.1]),
    "flag": _value(True, None),
    "array": _value(np.full((2, 2), 0.1)),
}
COUNTS: Mapping[str, Change] = {
    name: _value(value, None)
    for name, value in {
        "none": None,
        "zero": 0,
        "negative": -3,
        "huge": 2**70,
        "float": 2.5,
        "nan": float("nan"),
        "text": "4",
        "array": np.arange(3),
    }.items()
}
"""Of terms, row and start, which not every call reads."""

CLASS_TARGETS: Mapping[str, Change] = {
    "class beyond": Change(False, lambda a, n: _filled(a, CLASSES + n % 5)),
    "class far beyond": Change(False, lambda a, n: _filled(a, 1e9)),
    "no whole class": Change(False, lambda a, n: _filled(a, 0.5)),
    "integers": Change(None, lambda a, n: a.astype("int64")),
}
BATCHES: Mapping[str, Change] = {
    "tuple": Change(None, lambda b, n: tuple(b)),
    "none": _value(None),
    "text": _value("batch"),
    "number": _value(3),
    "empty": _value([], None),
    "one in a list": Change(None, lambda b, n: [b]),
    "twice": Change(None, lambda b, n: [b, b]),
    "with junk": Change(False, lambda b, n: [b, None]),
    "two fields": Change(False, lambda b, n: (b.x, b.target)),
    "fields of none": Change(False, lambda b, n: type(b)(None, None, None, 3)),
}
FIELDS: Mapping[str, Mapping[str, Change]] = {
    "x": FLOATS,
    "numbers": NUMBERS,
    "target": FLOATS,
    "classes": FLOATS | CLASS_TARGETS,
    "lengths": LENGTHS,
    "terms": COUNTS,
    "row": COUNTS,
    "start": COUNTS,
    "state": NAMED_STATES,
    "params": PARAMS,
    "learning_rate": RATES,
    "batch": BATCHES,
}
"""What may change -> how. "numbers" is an x of integers, "classes" a target of classes."""


@dataclass(frozen=True)
class Call:
    """function: "step", "gradients" or "evaluate". changes: (what, how, number)."""

    function: str
    steps: int
    rows: int
    ragged: bool
    seed: int
    changes: tuple[tuple[str, str, int], ...] = ()


@dataclass(frozen=True)
class Case:
    """Calls of one network, one after the other."""

    model: str
    calls: tuple[Call, ...]
    threads: int = 1


def draw(source: Source) -> Case:
    model = source.pick(tuple(MODELS))
    calls = source.many(lambda: _draw_call(source, model), 1, 60, more=95)
    return Case(model, tuple(calls), 2 if source.chance(30) else 1)


def _draw_call(source: Source, model: str) -> Call:
    function = source.pick(("step", "gradients", "evaluate"))
    steps, rows, ragged = source.pick((1, 2, 3, 5)), source.pick((1, 2, 3, 5, 9)), source.chance(40)
    names = ["numbers" if _net(model).embedding else "x", "classes" if _loss(model) == "cross_entropy" else "target"]
    names += ["terms", "row", "start", "batch"] + ["lengths"] * (2 * ragged)
    names += {"step": ["learning_rate"], "gradients": [], "evaluate": ["params"]}[function]
    if function != "evaluate" and model == "series":
        names.append("state")

    def change() -> tuple[str, str, int]:
        name = source.pick(names)
        return name, source.pick(tuple(FIELDS[name])), source.below(1000)

    changes = source.many(change, 0, 2, more=60)
    return Call(function, steps, rows, ragged, source.below(3), tuple({c[0]: c for c in changes}.values()))


# ------------------------------------------------------------------------------------------ what is called


@cache
def _net(model: str, dtype: str = "") -> Any:
    return MODELS[model][1](dtype or ("float32" if model in NARROW else "float64"))


def _loss(model: str) -> str:
    return MODELS[model][0]


class _Trainer:
    """A step and an evaluation, which are brought back to the same start before each call."""

    def __init__(self, model: str, backend: str, threads: int) -> None:
        net = _net(model, "float64" if backend == "reference" else "")
        start = {name: array.astype(net.dtype) for name, array in _net(model).init(3).items()}
        options: dict[str, Any] = {"backend": backend, "threads": threads}
        carry = model == "series"
        self.step = train.TrainingStep(net, _loss(model), SGD(0.1, momentum=0.9), params=start, carry=carry, **options)
        self.evaluation = train.Evaluation(net, _loss(model), **options)
        self.start = self.step.flat.copy()
        self.params = start

    def reset(self) -> None:
        self.step.flat[...] = self.start
        for slot in self.step.slots.values():
            slot[...] = 0
        self.step.updates = 0

    def untouched(self) -> bool:
        slots = any(slot.any() for slot in self.step.slots.values())
        return self.step.updates == 0 and not slots and self.step.flat.tobytes() == self.start.tobytes()

    def call(self, function: str, a: Mapping[str, Any]) -> list[Any]:
        """The numbers that come of a call."""
        if function == "evaluate":
            loss, output = self.evaluation(a.get("params", self.params), a["batch"])
            return [np.float64(loss), output]
        if function == "gradients":
            loss, gradients = self.step.gradients(a["batch"], a.get("state"))
            return [np.float64(loss), *gradients.values()]
        outcome, last = self.step.step(a["batch"], a.get("learning_rate"), a.get("state"))
        params = [p.copy() for p in self.step.params.values()]
        return [np.float64(outcome.loss), np.float64(outcome.norm), *last.values(), *params]


@cache
def _trainer(model: str, backend: str, threads: int) -> _Trainer:
    return _Trainer(model, backend, threads)


def _lengths(call: Call) -> Any:
    """Of a ragged batch; the first row is whole."""
    lengths = np.random.default_rng((call.steps, call.rows, call.seed)).integers(0, call.steps + 1, call.rows)
    lengths[0] = call.steps
    return lengths


def _arguments(model: str, call: Call, dtype: str) -> dict[str, Any]:
    """Plain arguments: the fields of a batch, and what comes beside it."""
    net = _net(model)
    rng = np.random.default_rng((call.seed, call.steps, call.rows))
    sizes, lengths = (call.steps, call.rows), _lengths(call)
    if net.embedding:
        found: dict[str, Any] = {"numbers": rng.integers(0, WORDS, sizes)}
    else:
        found = {"x": rng.standard_normal((*sizes, net.input_size)).astype(net.dtype).astype(dtype)}
    timed = sizes if net.readout == "every" else sizes[1:]
    if _loss(model) == "cross_entropy":
        found["classes"] = rng.integers(0, CLASSES, (*timed, 1)).astype(dtype)
    else:
        found["target"] = rng.standard_normal((*timed, net.output_size)).astype(net.dtype).astype(dtype)
    found["lengths"] = lengths if call.ragged else None
    each = 1 if "classes" in found else net.output_size
    rows_steps = int(lengths.sum()) if call.ragged and net.readout == "every" else int(np.prod(timed))
    found |= {"terms": each * rows_steps, "row": 0, "start": 0}
    if model == "series":
        found["state"] = {
            name: rng.standard_normal((call.rows, width)).astype(net.dtype).astype(dtype)
            for name, (_, _, width) in state_shapes(net).items()
        }
    return found


def _with_batch(arguments: Mapping[str, Any]) -> dict[str, Any]:
    a = dict(arguments)
    x = a["x"] if "x" in a else a["numbers"]
    target = a["target"] if "target" in a else a["classes"]
    batch = train.Batch(
        {"x": x}, {"output": target}, a["lengths"], {"output": a["terms"]}, row=a["row"], start=a["start"]
    )
    return a | {"batch": batch}


@cache
def _right(model: str, call: Call) -> list[Any]:
    """What the reference backend makes of a call without changes."""
    trainer = _trainer(model, "reference", 1)
    trainer.reset()
    found = trainer.call(call.function, _with_batch(_arguments(model, call, "float64")))
    return [np.array(array) for array in found]


# ------------------------------------------------------------------------------------------ checking


def check(case: Case, tally: Tally) -> None:
    for call in case.calls:
        with np.errstate(all="ignore"):
            _check(case.model, call, case.threads, tally)


def _check(model: str, call: Call, threads: int, tally: Tally) -> None:
    trainer = _trainer(model, "llvm", threads)
    arguments = _arguments(model, call, _net(model).dtype)
    if call.function != "evaluate" or not any(name == "params" for name, _, _ in call.changes):
        arguments["learning_rate"] = None
    fits = []
    for name, how, number in call.changes:
        plain = arguments | {"params": trainer.params, "batch": None}
        change = FIELDS[name][how]
        harmless = name == "numbers" and how in ("beyond", "negative", "unsigned") and _in_padding(call, number)
        fits.append(None if harmless else change.fits)
        if name != "batch":
            arguments[name] = change.make(plain[name], number)
    given = _with_batch(arguments)
    for name, how, number in call.changes:
        if name == "batch":
            given["batch"] = FIELDS[name][how].make(given["batch"], number)
    where = " ".join([call.function, *(f"{name} {how}" for name, how, _ in call.changes)])
    trainer.reset()
    _outcome(model, call, trainer, given, expected(fits), where, tally)


def _in_padding(call: Call, number: int) -> bool:
    """Whether the number of a row of a table that a change sets lies past the end of its sequence: nobody reads it."""
    step, row = divmod(number % (call.steps * call.rows), call.rows)
    return call.ragged and step >= _lengths(call)[row]


def _outcome(
    model: str, call: Call, trainer: _Trainer, given: Mapping[str, Any], fits: bool | None, where: str, tally: Tally
) -> None:
    """Makes the call. A batch in another layout may be refused, but what is accepted must be right."""
    tally["calls"] += 1
    try:
        found = trainer.call(call.function, given)
    except RnncError as error:
        if fits and not call.changes:
            raise Fault("refused", where, f"{type(error).__name__}: {error}") from error
        if not trainer.untouched():
            raise Fault("changed", where, f"{type(error).__name__} after the parameters changed") from error
        tally[type(error).__name__] += 1
        return
    except MemoryError as error:
        if "huge" not in where:
            raise foreign(where, error) from error
        tally["MemoryError"] += 1
        return
    except Exception as error:
        raise foreign(where, error) from error
    if fits is False:
        raise Fault("accepted", where, "no error")
    if fits:
        _check_right(found, _right(model, Call(call.function, call.steps, call.rows, call.ragged, call.seed)), where)
    tally["ok"] += 1


def _check_right(found: list[Any], right: list[Any], where: str) -> None:
    dtype = str(found[-1].dtype)
    for number, (value, wanted) in enumerate(zip(found, right, strict=True)):
        if np.shape(value) != np.shape(wanted) or not error(np.asarray(value), wanted) <= TOLERANCE[dtype]:
            off = f"{np.shape(value)}, {error(np.asarray(value), wanted):.3g} off"
            raise Fault("wrong", where, f"result {number}: {off}")


def _filled(a: Any, value: float) -> Any:
    copy = a.copy()
    copy[...] = value
    return copy
