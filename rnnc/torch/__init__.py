"""PyTorch as a host, and PyTorch's modules as networks. Torch is imported when something here is first used.

LSTM, GRU, RNN, LSTMCell, GRUCell, RNNCell, Recurrent, accelerate, explain: modules for a PyTorch program
(docs/torch.md). They lie in the folder nn.

`rnnc.from_torch` reads a module and compiles it (docs/from-torch.md):

tracing         forward() as a torch.fx graph of calls
traced          what is known of a tensor of it: a value of the network, and what its axes are
guesses         what the axes of the inputs may be; reading: from call to call, for one guess
modules         torch.nn's modules as layers; recurrent: those that are specs
functions       functions and methods of tensors; elementwise: arithmetic and activations; axes: other axes
building        the layers found so far, and which parameter of the module is which of the network
borders         axes of arrays in another order, at the call
state_dict      parameters back into a state_dict
network         what the user holds
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rnnc.torch.nn.accelerating import accelerate, explain
    from rnnc.torch.nn.cells import GRUCell, LSTMCell, RNNCell
    from rnnc.torch.nn.layers import GRU, LSTM, RNN, Recurrent

__all__ = ["GRU", "LSTM", "RNN", "GRUCell", "LSTMCell", "RNNCell", "Recurrent", "accelerate", "explain"]

_LATER = {
    "GRU": "layers",
    "GRUCell": "cells",
    "LSTM": "layers",
    "LSTMCell": "cells",
    "RNN": "layers",
    "RNNCell": "cells",
    "Recurrent": "layers",
    "accelerate": "accelerating",
    "explain": "accelerating",
}


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})


def __getattr__(name: str) -> Any:
    """A public name. Raises MissingExtra without PyTorch."""
    import importlib

    from rnnc import extras

    if name not in _LATER:
        raise AttributeError(f"module 'rnnc.torch' has no attribute {name!r}")
    extras.load("torch", f"rnnc.torch.{name} and its like", "'rnnc[torch]'")
    value = getattr(importlib.import_module(f"rnnc.torch.nn.{_LATER[name]}"), name)
    globals()[name] = value
    return value
