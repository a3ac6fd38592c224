"""Every exception that rnnc raises on purpose, in one place, so that all layers share them.

A message names the argument, the value it had, the value expected, and what to do about it.
"""

from __future__ import annotations


class RnncError(Exception):
    """Base of all exceptions of rnnc."""


class RnncWarning(UserWarning):
    """Category of all warnings of rnnc."""


class ArgumentError(RnncError, ValueError):
    """An argument has an unusable value."""


class ArgumentTypeError(RnncError, TypeError):
    """An argument has an unusable type."""


class ShapeError(ArgumentError):
    """An array has the wrong number of axes or the wrong sizes."""


class DtypeError(ArgumentTypeError):
    """An array has the wrong dtype. rnnc never casts silently."""


class ParameterError(ArgumentError):
    """A parameter is missing, unknown, or does not fit its spec."""


class LengthError(ArgumentError):
    """A sequence length is not between 0 and the number of time steps."""


class SizeError(ArgumentError, MemoryError):
    """The sizes of a network or of a call need more memory than there is."""


class FileError(ArgumentError):
    """A file cannot be read or written, is damaged, or is of a kind or version that rnnc does not read."""


class OnnxError(FileError):
    """A file is no ONNX model, is damaged, or holds what rnnc cannot read or compile."""


class TorchError(ArgumentError):
    """A PyTorch module holds or does what rnnc cannot read."""


class CheckpointError(FileError):
    """A checkpoint of parameters or of a training run cannot be written, is damaged, or is a file of another kind."""


class NonFiniteError(RnncError, ArithmeticError):
    """The loss or a gradient of a training step is infinite or NaN. The step has changed nothing."""


class RankError(RnncError, RuntimeError):
    """Processes that train together have lost one of them, or were not given the same."""


class IRError(RnncError, ValueError):
    """A graph or program breaks a rule of the intermediate representation."""


class MissingNameError(IRError, AttributeError):
    """Equations read a parameter, a state or an attribute that does not exist.

    It is an AttributeError, so that `hasattr` and `getattr(..., default)` work.
    """


class VerifyError(IRError):
    """The verifier found a malformed graph."""


class ParseError(IRError):
    """The text of a graph does not follow the grammar."""


class RollError(IRError):
    """The steps of a graph are not equal up to a shift of time."""


class BackendError(RnncError, RuntimeError):
    """A backend cannot do what was asked of it."""


class UnknownBackend(ArgumentError, BackendError):
    """There is no backend of this name."""


class UnknownOperands(ArgumentError, BackendError):
    """A backend has no matrix products with operands of this kind, such as tf32."""


class BackendUnavailable(BackendError):
    """A backend needs hardware or a package that is missing."""


class MissingExtra(RnncError, ImportError):
    """A package of an extra, such as `rnnc[train]`, is needed and not installed. The message says how to install it."""
