"""What the arrays of a spec's calls are called in its graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from rnnc.ir import names

if TYPE_CHECKING:
    from rnnc.backends.arrays import Array
    from rnnc.backends.base import PlainCall
    from rnnc.specs import Spec

Slabs = tuple[tuple[str, ...], ...]
"""For each state of the cell, one name for each layer and direction."""


class Names(Protocol):
    """What a derivative must know of a model's arrays."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """All that a gradient may be taken by."""

    @property
    def gradients(self) -> tuple[str, ...]:
        """Those of the inputs."""

    @property
    def adjoints(self) -> tuple[str, ...]:
        """Those of outputs and final states."""


class ArrayNames(NamedTuple):
    """The names of parameters, and of the slabs of initial and final states."""

    params: tuple[str, ...]
    initial: Slabs
    final: Slabs

    @staticmethod
    def of(spec: Spec) -> ArrayNames:
        """Those of a spec."""
        stack = spec.stack()

        def slabs(moment: Callable[[str, str], str]) -> Slabs:
            return tuple(tuple(moment(state, layer.suffix) for layer in stack.flat) for state in stack.states)

        return ArrayNames(tuple(spec.parameter_shapes()), slabs(names.initial), slabs(names.final))

    @property
    def inputs(self) -> tuple[str, ...]:
        """All that a gradient may be taken by."""
        return (*self.params, names.X, *(name for slabs in self.initial for name in slabs))

    @property
    def gradients(self) -> tuple[str, ...]:
        """Those of the inputs."""
        return tuple(map(names.gradient, self.inputs))

    @property
    def adjoints(self) -> tuple[str, ...]:
        """Those of output and final state."""
        return tuple(map(names.gradient, (names.OUTPUT, *(name for slabs in self.final for name in slabs))))


def by_name(slabs: Slabs, arrays: Sequence[Array], prefix: str = "") -> dict[str, Array]:
    """Name -> slab of the arrays (layers * directions, B, width) of a state."""
    return {
        prefix + name: array[number]
        for names_, array in zip(slabs, arrays, strict=True)
        for number, name in enumerate(names_)
    }


def plain_call(spec: Spec) -> PlainCall:
    """How a model of a spec is called when nothing but x and state is given."""
    from rnnc.backends.base import PlainCall, StateArray

    called = ArrayNames.of(spec)
    widths = spec.states.values()
    states = tuple(
        StateArray(initial, final, width, stacked=True)
        for initial, final, width in zip(called.initial, called.final, widths, strict=True)
    )
    container = "bare" if len(states) == 1 else "tuple"
    sizes = (spec.input_size, spec.output_size, spec.batch_first)
    return PlainCall(*sizes, states, container, returns_state=True)
