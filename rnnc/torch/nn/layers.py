"""Modules of whole sequences: LSTM, GRU and RNN with PyTorch's arguments, and Recurrent for any cell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.nn.utils.rnn import PackedSequence

from rnnc import specs
from rnnc.ir.errors import ArgumentError
from rnnc.torch.nn import dropout as dropping
from rnnc.torch.nn import packed
from rnnc.torch.nn.base import Module, reset_uniformly, spec_dtype
from rnnc.torch.nn.calls import call

if TYPE_CHECKING:
    from rnnc.cells import Cell
    from rnnc.specs import Spec

__all__ = ["GRU", "LSTM", "RNN", "Layers", "Recurrent"]


class Layers(Module):
    """Layers of a cell, called as torch.nn.LSTM is."""

    __module__ = "rnnc.torch"

    def __init__(self, spec: Spec, device: Any) -> None:
        super().__init__(spec, device)
        self._by_layer = dropping.layers(self._packed.spec)

    def _forget(self) -> None:
        super()._forget()
        for layer, _ in self._by_layer:
            layer.forget()

    @property
    def all_weights(self) -> list[list[Any]]:
        """The parameters: one list for each layer and direction."""
        weights = iter(self.weights())
        return [[next(weights) for _ in direction.parameters] for direction in self.spec.stack().flat]

    def forward(self, input: Any, hx: Any = None, *, lengths: Any = None) -> tuple[Any, Any]:
        """(output, state), as of the module of torch.nn.

        input: (T, B, I), (B, T, I) with batch_first, (T, I), or a PackedSequence, for which the output is one, too.
        hx: the initial state, (num_layers * D, B, width) for each state of the cell: bare for one, otherwise a tuple.
            Default: zeros.
        lengths: B integers in 0..T: each row's number of steps, as of `rnnc.Model.__call__`, in place of packing.
        Raises ShapeError, DtypeError, LengthError, ArgumentError or ArgumentTypeError.
        """
        if isinstance(input, PackedSequence):
            if lengths is not None:
                raise ArgumentError("lengths: a PackedSequence has its own; expected None")
            return packed.run(self, input, hx)
        return self.run(input, hx, lengths)

    def run(self, x: Any, state: Any, lengths: Any) -> tuple[Any, Any]:
        """(output, state) of a tensor."""
        if self.dropout and self.training and self.num_layers > 1:
            return dropping.run(self, x, state, lengths)
        return call(self._packed, self.weights(), x, state, lengths)


class Recurrent(Layers):
    """Layers of any cell: `rnnc.torch.Recurrent(MyCell(), 64, 128)`.

    cell, backward, reverse: as of `rnnc.Recurrent`. The other arguments are PyTorch's. The parameters have the names
    and shapes that the cell declares, and start as it says.
    Raises ArgumentError, ArgumentTypeError or DtypeError.
    """

    __module__ = "rnnc.torch"

    def __init__(
        self,
        cell: Cell,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        backward: Cell | None = None,
        reverse: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        sizes = (cell, input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional)
        super().__init__(specs.Recurrent(*sizes, spec_dtype(dtype), backward, reverse), device)


class _Known(Layers):
    """A module that torch.nn has, too."""

    def reset_parameters(self) -> None:
        """New parameters, the same numbers as of torch.nn's module after the same torch.manual_seed."""
        reset_uniformly(self)


class LSTM(_Known):
    """torch.nn.LSTM, with its arguments, parameters and state_dict. Raises as `Recurrent`."""

    __module__ = "rnnc.torch"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        options = (num_layers, bias, batch_first, dropout, bidirectional, proj_size, spec_dtype(dtype))
        super().__init__(specs.LSTM(input_size, hidden_size, *options), device)


class GRU(_Known):
    """torch.nn.GRU, with its arguments, parameters and state_dict. Raises as `Recurrent`."""

    __module__ = "rnnc.torch"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        options = (num_layers, bias, batch_first, dropout, bidirectional)
        super().__init__(specs.GRU(input_size, hidden_size, *options, dtype=spec_dtype(dtype)), device)


class RNN(_Known):
    """torch.nn.RNN, with its arguments, parameters and state_dict. Raises as `Recurrent`."""

    __module__ = "rnnc.torch"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        options = (num_layers, nonlinearity, bias, batch_first, dropout, bidirectional, spec_dtype(dtype))
        super().__init__(specs.RNN(input_size, hidden_size, *options), device)  # type: ignore[arg-type]
