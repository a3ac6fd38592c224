"""`python -m rnnc`, the same as `rnnc`."""

import sys

from rnnc.cli import main

sys.exit(main())
