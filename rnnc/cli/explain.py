"""`rnnc explain`: which paths a backend takes, and why no faster ones."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rnnc.cli.common import add_backend, add_spec, chosen
from rnnc.cli.parser import add_command
from rnnc.cli.specs import is_model_file, load_model, steps_of_model
from rnnc.compiled import Compiled

if TYPE_CHECKING:
    import argparse

    from rnnc.cli.parser import Commands


def add(commands: Commands) -> None:
    """Declares the command."""
    parser = add_command(
        commands,
        "explain",
        _run,
        help="print which paths the backend takes, and why no faster ones",
        examples=[
            "rnnc explain spec.toml",
            "rnnc explain spec.toml --limits         what limits each phase on this machine, and what would help",
            "rnnc explain spec.toml --json           the same as data",
            "rnnc explain model.rnnc",
            "rnnc explain spec.toml --backend cuda",
        ],
    )
    add_spec(parser)
    parser.add_argument("--limits", action="store_true", help="what limits each phase on this machine")
    parser.add_argument("--json", action="store_true", help="the same as data")
    add_backend(parser)


def _run(options: argparse.Namespace) -> None:
    made = chosen(options)
    what: Any
    compiled: Any = None
    if is_model_file(options.spec):
        from rnnc.files.models import load_model as load_bound

        compiled = what = load_bound(options.spec, trusted=options.trust, **made.arguments)
    else:
        what = load_model(options.spec, options.trust)
    steps: Compiled = Compiled(steps_of_model(what), made) if compiled is None else compiled
    if not options.json and not options.limits:
        print(steps.explain().rstrip("\n"))
        return
    found = replace(steps.explanation(), what=repr(what))
    print(json.dumps(found.to_dict(), indent=1) if options.json else str(found).rstrip("\n"))
