"""The verifier: does a graph keep the rules that the rest of the compiler relies on?

`verify` checks each rule below. With RNNC_VERIFY=1 it checks a graph before the first pass and after the last one. The
tests also check the graph after each pass. A message names the node, the rule, what was found and what was expected.

    order       a node's index is its position, and it reads earlier nodes only
    operands    a node reads nodes of its own graph, as many as its op takes
    attributes  a node has the attributes its op declares, in that order and of their types
    shape       sizes are B or positive ints, and those that the op infers; the right operand of a matmul has no B
    dtype       the graph's float dtype or bool, and the one that the op infers
    time        steps are in range; a node lies at the one step of its operands, and only a carry reads another; a
                sum over time reads values that have a step, and has none itself
    inputs      an input name is either time-free or has one value per step, with one shape and dtype
    carry       a state has one direction and one carry per step; each reads a value of the step before in that
                direction, and the first one reads a time-free initial value
    exit        a state has at most one exit; it is time-free and reads a value of the last step, as one
                more carry would
    outputs     an output is a node of the graph, or one node of each step, in order
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NoReturn

from rnnc.ir.errors import IRError, VerifyError
from rnnc.ir.graph import Graph, Node
from rnnc.ir.ops import OPS, Kind, result_dtype
from rnnc.ir.shape_rules import BATCH

FLOATS = ("float32", "float64")

ATTRIBUTE_TYPES: dict[str, type] = {
    "name": str,
    "value": float,
    "state": str,
    "delta": int,
    "transpose_b": bool,
    "axis": int,
    "start": int,
    "stop": int,
    "keep": bool,
    "size": int,
    "inner": int,
}
_LITERALS = (int, float, bool, str)


def verify(graph: Graph) -> Graph:
    """Returns the graph if it keeps every rule.

    Raises VerifyError otherwise, which names the rule and the first node that breaks it.
    """
    if graph.dtype not in FLOATS:
        raise VerifyError(f"rule 'dtype': the graph's dtype is {graph.dtype!r}, expected float32 or float64")
    if graph.steps < 1:
        raise VerifyError(f"rule 'time': the graph has {graph.steps} steps, expected at least 1")
    for position, node in enumerate(graph.nodes):
        for rule in _NODE_RULES:
            rule(graph, node, position)
    for whole in _GRAPH_RULES:
        whole(graph)
    return graph


# -- rules of one node --------------------------------------------------------------------------------


def _check_order(graph: Graph, node: Node, position: int) -> None:
    if node.index != position:
        _fail(node, "order", f"it is node number {position} of the graph, but its index is {node.index}")
    for operand in node.inputs:
        if 0 <= operand.index < len(graph.nodes) and graph.nodes[operand.index] is operand:
            if operand.index >= position:
                _fail(node, "order", f"it reads {operand}, which is not before it")
        else:
            _fail(node, "operands", f"it reads {operand}, which is not a node of this graph")


def _check_op(graph: Graph, node: Node, position: int) -> None:
    if node.op not in OPS:
        _fail(node, "operands", f"there is no op {node.op!r}")
    arity = node.spec.arity
    if len(node.inputs) != arity if arity is not None else not node.inputs:
        expected = "one or more" if arity is None else arity
        _fail(node, "operands", f"it has {len(node.inputs)} operands, {node.op} takes {expected}")


def _check_attributes(graph: Graph, node: Node, position: int) -> None:
    names, declared = [name for name, _ in node.attrs], list(node.spec.attrs)
    if names != declared:
        _fail(node, "attributes", f"it has the attributes {names}, {node.op} declares {declared}")
    for name, value in node.attrs:
        expected = ATTRIBUTE_TYPES.get(name)
        if type(value) not in _LITERALS if expected is None else type(value) is not expected:
            wanted = "int, float, bool or str" if expected is None else expected.__name__
            _fail(node, "attributes", f"{name} is {value!r} ({type(value).__name__}), expected {wanted}")
    if node.spec.kind is Kind.CARRY and node.attr("delta") not in (1, -1):
        _fail(node, "attributes", f"delta is {node.attr('delta')}, expected 1 or -1")


def _check_shape(graph: Graph, node: Node, position: int) -> None:
    for size in node.shape:
        if size != BATCH and (type(size) is not int or size < 1):
            _fail(node, "shape", f"{node.shape} has the size {size!r}, expected {BATCH!r} or a positive int")
    if node.op in ("input", "zeros"):
        return
    try:
        inferred = node.spec.shape([n.shape for n in node.inputs], dict(node.attrs))
    except (ValueError, IndexError) as error:  # an axis out of range, or sizes along it that are not known
        _fail(node, "shape", str(error))
    if node.shape != inferred:
        _fail(node, "shape", f"its shape is {node.shape}, {node.op} of its operands gives {inferred}")


def _check_dtype(graph: Graph, node: Node, position: int) -> None:
    if node.dtype not in (graph.dtype, "bool"):
        _fail(node, "dtype", f"its dtype is {node.dtype!r}, expected {graph.dtype!r} or 'bool'")
    if node.op == "input":
        return
    try:
        inferred = result_dtype(node.spec, [n.dtype for n in node.inputs]) if node.inputs else graph.dtype
    except IRError as error:
        _fail(node, "dtype", str(error))
    if node.dtype != inferred:
        _fail(node, "dtype", f"its dtype is {node.dtype}, {node.op} of its operands gives {inferred}")


def _check_time(graph: Graph, node: Node, position: int) -> None:
    if node.step is not None and not 0 <= node.step < graph.steps:
        _fail(node, "time", f"its step is {node.step}, the graph has the steps 0 to {graph.steps - 1}")
    if node.op in ("input", "zeros") or node.spec.kind is Kind.CARRY:
        return
    if node.spec.kind is Kind.TIME_SUM:
        if node.step is not None:
            _fail(node, "time", f"it lies at {_when(node)}, expected no step")
        if fixed := [i for i in node.inputs if i.step is None]:
            _fail(node, "time", f"it reads {fixed[0]}, which has no step")
        return
    steps = {n.step for n in node.inputs if n.step is not None}
    if len(steps) > 1:
        read = ", ".join(map(str, node.inputs))
        _fail(node, "time", f"it reads {read}, of several steps; only a carry may read another step")
    if {node.step} - {None} != steps:
        expected = f"step {steps.pop()}" if steps else "no step"
        _fail(node, "time", f"it lies at {_when(node)}, its operands say {expected}")


_NODE_RULES: tuple[Callable[[Graph, Node, int], None], ...] = (
    _check_order,
    _check_op,
    _check_attributes,
    _check_shape,
    _check_dtype,
    _check_time,
)


# -- rules of the whole graph -------------------------------------------------------------------------


def _check_inputs(graph: Graph) -> None:
    known: dict[str, Node] = {}
    places: set[tuple[str, int | None]] = set()
    for node in graph.nodes:
        if node.op != "input":
            continue
        name = node.attr("name")
        first = known.setdefault(name, node)
        if (name, node.step) in places:
            _fail(node, "inputs", f"the input {name!r} exists twice at {_when(node)}")
        if (node.step is None) != (first.step is None):
            _fail(node, "inputs", f"the input {name!r} lies at {_when(node)}, but {first} at {_when(first)}")
        if (node.shape, node.dtype) != (first.shape, first.dtype):
            _fail(node, "inputs", f"the input {name!r} is {_type(node)} here, {_type(first)} at {first}")
        places.add((name, node.step))


def _check_carries(graph: Graph) -> None:
    for state, carries in _by_state(graph, "carry").items():
        first = carries[0]
        delta = first.attr("delta")
        for node in carries:
            if node.attr("delta") != delta:
                _fail(node, "carry", f"{state!r} has delta={node.attr('delta')} here, {delta} at {first}")
            if _type(node) != _type(first):
                _fail(node, "carry", f"{state!r} is {_type(node)} here, {_type(first)} at {first}")
            _check_source(node, delta, 0 if delta == 1 else graph.steps - 1)
        _check_every_step(state, carries, graph.steps)


def _check_source(carry: Node, delta: int, first: int) -> None:
    """A carry reads a value of step - delta, but a time-free value at the loop's first step."""
    source = carry.inputs[0]
    if carry.step is None:
        _fail(carry, "carry", "it has no step")
    if carry.step == first and source.step is not None:
        _fail(carry, "carry", f"it reads {source}, expected a time-free value at its loop's first step")
    if carry.step != first and source.step != carry.step - delta:
        _fail(carry, "carry", f"it reads {source}, expected a value of step {carry.step - delta}")


def _check_every_step(state: str, carries: Sequence[Node], steps: int) -> None:
    at: dict[int | None, Node] = {}
    for node in carries:
        if node.step in at:
            _fail(node, "carry", f"{state!r} is carried twice at {_when(node)}, also by {at[node.step]}")
        at[node.step] = node
    missing = [t for t in range(steps) if t not in at]
    if missing:
        _fail(carries[0], "carry", f"{state!r} has no carry at the steps {missing}, expected one per step")


def _check_exits(graph: Graph) -> None:
    carried = _by_state(graph, "carry")
    for state, exits in _by_state(graph, "exit").items():
        node = exits[0]
        delta, last = node.attr("delta"), graph.steps - 1 if node.attr("delta") == 1 else 0
        if len(exits) > 1:
            _fail(exits[1], "exit", f"{state!r} has another exit, {node}")
        if node.step is not None:
            _fail(node, "exit", f"it lies at {_when(node)}, expected no step")
        if node.inputs[0].step != last:
            _fail(node, "exit", f"it reads {node.inputs[0]}, expected a value of step {last}, its loop's last")
        for carry in carried.get(state, [])[:1]:
            if carry.attr("delta") != delta:
                _fail(node, "exit", f"{state!r} has delta={delta} here, {carry.attr('delta')} at {carry}")
            if _type(carry) != _type(node):
                _fail(node, "exit", f"{state!r} is {_type(node)} here, {_type(carry)} at {carry}")


def _check_outputs(graph: Graph) -> None:
    for name, output in graph.outputs.items():
        nodes = output if isinstance(output, tuple) else (output,)
        for node in nodes:
            if not (0 <= node.index < len(graph.nodes) and graph.nodes[node.index] is node):
                _fail(node, "outputs", f"the output {name!r} names it, but it is not a node of this graph")
        if not isinstance(output, tuple):
            continue
        if len(output) != graph.steps:
            raise VerifyError(
                f"rule 'outputs': {name!r} has {len(output)} nodes, expected one for each of {graph.steps} steps"
            )
        first = output[0]
        for step, node in enumerate(output):
            if node.step != step:
                _fail(node, "outputs", f"it is number {step} of {name!r}, but lies at {_when(node)}")
            if _type(node) != _type(first):
                _fail(node, "outputs", f"{name!r} is {_type(node)} here, {_type(first)} at {first}")


_GRAPH_RULES: tuple[Callable[[Graph], None], ...] = (
    _check_inputs,
    _check_carries,
    _check_exits,
    _check_outputs,
)


# -- helpers ------------------------------------------------------------------------------------------


def _by_state(graph: Graph, op: str) -> dict[str, list[Node]]:
    result: dict[str, list[Node]] = {}
    for node in graph.nodes:
        if node.op == op:
            result.setdefault(node.attr("state"), []).append(node)
    return result


def _when(node: Node) -> str:
    return "no step" if node.step is None else f"step {node.step}"


def _type(node: Node) -> str:
    return f"{node.dtype}[{', '.join(map(str, node.shape))}]"


def _fail(node: Node, rule: str, message: str) -> NoReturn:
    raise VerifyError(f"{node}: rule {rule!r}: {message}")
