"""The command line: one module per command, each with a function `add(commands)` that declares its arguments.

entry.py    `main`: the list of commands, exit codes, errors
parser.py   argparse with hints ("did you mean")
common.py   the arguments that several commands take
specs.py    the spec or network that an argument names
dumps.py    the stage that the arguments name, in a format
color.py    colours of dumps on a terminal
"""

from rnnc.cli.entry import main
from rnnc.cli.specs import load_model

__all__ = ["load_model", "main"]
