"""What a torch.fx graph says of its nodes: names, what an argument is read as, and what is changed in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rnnc.ir.errors import TorchError
from rnnc.torch.tracing import kind_of, place_of

__all__ = ["calls_cells", "check_in_place", "declared_widths", "function_name", "uses"]

RECURRENT = ("RNN", "GRU", "LSTM", "Recurrent", "RNNCell", "GRUCell", "LSTMCell")
SAME = ("getitem", "long", "int", "to", "cpu", "contiguous", "t", "transpose", "permute")
"""Functions whose result is read as what they read."""
VIEWS = (*SAME, "squeeze", "unsqueeze", "view", "reshape", "flatten", "expand", "chunk", "split", "swapaxes", "detach")
"""Functions whose result may have the memory of what they read."""


def function_name(node: Any) -> str:
    """Without the underscore of one that works in place."""
    target = node.target
    return str(target if isinstance(target, str) else getattr(target, "__name__", target)).rstrip("_")


def uses(root: Any, node: Any) -> set[str]:
    """What modules read the value of a node, or parts of it, as: "state", "looked up" or "else"."""
    found = set()
    for user in node.users:
        kind = kind_of(root.get_submodule(str(user.target))) if user.op == "call_module" else None
        if kind in RECURRENT and user.args[:1] != (node,):
            found.add("state")
        elif kind == "Embedding" or function_name(user) == "embedding":
            found.add("looked up")
        elif function_name(user) in SAME:
            found |= uses(root, user)
        elif function_name(user) not in ("size", "getattr", "dim", "_assert_is_none", "eq"):
            found.add("else")
    return found


def calls_cells(root: Any, graph: Any) -> bool:
    """Whether a module is called that reads one step, (B, N)."""
    called = [root.get_submodule(str(node.target)) for node in graph.nodes if node.op == "call_module"]
    return any((kind_of(module) or "").endswith("Cell") for module in called)


def declared_widths(root: Any, arguments: Sequence[Any]) -> dict[str, int]:
    """Argument of forward() -> its width, where a module reads it as it is and says how wide it is."""
    found = {}
    for node in arguments:
        for user in node.users:
            module = root.get_submodule(str(user.target)) if user.op == "call_module" else None
            said = [getattr(module, name, None) for name in ("in_features", "input_size", "in_channels")]
            if user.args[:1] == (node,) and any(said):
                found[str(node.target)] = next(width for width in said if width)
    return found


def check_in_place(root: Any, graph: Any) -> None:
    """Raises TorchError if a tensor that a call has changed in place is read again under its old name.

    In a traced graph the change is a value of its own, and the old name stands for what was there before.
    """
    order = {node: number for number, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        if node.args and _changes(root, node):
            late = [user for alias in _aliases(node.args[0]) for user in alias.users if order[user] > order[node]]
            if late:
                what = f"{node.name} changes a tensor in place{place_of(node)}"
                raise TorchError(f"{what}, which {late[0].name} reads again{place_of(late[0])}; make a new one")


def _changes(root: Any, node: Any) -> bool:
    if node.op == "call_module":
        return bool(getattr(root.get_submodule(str(node.target)), "inplace", False))
    if node.op not in ("call_function", "call_method"):
        return False
    name = str(getattr(node.target, "__name__", node.target))
    works = name.endswith("_") and not name.startswith("_")
    return works or name in ("iadd", "isub", "imul", "itruediv", "setitem") or node.kwargs.get("inplace") is True


def _aliases(node: Any) -> set[Any]:
    """A node, and those that may share its memory."""
    first = node
    while _is_view(first) and first.args:
        first = first.args[0]
    found, new = {first}, [first]
    while new:
        new = [user for alias in new for user in alias.users if _is_view(user) and user not in found]
        found |= set(new)
    return found


def _is_view(node: Any) -> bool:
    return node.op in ("call_function", "call_method") and function_name(node) in VIEWS
