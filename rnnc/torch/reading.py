"""A module as a network: the calls of its forward(), one by one, for a guess of what the axes of its inputs are."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rnnc.graph import Graph
from rnnc.ir.errors import RnncError, TorchError
from rnnc.layers import Activation, Concat, Conv1d, Embedding, Layer, Select, Softmax, SoftmaxPooling, recurrent
from rnnc.specs import Spec
from rnnc.torch.building import NetworkParts, needed, own_weights, unknown_width
from rnnc.torch.functions import FUNCTIONS
from rnnc.torch.fx_nodes import function_name, uses
from rnnc.torch.modules import MODULES
from rnnc.torch.traced import BATCH, ONE, STEPS, WIDTH, Argument, Opaque, Pair, Result, TracedTensor, Weight
from rnnc.torch.tracing import kind_of, place_of

__all__ = ["Guess", "Reader"]


@dataclass(frozen=True)
class Guess:
    """What the axes of the inputs are. step: forward() is one step, and its inputs have none of time."""

    batch_first: bool
    step: bool
    axes: Mapping[str, tuple[str, ...]]


class Reader:
    """The calls of a forward(), as far as they were read.

    path, name: of the module that is called, or of the function's result. roles: argument of forward() -> "vectors",
    "numbers", "lengths" or "state". calls: how many calls were read. casts: dtypes that forward() asks for.
    """

    def __init__(self, root: Any, guess: Guess, widths: Mapping[str, int]) -> None:
        self.root, self.guess, self.widths = root, guess, widths
        self.parts = NetworkParts(guess.batch_first)
        self.roles: dict[str, str] = {}
        self.inputs: dict[str, TracedTensor] = {}
        self.outputs: dict[str, TracedTensor] = {}
        self.path = self.name = ""
        self.calls = 0
        self.casts: set[str] = set()
        self._node: Any = None
        self._nodes: dict[str, Any] = {}

    def run(self, graph: Any) -> None:
        """Reads all calls. Raises TorchError or WidthNeeded."""
        values: dict[Any, Any] = {}
        for node in graph.nodes:
            self._node = node
            if node.op == "placeholder":
                self.parts.inputs[str(node.target)] = 0
                values[node] = Argument(str(node.target))
                continue
            args, kwargs = (_mapped(given, values) for given in (node.args, node.kwargs))
            if node.op == "output":
                self._finish(args[0])
                return
            self.path = str(node.target) if node.op == "call_module" else ""
            self.name = self.path or node.name.lower()
            try:
                values[node] = self._call(node, args, kwargs)
            except RnncError as error:
                kind = type(error) if isinstance(error, TorchError) else TorchError
                raise kind(f"{self._what(node)}: {error}") from error
            self.calls += 1

    def _what(self, node: Any) -> str:
        if node.op != "call_module":
            return f"{function_name(node)}(){place_of(node)}"
        return f"layer {self.path!r}, {kind_of(self.root.get_submodule(self.path))}"

    def _call(self, node: Any, args: Any, kwargs: Any) -> Any:
        if node.op == "get_attr":
            tensor = self.root
            for part in str(node.target).split("."):
                tensor = getattr(tensor, part)
            return Weight(str(node.target), tensor)
        if node.op != "call_module":
            name = function_name(node)
            if name not in FUNCTIONS:
                known = ", ".join(sorted(name for name in FUNCTIONS if not name.startswith("_")))
                raise TorchError(f"rnnc does not read it; it reads {known}")
            return _bound(FUNCTIONS[name], self, args, kwargs)
        module = self.root.get_submodule(self.path)
        kind = kind_of(module) or type(module).__name__
        if kind not in MODULES:
            hint = "; remove_parametrizations of torch.nn.utils.parametrize makes it one of these"
            hint = hint if "Parametrized" in type(module).__name__ else ""
            raise TorchError(f"rnnc does not read it; it reads {', '.join(MODULES)}{hint}")
        if module._forward_hooks or module._forward_pre_hooks:
            raise TorchError("it has forward hooks, which rnnc would not call; remove them")
        return _bound(MODULES[kind], self, (module, *args), kwargs)

    # ---- values

    def tensor(self, value: Any) -> TracedTensor:
        """A value as a tensor: an argument as an input, a recurrent module's result as its output."""
        if isinstance(value, Argument):
            return self._numbers(value.name) if "looked up" in self._uses(value) else self._vectors(value.name)
        if isinstance(value, Result):
            value = value[0]
        if not isinstance(value, TracedTensor):
            raise TorchError(f"expected a value of the network, {_came(value)} came")
        return value

    def _vectors(self, name: str) -> TracedTensor:
        self._role(name, "vectors")
        if name not in self.inputs:
            axes, width = self.guess.axes[name], self.widths.get(name)
            width = width if WIDTH in axes else 1
            timed = self.guess.step or STEPS in axes
            self.inputs[name] = TracedTensor(name, axes, width, timed, of=name)
            self.parts.inputs[name] = width or 0
        return self.inputs[name]

    def _numbers(self, name: str) -> TracedTensor:
        self._role(name, "numbers")
        axes: tuple[str, ...] = (BATCH, STEPS) if self.guess.batch_first else (STEPS, BATCH)
        axes = (BATCH,) if self.guess.step else axes
        return self.inputs.setdefault(name, TracedTensor(name, axes, 0, timed=True))

    def _role(self, name: str, role: str) -> None:
        if self.roles.setdefault(name, role) != role:
            raise TorchError(f"argument {name!r} of forward() is read as {self.roles[name]} and as {role}")

    def shape(self, value: Any) -> tuple[Any, ...]:
        """The sizes of a tensor."""
        found = self.tensor(value)
        return tuple(found.size(at) for at in range(len(found.axes)))

    def is_state(self, argument: Argument) -> bool:
        """Whether an argument of forward() is the first state of recurrent modules, and nothing else."""
        return self._uses(argument) == {"state"}

    def _uses(self, argument: Argument) -> set[str]:
        """What modules read an argument of forward() as."""
        return uses(self.root, next(n for n in self._node.graph.nodes if str(n.target) == argument.name))

    def plain(self, value: TracedTensor) -> TracedTensor:
        """A value that a layer can read: one of the last values of a state as columns."""
        if value.pads != (0, 0):
            raise TorchError(f"{value} is padded, which only a convolution can read")
        if value.packed:
            raise TorchError(f"{value} is packed, which only a recurrent module can read")
        if value.weights or value.scores:
            raise TorchError(f"{value}, a softmax over the steps, is read by a weighted sum over the steps alone")
        places, width = value.places, value.width
        if places is None or width is None:
            return value
        if places.size > 1:
            raise TorchError(f"{value} holds {places.size} last values; index them, as in h[-1]")
        axes = tuple(ONE if label.startswith("S") else label for label in value.axes)
        value, place = replace(value, axes=axes, places=None), int(places.ravel()[0])
        if value.slabs == 1:
            return value
        side = TracedTensor(value.source, value.axes, value.slabs * width, timed=False)
        columns = tuple(range(place * width, (place + 1) * width))
        return self.apply(Select(columns), (side,), side, name=f"{value.source}_{place}")

    def sized(self, value: Any, dim: Any) -> int:
        """The size of the axis of a value's numbers."""
        found = self.tensor(value)
        if found.label(dim) != WIDTH:
            raise TorchError(f"dim={dim} of {found}; expected the axis N of its numbers")
        if found.width is None:
            raise unknown_width(found.of)
        return found.width

    def columns(self, value: Any, columns: Sequence[int]) -> TracedTensor:
        """Some numbers of each step."""
        found = self.plain(self.tensor(value))
        if list(columns) == list(range(found.width or 0)):
            return found
        return self.apply(Select(tuple(columns)), (found,), found)

    # ---- layers

    def weights(self, module: Any, layer: Layer | Spec, suffix: str = "") -> dict[str, Weight]:
        """The parameters of a module by the names of the layer's, which end in `suffix` where the module's do not."""
        names = {name: name.removesuffix(suffix) for name in layer.parameter_shapes()}
        return own_weights(module, self.path, names)

    def apply(
        self,
        layer: Layer | Spec,
        values: Sequence[TracedTensor],
        like: TracedTensor,
        weights: Mapping[str, Weight] | None = None,
        *,
        name: str = "",
        starts: Mapping[str, str] | None = None,
    ) -> TracedTensor:
        """What a new layer gives, with the axes of `like`."""
        made, width = self.parts.add(name or self.name, layer, values, weights or {}, starts or {})
        self._nodes[made] = self._node
        timed = any(value.timed for value in values)
        of, rest = "", 0
        if not width:
            unknown = next(value for value in values if value.width is None)
            of, rest = unknown.of, unknown.rest
            rest += sum(value.width or 0 for value in values)
        return TracedTensor(made, like.axes, width or None, timed, of, rest, packed=like.packed)

    def each(self, layer: Layer, x: Any, weights: Mapping[str, Weight] | None = None) -> TracedTensor:
        """A function of each number, whatever the axes."""
        value = self.plain(self.tensor(x))
        return self.apply(layer, (value,), value, weights)

    def per_step(self, layer: Layer, x: Any, weights: Mapping[str, Weight], *, name: str = "") -> TracedTensor:
        """A function of the numbers on the last axis."""
        value = self.plain(self.tensor(x))
        if value.axes[-1] != WIDTH:
            raise TorchError(f"it reads the numbers on the last axis; {value} came")
        return self.apply(layer, (value,), value, weights, name=name)

    def along(self, layer: Layer, x: Any, dim: Any) -> TracedTensor:
        """A function of the numbers on the axis `dim`."""
        value = self.plain(self.tensor(x))
        if isinstance(layer, Softmax) and dim is not None and value.label(dim) == STEPS and value.timed:
            return replace(value, weights=True)
        if dim is None or value.label(dim) != WIDTH:
            raise TorchError(f"dim={dim} of {value}; expected the axis N of its numbers")
        return self.apply(layer, (value,), value)

    def per_channel(self, layer: Layer, x: Any, weights: Mapping[str, Weight]) -> TracedTensor:
        """A function of the numbers on the second axis."""
        value = self.channels(self.plain(self.tensor(x)))
        return self.apply(layer, (value,), value, weights)

    def channels(self, value: TracedTensor) -> TracedTensor:
        """A value whose numbers are on the second axis."""
        if value.axes[1:2] != (WIDTH,):
            raise TorchError(f"it reads (B, N, T), the numbers on the second axis; {value} came")
        return value

    def over_steps(self, layer: Layer, x: Any, weights: Mapping[str, Weight]) -> TracedTensor:
        """A function of several steps, (B, N, T)."""
        value = self.tensor(x)
        if value.pads != (0, 0):
            if not isinstance(layer, Conv1d):
                raise TorchError(f"{value} is padded, which only a convolution can read")
            before, after = (own + more for own, more in zip(layer.pads, value.pads, strict=True))
            layer, value = replace(layer, padding=(before, after)), replace(value, pads=(0, 0))
        value = self.plain(value)
        if value.axes != (BATCH, WIDTH, STEPS) or not value.timed:
            raise TorchError(f"it reads (B, N, T); {value} came")
        return self.apply(layer, (value,), value, weights)

    def cut(self, value: TracedTensor, steps: int) -> TracedTensor:
        """Without the last steps: of a padded convolution that nothing else reads, with less padding."""
        layer, *rest = self.parts.entries.get(value.source, (None,))
        node = self._nodes.get(value.source)
        fits = isinstance(layer, Conv1d) and layer.stride == 1 and layer.pads[1] >= steps
        if not fits or node is None or len(node.users) > 1:
            raise TorchError(f"it drops {steps} steps of {value}; only padding of a convolution can be dropped")
        self.parts.entries[value.source] = (replace(layer, padding=(layer.pads[0], layer.pads[1] - steps)), *rest)
        return value

    def joined(self, layer: Layer, values: Sequence[Any]) -> TracedTensor:
        """A function of several values, with axes as NumPy broadcasts them."""
        found = [self.plain(self.tensor(value)) for value in values]
        known = next((value.width for value in found if value.width is not None), None)
        for value in found:
            if value.width is None and known is not None and not isinstance(layer, Concat):
                raise needed(value, known)
        axes = found[0].axes
        for value in found[1:]:
            axes = _broadcast(axes, value.axes, found)
        return self.apply(layer, found, replace(found[0], axes=axes))

    def weighted(self, values: Any, weights: TracedTensor) -> TracedTensor:
        """Values times a softmax over the steps, before they are summed."""
        scores, found = replace(weights, weights=False), self.plain(self.tensor(values))
        axes = _broadcast(found.axes, scores.axes, (found, scores))
        if scores.width != 1 or axes != found.axes:
            raise TorchError(f"{found} times a softmax over the steps of {scores}; expected one weight per step")
        return replace(found, scores=scores)

    def pooled(self, value: TracedTensor) -> TracedTensor:
        """The sum over the steps of values times a softmax over the steps, with the axes of the values."""
        assert value.scores is not None
        found = replace(value, scores=None)
        return self.apply(SoftmaxPooling(), (found, self.plain(value.scores)), found)

    def looked_up(self, layer: Embedding, numbers: Any, weights: Mapping[str, Weight]) -> TracedTensor:
        """Rows of a table."""
        value = self.tensor(numbers)
        if self.roles.get(value.source) != "numbers":
            raise TorchError(f"an embedding reads an argument of forward(), integers; {value} came")
        return self.apply(layer, (value,), replace(value, axes=(*value.axes, WIDTH)), weights)

    def at_every_step(self, value: TracedTensor, steps: TracedTensor | None) -> TracedTensor:
        """A value per row at each step of another one."""
        if value.timed or steps is None:
            return value
        if self.roles.get(steps.source) == "numbers":  # as many steps as what is looked up
            tables = (name for name, entry in self.parts.entries.items() if isinstance(entry[0], Embedding))
            found = next((name for name in tables if self.parts.entries[name][1] == steps.source), None)
            layer = self.parts.entries[found][0] if found else None
            steps = replace(steps, source=found or "", width=getattr(layer, "size", None))
        if not steps.timed or steps.width is None or value.width is None:
            return value  # it can be read beside values per step, as if it were there at every step
        both = self.apply(Concat(), (self.plain(value), self.plain(steps)), value, name=f"{self.name}.beside")
        return self.apply(Select(tuple(range(value.width))), (both,), value)

    def reads_ahead(self, value: TracedTensor) -> bool:
        """Whether it is the output of a recurrent layer with a reverse direction."""
        layer = self.parts.entries.get(value.source, (None,))[0]
        layer = self.parts.entries[layer][0] if isinstance(layer, str) else layer
        spec = recurrent(layer) if layer is not None else None
        return spec is not None and spec.reads_ahead

    # ---- results

    def _finish(self, result: Any) -> None:
        for name, value in _leaves("", result):
            found = self.tensor(value.last if isinstance(value, Opaque) and value.last else value)
            if found.packed or found.pads != (0, 0) or found.weights or found.scores:
                what = "is packed, padded, or a softmax over the steps"
                raise TorchError(f"output: {found} {what}; only what a layer gives can be returned")
            if self.roles.get(found.source) == "numbers":
                raise TorchError(f"output: {found} are integers")
            if found.places is not None and not found.places.ndim:
                found = self.plain(found)
            if not found.timed and STEPS in found.axes:
                raise TorchError(f"output: {found} is one value per row, as if it were there at every step")
            if found.timed and self.guess.step:
                found = replace(found, axes=(STEPS, *found.axes))
            name = name or found.source
            while name in self.outputs:
                name += "_"
            self.outputs[name] = found
        if not self.outputs:
            raise TorchError("module: forward() returns no tensor")
        if not self.parts.entries:
            source = next(iter(self.outputs.values()))
            self.outputs = dict.fromkeys(self.outputs, self.each(Activation("identity"), source))
        if other := self.casts - {self.parts.dtype or "float32"}:
            raise TorchError(f"forward() turns values to {min(other)}, but parameters are {self.parts.dtype}")
        read = ("vectors", "numbers")
        kept = {name: width for name, width in self.parts.inputs.items() if self.roles.get(name) in read}
        for name, width in kept.items():
            if not width and self.roles[name] == "vectors":
                raise unknown_width(name)
        if not any(value.timed for value in self.inputs.values()):
            raise TorchError("module: forward() reads no sequence: no input of it has an axis of time")
        self.parts.inputs = kept
        try:
            static = {name for name, value in self.inputs.items() if not value.timed}
            self.graph: Graph = self.parts.graph(static, {name: value.source for name, value in self.outputs.items()})
        except RnncError as error:
            raise TorchError(str(error)) from error
        if self.guess.step:
            self.inputs = {name: replace(value, axes=(STEPS, *value.axes)) for name, value in self.inputs.items()}


def _broadcast(one: tuple[str, ...], two: tuple[str, ...], values: Sequence[TracedTensor]) -> tuple[str, ...]:
    longer, shorter = (one, two) if len(one) >= len(two) else (two, one)
    start = len(longer) - len(shorter)
    found = list(longer)
    for at, label in enumerate(shorter, start):
        if ONE not in (label, found[at]) and label != found[at]:
            raise TorchError(f"it broadcasts {' with '.join(map(str, values))}, whose axes differ")
        found[at] = label if found[at] == ONE else found[at]
    return tuple(found)


def _leaves(name: str, result: Any) -> Iterator[tuple[str, Any]]:
    """The tensors of a result, with the keys of dicts as names."""
    if isinstance(result, Mapping):
        for key, part in result.items():
            yield from _leaves(f"{name}.{key}" if name else str(key), part)
    elif isinstance(result, (tuple, list)) and not isinstance(result, Pair):
        for part in result:
            yield from _leaves(name, part)
    elif result is not None:
        yield name, result


def _bound(function: Any, reader: Reader, args: Any, kwargs: Any) -> Any:
    try:
        inspect.signature(function).bind(reader, *args, **kwargs)
    except TypeError as error:
        raise TorchError(f"rnnc does not read these arguments: {error}") from error
    return function(reader, *args, **kwargs)


def _mapped(given: Any, values: Mapping[Any, Any]) -> Any:
    """Arguments with what is known of nodes in the place of them."""
    if isinstance(given, (tuple, list)):
        mapped = (_mapped(part, values) for part in given)
        return tuple(mapped) if isinstance(given, tuple) else list(mapped)
    if isinstance(given, Mapping):
        return {key: _mapped(part, values) for key, part in given.items()}
    if isinstance(given, slice):
        return slice(*(_mapped(part, values) for part in (given.start, given.stop, given.step)))
    try:
        return values.get(given, given)
    except TypeError:
        return given


def _came(value: Any) -> str:
    if isinstance(value, Weight):
        return f"parameter {value.name!r} by itself"
    return str(getattr(value, "what", None) or type(value).__name__)
