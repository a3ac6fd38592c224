"""rnnc: a compiler for recurrent networks.

    spec = rnnc.LSTM(128, 256, num_layers=2)
    model = rnnc.compile(spec, spec.init(seed=0))
    output, state = model(x)

What one needs first:

    compile(spec, params)          a model: model(x), model.advance(x, state), model.explain(), model.report(path)
    Sequential, Graph              networks of layers; from_onnx(path) and from_torch(module) make them of others
    train.fit(net, data, ...)      trains; vjp, jvp and hvp are derivatives
    Streams(model, capacity)       the states of many streams; model.realtime() steps for an audio thread
    export(model, folder)          a library that needs no Python
    torch.accelerate(module)       rnnc under the recurrent modules of a PyTorch program (import rnnc.torch)
    cells, layers as equations     subclass Cell or Layer: see `help(rnnc.cells)`

`Program.ir` shows every stage on the way to the machine code, `rnnc --help` is the command line, and docs/index.md
begins with what you want to do.
"""

from typing import TYPE_CHECKING, Any

from rnnc.ir.errors import (
    ArgumentError,
    ArgumentTypeError,
    BackendError,
    BackendUnavailable,
    CheckpointError,
    DtypeError,
    FileError,
    IRError,
    LengthError,
    NonFiniteError,
    OnnxError,
    ParameterError,
    RnncError,
    RnncWarning,
    ShapeError,
    SizeError,
    TorchError,
)

if TYPE_CHECKING:
    from rnnc import cells, gates, initializers, losses, optimizers, schedules, torch, train
    from rnnc.cells import Cell, Parameter
    from rnnc.checking.renaming import rename
    from rnnc.configuration import settings
    from rnnc.decoding import Beam, Decoded, Decoder, Decoding, Greedy, Sample
    from rnnc.derivatives import hvp, jvp, vjp
    from rnnc.drawing import draw
    from rnnc.exporting.export import export
    from rnnc.exporting.libraries import load_library
    from rnnc.files.loading import load
    from rnnc.files.models import save
    from rnnc.files.weights import take
    from rnnc.graph import NUMBERS, Graph, Static
    from rnnc.layers import (
        Activation,
        Add,
        Attention,
        AttentionPooling,
        AvgPool1d,
        BatchNorm,
        Concat,
        Conv1d,
        ConvTranspose1d,
        Delay,
        Dropout,
        Embedding,
        First,
        Last,
        Layer,
        LayerNorm,
        LearnedStart,
        Linear,
        LogSoftmax,
        Max,
        MaxPool1d,
        Mean,
        Multiply,
        Pace,
        PReLU,
        Readout,
        Regularized,
        RMSNorm,
        Scale,
        Select,
        Shift,
        Softmax,
        SoftmaxPooling,
        Sum,
    )
    from rnnc.model import Model
    from rnnc.network import Network
    from rnnc.onnx.network import OnnxNetwork, from_onnx
    from rnnc.programs import Program, compile
    from rnnc.quantization import quantization_report
    from rnnc.sequential import Sequential
    from rnnc.specs import GRU, LSTM, RNN, Recurrent, Spec
    from rnnc.streams import Streams
    from rnnc.torch.network import TorchNetwork, from_torch

__all__ = [
    "GRU",
    "LSTM",
    "NUMBERS",
    "RNN",
    "Activation",
    "Add",
    "ArgumentError",
    "ArgumentTypeError",
    "Attention",
    "AttentionPooling",
    "AvgPool1d",
    "BackendError",
    "BackendUnavailable",
    "BatchNorm",
    "Beam",
    "Cell",
    "CheckpointError",
    "Concat",
    "Conv1d",
    "ConvTranspose1d",
    "Decoded",
    "Decoder",
    "Decoding",
    "Delay",
    "Dropout",
    "DtypeError",
    "Embedding",
    "FileError",
    "First",
    "Graph",
    "Greedy",
    "IRError",
    "Last",
    "Layer",
    "LayerNorm",
    "LearnedStart",
    "LengthError",
    "Linear",
    "LogSoftmax",
    "Max",
    "MaxPool1d",
    "Mean",
    "Model",
    "Multiply",
    "Network",
    "NonFiniteError",
    "OnnxError",
    "OnnxNetwork",
    "PReLU",
    "Pace",
    "Parameter",
    "ParameterError",
    "Program",
    "RMSNorm",
    "Readout",
    "Recurrent",
    "Regularized",
    "RnncError",
    "RnncWarning",
    "Sample",
    "Scale",
    "Select",
    "Sequential",
    "ShapeError",
    "Shift",
    "SizeError",
    "Softmax",
    "SoftmaxPooling",
    "Spec",
    "Static",
    "Streams",
    "Sum",
    "TorchError",
    "TorchNetwork",
    "cells",
    "compile",
    "draw",
    "export",
    "from_onnx",
    "from_torch",
    "gates",
    "hvp",
    "initializers",
    "jvp",
    "load",
    "load_library",
    "losses",
    "optimizers",
    "quantization_report",
    "rename",
    "save",
    "schedules",
    "settings",
    "take",
    "torch",
    "train",
    "vjp",
]

# All names but those of errors are imported when they are first asked for: a program pays for what it uses.
_LATER = {
    "Activation": "rnnc.layers",
    "Add": "rnnc.layers",
    "Attention": "rnnc.layers",
    "AttentionPooling": "rnnc.layers",
    "AvgPool1d": "rnnc.layers",
    "BatchNorm": "rnnc.layers",
    "Beam": "rnnc.decoding",
    "Cell": "rnnc.cells",
    "Concat": "rnnc.layers",
    "Conv1d": "rnnc.layers",
    "ConvTranspose1d": "rnnc.layers",
    "Decoded": "rnnc.decoding",
    "Decoder": "rnnc.decoding",
    "Decoding": "rnnc.decoding",
    "Delay": "rnnc.layers",
    "Dropout": "rnnc.layers",
    "Embedding": "rnnc.layers",
    "First": "rnnc.layers",
    "GRU": "rnnc.specs",
    "Graph": "rnnc.graph",
    "Greedy": "rnnc.decoding",
    "LSTM": "rnnc.specs",
    "Last": "rnnc.layers",
    "Layer": "rnnc.layers",
    "LayerNorm": "rnnc.layers",
    "LearnedStart": "rnnc.layers",
    "Linear": "rnnc.layers",
    "LogSoftmax": "rnnc.layers",
    "Max": "rnnc.layers",
    "MaxPool1d": "rnnc.layers",
    "Mean": "rnnc.layers",
    "Model": "rnnc.model",
    "Multiply": "rnnc.layers",
    "NUMBERS": "rnnc.graph",
    "Network": "rnnc.network",
    "OnnxNetwork": "rnnc.onnx.network",
    "PReLU": "rnnc.layers",
    "Pace": "rnnc.layers",
    "Parameter": "rnnc.cells",
    "Program": "rnnc.programs",
    "RMSNorm": "rnnc.layers",
    "RNN": "rnnc.specs",
    "Readout": "rnnc.layers",
    "Recurrent": "rnnc.specs",
    "Regularized": "rnnc.layers",
    "Sample": "rnnc.decoding",
    "Scale": "rnnc.layers",
    "Select": "rnnc.layers",
    "Sequential": "rnnc.sequential",
    "Shift": "rnnc.layers",
    "Softmax": "rnnc.layers",
    "SoftmaxPooling": "rnnc.layers",
    "Spec": "rnnc.specs",
    "Static": "rnnc.graph",
    "Streams": "rnnc.streams",
    "Sum": "rnnc.layers",
    "TorchNetwork": "rnnc.torch.network",
    "cells": "",
    "compile": "rnnc.programs",
    "draw": "rnnc.drawing",
    "export": "rnnc.exporting.export",
    "from_onnx": "rnnc.onnx.network",
    "from_torch": "rnnc.torch.network",
    "gates": "",
    "hvp": "rnnc.derivatives",
    "initializers": "",
    "jvp": "rnnc.derivatives",
    "load": "rnnc.files.loading",
    "load_library": "rnnc.exporting.libraries",
    "losses": "",
    "optimizers": "",
    "quantization_report": "rnnc.quantization",
    "rename": "rnnc.checking.renaming",
    "save": "rnnc.files.models",
    "schedules": "",
    "settings": "rnnc.configuration",
    "take": "rnnc.files.weights",
    "torch": "",
    "train": "",
    "vjp": "rnnc.derivatives",
}


def __dir__() -> list[str]:
    return sorted({*__all__, "__version__", *(name for name in globals() if name.startswith("__"))})


def __getattr__(name: str) -> Any:
    import importlib

    if name == "__version__":
        from importlib.metadata import version  # 10 ms, for the few who ask

        return version("rnnc")
    if name not in _LATER:
        raise AttributeError(f"module 'rnnc' has no attribute {name!r}")
    module = importlib.import_module(_LATER[name] or f"rnnc.{name}")
    value = getattr(module, name) if _LATER[name] else module
    globals()[name] = value
    return value
