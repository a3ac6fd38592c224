"""The progress of an epoch: a bar by tqdm, a line of results if tqdm is not installed, or nothing."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from rnnc.extras import MissingExtra, load


class Progress:
    """A context for one epoch. It shows a bar that ends as a line of results, or without tqdm the line alone."""

    def __init__(self, shown: bool, epoch: int, epochs: int, total: int | None, done: int) -> None:
        self._bar: Any = None
        self._title, self._shown = f"epoch {epoch + 1}/{epochs}", shown
        if shown and (tqdm := _tqdm()) is not None:
            self._bar = tqdm(total=total, initial=done, desc=self._title, unit="update", dynamic_ncols=True, leave=True)

    def advance(self, loss: float) -> None:
        """Counts one update. loss: the mean loss of the epoch so far."""
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
            self._bar.update()

    def close_with(
        self, loss: float, validation_loss: float | None, accuracy: float | None, metrics: Mapping[str, float]
    ) -> None:
        """Shows the results of the epoch."""
        text = f"loss {loss:.4f}"
        text += "" if validation_loss is None else f", validation {validation_loss:.4f}"
        text += "" if accuracy is None else f", accuracy {accuracy:.4f}"
        text += "".join(f", {name} {value:.4f}" for name, value in metrics.items() if name != "accuracy")
        if self._bar is not None:
            self._bar.set_postfix_str(text)
        elif self._shown:
            print(f"{self._title}: {text}", file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()


def _tqdm() -> Any:
    """tqdm's class of bars, or None if it is not installed."""
    try:
        return load("tqdm", "progress bars").tqdm
    except MissingExtra:
        return None
