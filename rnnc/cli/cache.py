"""`rnnc cache`: the folder of compiled code, with the size and last use of each entry; or clears it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rnnc.cli.parser import add_command

if TYPE_CHECKING:
    import argparse

    from rnnc.cli.parser import Commands


def add(commands: Commands) -> None:
    """Declares the command."""
    parser = add_command(
        commands,
        "cache",
        _run,
        help="show the compiled code that is kept on disk, or delete it",
        examples=["rnnc cache", "rnnc cache --clear", "RNNC_CACHE_DIR=/tmp/rnnc rnnc cache"],
    )
    parser.add_argument("--clear", action="store_true", help="delete all entries")


def _run(options: argparse.Namespace) -> None:
    from rnnc.backends import cache
    from rnnc.ir import settings

    folder = settings.cache_folder()
    if folder is None:
        print("there is no cache: RNNC_CACHE_DIR is 'off', or the user has no home folder")
        return
    print(folder / cache.FOLDER)
    if options.clear:
        print(f"deleted: {cache.clear()} entries")
        return
    found = cache.entries()
    size, most = sum(entry.size for entry in found), settings.cache_bytes()
    print(f"{len(found)} entries, {size / 1e6:.1f} of at most {most / 1e6:,.0f} MB (RNNC_CACHE_MEGABYTES)")
    now = time.time()
    for entry in reversed(found):
        print(f"  {entry.name[:12]}  {entry.size / 1e3:8,.1f} KB   used {_age(now - entry.used)} ago")


def _age(seconds: float) -> str:
    for unit, scale in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * scale:
            return f"{seconds / scale:.0f} {unit}"
    return f"{max(seconds, 0.0):.0f} seconds"
