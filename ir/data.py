"""A Graph and a Program as plain data, for programs that read a dump: what the text shows, as lists and dicts."""

from __future__ import annotations

from typing import Any

from rnnc.ir.families import Family
from rnnc.ir.graph import Graph, Node
from rnnc.ir.program import Loop, Program, Statement


def graph_data(graph: Graph) -> dict[str, Any]:
    """dtype, steps, nodes in topological order, and outputs: name -> index of a node, or one index per step."""
    outputs = {k: v.index if isinstance(v, Node) else [n.index for n in v] for k, v in graph.outputs.items()}
    return {"dtype": graph.dtype, "steps": graph.steps, "nodes": list(map(_node, graph.nodes)), "outputs": outputs}


def _node(node: Node) -> dict[str, Any]:
    return {
        "index": node.index,
        "op": node.op,
        "inputs": [operand.index for operand in node.inputs],
        "attrs": dict(node.attrs),
        "shape": list(node.shape),
        "dtype": node.dtype,
        "step": node.step,
        "site": None if node.site is None else str(node.site),
    }


def program_data(program: Program) -> dict[str, Any]:
    """dtype, inputs, bind, run (values and loops, in execution order), and outputs: name -> value."""
    return {
        "dtype": program.dtype,
        "inputs": list(map(_value, program.inputs)),
        "bind": list(map(_value, program.bind)),
        "run": list(map(_statement, program.statements)),
        "outputs": {name: family.name for name, family in program.outputs.items()},
        "stored": sorted(family.name for family in program.stored),
    }


def _statement(statement: Statement) -> dict[str, Any]:
    if isinstance(statement, Loop):
        return {"loop": statement.direction, "body": list(map(_value, statement.body))}
    return _value(statement)


def _value(family: Family) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": family.name,
        "op": family.op,
        "inputs": [operand.name for operand in family.inputs],
        "attrs": dict(family.attrs),
        "shape": list(family.shape),
        "dtype": family.dtype,
        "timed": family.timed,
        "site": None if family.site is None else str(family.site),
    }
    if family.source is not None and family.initial is not None:
        found |= {"source": family.source.name, "initial": family.initial.name}
    return found
