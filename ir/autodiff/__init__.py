"""Differentiation as a transform of graphs: `vjp` (reverse mode) and `jvp` (forward mode).

Both take a graph and give one that verifies, prints, optimises, rolls and differentiates again.
"""

from rnnc.ir.autodiff.forward import jvp
from rnnc.ir.autodiff.reverse import vjp

__all__ = ["jvp", "vjp"]
