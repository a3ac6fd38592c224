"""`python -m rnnc`, the same as `rnnc`. Unless -P is given, Python puts the current folder first on the path."""

import sys

from rnnc.cli import main

if __name__ == "__main__":
    sys.exit(main())
