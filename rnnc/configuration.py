"""`rnnc.settings`: the settings of rnnc, to read, and to change for a while.

print(rnnc.settings)                             all settings, their values, and where these come from
with rnnc.settings(num_threads=1, verify=True):
    model = rnnc.compile(spec, params)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike, fspath
from typing import Any

from rnnc.checking import checks
from rnnc.ir import settings as table
from rnnc.ir.errors import ArgumentError, ArgumentTypeError

__all__ = ["Configuration", "settings"]


class Configuration:
    """The settings. Each is an attribute, whose value is the one that counts now."""

    @contextmanager
    def __call__(self, **values: object) -> Iterator[Configuration]:
        """Gives settings other values within a `with` block, in this thread alone.

        They win over environment variables, and are read as those are: when something is compiled, or when a cache is
        opened. So a model that was compiled in the block keeps its threads behind it.
        values: settings by name: num_threads, cache_dir ("off" or None for no cache), cache_megabytes, profile, verify,
            codegen, poison, cuda_chip (docs/settings.md).
        Raises ArgumentTypeError for a name that there is not, with the one that may be meant; ArgumentError or
        ArgumentTypeError for a wrong value, before anything is changed.
        """
        restore = table.choose({_known(name): _as_text(name, value) for name, value in values.items()})
        try:
            for name in values:
                table.READERS[name]()  # raises for a wrong value
            yield self
        finally:
            restore()

    def __getattr__(self, name: str) -> Any:
        if name not in table.SETTINGS:
            raise AttributeError(f"there is no setting {name!r}{checks.suggestion(name, table.SETTINGS)}")
        return table.READERS[name]()

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *table.SETTINGS})

    def __repr__(self) -> str:
        return "\n".join(lines())


def lines() -> list[str]:
    """The settings, one per line: name, value, and where it comes from."""
    found = [(name, str(table.READERS[name]()), table.source_of(name)) for name in table.SETTINGS]
    widths = [max(len(row[i]) for row in found) for i in range(2)]
    return [f"{name:<{widths[0]}}  {value:<{widths[1]}}  {source}" for name, value, source in found]


def _known(name: str) -> str:
    if name not in table.SETTINGS:
        hint = checks.suggestion(name, table.SETTINGS)
        raise ArgumentTypeError(f"there is no setting {name!r}{hint}; there are {', '.join(table.SETTINGS)}")
    return name


def _as_text(name: str, value: object) -> str:
    """The value as the text of its variable."""
    if name == "cache_dir" and value is None:
        return "off"
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, PathLike):
        value = fspath(value)
    if not isinstance(value, (int, str)):
        raise ArgumentTypeError(f"{name}: expected {table.SETTINGS[name].kind}, got {checks.came(value)}")
    if not str(value):
        raise ArgumentError(f"{name}: expected {table.SETTINGS[name].kind}, got an empty text")
    return str(value)


settings = Configuration()
"""The one object of this class."""
