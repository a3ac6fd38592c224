"""Exported code computes what the model does, in the caller's memory, and refuses what is wrong."""

from __future__ import annotations

import ctypes
import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rnnc
from rnnc.backends.llvm.portable.compiler import ObjectRequest, compile_object
from rnnc.backends.llvm.portable.interface import Result
from rnnc.backends.llvm.portable.machines import MACHINES, machine
from rnnc.exporting.linking.archive import archive
from rnnc.exporting.network import portable
from rnnc.exporting.sizes import sizes
from rnnc.ir.errors import ArgumentError, ArgumentTypeError
from tests import user_cells
from tests.exported_code import Library, aligned, exported
from tests.refusals import raises_saying

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the code is of x86-64")

RNG = np.random.default_rng(5)


def bound(spec: Any, **options: Any) -> Any:
    return rnnc.compile(spec, spec.init(seed=1), **options)


def network(*layers: Any, **options: Any) -> Any:
    model = rnnc.Sequential(*layers)
    return model.compile(model.init(seed=1), **options)


STREAMS = {
    "lstm, two layers": lambda: bound(rnnc.LSTM(5, 17, 2)),
    "gru, float64": lambda: bound(rnnc.GRU(3, 9, dtype="float64")),
    "batch first": lambda: bound(rnnc.RNN(4, 6, batch_first=True)),
    "a user's cell": lambda: bound(rnnc.Recurrent(user_cells.LayerNormLSTM(), 4, 21)),
    "int8": lambda: bound(rnnc.GRU(16, 32), weights="int8"),
    "bfloat16": lambda: bound(rnnc.LSTM(8, 24), weights="bfloat16"),
    "delays": lambda: network(rnnc.Conv1d(3, 8, 5), rnnc.Activation("relu"), rnnc.GRU(8, 7), rnnc.Linear(7, 2)),
    "looks ahead": lambda: network(rnnc.Conv1d(3, 4, 3, padding="same"), rnnc.LSTM(4, 5)),
    "strides": lambda: network(rnnc.Conv1d(3, 8, 4, stride=2), rnnc.Activation("tanh"), rnnc.GRU(8, 7)),
    "table of bytes": lambda: network(rnnc.Embedding(11, 9), rnnc.RNN(9, 8), weights="int8", activations="float32"),
    "embedding": lambda: network(rnnc.Embedding(11, 6), rnnc.GRU(6, 8), rnnc.Linear(8, 11)),
}


def inputs_of(library: Library, frames: int) -> list[Any]:
    """Random inputs, (frames, width) each."""
    found = []
    for port in library.api.inputs:
        shape = (frames, port.width)
        numbers = RNG.integers(0, port.rows, shape) if port.rows else RNG.standard_normal(shape)
        found.append(np.ascontiguousarray(numbers, port.dtype))
    return found


def advanced(model: Any, library: Library, x: Any) -> tuple[Any, Any]:
    """What `advance` gives of one stream: (frames, width of the output), state."""
    port, api = library.api.inputs[0], library.api
    rows = x.reshape(-1, 1) if port.rows else x.reshape(len(x) * api.frame, 1, -1)
    first = getattr(model, "spec", None) is not None and model.spec.batch_first
    output, state = model.advance(rows.swapaxes(0, 1) if first else rows)
    return output.reshape(len(x), -1), state


def tolerance(dtype: str) -> float:
    return 2e-6 if dtype == "float32" else 1e-13


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize(("weights", "small"), [("embedded", False), ("file", False), ("embedded", True)])
def test_streams_compute_what_advance_does(name: str, weights: str, small: bool, tmp_path: Path) -> None:
    model = STREAMS[name]()
    library = Library(exported(model, weights=weights, small=small), tmp_path)
    (x,) = inputs_of(library, 9)
    want, last = advanced(model, library, x)
    close = {"rtol": 0, "atol": 3e-2 if name == "int8" else tolerance(library.api.dtype)}
    for way in (library.steps, library.run):
        state = library.new_state()
        first, second = way([x[:4]], state), way([x[4:]], state)
        np.testing.assert_allclose(np.concatenate([first[0], second[0]]), want, **close)
        for label, numbers in library.numbers(state).items():
            np.testing.assert_allclose(numbers, np.asarray(last[label]).ravel(), **close)


@pytest.mark.parametrize("name", ["lstm, two layers", "delays", "embedding"])
def test_rows_are_streams_of_their_own(name: str, tmp_path: Path) -> None:
    library = Library(exported(STREAMS[name]()), tmp_path)
    (x,) = inputs_of(library, 12)
    alone, together = ([library.new_state() for _ in range(3)] for _ in range(2))
    for start in range(0, 12, 3):
        piece = np.ascontiguousarray(x[start : start + 3])
        want = [library.steps([piece[n : n + 1]], state)[0] for n, state in enumerate(alone)]
        (output,) = library.outputs(3)
        states = np.array([state.ctypes.data for state in together], np.uintp)
        scratch = library.scratch(3, name="rows_scratch_size")
        assert library.call("step_rows", states, 3, piece, output, scratch) == 0
        np.testing.assert_allclose(output, np.concatenate(want), rtol=0, atol=2e-6)


def test_saved_states_go_on_elsewhere(tmp_path: Path) -> None:
    library = Library(exported(STREAMS["delays"]()), tmp_path)
    (x,) = inputs_of(library, 8)
    state = library.new_state()
    library.run([x[:5]], state)
    saved = state[: library.api.saved_bytes].copy()
    want = library.run([x[5:]], state)
    other = library.new_state()
    other[: len(saved)] = saved
    np.testing.assert_array_equal(library.run([x[5:]], other)[0], want[0])


WHOLE = {
    "both directions": lambda: bound(rnnc.LSTM(4, 7, 2, bidirectional=True)),
    "batch first": lambda: bound(rnnc.GRU(4, 5, bidirectional=True, batch_first=True, dtype="float64")),
}


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("lengths", [None, (3, 6, 0, 5)])
def test_whole_sequences(name: str, lengths: tuple[int, ...] | None, tmp_path: Path) -> None:
    model = WHOLE[name]()
    library = Library(exported(model), tmp_path)
    steps, batch, api = 6, 4, library.api
    lead = (batch, steps) if api.batch_first else (steps, batch)
    x = RNG.standard_normal((*lead, 4)).astype(api.dtype)
    given = [RNG.standard_normal((port.width * batch,)).astype(api.dtype) for port in api.states]
    shape = (len(model.spec.stack().flat), batch, -1)
    start = tuple(array.reshape(shape) for array in given)
    ends = None if lengths is None else np.array(lengths)
    want, last = model(x, start if len(start) > 1 else start[0], lengths=ends)
    output = np.full(want.shape, np.nan, api.dtype)
    finals = [np.full_like(array, np.nan) for array in given]
    scratch = library.scratch(steps, batch)
    assert library.call("run", steps, batch, ends, x, *given, output, *finals, scratch) == 0
    np.testing.assert_allclose(output, want, rtol=0, atol=tolerance(api.dtype))
    for got, wanted in zip(finals, last if isinstance(last, tuple) else (last,), strict=True):
        np.testing.assert_allclose(got, wanted.ravel(), rtol=0, atol=tolerance(api.dtype))
    nothing = [None] * len(finals)
    assert library.call("run", steps, batch, ends, x, *nothing, output, *nothing, scratch) == 0
    np.testing.assert_allclose(output, model(x, lengths=ends)[0], rtol=0, atol=tolerance(api.dtype))
    for wrong in (7, -1):
        bad = np.array([1, 2, 3, wrong])
        assert (
            library.call("run", steps, batch, bad, x, *nothing, output, *nothing, scratch) == Result.LENGTH_OUT_OF_RANGE
        )


def test_wrong_numbers_states_and_weights_change_nothing(tmp_path: Path) -> None:
    model = STREAMS["embedding"]()
    library = Library(exported(model, weights="file"), tmp_path)
    state, (output,) = library.new_state(), library.outputs(1)
    before = state.copy()
    for number in (11, -1, 1 << 40):
        assert library.call("step", state, np.array([number]), output) == Result.NUMBER_OUT_OF_RANGE
    assert np.isnan(output).all()
    np.testing.assert_array_equal(state, before)
    assert library.weights is not None
    for place in (0, 8, 16):
        damaged = aligned(library.weights.tobytes())
        damaged[place] ^= 1
        assert library.call("reset", state, damaged) == Result.FOREIGN_WEIGHTS
    fresh = np.zeros_like(state)
    assert library.call("step", fresh, np.array([1]), output) == Result.FOREIGN_STATE
    other = Library(exported(STREAMS["lstm, two layers"]()), tmp_path / "..")
    assert other.call("step", state, np.zeros((1, 5), "f4"), np.zeros((1, 17), "f4")) == Result.FOREIGN_STATE


@pytest.mark.rare
@pytest.mark.parametrize("target", MACHINES)
def test_every_machine_has_an_object_without_undefined_symbols(target: str) -> None:
    from rnnc.backends.llvm.asm.elf import ObjectFile

    made = exported(STREAMS["delays"](), target)
    names = [f"net_{function.name}" for function in made.interface.functions]
    if machine(target).format != "elf":
        assert all(name.encode() in made.content for name in names)
        return
    every = [symbol for symbol in ObjectFile(made.content).symbols if symbol.is_global]
    soft = target == "cortex-m4"  # its floats are functions of libgcc and libm
    symbols = [symbol for symbol in every if not (soft and symbol.name.startswith("__aeabi_"))]
    assert sorted(symbol.name for symbol in symbols) == sorted(names)
    assert all(symbol.section is not None for symbol in symbols)
    assert archive({"net.o": made.content})


def test_what_is_no_model_or_cannot_be_exported_so_is_refused() -> None:
    spec = rnnc.GRU(2, 3, bidirectional=True)
    with pytest.raises(ArgumentError, match="no stream; export it as 'whole'"):
        portable(bound(spec), "net", weights="embedded", kind="stream")
    with pytest.raises(ArgumentTypeError, match="model: expected a compiled model"):
        portable(spec, "net", weights="embedded", kind=None)  # type: ignore[arg-type]
    reference = rnnc.compile(replace(spec), spec.init(), backend="reference")
    with pytest.raises(ArgumentError, match="backend 'llvm', got 'reference'"):
        portable(reference, "net", weights="embedded", kind=None)


@pytest.mark.shipped
@pytest.mark.rare
def test_a_small_library_of_a_microcontroller_takes_eight_kilobytes() -> None:
    made = {small: exported(bound(rnnc.GRU(16, 32)), "cortex-m4f", small=small) for small in (False, True)}
    code = {small: sum(s.bytes for s in sizes(each.content) if s.is_code) for small, each in made.items()}
    assert code[True] <= 8 * 1024 < code[False]


def test_digests_tell_models_and_weights_apart() -> None:
    spec = rnnc.GRU(2, 3)
    digests = [
        portable(rnnc.compile(each, each.init(seed=seed)), "net", weights="embedded", kind=None).interface.digest
        for each, seed in ((spec, 0), (spec, 1), (replace(spec, hidden_size=4), 0), (spec, 0))
    ]
    assert digests[0] == digests[3] and len(set(digests)) == 3
    assert ctypes.sizeof(ctypes.c_size_t) == 8


def test_what_ends_llvm_does_not_end_this_process() -> None:
    machine = ("thumbv7em-none-eabihf", "cortex-m4", "", 1, "static", "")
    text = 'define void @f() {\n call void asm sideeffect "bogus", ""()\n ret void\n}\n'
    with raises_saying(rnnc.BackendError, "cortex-m4f", "LLVM ERROR", "asm parser"):
        compile_object(ObjectRequest(text, *machine), "cortex-m4f")
    assert compile_object(ObjectRequest("define void @f() {\n ret void\n}\n", *machine), "cortex-m4f")[:4] == b"\x7fELF"
