"""Activations of recurrent nodes: names with alphas and betas, as a node lists them -> one for each function."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isfinite

from rnnc.checking import checks
from rnnc.ir.errors import OnnxError
from rnnc.layers.activations import FORMULAS
from rnnc.onnx.cells import Applied

__all__ = ["ACTIVATIONS", "applied"]

ACTIVATIONS = {
    "relu": "relu",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
    "affine": "affine",
    "leakyrelu": "leaky_relu",
    "thresholdedrelu": "thresholded_relu",
    "scaledtanh": "scaled_tanh",
    "hardsigmoid": "hard_sigmoid",
    "elu": "elu",
    "softsign": "softsign",
    "softplus": "softplus",
}
"""ONNX's names, in small letters, and those of `rnnc.layers.activations.FORMULAS`."""

WITHOUT_DEFAULT = ("affine", "thresholded_relu", "scaled_tanh")
"""Their numbers must be given: ONNX names no defaults for two of them, and for the third ONNX Runtime uses another."""


def applied(label: str, names: Sequence[str], alphas: Sequence[float], betas: Sequence[float]) -> tuple[Applied, ...]:
    """Each activation with its numbers, which those that have some take from the lists in order, as ONNX says.

    A list that is too short leaves the rest at the defaults of ONNX's operators. Raises OnnxError for an unknown name,
    and for an activation that has no default and no number.
    """
    alpha, beta = iter(alphas), iter(betas)
    found = []
    for name in names:
        ours = ACTIVATIONS.get(name.lower())
        if ours is None:
            hint = checks.suggestion(name.lower(), ACTIVATIONS)
            raise OnnxError(f"{label}: activations: {checks.shown(name)} is none of ONNX's{hint}")
        formula = FORMULAS[ours]
        a = _number(label, name, "activation_alpha", formula.alpha, alpha)
        b = _number(label, name, "activation_beta", formula.beta, beta)
        found.append((ours, a, b))
    return tuple(found)


def _number(label: str, name: str, attribute: str, usual: float | None, given: Iterator[float]) -> float:
    if usual is None:
        return 0.0
    number = next(given, None)
    if number is None and ACTIVATIONS[name.lower()] in WITHOUT_DEFAULT:
        why = "has no default that ONNX and ONNX Runtime agree on"
        raise OnnxError(f"{label}: {attribute}: expected a number for {name}, which {why}; found none")
    number = usual if number is None else number
    if not isfinite(number):
        raise OnnxError(f"{label}: {attribute}: expected a finite number for {name}, got {number}")
    return number
