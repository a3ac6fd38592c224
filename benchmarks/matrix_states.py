"""One matrix per row as a state: the mLSTM's step, forward and trained, against PyTorch run op by op.

    python -m benchmarks.matrix_states                 # one thread, CPU time, medians of 9 rounds

The bound is memory: a step reads and writes its matrix once, as multiplying it by a number in place does, whose time is
measured beside. It leaves out the products with x, and what a gradient keeps and reads back.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

import rnnc
from benchmarks.timing import Contestant, clock_for, race
from rnnc.ir.equations import Value, absolute, exp, linear, matvec, maximum, outer, sigmoid, softplus, total

WIDTH, STEPS, BATCHES = 64, 100, (1, 16)
SCALED = 16
"""Matrices that the bound is measured with, at once: fewer take less time than a call of NumPy's."""


@dataclass(frozen=True)
class MatrixLSTM(rnnc.Cell):
    """mLSTM of one head, Beck et al. 2024, "xLSTM: Extended Long Short-Term Memory"; states divided by exp(m)."""

    name: ClassVar[str] = "mlstm"

    def parameters(self, input_size: int, hidden_size: int, bias: bool) -> dict[str, tuple[int, ...]]:
        return {"weight": (4 * hidden_size, input_size), "gates": (2, input_size)}

    def states(self, hidden_size: int) -> Mapping[str, int | tuple[int, ...]]:
        return {"c": (hidden_size, hidden_size), "n": hidden_size, "m": 1}

    def output_size(self, hidden_size: int) -> int:
        return hidden_size

    def step(self, x: Value, state: SimpleNamespace, p: SimpleNamespace) -> tuple[Value, dict[str, Value]]:
        q, k, v, o = linear(x, p.weight).split(4)
        i, f = linear(x, p.gates).split(2)
        log_f = -softplus(-f)
        m = maximum(log_f + state.m, i)
        i, f = exp(i - m), exp(log_f + state.m - m)
        k = k * int(k.shape[-1]) ** -0.5
        c = f[:, :, None] * state.c + outer(i * v, k)
        n = f * state.n + i * k
        h = sigmoid(o) * matvec(c, q) / maximum(absolute(total(n * q)), exp(-m))
        return h, {"c": c, "n": n, "m": m}


def in_torch(p: Mapping[str, Any], x: Any) -> Any:
    """The same equations, step by step; all products with x at once before."""
    import torch

    q, k, v, o = (x @ p["weight_l0"].T).split(WIDTH, -1)
    i, f = (x @ p["gates_l0"].T).split(1, -1)
    log_f, k, o = torch.nn.functional.logsigmoid(f), k * WIDTH**-0.5, torch.sigmoid(o)
    c, n, m = (x.new_zeros(x.shape[1], *sizes) for sizes in ((WIDTH, WIDTH), (WIDTH,), (1,)))
    made = []
    for t in range(len(x)):
        new = torch.maximum(log_f[t] + m, i[t])
        gate_i, gate_f, m = torch.exp(i[t] - new), torch.exp(log_f[t] + m - new), new
        c = gate_f[..., None] * c + (gate_i * v[t])[:, :, None] * k[t][:, None, :]
        n = gate_f * n + gate_i * k[t]
        least = torch.maximum((n * q[t]).sum(-1, keepdim=True).abs(), torch.exp(-m))
        made.append(o[t] * (c @ q[t][:, :, None])[..., 0] / least)
    return torch.stack(made)


def contestants(spec: rnnc.Spec, batch: int) -> dict[str, Contestant]:
    """Forward, with gradients, and the bound. Raises AssertionError if PyTorch's results are others."""
    import torch

    torch.set_num_threads(1)
    params = spec.init(seed=0)
    x = np.random.default_rng(0).standard_normal((STEPS, batch, WIDTH), dtype=np.float32)
    model, f = rnnc.compile(spec, params, threads=1), rnnc.vjp(spec, threads=1)
    seed = np.ones((STEPS, batch, WIDTH), np.float32)
    tensors = {name: torch.from_numpy(value).requires_grad_() for name, value in params.items()}
    given, matrices = torch.from_numpy(x).requires_grad_(), np.ones((SCALED, WIDTH, WIDTH), np.float32)

    def torch_forward() -> Any:
        with torch.no_grad():
            return in_torch(tensors, given)

    def torch_gradients() -> Any:
        return torch.autograd.grad(in_torch(tensors, given).sum(), [*tensors.values(), given])

    def gradients() -> Any:
        d_params, d_x, _ = f(params, x)[1](seed)
        return [*d_params.values(), d_x]

    np.testing.assert_allclose(model(x)[0], torch_forward().numpy(), atol=2e-5)
    for one, other in zip(gradients(), torch_gradients(), strict=True):
        np.testing.assert_allclose(one, other.numpy(), atol=1e-4 * float(np.abs(one).max()))
    calls = {"forward": lambda: model(x), "torch forward": torch_forward, "gradients": gradients}
    calls |= {"torch gradients": torch_gradients, "bound": lambda: np.multiply(matrices, np.float32(1), out=matrices)}
    return {name: Contestant(call) for name, call in calls.items()}


def main() -> None:
    """Prints microseconds for one step of one row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    spec = rnnc.Recurrent(MatrixLSTM(), WIDTH, WIDTH)
    print(f"us per step and row, {WIDTH} x {WIDTH}, T = {STEPS}")
    for batch in BATCHES:
        times = race(contestants(spec, batch), rounds, clock_for(1))
        scale = {name: 1e6 / STEPS / batch for name in times} | {"bound": 1e6 / SCALED}
        shown = [f"{name} {timing.median * scale[name]:.2f}" for name, timing in times.items()]
        print(f"  B = {batch:<4}{', '.join(shown)}")


if __name__ == "__main__":
    main()
