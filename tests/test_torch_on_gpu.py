"""`rnnc.torch` on a GPU, without one: the path from PyTorch's tensors to the backend "cuda" and back.

See tests/fake_torch_gpu.py. The device is registered for good, so the checks run in a process of their own.
"""

from __future__ import annotations

import copy
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import rnnc
from rnnc.backends.cuda.emulator import find_compiler
from rnnc.backends.cuda.run.availability import gpu_status

torch = pytest.importorskip("torch")

from tests.test_torch_modules import Leaky, check_same, drawn, outcome, tensors  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
T, B, N, H = 3, 2, 3, 4


def both(module: Any) -> tuple[Any, Any]:
    """A module with a copy on the device."""
    from tests.fake_torch_gpu import DEVICE, FakeGpuTensor

    twin = copy.deepcopy(module)
    for part in twin.modules():
        for name, parameter in list(part._parameters.items()):
            part._parameters[name] = FakeGpuTensor(parameter.detach().clone()).requires_grad_()
            assert part._parameters[name].device.type == DEVICE
    return module, twin


def up(value: Any) -> Any:
    from tests.fake_torch_gpu import FakeGpuTensor

    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return tuple(map(up, value))
    return FakeGpuTensor(value.detach().clone()).requires_grad_(value.requires_grad)


def down(value: Any) -> list[Any]:
    return [tensor.host for tensor in tensors(value)]


def check_calls() -> None:
    """Outputs and gradients, with states, lengths and parts of the gradients, are those of the CPU."""
    states = (drawn(4, B, 2), drawn(4, B, H))
    for make, x, hx, lengths in (
        (lambda: rnnc.torch.LSTM(N, H, 2, bidirectional=True, proj_size=2), drawn(T, B, N), states, None),
        (lambda: rnnc.torch.GRU(N, H, batch_first=True), drawn(B, T, N), None, [3, 1]),
        (lambda: rnnc.torch.Recurrent(Leaky(), N, H), drawn(T, N), drawn(1, H), None),
    ):
        module, twin = both(make())
        given = (x,) if hx is None else (x, hx)
        here = outcome(partial(module, lengths=lengths), *given, parameters=list(module.parameters()))
        there = results_there(twin, given, lengths)
        check_same(there, here)
        with torch.no_grad():
            first = down(twin(*map(up, given), lengths=lengths))
            check_same(first, [t.detach() for t in tensors(module(*given, lengths=lengths))])
            held = twin._packed._held.model
            twin(*map(up, given), lengths=lengths)
            assert twin._packed._held.model is held
            for weights in module.parameters(), twin.parameters():
                next(iter(weights)).mul_(2)
            check_same(down(twin(*map(up, given), lengths=lengths)), list(tensors(module(*given, lengths=lengths))))


def results_there(twin: Any, given: Any, lengths: Any) -> Any:
    """`outcome` on the device."""
    inputs = tuple(map(up, given))
    found = list(tensors(twin(*inputs, lengths=lengths)))
    leaves = [*twin.parameters(), *(leaf for leaf in tensors(inputs) if leaf.requires_grad)]
    seeds = [up(torch.linspace(-1, 1, part.numel(), dtype=part.dtype).view(part.shape)) for part in found]
    gradients = torch.autograd.grad(found, leaves, seeds)
    return down(found), down(gradients)


def check_second_order_and_parts() -> None:
    module, twin = both(rnnc.torch.GRU(N, H))
    x = drawn(T, B, N)
    found = []
    for one, given, put in ((module, x, lambda t: t), (twin, up(x), up)):
        seed = put(torch.ones(T, B, H))
        (first,) = torch.autograd.grad(one(given)[0], given, seed, create_graph=True)
        found.append(torch.autograd.grad(first, [given, *one.parameters()], put(torch.ones(T, B, N))))
    check_same(down(found[1]), found[0])
    last = twin(up(x))[1]  # the output has no gradient: zeros, made on the device
    torch.autograd.grad(last, list(twin.parameters()), up(torch.ones(1, B, H)))


def check_refusals() -> None:
    _, twin = both(rnnc.torch.LSTM(N, H))
    x, state = drawn(T, B, N).detach(), torch.zeros(1, B, H)
    for graph in True, False:
        with torch.set_grad_enabled(graph):
            for message, arguments in (
                ("input: it is on cpu, the parameters are on fakegpu:0; pass input.to('fakegpu:0')", (x,)),
                ("hx: it is on cpu, the parameters are on fakegpu:0", (up(x), (up(state), state))),
            ):
                with pytest.raises(rnnc.ArgumentTypeError) as caught:
                    twin(*arguments)
                assert message in str(caught.value)
            own, twin._parameters["weight_hh_l0"] = twin.weight_hh_l0, torch.zeros(4 * H, H, requires_grad=True)
            with pytest.raises(rnnc.ArgumentTypeError, match="weight_hh_l0: it is on cpu"):
                twin(up(x))
            twin._parameters["weight_hh_l0"] = own


def main() -> None:
    """The checks, in a process that has the device."""
    from tests.fake_cupy import FakeGpu
    from tests.fake_torch_gpu import STREAM, install

    gpu = FakeGpu()
    install(gpu, pytest.MonkeyPatch())
    default, before = gpu.stream, gpu.stream.clock[gpu.stream]
    for check in check_calls, check_second_order_and_parts, check_refusals:
        check()
    assert default.clock[default] == before, "all work is on PyTorch's stream"
    assert any(stream.ptr == STREAM and stream.clock[stream] for stream in gpu.streams)
    assert set(gpu.waits) == {"Stream.synchronize"}, "only binding parameters waits"
    gpu.check_guards()


@pytest.mark.rare
@pytest.mark.skipif(find_compiler() is None, reason="running CUDA C on the CPU needs a C++ compiler")
def test_modules_on_the_device_compute_there_on_torchs_stream() -> None:
    code = "from tests.test_torch_on_gpu import main; main()"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr[-4000:]


@pytest.mark.skipif(gpu_status().usable, reason="here is a GPU")
def test_what_is_missing_for_a_gpu_is_said() -> None:
    from rnnc.torch.nn.places import Gpu

    with pytest.raises(rnnc.BackendUnavailable, match="backend 'cuda': .*(driver|CuPy)"):
        with Gpu(torch.device("cuda", 0)).entered():
            pass
    assert "driver" in Gpu(torch.device("cuda", 0)).missing()
