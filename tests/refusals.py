"""How the tests of errors say what an exception must be."""

from __future__ import annotations

import re
from typing import Any

import pytest


def raises_saying(error: type[Exception], *words: str) -> Any:
    """The exception, whose message holds each of the words, in this order."""
    return pytest.raises(error, match="(?s)" + ".*".join(map(re.escape, words)))
