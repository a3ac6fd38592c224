"""`rnnc run`: a call of a model file, on arrays in files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rnnc.cli.common import add_backend, add_trust
from rnnc.cli.parser import add_command

if TYPE_CHECKING:
    import argparse

    from rnnc.cli.parser import Commands


def add(commands: Commands) -> None:
    """Declares the command."""
    parser = add_command(
        commands,
        "run",
        _run,
        help="call a model file on arrays in files",
        examples=[
            "rnnc run tagger.rnnc --input x.npy --lengths lengths.npy --output scores.npy",
            "rnnc run vad.rnnc --input frame.npy --state state.npz --final-state state.npz --output y.npy",
            "rnnc run two_inputs.rnnc --input audio=a.npy --input video=v.npy --output both.npz",
        ],
    )
    parser.add_argument("model", metavar="MODEL", help="a file of rnnc.save, or of a model's method save")
    parser.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="[NAME=]FILE",
        help="an .npy file, or an .npz file with all inputs; once per input of the network",
    )
    parser.add_argument("--output", required=True, metavar="FILE", help="an .npy file, or .npz for several outputs")
    parser.add_argument("--lengths", metavar="FILE", help="an .npy file: the length of each sequence")
    parser.add_argument("--state", metavar="FILE", help="an .npz file: the state to start from")
    parser.add_argument("--final-state", metavar="FILE", help="an .npz file for the state at the end")
    add_trust(parser)
    add_backend(parser)


def _run(options: argparse.Namespace) -> None:
    from rnnc.files.running import run

    run(options)
