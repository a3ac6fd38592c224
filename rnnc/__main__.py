"""`python -m rnnc`, the same as `rnnc`. Python itself puts the current folder first on the path then, without -P."""

import sys

from rnnc.cli import main

if __name__ == "__main__":
    sys.exit(main())
