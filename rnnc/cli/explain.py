"""`rnnc explain`: which paths a backend takes, and why no faster ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
        examples=["rnnc explain spec.toml", "rnnc explain model.rnnc", "rnnc explain spec.toml --backend cuda"],
    )
    add_spec(parser)
    add_backend(parser)


def _run(options: argparse.Namespace) -> None:
    made = chosen(options)
    if is_model_file(options.spec):
        from rnnc.files.models import load_model as load_bound

        text = load_bound(options.spec, trusted=options.trust, **made.arguments).explain()
    else:
        text = Compiled(steps_of_model(load_model(options.spec, options.trust)), made).explain()
    print(text.rstrip("\n"))
