"""The noise of training: which random numbers a network needs, and equations with noise on a cell's states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rnnc.ir.equations import Value
from rnnc.ir.graph import Graph as IRGraph
from rnnc.ir.graph import Node
from rnnc.ir.lower import Names, values_of
from rnnc.ir.stacks import Step
from rnnc.layered import Layered
from rnnc.layers import Layer, LearnedStart, Regularized, recurrent
from rnnc.specs import Spec

States = Mapping[str, Value]


@dataclass(frozen=True)
class Mask:
    """Random numbers a training step needs as an input: one per step, row and unit, (T, B, positions * width).

    number: tells the masks of a network apart; the random numbers depend on it.
    keep: True: 1/(1-p) with probability 1-p, else 0 (dropout). False: 1 with probability p, else 0 (zoneout).
    fixed: the same at all steps of a sequence.
    timed: False for a layer behind a readout, whose mask is (B, width).
    positions: how many steps of the layer lie side by side in a frame, each with numbers of its own.
    """

    number: int
    name: str
    width: int
    p: float
    keep: bool = True
    fixed: bool = False
    timed: bool = True
    positions: int = 1


def masks(model: Layered) -> tuple[Mask, ...]:
    """All masks of a training step, in the order of the layers; those with p = 0 are left out."""
    found: list[Mask] = []

    def add(name: str, width: int, p: float, positions: int = 1, **options: bool) -> None:
        alike = options.get("fixed") or not options.get("timed", True)
        found.append(Mask(len(found), name, width, p, positions=1 if alike else positions, **options))

    graph = model.graph()
    for name, entry in graph.entries.items():
        calls = graph.timing(False).calls(name)
        if spec := recurrent(entry.layer):
            noise = noise_of(entry.layer)
            for k, directions in enumerate(spec.stack().layers):
                if k:
                    add(between(name, k), spec.output_size, spec.dropout, calls, fixed=noise.variational)
                for direction in directions:
                    for state, size in direction.states.items():
                        place = f"{name}_{state}{direction.suffix}"
                        add(f"recurrent_mask_{place}", size, noise.recurrent_dropout, fixed=True)
                        add(f"zoneout_{place}", size, noise.zoneout, calls, keep=False)
            continue
        assert isinstance(entry.layer, Layer)
        for base, made in entry.layer.noise(*graph.widths(name)).items():
            timed = calls > 0
            add(of_layer(base, name), made.width, made.p, max(calls, 1), fixed=made.fixed, timed=timed)
    return tuple(mask for mask in found if mask.p > 0)


def of_layer(base: str, name: str) -> str:
    """The mask that a layer calls `base`."""
    return f"{base}_{name}"


def between(name: str, k: int) -> str:
    """The mask of a recurrent layer's `dropout`, before its k-th layer."""
    return f"mask_{name}_l{k}"


def noise_of(layer: Layer | Spec) -> Regularized:
    """The noise around a recurrent spec; a bare one has none."""
    layer = layer.spec if isinstance(layer, LearnedStart) else layer
    if isinstance(layer, Regularized):
        return layer
    assert isinstance(layer, Spec)
    return Regularized(layer)


def with_masked_products(
    graph: IRGraph, equations: Step, x: Value, states: States, parameters: Names, dropped: States
) -> tuple[Value, States]:
    """Runs a cell's equations; where a state in `dropped` goes into a matrix product, it is masked.

    What is on the way from the state to a product is computed of the masked state, all else of the state itself:

        %1 = mul(%r, %h);  %2 = matmul(%1, %u);  %3 = mul(%z, %h)
    ->
        %4 = mul(%h, %mask);  %5 = mul(%r, %4);  %2 = matmul(%5, %u);  %3 = mul(%z, %h)
    """
    if not dropped:
        output, new = equations(x, Names("state", states), parameters)
        return output, new
    scratch = IRGraph(graph.dtype, graph.steps, share=False)
    start: dict[Node, Node] = {}

    def outside(value: Value) -> Value:
        """A leaf of the scratch graph that stands for a value of the real one."""
        node = value.node
        leaf = scratch.input(f"%{node.index}", node.shape, node.step, node.dtype)
        start[leaf] = node
        return Value(scratch, leaf)

    inside = {name: outside(value) for name, value in states.items()}
    given = {name: outside(v) if isinstance(v, Value) else v for name, v in values_of(parameters).items()}
    output, new = equations(outside(x), Names("state", inside), Names("parameter", given))
    plain = dict(start)
    masked = plain | {inside[name].node: (states[name] * mask).node for name, mask in dropped.items()}
    for node in scratch.nodes:
        if node not in plain and not node.inputs:
            plain[node] = masked[node] = graph.copy_node(node, [])
        elif node.inputs:
            noisy = [masked[i] for i in node.inputs]
            exact = noisy if node.op == "matmul" else [plain[i] for i in node.inputs]
            plain[node] = graph.copy_node(node, exact)
            masked[node] = plain[node] if noisy == exact else graph.copy_node(node, noisy)
    return Value(graph, plain[output.node]), {name: Value(graph, plain[value.node]) for name, value in new.items()}
