"""Differentiation as a transform of graphs: `vjp` (reverse mode) and `jvp` (forward mode).

Both return an ordinary graph: it can be verified, printed, optimised, rolled and differentiated again.
"""

from rnnc.ir.autodiff.forward import jvp
from rnnc.ir.autodiff.reverse import vjp

__all__ = ["jvp", "vjp"]
