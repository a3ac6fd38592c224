"""Modules of a single step: LSTMCell, GRUCell and RNNCell, with PyTorch's arguments."""

from __future__ import annotations

from typing import Any

from rnnc import specs
from rnnc.ir.errors import ShapeError
from rnnc.torch.nn.base import Module, reset_uniformly, spec_dtype
from rnnc.torch.nn.calls import call
from rnnc.torch.nn.gradients import as_state

__all__ = ["GRUCell", "LSTMCell", "RNNCell"]


class _Step(Module):
    """One step of a layer. Its parameters have no layer in their names."""

    @staticmethod
    def name_of(name: str) -> str:
        return name.removesuffix("_l0")

    def reset_parameters(self) -> None:
        """New parameters, the same numbers as of torch.nn's module after the same torch.manual_seed."""
        reset_uniformly(self)

    def forward(self, input: Any, hx: Any = None) -> Any:
        """The new state: h, or (h, c).

        input: (B, I), or (I,). hx: the state, (B, H) or (H,) each: bare for one, otherwise a tuple. Default: zeros.
        Raises ShapeError, DtypeError, ArgumentError or ArgumentTypeError.
        """
        if input.dim() not in (1, 2):
            raise ShapeError(f"input: expected (B, I) or (I,) with I = {self.input_size}, got {tuple(input.shape)}")
        parts = () if hx is None else tuple(hx) if isinstance(hx, (tuple, list)) else (hx,)
        state = as_state([part.unsqueeze(0) for part in parts])
        _, final = call(self._packed, self.weights(), input.unsqueeze(0), state, None)
        return tuple(part[0] for part in final) if isinstance(final, tuple) else final[0]


class LSTMCell(_Step):
    """torch.nn.LSTMCell, with its arguments, parameters and state_dict. Raises as `Recurrent`."""

    __module__ = "rnnc.torch"

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__(specs.LSTM(input_size, hidden_size, bias=bias, dtype=spec_dtype(dtype)), device)


class GRUCell(_Step):
    """torch.nn.GRUCell, with its arguments, parameters and state_dict. Raises as `Recurrent`."""

    __module__ = "rnnc.torch"

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__(specs.GRU(input_size, hidden_size, bias=bias, dtype=spec_dtype(dtype)), device)


class RNNCell(_Step):
    """torch.nn.RNNCell, with its arguments, parameters and state_dict. Raises as `Recurrent`."""

    __module__ = "rnnc.torch"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        options: Any = {"nonlinearity": nonlinearity, "bias": bias, "dtype": spec_dtype(dtype)}
        super().__init__(specs.RNN(input_size, hidden_size, **options), device)
