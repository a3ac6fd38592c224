"""The names in a spec's graphs of the arrays of its calls."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from rnnc.checking.wrt import EVERY
from rnnc.ir import names

if TYPE_CHECKING:
    from rnnc.backends.arrays import Array
    from rnnc.specs import Spec

Slabs = tuple[tuple[str, ...], ...]
"""For each state of the cell, one name per layer and direction. A slab is the (B, width) part of a state's array for
one layer and direction."""


class Names(Protocol):
    """The names of a model's arrays that a derivative needs."""

    @property
    def groups(self) -> Mapping[str, tuple[str, ...]]:
        """The names of the inputs that have gradients, by the argument that has them: "params", "x" and "state"."""

    @property
    def adjoints(self) -> tuple[str, ...]:
        """The names of the adjoints of outputs and final states."""


def inputs_of(named: Names, arguments: Collection[str] = EVERY) -> tuple[str, ...]:
    """The names of the inputs that have gradients, of some arguments."""
    return tuple(name for argument, group in named.groups.items() if argument in arguments for name in group)


def gradients_of(named: Names, arguments: Collection[str] = EVERY) -> tuple[str, ...]:
    """The names of these inputs' gradients."""
    return tuple(map(names.gradient, inputs_of(named, arguments)))


class ArrayNames(NamedTuple):
    """The names of parameters, and of the slabs of initial and final states."""

    params: tuple[str, ...]
    initial: Slabs
    final: Slabs

    @staticmethod
    def of(spec: Spec) -> ArrayNames:
        """The names of a spec."""
        stack = spec.stack()

        def slabs(moment: Callable[[str, str], str]) -> Slabs:
            return tuple(tuple(moment(state, layer.suffix) for layer in stack.flat) for state in stack.states)

        return ArrayNames(tuple(spec.parameter_shapes()), slabs(names.initial), slabs(names.final))

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """See `Names.groups`."""
        return {
            "params": self.params,
            "x": (names.X,),
            "state": tuple(name for slabs in self.initial for name in slabs),
        }

    @property
    def adjoints(self) -> tuple[str, ...]:
        """The names of the adjoints of output and final states."""
        return tuple(map(names.gradient, (names.OUTPUT, *(name for slabs in self.final for name in slabs))))


def state_names(spec: Spec) -> Slabs:
    """The names that pieces of streams give to the slabs of states: "h_l0", "h_l1", ... for each state of the cell."""
    stack = spec.stack()
    return tuple(tuple(state + layer.suffix for layer in stack.flat) for state in stack.states)


def by_name(slabs: Slabs, arrays: Sequence[Array], prefix: str = "") -> dict[str, Array]:
    """The slabs of states' arrays (layers * directions, B, width), by name with a prefix."""
    return {
        prefix + name: array[number]
        for names_, array in zip(slabs, arrays, strict=True)
        for number, name in enumerate(names_)
    }
