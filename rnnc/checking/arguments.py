"""Calls whose arguments do not fit a signature: Python's TypeError becomes rnnc's, with a hint at what was meant.

`explained` wraps functions and methods, `explained_class` the generated `__init__` of a dataclass. Both keep the
signature for `inspect.signature` and type checkers. The wrapper is too slow for calls of a microsecond, which therefore
check their arguments themselves (`rnnc.quick`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

from rnnc.checking import checks
from rnnc.ir.errors import ArgumentTypeError, RnncError

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

HABITS: Mapping[str, tuple[str, ...]] = {
    "activation": ("nonlinearity",),
    "betas": ("beta1",),
    "clip_grad_norm": ("clip",),
    "device": ("backend",),
    "embedding_dim": ("size",),
    "eps": ("epsilon",),
    "gamma": ("factor",),
    "h0": ("state",),
    "h_0": ("state",),
    "hidden": ("state",),
    "hx": ("state",),
    "in_features": ("input_size",),
    "initial_state": ("state",),
    "input": ("x",),
    "inputs": ("x",),
    "lr": ("learning_rate", "optimizer"),
    "learning_rate": ("optimizer",),
    "max_norm": ("clip",),
    "num_epochs": ("epochs",),
    "num_threads": ("threads",),
    "out_features": ("output_size",),
    "padding_idx": ("padding_index",),
    "parameters": ("params",),
    "seq_lens": ("lengths",),
    "sequence_length": ("lengths",),
    "state_dict": ("params",),
    "units": ("hidden_size", "output_size"),
    "weights": ("params",),
}
"""Names that other libraries use -> rnnc's names. A message suggests the first of them that the function has."""


def explained(function: Callable[P, R]) -> Callable[P, R]:
    """The function, wrapped so that a call that does not fit its signature raises ArgumentTypeError."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except TypeError as error:
            fault = "" if isinstance(error, RnncError) else misfit(function, args, kwargs)
            if not fault:
                raise
        raise ArgumentTypeError(fault)

    return call


def explained_class(cls: type[T]) -> type[T]:
    """The class, with an `explained` `__init__`."""
    setattr(cls, "__init__", explained(cls.__init__))  # noqa: B010 - type checkers keep the generated signature
    return cls


def misfit(function: Callable[..., Any], args: Sequence[object], kwargs: Mapping[str, object]) -> str:
    """The reason why a function cannot be called with these arguments; an empty text if it can."""
    import inspect

    parameters = list(inspect.signature(function).parameters.values())
    who = function.__qualname__
    if args and parameters and parameters[0].name == "self":
        owner = type(args[0]).__name__  # which may have inherited the method
        who, parameters, args = f"{owner}.{function.__name__}", parameters[1:], args[1:]
    kinds = {p.kind for p in parameters}
    names = [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    placed = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    who = who.removesuffix(".__init__").removesuffix(".__call__")
    for name in kwargs:
        if name not in names and inspect.Parameter.VAR_KEYWORD not in kinds:
            return f"{who} takes no argument {name!r}; {_meant(name, names)}"
        if name in placed[: len(args)]:
            return f"{who}: {name} is given twice, by its place and by its name"
    if len(args) > len(placed) and inspect.Parameter.VAR_POSITIONAL not in kinds:
        named = [f"{name}=" for name in names if name not in placed]
        rest = f"; give {' and '.join(named)} by name" if named else ""
        return f"{who} takes {', '.join(placed) or 'nothing'} by place, got {len(args)} arguments{rest}"
    needed = [p.name for p in parameters if p.default is p.empty and p.name in names]
    missing = [name for name in needed if name not in (*placed[: len(args)], *kwargs)]
    return f"{who} needs {' and '.join(missing)}" if missing else ""


def _meant(name: str, names: Sequence[str]) -> str:
    for habit in HABITS.get(name.lower(), ()):
        if habit in names:
            return f"did you mean {habit!r}?"
    hint = checks.suggestion(name, names).strip(" ()")
    return hint or f"it takes {', '.join(names) or 'none'}"
