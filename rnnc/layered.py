"""Layered: what `rnnc.Graph` and `rnnc.Sequential` have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.cells import Shape
from rnnc.checking.arguments import explained
from rnnc.checking.renaming import Names
from rnnc.compiled import CompileOptions
from rnnc.plain_data import PlainData

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rnnc.graph import Graph
    from rnnc.network import Network

    Array = NDArray[Any]


class Layered(PlainData):
    """Base of networks, which are all graphs of layers, however they are written."""

    if TYPE_CHECKING:

        @property
        def dtype(self) -> str:
            """ "float32" or "float64", of all parameters and all arithmetic."""

    def graph(self) -> Graph:
        """The layers, by name."""
        raise NotImplementedError

    def network_class(self) -> type[Network]:
        """The class of `compile`'s result."""
        from rnnc.network import Network

        return Network

    def parameter_shapes(self) -> dict[str, Shape]:
        """Name -> shape of every parameter: "dense.weight", "vad.weight_ih_l0", ..."""
        return self.graph().parameter_shapes()

    @property
    def tied_parameters(self) -> Mapping[str, str]:
        """What layers would call parameters that are another's -> the name of the parameter (`rnnc.Graph`)."""
        return self.graph().tied_parameters

    def init(self, seed: int | np.random.Generator = 0) -> dict[str, Array]:
        """New parameters, each layer's from its own distribution. The same seed gives the same."""
        return self.graph().init(seed)

    @explained
    def compile(
        self,
        params: Mapping[str, Any],
        *,
        backend: str = "llvm",
        threads: int | None = None,
        matmul: str | None = None,
        weights: str | None = None,
        activations: str | None = None,
        names: Names | None = None,
    ) -> Network:
        """The network for inference: a function of its inputs and lengths (`rnnc.network.Network`).

        params: name -> array, as in `rnnc.Program.bind`. backend, threads, matmul, weights, activations,
            names: as in `rnnc.compile`.
        Raises ParameterError, ShapeError, DtypeError, BackendError, ArgumentError or ArgumentTypeError.
        """
        options = CompileOptions.of(backend, threads, matmul, weights, activations)
        return self.network_class()(self, params, names=names, **options.arguments)
