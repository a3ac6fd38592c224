"""The exception of the emulator."""

from __future__ import annotations

from rnnc.ir.errors import BackendError


class EmulatorError(BackendError):
    """A translation unit cannot be compiled for the CPU, or a launch had undefined behaviour or would hang on a GPU."""
