"""Recursion without Python's stack, whose depth a chain of equations may exceed.

A recursive procedure is written as a generator that yields its calls:

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
    """Runs a procedure to its end, and each call that it yields before it goes on."""
    stack = [call]
    while stack:
        inner = next(stack[-1], None)
        if inner is None:
            stack.pop()
        else:
            stack.append(inner)
