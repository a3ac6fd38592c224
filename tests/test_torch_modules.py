"""`rnnc.torch` against torch.nn: outputs, gradients of first and second order, and what surrounds them."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import subprocess
import sys
import types
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rnnc

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn.utils import parametrizations  # noqa: E402
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence  # noqa: E402

T, B, N, H = 4, 3, 3, 5


def tensors(value: Any) -> Iterator[Any]:
    """The tensors of arguments or of a result, in order; of a PackedSequence its data."""
    if isinstance(value, PackedSequence):
        value = value.data
    if isinstance(value, (tuple, list)):
        for part in value:
            yield from tensors(part)
    elif isinstance(value, torch.Tensor):
        yield value


def check_same(ours: Any, theirs: Any, tolerance: float = 2e-5) -> None:
    for a, b in zip(tensors(ours), tensors(theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def pair(name: str, *arguments: Any, **options: Any) -> tuple[Any, Any]:
    """A module of rnnc and one of PyTorch, with the same parameters. The same seed gives them, as state_dicts do."""
    torch.manual_seed(1)
    theirs = getattr(nn, name)(*arguments, **options)
    torch.manual_seed(1)
    ours = getattr(rnnc.torch, name)(*arguments, **options)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    check_same(list(ours.parameters()), list(theirs.parameters()), 0.0)
    return ours, theirs


def outcome(module: Any, *arguments: Any, parameters: Any = None) -> tuple[Any, Any]:
    """The results, and the gradients of parameters and arguments, all for one seed."""
    torch.manual_seed(2)
    found = list(tensors(module(*arguments)))
    leaves = [*(parameters or module.parameters()), *(leaf for leaf in tensors(arguments) if leaf.requires_grad)]
    loss = sum((part * torch.linspace(-1, 1, part.numel(), dtype=part.dtype).view_as(part)).sum() for part in found)
    shared = any(isinstance(argument, PackedSequence) for argument in arguments)  # its graph is used again
    return found, torch.autograd.grad(loss, leaves, retain_graph=shared)


def drawn(*shape: int, dtype: Any = None) -> Any:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=dtype).requires_grad_()


PACKED = pack_padded_sequence(drawn(T, B, N), [2, 4, 1], enforce_sorted=False)
STATES = (drawn(4, B, 2), drawn(4, B, H))
CASES = {
    "plain": ("LSTM", (N, H), {}, (drawn(T, B, N),)),
    "all at once": ("LSTM", (N, H, 2), {"bidirectional": True, "proj_size": 2}, (drawn(T, B, N), STATES)),
    "packed": ("LSTM", (N, H, 2), {"bidirectional": True, "proj_size": 2}, (PACKED, STATES)),
    "sorted": ("GRU", (N, H), {}, (pack_padded_sequence(drawn(T, B, N), [4, 4, 2]), drawn(1, B, H))),
    "batch first, no bias": ("GRU", (N, H), {"batch_first": True, "bias": False}, (drawn(B, T, N).mT.contiguous().mT,)),
    "unbatched": ("RNN", (N, H), {"nonlinearity": "relu"}, (drawn(T, N), drawn(1, H))),
    "dropout": ("GRU", (N, H, 3), {"dropout": 0.5, "batch_first": True, "bidirectional": True}, (drawn(B, T, N),)),
    "lstm cell": ("LSTMCell", (N, H), {}, (drawn(B, N), (drawn(B, H), drawn(B, H)))),
    "gru cell": ("GRUCell", (N, H), {"bias": False}, (drawn(B, N),)),
    "rnn cell": ("RNNCell", (N, H), {"nonlinearity": "relu"}, (drawn(N), drawn(H))),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_as_in_torch(case: str) -> None:
    name, arguments, options, inputs = CASES[case]
    ours, theirs = pair(name, *arguments, **options)
    for module in ours.train(), ours.eval():
        theirs.train(module.training)
        check_same(outcome(module, *inputs), outcome(theirs, *inputs))
    with torch.no_grad():
        check_same(ours(*inputs), theirs(*inputs))
    with torch.inference_mode():
        check_same(ours(*inputs), theirs(*inputs))


def samples() -> Any:
    """PyTorch's own inputs of its module tests. They lie beside tests that need the package expecttest."""
    if "expecttest" not in sys.modules:
        stand_in: Any = types.ModuleType("expecttest")
        stand_in.TestCase = unittest.TestCase
        sys.modules["expecttest"] = stand_in
    return pytest.importorskip("torch.testing._internal.common_modules")


@pytest.mark.rare
@pytest.mark.parametrize("dtype", ("float32", "float64"))
@pytest.mark.parametrize("training", (True, False))
@pytest.mark.parametrize("name", ("LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell"))
@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_inputs_of_torchs_own_tests(name: str, dtype: str, training: bool) -> None:
    kind, number = getattr(nn, name), getattr(torch, dtype)
    (info,) = (info for info in samples().module_db if info.module_cls is kind)
    options = {"device": "cpu", "dtype": number, "requires_grad": True}
    for sample in info.module_inputs_func(info, training=training, **options):
        made = sample.constructor_input
        ours, theirs = pair(name, *made.args, **made.kwargs | {"dtype": number})
        inputs = (*sample.forward_input.args, *sample.forward_input.kwargs.values())
        found, expected = (outcome(module.train(training), *inputs) for module in (ours, theirs))
        check_same(found, expected, 1e-4 if dtype == "float32" else 1e-10)


# -------------------------------------------------------------------------------------------- derivatives


class Leaky(rnnc.Cell):
    """A cell that PyTorch does not have."""

    name = "leaky"

    def step(self, x: Any, state: Any, p: Any) -> Any:
        from rnnc.ir.equations import linear, tanh

        new = 0.5 * state.h + 0.5 * tanh(linear(x, p.weight_ih, p.bias_ih) + linear(state.h, p.weight_hh, p.bias_hh))
        return new, {"h": new}


DERIVED = {
    "lstm": lambda: rnnc.torch.LSTM(2, 2, dtype=torch.float64),
    "gru": lambda: rnnc.torch.GRU(2, 2, bidirectional=True, batch_first=True, dtype=torch.float64),
    "any": lambda: rnnc.torch.Recurrent(Leaky(), 2, 2, bias=False, reverse=True, dtype=torch.float64),
}
DERIVED_SELDOM = {
    "rnn": lambda: rnnc.torch.RNN(2, 3, dtype=torch.float64),
    "rnn, relu": lambda: rnnc.torch.RNN(2, 3, nonlinearity="relu", batch_first=True, dtype=torch.float64),
    "rnn, both": lambda: rnnc.torch.RNN(2, 2, 2, bias=False, bidirectional=True, dtype=torch.float64),
    "lstm, batch": lambda: rnnc.torch.LSTM(2, 3, batch_first=True, bias=False, dtype=torch.float64),
    "lstm, both": lambda: rnnc.torch.LSTM(2, 2, bidirectional=True, dtype=torch.float64),
    "lstm, two": lambda: rnnc.torch.LSTM(2, 2, 2, dtype=torch.float64),
    "lstm, projected": lambda: rnnc.torch.LSTM(2, 3, proj_size=2, dtype=torch.float64),
    "gru, two": lambda: rnnc.torch.GRU(2, 3, 2, dtype=torch.float64),
    "any, two": lambda: rnnc.torch.Recurrent(Leaky(), 2, 2, 2, bidirectional=True, dtype=torch.float64),
}


@pytest.mark.parametrize("lengths", (None, [1, 3]))
@pytest.mark.parametrize("name", (*DERIVED, *(pytest.param(name, marks=pytest.mark.rare) for name in DERIVED_SELDOM)))
def test_first_and_second_derivatives(name: str, lengths: Any) -> None:
    torch.manual_seed(0)
    module = (DERIVED | DERIVED_SELDOM)[name]()
    x = torch.randn((2, 3, 2) if module.batch_first else (3, 2, 2), dtype=torch.float64, requires_grad=True)
    rows, widths = module.spec.num_layers * module.spec.num_directions, module.spec.states.values()
    states = [torch.randn(rows, 2, width, dtype=torch.float64, requires_grad=True) for width in widths]
    names = list(module.state_dict())

    def f(x: Any, *others: Any) -> Any:
        hx = others[0] if len(states) == 1 else others[: len(states)]
        params = dict(zip(names, others[len(states) :], strict=True))
        return tuple(tensors(torch.func.functional_call(module, params, (x, hx), {"lengths": lengths})))

    point = (x, *states, *module.parameters())
    assert torch.autograd.gradcheck(f, point, fast_mode=True, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(f, point, fast_mode=True, check_fwd_over_rev=True)


def test_second_derivatives_of_a_packed_sequence_and_no_third() -> None:
    module = rnnc.torch.GRU(2, 2, dtype=torch.float64)
    x = drawn(3, 2, 2, dtype=torch.float64)

    def f(x: Any) -> Any:
        return module(pack_padded_sequence(x, [2, 3], enforce_sorted=False))[0].data

    assert torch.autograd.gradgradcheck(f, x, fast_mode=True)
    (first,) = torch.autograd.grad(f(x).pow(2).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.pow(2).sum(), x, create_graph=True)
    with pytest.raises(rnnc.ArgumentError, match="create_graph: .* a third"):
        second.sum().backward()


class ByHand(nn.Module):
    """An RNN in PyTorch's own functions: those of its module have no rules for vmap and forward mode."""

    def __init__(self, other: Any) -> None:
        super().__init__()
        self._parameters.update(other._parameters)

    def forward(self, x: Any) -> Any:
        h, output = torch.zeros(x.shape[1], H), []
        for step in x:
            seen = nn.functional.linear(step, self.weight_ih_l0, self.bias_ih_l0)
            h = torch.tanh(seen + nn.functional.linear(h, self.weight_hh_l0, self.bias_hh_l0))
            output.append(h)
        return torch.stack(output), h[None]


def test_transforms_of_torch_func() -> None:
    ours = rnnc.torch.RNN(N, H)
    theirs = ByHand(ours)
    x = drawn(2, T, B, N).detach()

    def losses(module: Any) -> Any:
        return lambda p, x: torch.func.functional_call(module, p, (x,))[0].pow(2).sum()

    for transform in (
        lambda f, p: torch.func.vmap(f, (None, 0))(p, x),
        lambda f, p: torch.func.vmap(torch.func.grad(f), (None, 0))(p, x),
        lambda f, p: torch.func.jvp(torch.func.grad(f, argnums=1), (p, x[0]), (p, x[1]))[1],
        lambda f, p: torch.func.hessian(lambda scale: f(p, scale * x[0]))(torch.tensor(0.5)),
    ):
        found, expected = (transform(losses(m), dict(m.named_parameters())) for m in (ours, theirs))
        if isinstance(found, dict):
            found, expected = list(found.values()), list(expected.values())
        check_same(found, expected, 1e-4)


def test_what_of_a_result_is_used_and_what_requires_gradients() -> None:
    ours, theirs = pair("LSTM", N, H)
    x = drawn(T, B, N)
    for pick in (lambda r: r[0], lambda r: r[1][0], lambda r: r[1][1]):
        found, expected = (torch.autograd.grad(pick(m(x)).sum(), [x, *m.parameters()]) for m in (ours, theirs))
        check_same(found, expected)
    ours.requires_grad_(False).weight_hh_l0.requires_grad_()
    ours(x.detach())[0].sum().backward()
    assert [name for name, p in ours.named_parameters() if p.grad is not None] == ["weight_hh_l0"]
    assert not ours.requires_grad_(False)(x.detach())[0].requires_grad


def test_a_backward_may_come_once_and_only_for_what_was_read() -> None:
    module, x = rnnc.torch.GRU(N, H), drawn(T, B, N)
    loss = module(x)[0].sum()
    loss.backward()
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()
    loss = module(x)[0].sum()
    with torch.no_grad():
        module.weight_hh_l0.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace"):
        loss.backward()


def test_what_a_call_keeps_goes_when_torch_frees_its_graph() -> None:
    from torch.utils.checkpoint import checkpoint

    from rnnc.torch.nn import tickets

    module, x = rnnc.torch.GRU(N, H), drawn(T, B, N)
    expected = outcome(module, x)[1]
    gc.collect()
    before = len(tickets._BY_ADDRESS)
    loss = module(x)[0].sum()
    assert len(tickets._BY_ADDRESS) == before + 1
    loss.backward()
    assert len(tickets._BY_ADDRESS) == before, "and loss is still there"
    found = outcome(lambda x: checkpoint(module, x, use_reentrant=False), x, parameters=module.parameters())
    check_same(found[1], expected)
    with torch.autograd.graph.saved_tensors_hooks(torch.clone, lambda copied: copied):  # the forward pass runs again
        results = module(x)
        assert len(tickets._BY_ADDRESS) == before
    check_same(outcome(lambda _: results, x, parameters=module.parameters())[1], expected)


# -------------------------------------------------------------------------------------------- parameters


def test_parameters_are_packed_again_when_they_changed() -> None:
    ours, theirs = pair("GRU", N, H)
    x = drawn(T, B, N).detach()

    def both(change: Any) -> None:
        for module in ours, theirs:
            change(module)
        with torch.no_grad():
            check_same(ours(x), theirs(x))

    both(lambda m: None)
    held = ours._packed._held.model
    both(lambda m: None)
    assert ours._packed._held.model is held, "nothing has changed"
    with torch.no_grad():
        both(lambda m: m.weight_hh_l0.mul_(2))
    both(lambda m: setattr(m, "bias_hh_l0", nn.Parameter(torch.ones(3 * H))))
    both(lambda m: setattr(m.weight_ih_l0, "data", torch.ones(3 * H, N)))
    both(lambda m: (m.weight_hh_l0.data.mul_(2), m.flatten_parameters()))
    both(lambda m: (m.weight_hh_l0.data.mul_(2), m.eval()))
    both(lambda m: (m(x)[0].sum().backward(), [p.data.add_(p.grad) for p in m.parameters()]))
    both(lambda m: parametrizations.weight_norm(m, "weight_hh_l0"))
    with torch.no_grad():
        both(lambda m: m.parametrizations.weight_hh_l0.original0.mul_(3))
    ours.share_memory()
    both(lambda m: None)
    assert ours._packed._held is None, "another process may write to it, uncounted"


def test_copies_pickles_and_other_dtypes() -> None:
    ours, theirs = pair("LSTM", N, H)
    x = drawn(T, B, N)
    with torch.no_grad():
        expected = ours(x)
    file = io.BytesIO()
    torch.save(nn.Sequential(ours), file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)[0]
    for other in copy.deepcopy(ours), pickle.loads(pickle.dumps(ours)), loaded:
        assert type(other) is rnnc.torch.LSTM and repr(other) == repr(theirs)
        check_same(other(x), expected)
    check_same(ours.double()(x.double()), theirs.double()(x.double()), 1e-12)


def test_any_cell() -> None:
    module = rnnc.torch.Recurrent(Leaky(), N, H, 2, bidirectional=True)
    x = drawn(T, B, N)
    output, state = module(x)
    expected, last = rnnc.compile(module.spec, module.state_dict())(x.detach())
    check_same((output, state), (torch.from_numpy(expected), torch.from_numpy(last)))
    assert module.extra_repr().endswith("3, 5, num_layers=2, bidirectional=True")
    assert [len(weights) for weights in module.all_weights] == [4] * 4


# -------------------------------------------------------------------------------------------- whole models


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.LSTM(N, H, batch_first=True)
        self.tied = nn.ModuleList([self.first])
        self.steps = nn.Sequential(nn.GRUCell(H, H), nn.Linear(H, 2))
        self.own = type("Own", (nn.GRU,), {})(H, H)

    def forward(self, x: Any) -> Any:
        return self.steps(self.own(self.first(x)[0].transpose(0, 1))[0][-1])


def test_accelerate_shares_parameters_and_says_what_it_left() -> None:
    torch.manual_seed(0)
    module, x = Tagger(), drawn(B, T, N)
    calls: list[str] = []
    module.first.register_forward_hook(lambda *_: calls.append("hook"))
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    expected = copy.deepcopy(module)
    before = dict(module.named_parameters())
    with pytest.warns(rnnc.RnncWarning, match="own: its class Own derives from torch's"):
        assert rnnc.torch.accelerate(module) is module
    assert {name: id(p) for name, p in module.named_parameters()} == {name: id(p) for name, p in before.items()}
    assert type(module.first) is rnnc.torch.LSTM and module.tied[0] is module.first
    assert rnnc.torch.explain(module) == (
        "first: LSTM: runs in rnnc\nsteps.0: GRUCell: runs in rnnc\n"
        "own: Own: its class Own derives from torch's, and forward() may be its own\n"
    )
    check_same(outcome(module, x), outcome(expected, x))
    assert calls == ["hook"] * 2, "of both"
    module(x).sum().backward()
    optimizer.step()
    expected.load_state_dict(module.state_dict())
    with torch.no_grad():
        check_same(module(x), expected(x))


@pytest.mark.parametrize(
    ("make", "why"),
    (
        (lambda: nn.GRU(N, H, dtype=torch.float16), "dtype float16"),
        (lambda: nn.GRU(N, H, device="meta"), "device meta"),
        (lambda: parametrizations.weight_norm(nn.GRU(N, H), "weight_hh_l0"), "it is parametrized"),
        (lambda: torch.jit.script(nn.GRU(N, H)), "torch.jit has compiled it"),
    ),
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_accelerate_leaves(make: Any, why: str) -> None:
    module = make()
    with pytest.warns(rnnc.RnncWarning, match=f"the module: .*{why}"):
        assert rnnc.torch.accelerate(module) is module


def test_accelerate_of_a_single_module_returns_another() -> None:
    module = nn.GRU(N, H)
    made = rnnc.torch.accelerate(module)
    assert type(made) is rnnc.torch.GRU and made.weight_hh_l0 is module.weight_hh_l0
    with pytest.raises(rnnc.ArgumentTypeError, match="module: expected a torch.nn.Module"):
        rnnc.torch.accelerate([module])


def test_from_torch_reads_the_modules() -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = rnnc.torch.GRU(N, H, batch_first=True)
            self.second = rnnc.torch.Recurrent(Leaky(), H, H, batch_first=True, bidirectional=True)

        def forward(self, x: Any) -> Any:
            return self.second(self.first(x)[0])[0]

    module, x = Whole(), drawn(B, T, N).detach()
    network = rnnc.from_torch(module)
    check_same(torch.from_numpy(network(x)), module(x))
    assert module.load_state_dict(network.to_torch_state_dict())


def test_autocast_runs_in_the_dtype_of_the_parameters() -> None:
    module = nn.Sequential(nn.Linear(N, N), rnnc.torch.GRU(N, H))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, _ = module(drawn(T, B, N))
    assert output.dtype is torch.float32
    output.sum().backward()
    assert module[0].weight.grad is not None


class Compiled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = rnnc.torch.LSTM(N, H, 2, batch_first=True, dropout=0.5)
        self.cell = rnnc.torch.GRUCell(H, H)

    def forward(self, x: Any) -> Any:
        output, (h, _) = self.rnn(x)
        return self.cell(output[:, -1], h[0])


@pytest.mark.rare
@pytest.mark.filterwarnings("ignore")
def test_torch_compile_sees_one_graph_for_any_number_of_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo.testing import CompileCounterWithBackend

    from rnnc.torch.nn.gradients import TensorCall

    passes = []
    forward = TensorCall.run
    monkeypatch.setattr(TensorCall, "run", lambda self, *tensors: passes.append(1) or forward(self, *tensors))
    torch.manual_seed(0)
    module = Compiled()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(module, fullgraph=True, backend=counter)
    for steps in 4, 40, 41:
        x = drawn(B, steps, N)
        for training in True, False:
            module.train(training)
            found = outcome(compiled, x)
            assert len(passes) == (3 if training else 2), "one per layer with dropout: backward runs none again"
            passes.clear()
            check_same(found[0] + list(found[1]), sum(map(list, outcome(module, x)), []))
            passes.clear()
    assert counter.frame_count <= 4, "for each mode, one for 4 steps and one for any number"
    with torch.no_grad():
        compiled(x)
        held = module.rnn._packed._held
        check_same(compiled(x), module(x))
    assert held is not None and held is module.rnn._packed._held
    check_same(torch.export.export(module, (x,)).module()(x), module(x))


@pytest.mark.rare
@pytest.mark.filterwarnings("ignore")
def test_operators_are_as_torch_wants_them() -> None:
    module = rnnc.torch.GRU(N, H)
    packed, weights = module._packed, list(module.parameters())
    lengths = torch.tensor([4, 2, 0])
    arguments = (drawn(T, B, N), [drawn(1, B, H)], weights, lengths)
    torch.library.opcheck(torch.ops.rnnc.run, (packed.key, packed.owner, *arguments, "params x state"))
    ticket = torch.zeros(1, dtype=torch.float64)  # of no call: the forward pass runs again
    seeds = [torch.ones(T, B, H), torch.ones(1, B, H)]
    found = torch.ops.rnnc.gradient(packed.key, ticket, *arguments, seeds, "params x state")
    output, h_n = module(arguments[0], arguments[1][0], lengths=lengths)
    check_same(found, torch.autograd.grad(output.sum() + h_n.sum(), [arguments[0], *arguments[1], *weights]))


@pytest.mark.parametrize("graph", (True, False))
def test_misuse(graph: bool) -> None:
    module = rnnc.torch.LSTM(N, H)
    x = torch.zeros(T, B, N)
    with torch.set_grad_enabled(graph):
        for error, message, arguments in (
            (rnnc.ShapeError, "with I = 3, got", (torch.zeros(T, B, 4),)),
            (rnnc.DtypeError, "input: expected torch.float32.*module.to", (x.double(),)),
            (rnnc.ArgumentError, r"hx: expected a tuple of 2 tensors \(h, c\), got 1", (x, x)),
            (rnnc.ArgumentTypeError, "hx: expected tensors", (x, (1, 2))),
            (rnnc.ArgumentTypeError, "input: expected a tensor", ([1.0],)),
            (rnnc.ArgumentTypeError, "on meta", (x.to("meta"),)),
        ):
            with pytest.raises(error, match=message):
                module(*arguments)
        with pytest.raises(rnnc.LengthError, match="got 9 in row 0"):
            module(x, lengths=[9, 1, 1])
        with pytest.raises(rnnc.DtypeError, match="module.float()"):
            rnnc.torch.GRU(N, H).half()(x.half())


RANK = """
import os, sys, torch, rnnc, torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

rank, store = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=2)
torch.manual_seed(0)
x, y = torch.randn(8, 5, 3), torch.randn(8, 2)


class Last(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.head = rnnc.torch.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


def losses(wrap, x, y):
    torch.manual_seed(1)
    module = wrap(Last())
    optimizer, found = torch.optim.Adam(module.parameters(), lr=0.1), []
    for _ in range(3):
        optimizer.zero_grad()
        found.append((module(x) - y).square().mean())
        found[-1].backward()
        optimizer.step()
        with torch.no_grad():
            found.append((module(x) - y).square().mean())
    return torch.stack(found).detach()


whole = losses(lambda module: module, x, y)
mesh = init_device_mesh("cpu", (2,))
for wrap in nn.parallel.DistributedDataParallel, lambda module: fully_shard(module, mesh=mesh) or module:
    part = losses(wrap, x[rank::2], y[rank::2])
    dist.all_reduce(part)
    torch.testing.assert_close(part / 2, whole, rtol=1e-5, atol=1e-6)
dist.destroy_process_group()
"""


@pytest.mark.rare
def test_two_processes_with_halves_of_a_batch_train_as_one(tmp_path: Path) -> None:
    """DistributedDataParallel, and FSDP, which frees and fills the memory of parameters at every call."""
    processes = [
        subprocess.Popen([sys.executable, "-c", RANK, str(rank), str(tmp_path / "store")], stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors.decode()


def test_an_ordinary_model_refuses_what_requires_gradients() -> None:
    spec = rnnc.GRU(N, H)
    with pytest.raises(rnnc.ArgumentTypeError, match="requires gradients.*rnnc.torch"):
        rnnc.compile(spec, spec.init())(drawn(T, B, N))


def test_the_module_is_imported_without_torch() -> None:
    code = "import sys, rnnc; rnnc.torch.__all__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    code = "import sys; sys.modules['torch'] = None; import rnnc; rnnc.torch.LSTM"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install 'rnnc[torch]'" in found.stderr
