"""forward() of a module as a graph of calls: torch.fx, which runs it once with proxies in place of tensors.

Modules of torch.nn are calls; all others are traced into. What their forward() decides by the numbers of a tensor, or
loops over a size, cannot be traced.
"""

from __future__ import annotations

import inspect
import math
import os
import warnings
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import fx

from rnnc.checking import checks
from rnnc.ir.errors import ArgumentError, TorchError

__all__ = ["kind_of", "place_of", "trace"]


class _Tracer(fx.Tracer):  # type: ignore[misc]
    record_stack_traces = True

    def __init__(self) -> None:
        super().__init__(autowrap_modules=(math, torch.nn.utils.rnn))

    def is_leaf_module(self, m: Any, module_qualified_name: str) -> bool:
        return kind_of(m) is not None


def trace(module: Any, arguments: Mapping[str, Any]) -> Any:
    """The torch.fx.Graph of forward().

    arguments: values of arguments that are no tensors; those that have a default otherwise get it.
    """
    if module._forward_hooks or module._forward_pre_hooks:
        raise TorchError("module: it has forward hooks, which rnnc would not call; remove them")
    if kind_of(module) is not None:
        return _single(module)
    parameters = inspect.signature(module.forward).parameters
    for name in arguments:
        if name not in parameters:
            hint = checks.suggestion(name, parameters)
            raise ArgumentError(f"arguments: {checks.shown(name)} is no argument of forward(){hint}")
    fixed = {name: p.default for name, p in parameters.items() if p.default is not p.empty} | dict(arguments)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # arguments that fx cannot assert anything of
            return _Tracer().trace(module, fixed or None)
    except Exception as error:  # whatever forward() and torch raise of proxies
        raise TorchError(
            f"module: forward() of {type(module).__name__} cannot be traced by torch.fx, which runs it without data: "
            f"{type(error).__name__}: {error}. What it decides may depend on the module, not on numbers or sizes of "
            "its inputs; arguments={name: value} fixes arguments that are no tensors"
        ) from error


def _single(module: Any) -> Any:
    """The graph of a module of torch.nn by itself."""
    graph = fx.Graph(fx.GraphModule({}, fx.Graph()))
    graph.output(graph.create_node("call_module", "", (graph.placeholder("x"),), name=kind_of(module)))
    return graph


TORCH = os.path.dirname(torch.__file__)
"""The folder of PyTorch, whose own lines are no lines of forward()."""
CONTAINERS = ("Sequential", "ModuleList", "ModuleDict", "ParameterList", "ParameterDict", "Module")


def kind_of(module: Any) -> str | None:
    """The name of the class, of torch.nn or rnnc.torch, whose forward() the module runs; None of all others."""
    if type(module).__module__ == "rnnc.torch":
        return type(module).__name__
    for base in type(module).__mro__:
        if base.__module__.startswith(("torch.nn.", "torch.ao.")):
            own = type(module).forward is getattr(base, "forward", None) and base.__name__ not in CONTAINERS
            return base.__name__ if own else None
    return None


def place_of(node: Any) -> str:
    """The line of forward() that made a node; an empty text if that is not known."""
    lines = [line.strip() for line in (node.stack_trace or "").splitlines()]
    own = [
        line
        for frame, line in pairwise(lines)
        if frame.startswith("File ") and not line.startswith("File ") and TORCH not in frame
    ]
    return f" in `{own[-1]}`" if own else ""
