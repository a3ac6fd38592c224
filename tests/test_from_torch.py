"""`rnnc.from_torch` against PyTorch: outputs, state_dicts both ways, and what is refused."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rnnc

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn.utils import parametrizations  # noqa: E402

from tests import torch_modules  # noqa: E402
from tests.torch_modules import CASES, B, N, T  # noqa: E402


def leaves(value: Any) -> Iterator[Any]:
    """The tensors of a module's result, in order."""
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, tuple):
        for part in value:
            yield from leaves(part)
    else:
        yield value


def made(module: Any) -> Any:
    torch.manual_seed(1)
    return module().eval()


def called(network: Any, xs: tuple[Any, ...], **options: Any) -> list[Any]:
    """The outputs of a network for a module's arguments."""
    inputs = list(network.model.graph().inputs)
    x = xs[0] if len(xs) == 1 else dict(zip(inputs, xs, strict=True))
    result = network(x, **options)
    return list(result.values()) if isinstance(result, dict) else [result]


def check_outputs(module: Any, network: Any, xs: tuple[Any, ...]) -> None:
    with torch.no_grad():
        expected = list(leaves(module(*xs)))
    found = called(network, tuple(x.numpy() for x in xs))
    assert [array.shape for array in found] == [tuple(tensor.shape) for tensor in expected]
    for array, tensor in zip(found, expected, strict=True):
        np.testing.assert_allclose(array, tensor.numpy(), rtol=1e-5, atol=1e-5)


def check_round_trip(module: Any, network: Any) -> None:
    ours, theirs = network.to_torch_state_dict(), module.state_dict()
    assert list(ours) == list(theirs)
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype and torch.equal(ours[name], tensor), name


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_state_dict(name: str) -> None:
    make, arguments = CASES[name]
    module = made(make)
    network = rnnc.from_torch(module, backend="reference")
    check_outputs(module, network, arguments())
    check_round_trip(module, network)


def test_compiled_pickled_and_on_its_way_as_plain_data() -> None:
    module = made(torch_modules.Front)
    network = rnnc.from_torch(module)
    xs = CASES["front"][1]()
    check_outputs(module, network, xs)
    check_outputs(module, pickle.loads(pickle.dumps(network)), xs)
    assert type(network.model).from_json(network.model.to_json()) == network.model
    assert "norm.num_batches_tracked" in network.explain()
    assert network.frozen == ()  # training changes statistics


@pytest.mark.parametrize("name", ("front", "tied", "forecaster"))
def test_a_file_keeps_the_axes_and_the_names(name: str, tmp_path: Path) -> None:
    module, (_, arguments) = made(CASES[name][0]), CASES[name]
    rnnc.from_torch(module, backend="reference").save(tmp_path / "m.rnnc")
    for use in (lambda network: check_outputs(module, network, arguments()), lambda net: check_round_trip(module, net)):
        network = rnnc.load(tmp_path / "m.rnnc", backend="reference")  # not read yet: each use is the first
        assert isinstance(network, rnnc.TorchNetwork)
        use(network)


@pytest.mark.parametrize(
    "change, message",
    (
        (lambda origin: origin["outputs"].clear(), "its outputs are not those"),
        (lambda origin: origin["outputs"]["rnn.h"].update(places=[0, 9]), "output 'rnn.h' has the axes"),
        (lambda origin: origin["outputs"]["fc"].update(axes=["B", "S0"]), "output 'fc' has the axes"),
        (lambda origin: origin["outputs"]["fc"].update(axes=[1]), "output 'fc' has the axes"),
        (lambda origin: origin["state_dict"]["kept"]["norm.num_batches_tracked"].update(shape=[3]), "8 bytes"),
        (lambda origin: origin["state_dict"]["places"].update({"fc.bias": ["fc.weight", 0]}), "its parameters are not"),
        (lambda origin: origin.pop("inputs"), "expected a dict such as"),
    ),
)
def test_plain_data_that_does_not_fit_is_refused(change: Any, message: str) -> None:
    model = rnnc.from_torch(made(torch_modules.Front), backend="reference").model
    data = json.loads(model.to_json())
    change(data["origin"])
    with pytest.raises(rnnc.ArgumentError, match=message):
        type(model).from_dict(data)


def test_rows_of_several_lengths() -> None:
    """Lengths of pack_padded_sequence are those of the call."""
    module, x, lengths = made(torch_modules.Ragged), torch.randn(B, T, N), torch.tensor([3, T, 1])
    with torch.no_grad():
        y, h = module(x, lengths)
    found = called(rnnc.from_torch(module, backend="reference"), (x.numpy(),), lengths=lengths.numpy())
    np.testing.assert_allclose(found[0], y, atol=1e-6)
    np.testing.assert_allclose(found[1], h, atol=1e-6)


def test_a_step_with_cells_is_a_network_over_time() -> None:
    module, x = made(torch_modules.Step), torch.randn(T, B, N)
    state, g, steps = (torch.zeros(B, 4), torch.zeros(B, 4)), torch.zeros(B, 3), []
    with torch.no_grad():
        for step in x:
            y, h, c, g = module(step, state, g)
            state = (h, c)
            steps.append((y, h, g))
    network = rnnc.from_torch(module, backend="reference")
    found = network(x.numpy())
    for array, tensors in zip((found["fc"], found["first"], found["second"]), zip(*steps, strict=True), strict=True):
        np.testing.assert_allclose(array, torch.stack(tensors), atol=1e-6)
    np.testing.assert_allclose(found["first.c"], c, atol=1e-6)
    check_round_trip(module, network)


def test_a_stream_keeps_the_axes_of_the_module() -> None:
    module = made(lambda: nn.Sequential(nn.Conv1d(N, 4, 3), nn.ReLU(), nn.Conv1d(4, 2, 1)))
    network, x = rnnc.from_torch(module, backend="reference"), torch.randn(B, N, T)
    state, pieces = None, []
    for t in range(T):
        y, state = network.advance(x[:, :, t : t + 1].numpy(), state)
        pieces.append(y)
    streamed = np.concatenate([*pieces, network.finish(state)], axis=2)[:, :, network.latency :]
    with torch.no_grad():
        np.testing.assert_allclose(streamed, module(x), atol=1e-6)


def test_in_a_sequential_a_layer_reads_the_output_of_a_recurrent_one() -> None:
    """PyTorch cannot run this stack; people write it, and a network of rnnc is nothing else."""
    stack = made(lambda: nn.Sequential(nn.Embedding(9, 6), nn.GRU(6, 4, batch_first=True), nn.Linear(4, 2)))
    network, x = rnnc.from_torch(stack, backend="reference"), torch.randint(0, 9, (B, T))
    with torch.no_grad():
        expected = stack[2](stack[1](stack[0](x))[0])
    np.testing.assert_allclose(network(x.numpy()), expected, atol=1e-6)
    check_round_trip(stack, network)


def test_pooling_reads_each_rows_own_steps(backend: str) -> None:
    module, x, lengths = made(torch_modules.Attentive), torch.randn(B, T, N), (T, 1, 4)
    found = called(rnnc.from_torch(module, backend=backend), (x.numpy(),), lengths=lengths)
    for row, length in enumerate(lengths):
        with torch.no_grad():
            alone = module(x[row : row + 1, :length])
        for array, tensor in zip(found, alone, strict=True):
            np.testing.assert_allclose(array[row], tensor[0], atol=2e-6)


@pytest.mark.parametrize("name", ("language model", "tied", "attentive"))
def test_tied_parameters_stay_tied_in_training(name: str) -> None:
    """One step of gradient descent in rnnc and in PyTorch: the same state_dict, tied entries included."""
    make, arguments = CASES[name]
    module, (x,) = made(make), arguments()
    network = rnnc.from_torch(module, backend="reference")
    (output, _), pullback = rnnc.vjp(network.model, backend="reference")(network.params, x.numpy())
    first = next(iter(output)) if isinstance(output, dict) else None
    d_params, _, _ = pullback({first: output[first]} if first else output)
    rate = {key: np.float32(0 if key in network.frozen else 0.01) for key in network.params}
    trained = {key: array - rate[key] * d_params[key] for key, array in network.params.items()}

    y = next(leaves(module(x)))
    (y.square().sum() / 2).backward()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.grad is not None:
                parameter -= 0.01 * parameter.grad
    found = network.to_torch_state_dict(trained)
    for key, tensor in module.state_dict().items():
        np.testing.assert_allclose(found[key], tensor, atol=2e-6, err_msg=key)
    assert made(make).load_state_dict(found)


def test_a_state_dict_with_both_names_of_a_tied_parameter_binds() -> None:
    module = made(torch_modules.LanguageModel)
    network = rnnc.from_torch(module, backend="reference")
    bound = network.model.compile(module.state_dict(), backend="reference")
    assert all(np.array_equal(bound.params[name], array) for name, array in network.params.items())
    other = module.state_dict() | {"decoder.weight": torch.zeros(torch_modules.WORDS, 6)}
    with pytest.raises(rnnc.ParameterError, match="'decoder.weight' and 'encoder.weight' differ"):
        network.model.compile(other, backend="reference")


def test_the_names_of_any_network_are_those_of_a_module() -> None:
    net = rnnc.Sequential(rnnc.GRU(3, 4), rnnc.Linear(4, 2))
    params = net.init(seed=1)
    module = nn.Sequential(nn.GRU(3, 4), nn.Linear(4, 2))
    module.load_state_dict(net.compile(params, backend="reference").to_torch_state_dict())
    assert all(np.array_equal(module.state_dict()[name], array) for name, array in params.items())


class Sums(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(4, 4)

    def forward(self, x: Any) -> Any:
        return self.rnn(x)[0].cumsum(1)


class Loops(nn.Module):
    def forward(self, x: Any) -> Any:
        return x if x.sum() > 0 else -x


class Bare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(4, 2)
        self.rnn = nn.GRU(4, 4, 2, batch_first=True)

    def forward(self, x: Any) -> Any:
        return self.attn(x, x, x)


class Uses(Bare):
    """A module whose forward() is given."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(self, x)


def in_place(m: Any, x: Any) -> Any:
    """y is what relu_ made of it, and a traced graph does not say so."""
    y = m.rnn(x)[0]
    y.transpose(0, 1).relu_()
    return y


def hooked(layer: Any) -> Any:
    layer.register_forward_hook(lambda *_: None)
    return layer


REFUSED: tuple[tuple[Any, type[Exception], str], ...] = (
    (lambda: nn.GRU, rnnc.ArgumentTypeError, "torch.nn.Module, got .*call the class"),
    (lambda: {"weight": 1}, rnnc.ArgumentTypeError, "torch.nn.Module, got"),
    (Bare, rnnc.TorchError, r"layer 'attn', MultiheadAttention: rnnc does not read it; it reads RNN, GRU"),
    (Loops, rnnc.TorchError, "cannot be traced by torch.fx"),
    (lambda: nn.Sequential(nn.Linear(4, 4).half()), rnnc.TorchError, "'0.weight' is float16.*module.float"),
    (lambda: nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4).double()), rnnc.TorchError, "'1.weight' is float64"),
    (lambda: nn.Sequential(nn.Linear(4, 4, device="meta")), rnnc.TorchError, "no numbers yet"),
    (lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 4))), rnnc.TorchError, "remove_parametrizations"),
    (lambda: nn.Sequential(hooked(nn.Linear(4, 4))), rnnc.TorchError, "layer '0', Linear: it has forward hooks"),
    (lambda: hooked(nn.Sequential(nn.Linear(4, 4))), rnnc.TorchError, "module: it has forward hooks"),
    (lambda: nn.Sequential(nn.Conv1d(4, 4, 3, padding=1, padding_mode="circular")), rnnc.TorchError, "padding_mode"),
    (lambda: nn.Sequential(nn.Embedding(4, 4, max_norm=1.0)), rnnc.TorchError, "max_norm is 1.0"),
    (lambda: nn.Sequential(nn.BatchNorm1d(4, track_running_stats=False)), rnnc.TorchError, "track_running_stats"),
    (lambda: nn.Sequential(nn.Linear(4, 3), nn.GRU(4, 4)), rnnc.TorchError, "layer '1', GRU: .* size 4.*size 3"),
    (lambda: nn.Sequential(nn.GRU(4, 4), nn.GRU(4, 4, batch_first=True)), rnnc.TorchError, "layer '1'.*batch_first"),
    (lambda: Uses(lambda m, x: m.rnn(x)[0].cumsum(1)), rnnc.TorchError, r"cumsum\(\): rnnc does not"),
    (lambda: Uses(lambda m, x: m.rnn(x)[0].flatten(1)), rnnc.TorchError, "flatten.*T, N of rnn"),
    (lambda: Uses(lambda m, x: m.rnn(x)[0][:, 2]), rnnc.TorchError, "index 2 of axis T.*the first and the last"),
    (lambda: Uses(lambda m, x: m.rnn(x)[0].softmax(1)), rnnc.TorchError, "output: .*softmax over the steps; only"),
    (lambda: Uses(lambda m, x: m.rnn(x)[0].squeeze()), rnnc.TorchError, "squeeze.. without dim"),
    (
        lambda: Uses(lambda m, x: m.rnn(x)[0] @ x.transpose(1, 2)),
        rnnc.TorchError,
        "multiplies rnn .* by x .*expected a parameter",
    ),
    (lambda: Uses(lambda m, x: m.rnn(x)[1] * 2), rnnc.TorchError, r"index them, as in h\[-1\]"),
    (lambda: Uses(lambda m, x: m.rnn(x, torch.ones(2, 1, 4))[0]), rnnc.TorchError, "layer 'rnn', GRU"),
    (lambda: Uses(lambda m, x: m.rnn(x)[0].view(x.size(0), x.size(1), 2, 2)), rnnc.TorchError, "view.*of size 2"),
    (lambda: Uses(lambda m, x: m.rnn(x)[0].reshape(x.size(1), x.size(0), 4)), rnnc.TorchError, "the axis T"),
    (
        lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)),
        rnnc.TorchError,
        r"reads no sequence",
    ),
    (lambda: Uses(lambda m, x: x[:, 1] * 2), rnnc.TorchError, "no layer says how wide 'x' is"),
    (lambda: Uses(in_place), rnnc.TorchError, "changes a tensor in place.*reads again"),
    (lambda: Uses(lambda m, x: x + x), rnnc.TorchError, "widths={'x'"),
)


@pytest.mark.parametrize("make, error, message", REFUSED, ids=lambda value: value if isinstance(value, str) else "")
def test_what_cannot_be_read_is_named(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        rnnc.from_torch(make(), backend="reference")
    said = re.sub(r" in `.*?`", "", str(caught.value))  # the line of forward() is one of the table above
    assert re.search(message, said), said


def test_an_error_shows_the_line_of_forward() -> None:
    with pytest.raises(rnnc.TorchError, match=r"cumsum\(\) in `return self.rnn\(x\)\[0\].cumsum\(1\)`: rnnc does not"):
        rnnc.from_torch(Sums())


def test_arguments_widths_and_batch_first() -> None:
    module = torch_modules.Projected()
    (x,) = CASES["projected"][1]()
    network = rnnc.from_torch(module, arguments={"scale": 3.0}, backend="reference")
    with torch.no_grad():
        np.testing.assert_allclose(called(network, (x.numpy(),))[0], module(x, 3.0)[0], atol=1e-12)
    plain = Uses(lambda m, x: x * 2)
    network = rnnc.from_torch(plain, widths={"x": 3}, batch_first=True, backend="reference")
    assert network.model.batch_first and network(np.ones((2, 5, 3), np.float32)).sum() == 60
    refused = ({"arguments": {"y": 1}}, "'y' is no argument"), ({"widths": {"y": 1}}, "'y' is no input")
    for options, message in refused:
        with pytest.raises(rnnc.ArgumentError, match=message):
            rnnc.from_torch(torch_modules.Translator(), **options)


# ------------------------------------------------------------------------------------------ any stack

ACTIVATIONS = (
    *(nn.ReLU, nn.ReLU6, nn.Sigmoid, nn.Tanh, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.SiLU, nn.Mish, nn.Hardtanh),
    *(nn.Hardsigmoid, nn.Hardswish, nn.Softsign, nn.Softplus, nn.LogSigmoid, nn.GELU),
    *(lambda: nn.GELU("tanh"), nn.PReLU),
)
SIZES = st.integers(1, 4)


@st.composite
def stacks(draw: Any, channels: bool) -> Any:
    """A random nn.Sequential that reads (B, N, T), or else (B, T, N), nested or not."""
    width, layers = N, []
    for _ in range(draw(st.integers(1, 4))):
        new = draw(SIZES)
        if channels:
            kernel, stride, pad = draw(SIZES), draw(st.integers(1, 2)), draw(st.integers(0, 3))
            transposed = draw(st.booleans())
            kind = nn.ConvTranspose1d if transposed else nn.Conv1d
            layers.append(kind(width, new, kernel, stride, 0 if transposed else pad, bias=draw(st.booleans())))
            norms = (nn.BatchNorm1d(new), nn.MaxPool1d(2, 1, 1), nn.AvgPool1d(2, 1, 1, count_include_pad=False))
        else:
            layers.append(nn.Linear(width, new, draw(st.booleans())))
            norms = (nn.LayerNorm(new), nn.RMSNorm(new), nn.Softmax(-1))
        layers += draw(st.lists(st.sampled_from(norms), max_size=1))
        layers.append(draw(st.sampled_from(ACTIVATIONS))())
        width = new
    cut = draw(st.integers(0, len(layers)))
    return nn.Sequential(*layers[:cut], nn.Sequential(*layers[cut:]))


@pytest.mark.parametrize("channels", (False, True))
@settings(max_examples=5)
@given(data=st.data())
def test_any_stack(channels: bool, data: Any) -> None:
    module = made(lambda: data.draw(stacks(channels)))
    network = rnnc.from_torch(module, backend="reference")
    check_outputs(module, network, (torch.randn(B, N, 9) if channels else torch.randn(B, T, N),))
    check_round_trip(module, network)
