"""Recursion without Python's call stack. A chain of equations may be deeper than that stack allows.

A recursive procedure is written as a generator that yields its recursive calls:

    def visit(node):
        for operand in node.inputs:
            yield visit(operand)
        done.append(node)

    run(visit(root))
"""

from __future__ import annotations

from collections.abc import Generator

Calls = Generator["Calls", None, None]


def run(call: Calls) -> None:
    """Runs a procedure to its end. Each call that it yields is run before the procedure continues."""
    stack = [call]
    while stack:
        inner = next(stack[-1], None)
        if inner is None:
            stack.pop()
        else:
            stack.append(inner)
