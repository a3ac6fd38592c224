"""The declarations of a cell: their checks, made when a spec is made, and their form as plain data."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from rnnc.cells import Cell, as_axes
from rnnc.checking import checks
from rnnc.ir.errors import ArgumentError, ArgumentTypeError
from rnnc.references import reference, resolve


def check_cell(cell: Cell, input_size: int, hidden_size: int, bias: bool) -> None:
    """Raises ArgumentError or ArgumentTypeError if a cell's declarations are unusable.

    Lowering later compares the equations with the declarations.
    """
    who = f"cell {type(cell).__name__}"
    try:
        hash(cell)
    except TypeError as error:
        raise ArgumentTypeError(f"{who}: {error}; its fields must be plain values or tuples") from None
    states = cell.states(hidden_size)
    if not states:
        raise ArgumentError(f"{who} has no state: a recurrent cell needs one")
    shapes = cell.parameters(input_size, hidden_size, bias)
    check_shapes(who, shapes, 2)
    for name, declared in states.items():
        check_name(who, name)
        for width in as_axes(declared) or (0,):
            checks.integer(f"{who}: the width of state {name}", width, 1)
    checks.integer(f"{who}: output_size", cell.output_size(hidden_size), 1)


def check_shapes(who: str, shapes: Mapping[str, Any], most_axes: int) -> None:
    """Raises ArgumentError or ArgumentTypeError unless every parameter has a name that a step can write, and sizes."""
    for name, shape in shapes.items():
        check_name(who, name)
        if not isinstance(shape, tuple) or not 1 <= len(shape) <= most_axes:
            raise ArgumentError(f"{who}: the shape of {name} must be a tuple of 1 to {most_axes} sizes, got {shape!r}")
        for size in shape:
            checks.integer(f"{who}: a size of {name}", size, 1)


def check_name(who: str, name: object) -> None:
    """Raises ArgumentError unless the name is an identifier, which a step can write after `state.` or `p.`.

    Other names are reserved for `rnnc.ir.names`.
    """
    if not isinstance(name, str) or not name.isidentifier():
        raise ArgumentError(f"{who}: {name!r} cannot be the name of a parameter or state; expected an identifier")
    if name.startswith("__") and name.endswith("__"):
        raise ArgumentError(f"{who}: {name!r} cannot be the name of a parameter or state: it is Python's own")


def cell_to_dict(cell: Cell) -> dict[str, Any]:
    """A cell as plain data: {"type": "module:Class", field: value, ...}.

    Raises ArgumentTypeError unless every field is a number, string, boolean, None, an initializer or a tuple of these.
    """
    return {"type": reference(type(cell))} | {name: _plain(name, value) for name, value in vars(cell).items()}


def cell_from_dict(data: Mapping[str, Any], trusted: Collection[str] = ()) -> Cell:
    """The cell that `cell_to_dict` described. Raises ArgumentError.

    Its module is imported if it is rnnc's or trusted (`rnnc.references.resolve`).
    """
    try:
        values = {name: _unlisted(value) for name, value in data.items()}
    except RecursionError:
        raise ArgumentError("cell: its fields are nested too deeply") from None
    kind = values.pop("type", None)
    cls = resolve(kind, trusted) if isinstance(kind, str) else kind
    if not (isinstance(cls, type) and issubclass(cls, Cell)):
        expected = "expected 'type' to name a subclass of rnnc.Cell, such as 'rnnc.cells:GRUCell'"
        raise ArgumentError(f"cell: {expected}, got {checks.shown(kind)}")
    try:
        return cls(**values)
    except ArgumentError:
        raise
    except Exception as error:  # a user's class may raise anything
        made = f"{kind} cannot be made from {checks.shown(values)}"
        raise ArgumentError(f"cell: {made}: {type(error).__name__}: {error}") from error


def _plain(name: str, value: object) -> object:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, tuple):
        return [_plain(name, item) for item in value]
    from rnnc import initializers

    if isinstance(value, initializers.Initializer):
        return initializers.to_dict(value)
    hint = "use numbers, strings, booleans, None, initializers or tuples of such"
    raise ArgumentTypeError(f"cell: {name} = {checks.came(value)} has no plain form; {hint}")


def _unlisted(value: object) -> object:
    """The field that plain data stands for: lists were tuples, and mappings were initializers."""
    if isinstance(value, Mapping):
        from rnnc import initializers

        return initializers.from_dict(value)
    return tuple(_unlisted(item) for item in value) if isinstance(value, (list, tuple)) else value
