"""Every exception rnnc raises on purpose, in one place so that all layers share them.

A message names the argument, what came, what was expected and what to do about it.
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
    """An array has the wrong element type; rnnc never casts in silence."""


class ParameterError(ArgumentError):
    """A parameter is missing, unknown, or does not fit its spec."""


class LengthError(ArgumentError):
    """A sequence length is not between 0 and the number of time steps."""


class SizeError(ArgumentError, MemoryError):
    """There is no memory for what the sizes of a network or of a call ask for."""


class OnnxError(ArgumentError):
    """A file is no ONNX model, is damaged, or holds what rnnc cannot read or compile."""


class CheckpointError(ArgumentError):
    """A file of parameters, or of a training, cannot be written, or is damaged or of another kind."""


class NonFiniteError(RnncError, ArithmeticError):
    """A training step came to a loss or a gradient that is no finite number; it changed nothing."""


class IRError(RnncError, ValueError):
    """A graph or program breaks a rule of the intermediate representation."""


class MissingNameError(IRError, AttributeError):
    """Equations read a parameter, a state or an attribute that is not there; `getattr(..., default)` works."""


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
    """A backend's matrix products have no operands of this kind."""


class BackendUnavailable(BackendError):
    """A backend needs hardware or a package that is not there."""
