"""Whole models as PyTorch exports them, through from_onnx, against ONNX Runtime."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import rnnc
from tests.onnx_models import model, node, onnx, onnxruntime_gives

torch = pytest.importorskip("torch", reason="PyTorch exports these models")
nn = torch.nn


class Module(nn.Module):  # type: ignore[misc,name-defined]
    """Submodules by name, and a function of them and of the inputs."""

    def __init__(self, forward: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self.function = forward

    def forward(self, *xs: Any) -> Any:
        return self.function(self, *xs)


def exported(module: Any, inputs: dict[str, Any], axes: dict[str, Any]) -> Any:
    """The module as a ModelProto. axes: which axes of which input have names."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            file,
            input_names=list(inputs),
            dynamic_axes=axes,
            opset_version=17,
            dynamo=False,
        )
    return onnx.load_from_string(file.getvalue())


def x(*shape: int) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def tagger(cell: Any, layers: int, both: bool) -> Any:
    return Module(
        lambda m, x: torch.log_softmax(m.out(m.rnn(x)[0]), -1),
        rnn=cell(6, 8, num_layers=layers, bidirectional=both, batch_first=True),
        out=nn.Linear(16 if both else 8, 5),
    )


def stream(m: Any, x: Any, h: Any) -> Any:
    y, h = m.rnn(x, h)
    return torch.sigmoid(m.out(torch.relu(y))), h


def convolved(m: Any, x: Any) -> Any:
    y = torch.relu(m.bn(m.conv(x.transpose(1, 2)))).transpose(1, 2)
    y = m.rnn(y)[0]
    return torch.softmax(m.out(m.norm(y) + y), -1)


def skipping(m: Any, x: Any) -> Any:
    y = m.a(x)[0]
    z = m.b(torch.cat([x, y], -1))[0]
    return m.out(torch.cat([x, y, z], -1)), (y * 2 - 1).mean(-1, keepdim=True)


def attention(m: Any, x: Any) -> Any:
    y = m.rnn(x)[0]
    return (torch.softmax(m.score(y), 1) * y).sum(1)


def self_attention(m: Any, x: Any) -> Any:
    y = m.rnn(x)[0]
    return torch.softmax(y @ y.transpose(1, 2), -1) @ y


def picture(m: Any, x: Any) -> Any:
    y = torch.relu(m.conv(x)).permute(0, 3, 1, 2)
    return m.out(m.rnn(y.reshape(y.shape[0], y.shape[1], 32))[0])


def packed(m: Any, x: Any, lengths: Any) -> Any:
    sequences = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
    y, (h, _) = m.rnn(sequences)
    return m.out(nn.utils.rnn.pad_packed_sequence(y, batch_first=True)[0]), h


def both_ends(m: Any, x: Any) -> Any:
    h = m.rnn(x)[1][0]
    return m.out(torch.cat([h[0], h[1]], -1))


BT = {"x": {0: "B", 1: "T"}}
MODELS: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "tagger": (tagger(nn.LSTM, 2, True), {"x": x(3, 7, 6)}, BT),
    "tagger of fixed sizes": (tagger(nn.GRU, 2, True), {"x": x(3, 7, 6)}, {}),
    "tagger, one row": (tagger(nn.RNN, 1, True), {"x": x(1, 7, 6)}, {"x": {1: "T"}}),
    "tagger, one step": (tagger(nn.GRU, 1, False), {"x": x(3, 1, 6)}, {"x": {0: "B"}}),
    "stream": (
        Module(stream, rnn=nn.GRU(6, 8, 2, batch_first=True), out=nn.Linear(8, 5)),
        {"x": x(3, 7, 6), "h": x(2, 3, 8)},
        BT | {"h": {1: "B"}},
    ),
    "stream without names": (
        Module(stream, rnn=nn.GRU(6, 8, 2, batch_first=True), out=nn.Linear(8, 5)),
        {"x": x(3, 7, 6), "h": x(2, 3, 8)},
        {"x": [0, 1], "h": [1]},
    ),
    "last step": (
        Module(lambda m, x: m.out(m.rnn(x)[0][:, -1]), rnn=nn.LSTM(6, 8, batch_first=True), out=nn.Linear(8, 3)),
        {"x": x(3, 7, 6)},
        BT,
    ),
    "both ends": (
        Module(both_ends, rnn=nn.LSTM(6, 8, batch_first=True, bidirectional=True), out=nn.Linear(16, 3)),
        {"x": x(3, 7, 6)},
        BT,
    ),
    "convolution and norms": (
        Module(
            convolved,
            conv=nn.Conv1d(6, 10, 3, padding=1),
            bn=nn.BatchNorm1d(10),
            rnn=nn.GRU(10, 8, batch_first=True),
            norm=nn.LayerNorm(8),
            out=nn.Linear(8, 4),
        ),
        {"x": x(3, 7, 6)},
        BT,
    ),
    "embedding": (
        Module(
            lambda m, x: m.out(m.rnn(m.table(x))[0]),
            table=nn.Embedding(20, 6),
            rnn=nn.LSTM(6, 8, batch_first=True, bidirectional=True),
            out=nn.Linear(16, 4),
        ),
        {"x": torch.arange(15).reshape(3, 5)},
        BT,
    ),
    "skips, two outputs": (
        Module(skipping, a=nn.GRU(6, 8), b=nn.GRU(14, 8), out=nn.Linear(22, 3)),
        {"x": x(7, 3, 6)},
        {"x": {0: "T", 1: "B"}},
    ),
    "mean over time": (
        Module(lambda m, x: m.out(m.rnn(x)[0].mean(1)), rnn=nn.GRU(6, 8, batch_first=True), out=nn.Linear(8, 3)),
        {"x": x(3, 7, 6)},
        BT,
    ),
    "attention": (
        Module(attention, rnn=nn.GRU(6, 8, batch_first=True), score=nn.Linear(8, 1)),
        {"x": x(3, 7, 6)},
        BT,
    ),
    "a state that starts at another's end": (
        Module(
            lambda m, x: m.b(x, m.a(x)[1])[0],
            a=nn.GRU(6, 8, batch_first=True),
            b=nn.GRU(6, 8, batch_first=True),
        ),
        {"x": x(3, 7, 6)},
        BT,
    ),
    "packed sequences": (
        Module(packed, rnn=nn.LSTM(6, 8, batch_first=True, bidirectional=True), out=nn.Linear(16, 3)),
        {"x": x(3, 7, 6), "lengths": torch.tensor([7, 4, 2])},
        BT | {"lengths": {0: "B"}},
    ),
}


def agree(network: rnnc.OnnxNetwork, proto: Any, given: dict[str, Any]) -> None:
    made = network.run(given)
    for name, expected in onnxruntime_gives(proto, given).items():
        assert made[name].shape == expected.shape and made[name].dtype == expected.dtype
        np.testing.assert_allclose(made[name], expected, rtol=0, atol=2e-6, err_msg=name)


@pytest.mark.parametrize("name", MODELS)
def test_exported_models(name: str, backend: str) -> None:
    module, inputs, axes = MODELS[name]
    proto = exported(module, inputs, axes)
    network = rnnc.from_onnx(proto, backend=backend)
    given = {key: value.numpy() for key, value in inputs.items()}
    agree(network, proto, given)
    if axes == BT and given["x"].dtype == np.float32:  # other sizes need nothing new
        for batch, steps in ((1, 4), (2, 1), (5, 9)):
            agree(network, proto, {"x": x(batch, steps, 6).numpy()})
        assert "for all sizes" in network.explain()


def test_what_is_left_to_onnxruntime() -> None:
    """Attention of each step to each behind the recurrence; a convolution over a picture before it."""
    behind = exported(Module(self_attention, rnn=nn.GRU(6, 8, batch_first=True)), {"x": x(3, 7, 6)}, BT)
    with pytest.raises(rnnc.OnnxError, match=r"nodes cannot be compiled: .*has time twice.*fallback='onnxruntime'"):
        rnnc.from_onnx(behind)
    network = rnnc.from_onnx(behind, fallback="onnxruntime")
    assert "left to ONNX Runtime" in network.explain()
    agree(network, behind, {"x": x(3, 7, 6).numpy()})
    agree(network, behind, {"x": x(2, 5, 6).numpy()})

    parts = {"conv": nn.Conv2d(1, 4, 3, padding=1), "out": nn.Linear(16, 5)}
    rnn = nn.LSTM(32, 8, batch_first=True, bidirectional=True)
    before = exported(Module(picture, rnn=rnn, **parts), {"x": x(2, 1, 8, 9)}, {"x": {0: "B", 3: "W"}})
    with pytest.raises(rnnc.OnnxError, match=r"\(Conv\): it convolves over 2 axes"):
        rnnc.from_onnx(before)
    network = rnnc.from_onnx(before, fallback="onnxruntime")
    agree(network, before, {"x": x(2, 1, 8, 9).numpy()})
    agree(network, before, {"x": x(1, 1, 8, 4).numpy()})


def test_the_call_form_streams_as_every_network_does() -> None:
    """(T, B, N) in and out, and a state by names."""
    module, inputs, axes = MODELS["stream"]
    proto = exported(module, inputs, axes)
    network = rnnc.from_onnx(proto, outputs=[proto.graph.output[0].name])
    steps, state, pieces = inputs["x"].numpy().swapaxes(0, 1), None, []
    for t in range(len(steps)):
        y, state = network.advance(steps[t : t + 1], state)
        pieces.append(y)
    whole = network.run({"x": inputs["x"].numpy(), "h": np.zeros((2, 3, 8), np.float32)})
    np.testing.assert_allclose(np.concatenate(pieces).swapaxes(0, 1), next(iter(whole.values())), rtol=0, atol=1e-6)
    np.testing.assert_allclose(network(steps), np.concatenate(pieces), rtol=0, atol=1e-6)


def test_a_file_of_two_networks_has_no_call_form() -> None:
    nodes = [node("Exp", ["x"], ["a"]), node("Reshape", ["a", "flat"], ["b"]), node("Exp", ["b"], ["y"])]
    network = rnnc.from_onnx(model(nodes, {"x": ("float32", ["B", 4])}, ["y"], {"flat": np.array([-1, 2])}))
    with pytest.raises(rnnc.ArgumentError, match="became 2 networks; use run"):
        network(np.ones((1, 1, 4), np.float32))
