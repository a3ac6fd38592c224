"""The progress bar of an epoch, by tqdm, or nothing at all."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from rnnc.train.extras import load


class Progress:
    """A context: one bar an epoch, which ends as a line of its results."""

    def __init__(self, shown: bool, epoch: int, epochs: int, total: int, done: int) -> None:
        self._bar: Any = None
        if shown:
            tqdm = load("tqdm", "progress bars (progress=True)").tqdm
            title = f"epoch {epoch + 1}/{epochs}"
            self._bar = tqdm(total=total, initial=done, desc=title, unit="update", dynamic_ncols=True, leave=True)

    def advance(self, loss: float) -> None:
        """One update is done; the mean loss so far."""
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
            self._bar.update()

    def close_with(self, loss: float, validation_loss: float | None, accuracy: float | None) -> None:
        """The results of the epoch."""
        if self._bar is None:
            return
        text = f"loss {loss:.4f}"
        text += "" if validation_loss is None else f", validation {validation_loss:.4f}"
        text += "" if accuracy is None else f", accuracy {accuracy:.4f}"
        self._bar.set_postfix_str(text)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
