"""Parameters of other names: a state_dict of a module whose layers are called otherwise than the model's.

    rnnc.compile(spec, state_dict, names={"encoder.lstm": "", "head": None})
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rnnc.checking import checks
from rnnc.checking.arrays import attribute
from rnnc.ir.errors import ArgumentTypeError, ParameterError, ShapeError

if TYPE_CHECKING:
    from rnnc.checking.parameters import Parameterized

__all__ = ["BY_STRUCTURE", "proposed", "rename"]

Names = Mapping[str, str | None] | str
Shapes = Mapping[str, tuple[int, ...]]

BY_STRUCTURE = "by structure"
MOST_PROPOSED = 32
"""The longest mapping that a message proposes."""


def rename(model: Parameterized, params: Mapping[str, Any], names: Names) -> dict[str, Any]:
    """The parameters by the model's names. Arrays are neither copied nor checked.

    params: name -> array, such as a state_dict of a module whose layers have other names.
    names: {name in params: name in the model}. Either is a parameter's whole name, or what the names of one or more
        layers begin with, up to a dot; "" stands for no such beginning, and None leaves out what it names. The longest
        name that fits counts. What no name fits keeps its own. Or names="by structure": both list their parameters in
        one order, so the first is the first, and so on; shapes must agree, and so must last parts of names that both
        know. Arrays without axes, such as num_batches_tracked, are then left out.
    Raises ParameterError, ShapeError or ArgumentTypeError.
    """
    if not isinstance(params, Mapping):
        raise ArgumentTypeError(f"params: expected a mapping of names to arrays, got {checks.came(params)}")
    if names == BY_STRUCTURE:
        return _in_order(params, model.parameter_shapes())
    if not isinstance(names, Mapping):
        raise ArgumentTypeError(f"names: expected a mapping or {BY_STRUCTURE!r}, got {checks.came(names)}")
    for name, new in names.items():
        if not isinstance(name, str) or not isinstance(new, str | None):
            raise ArgumentTypeError(f"names: expected names, or None, by names; got {name!r}: {new!r}")
    return _mapped(params, names)


def _mapped(params: Mapping[str, Any], names: Mapping[str, str | None]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    origins: dict[str, str] = {}
    used = set()
    for name, array in params.items():
        fitting = [old for old in names if not old or name == old or name.startswith(f"{old}.")]
        new: str | None = name
        if fitting:
            old = max(fitting, key=len)
            used.add(old)
            new = _replaced(name, old, names[old])
        if new is None:
            continue
        if new in found:
            raise ParameterError(f"names: {origins[new]!r} and {name!r} both become {new!r}")
        found[new], origins[new] = array, name
    for old in names:
        if old not in used and not any(other != old and _below(other, old) for other in used):
            hint = checks.suggestion(old, [*params, *_groups(params)])
            raise ParameterError(f"names: no parameter is {old!r}, or begins with it and a dot{hint}")
    return found


def _below(name: str, beginning: str) -> bool:
    return not beginning or name.startswith(f"{beginning}.")


def _replaced(name: str, old: str, new: str | None) -> str | None:
    if new is None or name == old:
        return new
    rest = name.removeprefix(f"{old}.") if old else name
    return f"{new}.{rest}" if new else rest


def _in_order(params: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """The parameters in their order under the model's names, in the model's order."""
    given = {name: array for name, array in params.items() if _shape(array) != ()}
    known = {name.rpartition(".")[2] for name in shapes}
    pairs = zip(given.items(), shapes.items(), strict=False)
    for number, ((name, array), (wanted, shape)) in enumerate(pairs):
        last = name.rpartition(".")[2]
        if _shape(array) != tuple(shape):
            came = f"{name!r} {_shape(array)}, that of the model is {wanted!r} {tuple(shape)}"
            raise ShapeError(f"names={BY_STRUCTURE!r}: parameter {number} of params is {came}; give a mapping")
        if last in known and last != wanted.rpartition(".")[2]:
            what = f"parameter {number} of params is {name!r}, that of the model is {wanted!r}, and it has a {last!r}"
            raise ParameterError(f"names={BY_STRUCTURE!r}: {what} elsewhere; give a mapping")
    if len(given) != len(shapes):
        what = f"params holds {len(given)} arrays, the model has {len(shapes)} parameters"
        raise ParameterError(f"names={BY_STRUCTURE!r}: {what}; give a mapping")
    return dict(zip(shapes, given.values(), strict=True))


def proposed(params: Mapping[str, Any], shapes: Shapes) -> dict[str, str | None] | None:
    """A mapping that gives all parameters of the model, guessed from shapes and last parts of names; None: no guess.

    It is for a message: whoever reads it knows whether it is right.
    """
    theirs, ours = _groups(params), _groups(shapes)
    parts = {name: {base: shape for base, shape in group.items() if shape != ()} for name, group in theirs.items()}
    layers = {name: part for name, part in parts.items() if part}
    if len(layers) == len(ours) and all(map(_alike, layers.values(), ours.values())):
        pairs = dict(zip(layers, ours, strict=True))
    else:
        pairs = _only_fits(layers, ours)
    if len(pairs) != len(ours):
        return None
    found: dict[str, str | None] = {}
    for old, group in theirs.items():
        found |= {old: None} if old not in pairs else _pair(old, pairs[old], group, ours[pairs[old]])
    found = {old: new for old, new in found.items() if old != new}
    return found if 0 < len(found) <= MOST_PROPOSED else None


def _only_fits(theirs: Mapping[str, Shapes], ours: Mapping[str, Shapes]) -> dict[str, str]:
    """Their name -> ours, for the layers that fit one layer alone, both ways."""
    fits = {new: [old for old, group in theirs.items() if _alike(group, wanted)] for new, wanted in ours.items()}
    taken = [old for olds in fits.values() for old in olds]
    return {olds[0]: new for new, olds in fits.items() if len(olds) == 1 and taken.count(olds[0]) == 1}


def _pair(old: str, new: str, group: Shapes, wanted: Shapes) -> dict[str, str | None]:
    """One entry for a layer whose parameters have the same names, else one for each of them."""
    extra: dict[str, str | None] = {_joined(old, name): None for name, shape in group.items() if shape == ()}
    named = [name for name, shape in group.items() if shape != ()]
    if set(named) == set(wanted) and (old or not new):
        return {old: new} | extra
    if set(named) == set(wanted):
        return {name: _joined(new, name) for name in named} | extra
    return {_joined(old, a): _joined(new, b) for a, b in zip(named, wanted, strict=True)} | extra


def _alike(group: Shapes, wanted: Shapes) -> bool:
    """Whether a layer's arrays are another's parameters: by name, or in order if they share no name."""
    if dict(group) == dict(wanted):
        return True
    return list(group.values()) == list(wanted.values()) and not set(group) & set(wanted)


def _groups(params: Mapping[str, Any]) -> dict[str, dict[str, tuple[int, ...]]]:
    """Layer -> last part of a name -> shape."""
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, array in params.items():
        if isinstance(name, str):
            layer, _, base = name.rpartition(".")
            found.setdefault(layer, {})[base] = array if isinstance(array, tuple) else _shape(array)
    return found


def _shape(array: object) -> tuple[int, ...]:
    return tuple(attribute(array, "shape") or ())


def _joined(layer: str, name: str) -> str:
    return f"{layer}.{name}" if layer else name

