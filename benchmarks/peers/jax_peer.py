"""The workloads and their training steps in JAX, as a user who cares for speed writes them, in a process of their own.

XLA's threads and flags are fixed once and for a whole process, and so are PyTorch's: each keeps to its own. The worker
computes only when told to, so contestants still take turns, and it reads its own clock. With one thread that is the CPU
time of the whole worker, because XLA is free to compute on another thread than the caller's.

A layer is a lax.scan over time. The projections of all inputs are one matmul before it; gates are packed in one matrix,
laid out (inputs, gates) beforehand; jax.vjp of the whole network is jitted as one program with its forward pass.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from benchmarks.timing import Clock
from benchmarks.workloads import Data, NamedArrays, TrainingData, Workload, named

UNROLLS = (1, 5)
"""Steps of a scan in one turn of its loop. Both are timed."""


class JaxPeer:
    """The worker, seen from the process that holds the race. TrainingData makes it compute training steps."""

    def __init__(self, workload: Workload, data: Data, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, workload, data, threads), daemon=True)
        self.process.start()
        theirs.close()

    def ask(self, *message: Any) -> Any:
        try:
            self.connection.send(message)
            failed, answer = self.connection.recv()
        except (EOFError, BrokenPipeError) as error:
            self.process.join()
            raise RuntimeError(f"the JAX process ended with {self.process.exitcode}") from error
        if failed:
            raise RuntimeError(f"the JAX process failed\n{answer}")
        return answer

    def result(self, unroll: int) -> NamedArrays:
        answer: NamedArrays = self.ask("result", unroll)
        return answer

    def contestant(self, unroll: int) -> _Remote:
        return _Remote(self, unroll)

    def close(self) -> None:
        self.connection.close()
        self.process.join()


class _Remote:
    """A contestant whose clock is the worker's: the one of the same kind as the race's."""

    def __init__(self, peer: JaxPeer, unroll: int) -> None:
        self.peer, self.unroll = peer, unroll

    def sample(self, calls: int, clock: Clock) -> float:
        seconds: float = self.peer.ask("sample", self.unroll, calls, clock is time.perf_counter)
        return seconds


# ---------------------------------------------------------------------------------------------- the worker


def _serve(connection: Connection, workload: Workload, data: Data, threads: int) -> None:
    """Answers until the other end is closed."""
    limit(threads)
    steps: dict[int, Step] = {}
    while True:
        try:
            what, unroll, *arguments = connection.recv()
        except EOFError:
            return
        try:
            if unroll not in steps:
                steps[unroll] = Step(workload, data, unroll)
            connection.send((False, getattr(steps[unroll], what)(*arguments)))
        except Exception:
            connection.send((True, traceback.format_exc()))


def limit(threads: int) -> None:
    """Before JAX is imported: XLA sizes its pools by these on first use."""
    for name in ("PJRT_NPROC", "NPROC", "OMP_NUM_THREADS"):
        os.environ[name] = str(threads)
    os.environ["XLA_FLAGS"] = f"--xla_cpu_multi_thread_eigen={str(threads > 1).lower()}"
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["JAX_ENABLE_X64"] = "0"
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])


class Step:
    """One jitted call and its arguments, on the device. For TrainingData it is a training step."""

    def __init__(self, workload: Workload, data: Data, unroll: int) -> None:
        import jax

        self.jax: Any = jax
        turned = {name: value.T if value.ndim == 2 else value for name, value in data.params.items()}
        states = data.states or tuple(np.zeros(workload.state_shape, np.float32) for _ in range(workload.states))
        self.training = isinstance(data, TrainingData)
        given = (turned, data.x, states, data.d_output) if isinstance(data, TrainingData) else (turned, data.x, states)
        self.arguments = jax.device_put(given)
        network = _network(workload, unroll)
        self.program = jax.jit(_training_step(network) if self.training else network)

    def call(self) -> Any:
        return self.jax.block_until_ready(self.program(*self.arguments))

    def sample(self, calls: int, wall: bool) -> float:
        clock = time.perf_counter if wall else time.process_time
        gc.disable()
        try:
            start = clock()
            for _ in range(calls):
                self.call()
            return (clock() - start) / calls
        finally:
            gc.enable()

    def result(self) -> NamedArrays:
        found = self.jax.tree.map(np.asarray, self.call())
        if not self.training:
            return named(found[0], *found[1])
        output, (d_params, d_x, d_states) = found
        arrays = {"output": output, "d_x": d_x} | {f"d_state_{i}": v for i, v in enumerate(d_states)}
        return arrays | {f"d_{name}": np.ascontiguousarray(v.T) for name, v in d_params.items()}


def _training_step(network: Callable[..., Any]) -> Callable[..., Any]:
    """(params, x, states, d_output) -> (output, gradients of the first three)."""
    import jax

    def step(params: Any, x: Any, states: Any, d_output: Any) -> Any:
        output, pullback = jax.vjp(lambda *given: network(*given)[0], params, x, states)
        return output, pullback(d_output)

    return step


def _network(workload: Workload, unroll: int) -> Callable[..., Any]:
    """(params, x (T, B, I), states) -> output (T, B, D * H), last states."""
    import jax
    import jax.numpy as jnp

    project, cell = _CELLS[workload.cell]()

    def scan(params: Any, x: Any, initial: Any, suffix: str) -> Any:
        p = {name.removesuffix(suffix): value for name, value in params.items() if name.endswith(suffix)}
        inputs = x @ p["weight_ih"] + project(p)
        step = cell(p["weight_hh"], p["bias_hh"])
        return jax.lax.scan(step, initial, inputs, reverse=suffix.endswith("_reverse"), unroll=unroll)

    def network(params: Any, x: Any, states: Any) -> Any:
        lasts = []
        for layer in range(workload.num_layers):
            suffixes = (f"_l{layer}", f"_l{layer}_reverse")[: workload.directions]
            first = layer * workload.directions
            made = [
                scan(params, x, tuple(state[first + i] for state in states), suffix)
                for i, suffix in enumerate(suffixes)
            ]
            lasts += [last for last, _ in made]
            x = made[0][1] if len(made) == 1 else jnp.concatenate([output for _, output in made], axis=-1)
        return x, tuple(jnp.stack(state) for state in zip(*lasts, strict=True))

    return network


# Each cell gives what is added to all inputs' projections, and from the recurrent weights the step of the scan.


def _rnn() -> tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]:
    import jax.numpy as jnp

    def cell(weight: Any, bias: Any) -> Any:
        def step(states: Any, x: Any) -> Any:
            h = jnp.tanh(x + states[0] @ weight)
            return (h,), h

        return step

    return lambda p: p["bias_ih"] + p["bias_hh"], cell


def _lstm() -> tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]:
    import jax
    import jax.numpy as jnp

    def cell(weight: Any, bias: Any) -> Any:
        def step(states: Any, x: Any) -> Any:
            h, c = states
            i, f, g, o = jnp.split(x + h @ weight, 4, axis=-1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        return step

    return lambda p: p["bias_ih"] + p["bias_hh"], cell


def _gru() -> tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]:
    import jax
    import jax.numpy as jnp

    def cell(weight: Any, bias: Any) -> Any:
        def step(states: Any, x: Any) -> Any:
            h = states[0]
            (xr, xz, xn), (hr, hz, hn) = (jnp.split(v, 3, axis=-1) for v in (x, h @ weight + bias))
            r, z = jax.nn.sigmoid(xr + hr), jax.nn.sigmoid(xz + hz)
            n = jnp.tanh(xn + r * hn)
            h = n + z * (h - n)
            return (h,), h

        return step

    return lambda p: p["bias_ih"], cell


_CELLS = {"rnn": _rnn, "lstm": _lstm, "gru": _gru}
