"""Names of Python objects as text, "module:object", by which files and the command line refer to cells and specs.

Importing a module runs it. A name in a file can therefore refer only to modules of rnnc, to modules that the program
has already imported, and to modules that the caller trusts.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Collection
from types import ModuleType

from rnnc.checking import checks
from rnnc.ir.errors import ArgumentError, ArgumentTypeError, RnncError, RnncWarning

MAIN = "__main__"


def reference(cls: type) -> str:
    """The text "module:Class" for a class. Raises ArgumentError if it cannot be imported by that name."""
    text = f"{cls.__module__}:{cls.__qualname__}"
    found: object = sys.modules.get(cls.__module__)
    for part in cls.__qualname__.split("."):
        found = getattr(found, part, None)
    if found is not cls:
        raise ArgumentError(f"{cls.__name__} cannot be referred to by name ({text}): define it at the top of a module")
    return text


def warn_if_main(text: str) -> None:
    """Warns (RnncWarning) if a saved name refers to the main script, so that no other program can resolve it."""
    module, _, name = text.partition(":")
    if module == MAIN:
        warnings.warn(
            f"{name} is defined in the main script: what is saved names it {text!r}, which means something else, or "
            "nothing, in every other program; define it in a module and import it from there",
            RnncWarning,
            stacklevel=3,
        )


def resolve(text: str, trusted: Collection[str] = ()) -> object:
    """The object that "module:object" or "module:object.attribute" names.

    trusted: names of modules, besides rnnc's, that may be imported for it. A package stands for all of its modules.
    Raises ArgumentError if there is no such object, if its module is neither imported nor trusted, or if the import
    fails.
    """
    module_name, _, path = text.partition(":")
    if not path or not all(part.isidentifier() for part in module_name.split(".")):
        raise ArgumentError(f"{checks.shown(text)}: expected 'module:object', such as 'rnnc.cells:GRUCell'")
    found: object = _module(text, module_name, trusted)
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            hint = f"; {MAIN} is now another script, so define it in a module" if module_name == MAIN else ""
            raise ArgumentError(f"{checks.shown(text)}: {module_name} has no {checks.shown(path)}{hint}") from None
        except Exception as error:  # a module's or class's own attributes may raise anything
            raise ArgumentError(f"{checks.shown(text)}: {type(error).__name__}: {error}") from error
    return found


def check_trusted(trusted: object) -> tuple[str, ...]:
    """The names of trusted modules as a tuple. Raises ArgumentTypeError."""
    names = (trusted,) if isinstance(trusted, str) else trusted
    if not isinstance(names, (tuple, list, set, frozenset)) or not all(isinstance(name, str) for name in names):
        raise ArgumentTypeError(f"trusted: expected a list of names of modules, got {checks.came(trusted)}")
    return tuple(names)


def _module(text: str, name: str, trusted: Collection[str]) -> ModuleType:
    if sys.modules.get(name) is None and not any(name == t or name.startswith(f"{t}.") for t in ("rnnc", *trusted)):
        raise ArgumentError(
            f"{checks.shown(text)}: module {name!r} has not been imported, and to import it would run it; import it "
            f"first, or pass trusted=[{name!r}] (on the command line: --trust {name}) if you trust its author"
        )
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ArgumentError(f"{checks.shown(text)}: there is no module {error.name!r}") from error
    except RnncError:
        raise
    except (Exception, SystemExit) as error:  # the module may raise anything
        raise ArgumentError(
            f"{checks.shown(text)}: importing {name} failed: {type(error).__name__}: {error}"
        ) from error
