"""The host's side of backend="cuda" without a GPU: arrays, launches, cuBLAS, streams, captures, by a CuPy that is none.

See tests/fake_cupy.py. What a kernel computes is checked elsewhere; here, that it is given the right arrays, that
everything stays on the device, that nothing waits, and that what real hardware would refuse is not asked for.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import rnnc
from rnnc import train
from rnnc.backends.cuda.compiled import CudaBound, CudaCode
from rnnc.backends.cuda.emulated import EmulatedDevice
from rnnc.backends.cuda.emulator import find_compiler
from rnnc.backends.cuda.run import gemm as cublas
from rnnc.backends.cuda.run.device import CupyDevice
from rnnc.backends.cuda.run.execution import Loaded
from rnnc.backends.cuda.schedule.chip import EMULATED, H100, Chip
from rnnc.backends.cuda.schedule.layouts import Restriction
from rnnc.backends.cuda.schedule.weight_memory import WeightMemory
from rnnc.cells import linear, sigmoid, tanh
from rnnc.ir.computation import Computation
from rnnc.optimizers import Adam
from tests.cases import TOLERANCE, Case, Result, error, worst_error
from tests.fake_cupy import FakeCupyArray, FakeGpu
from tests.fake_device import FakeTensor
from tests.forward_calls import run_stack
from tests.networks import data_of, parameters_of, stack_of
from tests.refusals import raises_saying
from tests.training_data import tagged, tagger

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="running CUDA C on the CPU needs a C++ compiler")

ROOT = Path(__file__).resolve().parent.parent
CASE = Case("lstm", num_layers=2, bidirectional=True, steps=4, batch=3, input_size=5, hidden_size=6)
KINDS = ("float16", "bfloat16", "tf32")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpu]:
    """After the test: nothing waited, nothing was written beside an array, launches are as hardware wants them."""
    found = FakeGpu()
    found.install(monkeypatch)
    bound: list[object] = []
    pack = CudaBound._packed

    def counted(self: CudaBound, loaded: Loaded) -> Any:
        bound.extend([loaded] * isinstance(loaded.device, CupyDevice))
        return pack(self, loaded)

    monkeypatch.setattr(CudaBound, "_packed", counted)
    yield found
    found.check_guards()
    # Binding parameters waits once for its own work; nothing else does.
    assert found.waits == ["Stream.synchronize"] * len(bound)
    for launch in found.launches:
        assert launch.cooperative == launch.waits, launch


def up(value: Any, gpu: FakeGpu) -> Any:
    """The same with all arrays on the device, which is no upload of rnnc's."""
    if isinstance(value, np.ndarray):
        return gpu.new(value)
    if isinstance(value, dict):
        return {name: up(item, gpu) for name, item in value.items()}
    return tuple(up(item, gpu) for item in value) if isinstance(value, tuple) else value


def leaves(value: Any) -> list[Any]:
    """All arrays of a result."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else None
    return [value] if items is None else [leaf for item in items for leaf in leaves(item)]


def down(value: Any) -> list[Any]:
    """The numbers of all arrays of a result, which are on the device."""
    arrays = leaves(value)
    assert arrays and all(type(array) is FakeCupyArray for array in arrays), [type(array) for array in arrays]
    return [array._host for array in arrays]


def assert_close(found: Any, expected: Any, tolerance: float = TOLERANCE["float32"]) -> None:
    for one, other in zip(down(found), leaves(expected), strict=True):
        assert one.dtype == other.dtype
        assert error(one, other) <= tolerance


def result_of(returned: Any) -> Result:
    output, *states = down(returned)
    return Result(output, tuple(states))


# ------------------------------------------------------------------------------------------ calls of a model

CALLS = (
    CASE,
    replace(CASE, cell="gru", batch_first=True, lengths="mixed"),
    replace(CASE, cell="gru_before", bidirectional=False, batch=None, dtype="float64"),
    replace(CASE, cell="lstm_projected", initial=False, batch=17, lengths="mixed"),
    replace(CASE, cell="rnn_tanh", num_layers=1, hidden_size=33, steps=1, bias=False),
    replace(CASE, batch=0),
)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("lengths_on", ("host", "device"))
@pytest.mark.parametrize("case", CALLS, ids=str)
def test_a_call_stays_on_the_device(case: Case, lengths_on: str, gpu: FakeGpu) -> None:
    model = rnnc.compile(case.spec(), case.params, backend="cuda")
    lengths = case.row_lengths if lengths_on == "host" else up(case.row_lengths, gpu)
    x, state = up(case.x, gpu), up(case.state, gpu)
    gpu.uploads = 0
    found = result_of(model(x, state, lengths=lengths))
    assert worst_error(found, case.expected()) <= TOLERANCE[case.dtype]
    assert gpu.uploads == (lengths_on == "host" and lengths is not None)


def test_parameters_of_either_side_are_copied(gpu: FakeGpu) -> None:
    forms = (partial(up, gpu=gpu), FakeTensor, np.array, np.asfortranarray)
    params = {name: forms[number % 4](array.copy()) for number, (name, array) in enumerate(CASE.params.items())}
    model = rnnc.compile(CASE.spec(), params, backend="cuda")
    for array in params.values():
        (array if isinstance(array, np.ndarray) else array._host)[...] = np.nan
    found = result_of(model(up(CASE.x, gpu), up(CASE.state, gpu)))
    assert worst_error(found, CASE.expected()) <= TOLERANCE["float32"]


def test_views_in_and_out(gpu: FakeGpu) -> None:
    model = rnnc.compile(CASE.spec(), CASE.params, backend="cuda")
    wide = gpu.allocate((4, 3, 7), "float32")
    x = wide[:, :, 1:6]
    x[...] = up(CASE.x, gpu)
    output, state = gpu.full((4, 3, 16), 7, "float32"), up((np.zeros((4, 3, 6), "float32"),) * 2, gpu)
    inside = output[:, :, 2:-2]
    returned = model(x, up(CASE.state, gpu), out=(inside, state))
    assert returned[0] is inside and returned[1] is state
    assert worst_error(result_of(returned), CASE.expected()) <= TOLERANCE["float32"]
    assert (output._host[..., :2] == 7).all() and (output._host[..., -2:] == 7).all()


def test_sequences_in_pieces(gpu: FakeGpu) -> None:
    """A state that comes out goes in again."""
    case = replace(CASE, bidirectional=False, steps=6)
    model = rnnc.compile(case.spec(), case.params, backend="cuda")
    x, state, parts = up(case.x, gpu), up(case.state, gpu), []
    for start, stop in ((0, 1), (1, 2), (2, 6)):
        output, state = model(x[start:stop], state)
        parts.append(output._host)
    found = Result(np.concatenate(parts), tuple(s._host for s in state))
    assert worst_error(found, case.expected()) <= TOLERANCE["float32"]


def test_a_network(gpu: FakeGpu) -> None:
    network = rnnc.Sequential(rnnc.Embedding(7, 3), rnnc.GRU(3, 4, 2), rnnc.Linear(4, 2), readout="mean")
    params, numbers = network.init(0), np.random.default_rng(0).integers(0, 7, (5, 3))
    expected = network.compile(params, backend="reference")
    for on_device in (False, True):
        lengths = np.array([3, 0, 5])
        found = network.compile(up(params, gpu) if on_device else params, backend="cuda")
        given = up(lengths, gpu) if on_device else lengths
        assert_close(found(up(numbers, gpu), lengths=given), expected(numbers, lengths=lengths))


# ------------------------------------------------------------------------------------------ derivatives


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("cell", "lengths"), (("gru", None), ("lstm", "device")))
def test_derivatives(cell: str, lengths: str | None, gpu: FakeGpu) -> None:
    """x and the adjoint of the output are views: every second unit of a wider array."""
    case = replace(CASE, cell=cell, bidirectional=lengths is None, num_layers=1)
    counts = None if lengths is None else np.array([4, 0, 3])
    given = up(counts, gpu)
    spec, params = case.spec(), case.params

    def view(array: Any) -> Any:
        return up(np.repeat(array, 2, axis=2), gpu)[:, :, ::2]

    x, state = case.x, case.state
    output, last = rnnc.vjp(spec, backend="reference")(params, x, state, lengths=counts)[0]
    on_device = (up(params, gpu), view(x), up(state, gpu)), (view(output), up(last, gpu))
    on_host = (params, x, state), (output, last)
    for name in ("vjp", "jvp", "hvp"):
        found, expected = (
            derivative(name, spec, backend, *arguments, lengths=counts_there)
            for backend, arguments, counts_there in (("cuda", on_device, given), ("reference", on_host, counts))
        )
        assert_close(found, expected, 2e-5)


def derivative(name: str, spec: Any, backend: str, primals: Any, adjoint: Any, lengths: Any) -> Any:
    function = getattr(rnnc, name)(spec, backend=backend)
    if name == "vjp":
        result, pullback = function(*primals, lengths=lengths)
        return result, pullback(*adjoint), pullback(None, adjoint[1]), pullback()
    if name == "jvp":
        return function(primals, primals, lengths=lengths), function(primals, (None, None, None), lengths=lengths)
    return function(primals, adjoint, primals, (adjoint[0], None), lengths=lengths)


def test_what_a_caller_changes_between_the_two_parts_does_not_matter(gpu: FakeGpu) -> None:
    case = replace(CASE, num_layers=1)
    params, x, state = up(case.params, gpu), up(case.x, gpu), up(case.state, gpu)
    (output, last), pullback = rnnc.vjp(case.spec(), backend="cuda")(params, x, state)
    adjoint = output.copy(), up(tuple(map(np.copy, down(last))), gpu)
    for array in leaves((params, x, state, output, last)):
        array[...] = np.nan
    expected = rnnc.vjp(case.spec(), backend="reference")(case.params, case.x, case.state)
    numbers = adjoint[0]._host, tuple(down(adjoint[1]))
    assert_close(pullback(*adjoint), expected[1](*numbers))


@dataclass(frozen=True)
class Leaky(rnnc.Cell):
    """Bounded functions of parameters, and products of them: values that have no batch axis."""

    name: ClassVar[str] = "leaky"

    def parameters(self, input_size: int, hidden_size: int, bias: bool) -> dict[str, tuple[int, ...]]:
        return {"w": (hidden_size, input_size), "u": (hidden_size, hidden_size), "leak": (hidden_size,)}

    def step(self, x: Any, state: Any, p: Any) -> tuple[Any, dict[str, Any]]:
        keep = sigmoid(p.leak)
        h = keep * state.h + (1 - keep) * tanh(linear(x, p.w) + linear(state.h, p.u) + tanh(p.leak) * p.leak)
        return h, {"h": h}


def test_values_of_parameters_alone_are_computed_on_the_device(gpu: FakeGpu) -> None:
    spec = rnnc.Recurrent(Leaky(), 3, 4)
    params, x = spec.init(0), np.random.default_rng(0).standard_normal((4, 2, 3)).astype("float32")
    expected = rnnc.compile(spec, params, backend="reference")(x)
    assert_close(rnnc.compile(spec, params, backend="cuda")(up(x, gpu)), expected)
    (found, _), pullback = rnnc.vjp(spec, backend="cuda")(up(params, gpu), up(x, gpu))
    assert_close(found, expected[0])
    gradients = rnnc.vjp(spec, backend="reference")(params, x)[1](expected[0])
    assert_close(pullback(found), gradients)


@pytest.mark.parametrize("operands", KINDS)
def test_operands_of_tensor_cores(operands: str, gpu: FakeGpu) -> None:
    """As the emulated backend, whose rounding is checked elsewhere; and cuBLAS is asked for the same operands."""
    case = replace(CASE, num_layers=1, batch=5)
    spec, options = case.spec(), {"matmul": operands}
    found = rnnc.compile(spec, case.params, backend="cuda", **options)(up(case.x, gpu), up(case.state, gpu))
    expected = rnnc.compile(spec, case.params, backend="cuda-emulated", **options)(case.x, case.state)
    assert_close(found, expected, 1e-5)
    kind, compute = cublas.TYPES[operands]
    assert {(call[8], call[11], call[17]) for call in gpu.gemms} == {(kind, kind, compute)}
    assert worst_error(result_of(found), case.expected()) > 1e-6


def test_derivatives_with_operands_of_tensor_cores(gpu: FakeGpu) -> None:
    """Sums over steps take TF32, whatever the rest takes."""
    case = replace(CASE, num_layers=1, batch=5, bidirectional=False)
    function, emulated = (rnnc.vjp(case.spec(), backend=b, matmul="float16") for b in ("cuda", "cuda-emulated"))
    adjoint, lengths = np.ones((4, 5, 6), "float32"), [4, 0, 1, 2, 3]
    given = up(case.params, gpu), up(case.x, gpu), up(case.state, gpu)
    found = function(*given, lengths=lengths)[1](up(adjoint, gpu))
    assert_close(found, emulated(case.params, case.x, case.state, lengths=lengths)[1](adjoint), 1e-4)
    assert {call[8] for call in gpu.gemms} == {cublas.TYPES["float16"][0], cublas.TYPES["tf32"][0]}


def test_a_training_step_waits_once(gpu: FakeGpu) -> None:
    model, pairs = tagger("float32", num_layers=1), tagged()
    steps = {
        backend: train.TrainingStep(model, "cross_entropy", Adam(0.01), backend=backend)
        for backend in ("cuda", "reference")
    }
    batch = train.Sequences(model, steps["cuda"].loss, pairs).batch(np.arange(len(pairs)))
    for _ in range(2):
        losses = [step.step(batch)[0].loss for step in steps.values()]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)
        assert gpu.waits == ["asnumpy"]
        gpu.waits.clear()
    steps["cuda"]._trainer.fetch()
    found, expected = (step.params for step in steps.values())
    assert all(error(found[name], expected[name]) <= 1e-5 for name in expected)
    gpu.waits.clear()


# ------------------------------------------------------------------------------------------ launches

LARGE: Chip = replace(EMULATED, shared_per_sm=200 * 1024, shared_per_block=160 * 1024)


def run(gpu: FakeGpu, restriction: Restriction, hidden_size: int = 20, chip: Chip | None = None, batch: int = 9) -> Any:
    """Runs a stack as one wishes; output, states."""
    stack = stack_of("gru", input_size=3, hidden_size=hidden_size, dtype="float32")
    rng = np.random.default_rng(0)
    params, data = parameters_of(stack, rng), data_of(stack, 4, batch, rng)
    given = [data[f"{name}.0_l0"][None] for name in stack.states]
    results = []
    for device, there in ((CupyDevice, chip or gpu.chip), (EmulatedDevice, EMULATED)):
        on_gpu = device is CupyDevice
        code = CudaCode(Computation.of_stack(stack), there, device, None, restriction if on_gpu else None)
        move: Any = partial(up, gpu=gpu) if on_gpu else lambda a: a
        states = tuple(map(move, given))
        output, (final,) = run_stack(code.bind(move(params)), stack, move(data["x"]), states, move=move)
        results.append((output, final))
    assert_close(*results)
    return code


@pytest.mark.parametrize("slices", (1, 2, 4))
def test_a_launch_is_cooperative_exactly_if_its_blocks_wait_for_each_other(slices: int, gpu: FakeGpu) -> None:
    run(gpu, Restriction(slices, WeightMemory.REGISTERS))
    loops = [launch for launch in gpu.launches if launch.name.startswith("loop")]
    assert {launch.cooperative for launch in loops} == {slices > 1}
    for launch in loops:
        assert launch.grid[0] == slices
        assert not launch.cooperative or np.prod(launch.grid) <= gpu.chip.sms * gpu.chip.blocks_per_sm


def test_a_launch_a_phase(gpu: FakeGpu) -> None:
    run(gpu, Restriction(2, WeightMemory.MEMORY))
    names = [launch.name for launch in gpu.launches if launch.name.startswith("loop")]
    assert names[0].endswith("begin") and names[-1].endswith("end") and len(names) == 2 + 4
    assert not any(launch.cooperative for launch in gpu.launches)


def test_much_shared_memory_is_asked_for(gpu: FakeGpu) -> None:
    gpu.chip = LARGE
    run(gpu, Restriction(1, WeightMemory.SHARED), hidden_size=70)
    assert max(launch.shared for launch in gpu.launches) > 48 * 1024


def test_a_batch_of_many_tiles_stays_within_resident_blocks(gpu: FakeGpu) -> None:
    run(gpu, Restriction(2, WeightMemory.REGISTERS), batch=40)
    assert any(launch.cooperative for launch in gpu.launches)


def test_code_for_a_larger_chip_is_refused_rather_than_left_to_hang(gpu: FakeGpu) -> None:
    """CuPy would launch as many blocks as fit, and they would wait for the others for ever."""
    gpu.chip = replace(EMULATED, sms=1, blocks_per_sm=1)
    with raises_saying(rnnc.BackendError, "loop0", "must be resident", "holds 1", "larger chip"):
        run(gpu, Restriction(4, WeightMemory.REGISTERS), chip=EMULATED)
    gpu.chip = EMULATED
    with raises_saying(rnnc.BackendError, "loop0", "bytes of shared memory", "24,576", "larger chip"):
        run(gpu, Restriction(1, WeightMemory.SHARED), chip=LARGE, hidden_size=70)


def test_the_chip_may_be_any(gpu: FakeGpu) -> None:
    """The numbers of blocks and threads that a real chip gets, at its limits."""
    gpu.chip = H100
    model = rnnc.compile(CASE.spec(), CASE.params, backend="cuda")
    found = result_of(model(up(CASE.x, gpu), up(CASE.state, gpu)))
    assert worst_error(found, CASE.expected()) <= TOLERANCE["float32"]


# ------------------------------------------------------------------------------------------ cuBLAS


@pytest.mark.parametrize("accumulate", (False, True))
@pytest.mark.parametrize("dtype", ("float32", "float64"))
@pytest.mark.parametrize("sizes", ((1, 1, 1), (1, 5, 3), (4, 1, 3), (4, 5, 1), (7, 5, 3)))
def test_matrix_products(sizes: tuple[int, int, int], dtype: str, accumulate: bool, gpu: FakeGpu) -> None:
    """Every layout: rows far apart, transposed, both; results between columns that stay as they are."""
    rows, columns, inner = sizes
    random = np.random.default_rng(0)
    device = CupyDevice()

    def layouts(r: int, c: int) -> list[Any]:
        numbers = random.standard_normal((r, c)).astype(dtype)
        wide = up(np.pad(numbers, ((0, 0), (2, 3)), constant_values=np.nan), gpu)[:, 2 : 2 + c]
        tall = up(np.pad(numbers.T, ((0, 0), (1, 2)), constant_values=np.nan), gpu)[:, 1 : 1 + r].T
        return [up(numbers, gpu), wide, up(np.ascontiguousarray(numbers.T), gpu).T, tall]

    for a in layouts(rows, inner):
        for b in layouts(inner, columns):
            whole = gpu.full((rows, columns + 2), 1 if accumulate else np.nan, dtype)
            device.gemm(whole[:, 1:-1], a, b, accumulate, None)
            expected = a._host @ b._host + accumulate
            np.testing.assert_allclose(whole._host[:, 1:-1], expected, rtol=1e-5, atol=1e-6)
            untouched = whole._host[:, [0, -1]]
            assert (untouched == 1).all() if accumulate else np.isnan(untouched).all()


@pytest.mark.parametrize("operands", KINDS)
def test_narrow_operands(operands: str, gpu: FakeGpu) -> None:
    device, random = CupyDevice(), np.random.default_rng(0)
    a, b = (up(random.standard_normal(shape).astype("float32"), gpu) for shape in ((6, 9), (4, 8)))
    b = b[:, 1:7]
    whole = gpu.full((9, 4), np.nan, "float32")
    device.gemm(whole, device.narrow(a, operands).T, device.narrow(b, operands).T, False, operands)
    emulated = EmulatedDevice()
    expected = emulated.narrow(a._host, operands).T @ emulated.narrow(b._host, operands).T
    np.testing.assert_allclose(whole._host, expected, rtol=1e-5, atol=1e-6)


def test_numbers_of_16_bits_keep_what_has_no_value(gpu: FakeGpu) -> None:
    values = np.array([[0.0, -0.0, np.inf, -np.inf, np.nan, 3.4e38, 1e-40, 1.00390625]], "float32")
    narrowed = CupyDevice().narrow(up(values, gpu), "bfloat16")._host
    found = (narrowed.astype("uint32") << 16).view("float32")
    with np.errstate(over="ignore"):
        expected = EmulatedDevice().narrow(values, "bfloat16")
    np.testing.assert_array_equal(found[:, :5], values[:, :5])
    np.testing.assert_array_equal(found[:, 5:], expected[:, 5:])


# ------------------------------------------------------------------------------------------ streams, captures, devices


def test_work_goes_to_the_callers_stream(gpu: FakeGpu) -> None:
    model = rnnc.compile(CASE.spec(), CASE.params, backend="cuda")
    x, state, default = up(CASE.x, gpu), up(CASE.state, gpu), gpu.stream
    with gpu.cupy.cuda.Stream() as stream:
        before = default.clock[default]
        model(x, state)
        assert stream.clock[stream] > 0 and default.clock[default] == before


def test_streams_are_between_what_the_caller_queues_before_and_after(gpu: FakeGpu) -> None:
    device, caller = CupyDevice(), gpu.stream
    for failing in (False, True):
        caller.work()
        used = []
        with pytest.raises(ZeroDivisionError) if failing else nullcontext(), device.streams(2) as streams:
            for number, after in ((0, None), (1, 0)):
                with streams.use(number, after):
                    forked = gpu.stream
                    assert forked is not caller and forked.knows(caller)
                    assert after is None or forked.knows(used[after])
                    forked.work()
                    used.append(forked)
            assert not caller.knows(used[1])
            if failing:
                raise ZeroDivisionError
        assert gpu.stream is caller and all(caller.knows(forked) for forked in used)


def test_layers_as_a_wavefront_come_back_to_the_callers_stream(gpu: FakeGpu) -> None:
    case = Case("gru", num_layers=3, steps=9, batch=2, input_size=4, hidden_size=6)
    model = rnnc.compile(case.spec(), case.params, backend="cuda")
    caller = gpu.stream
    found = result_of(model(up(case.x, gpu), up(case.state, gpu)))
    assert worst_error(found, case.expected()) <= TOLERANCE["float32"]
    others = [stream for stream in gpu.streams if stream is not caller]
    assert len(others) == 3 and all(other.clock[other] and caller.knows(other) for other in others)


def test_a_call_can_be_captured(gpu: FakeGpu) -> None:
    """CuPy lets nobody call cuBLAS meanwhile, and copies nothing from the host."""
    case = replace(CASE, lengths="mixed", num_layers=1)
    model = rnnc.compile(case.spec(), case.params, backend="cuda")
    function = rnnc.vjp(case.spec(), backend="cuda")
    x, state, lengths, params = (up(v, gpu) for v in (case.x, case.state, case.row_lengths, case.params))
    with gpu.cupy.cuda.Stream(non_blocking=True) as stream:
        for capturing in (False, True):
            if capturing:
                stream.begin_capture()
            found = result_of(model(x, state, lengths=lengths))
            (output, _), pullback = function(params, x, state, lengths)
            assert all(np.isfinite(array).all() for array in down(pullback(output)))
            assert worst_error(found, case.expected()) <= TOLERANCE["float32"]
        with pytest.raises(RuntimeError, match="H2D transfers"):
            model(x, state, lengths=case.row_lengths)
        stream.end_capture()


@pytest.mark.parametrize(("platform", "name"), (("linux", "libcublas.so.12"), ("win32", "cublas64_12.dll")))
def test_cublas_in_a_capture_is_asked_for_by_name(platform: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(name: str) -> Any:
        asked.append(name)
        raise OSError(f"{name}: no such file")

    monkeypatch.setattr(cublas.ctypes, "CDLL", load)
    monkeypatch.setattr(cublas.sys, "platform", platform)
    with raises_saying(rnnc.BackendError, name, "capture", "no such file"):
        cublas.library(12)
    assert asked == [name]


def test_what_cublas_says_in_a_capture_is_an_error(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu.cublas, "cublasGemmEx", lambda *_: 13)
    a = gpu.full((2, 2), 1, "float32")
    with gpu.cupy.cuda.Stream() as stream, raises_saying(rnnc.BackendError, "cublasGemmEx", "13", "before the capture"):
        stream.begin_capture()
        CupyDevice().gemm(a, a, a, False, None)


def test_several_devices(gpu: FakeGpu) -> None:
    """A program serves all of them, a bound model its own."""
    gpu.count, gpu.chip = 2, LARGE
    program = rnnc.compile(rnnc.GRU(3, 70), backend="cuda")
    params, x = rnnc.GRU(3, 70).init(0), np.ones((2, 2, 3), "float32")
    expected = rnnc.compile(rnnc.GRU(3, 70), params, backend="reference")(x)
    models = []
    for number in (0, 1):
        with gpu.cupy.cuda.Device(number):
            models.append(program.bind(params))
            elsewhere = up(x, gpu)
            found = models[-1](elsewhere)
            assert_close(found, expected)
            assert {array.device.id for array in leaves(found)} == {number}
    with raises_saying(rnnc.ArgumentError, "x: ", "GPU 1", "current one is 0"):
        models[0](elsewhere)
    with raises_saying(rnnc.ArgumentError, "parameters are on GPU 1", "current one is 0", "cupy.cuda.Device(1)"):
        models[1](up(x, gpu))


# ------------------------------------------------------------------------------------------ without a GPU

WITHOUT = """
import sys
import rnnc
from rnnc.backends.cuda.run import availability as driver
from rnnc.backends.cuda.tools import nvrtc as toolkit
import ctypes
whole = ctypes.CDLL
def load(name, *more, **options):
    if "libcuda.so" in str(name) or "nvcuda" in str(name):
        raise OSError(name)
    return whole(name, *more, **options)
driver.ctypes.CDLL = load
spec = rnnc.GRU(3, 4)
made = [rnnc.compile(spec, backend="cuda", matmul=m) for m in (None, "float16", "bfloat16", "tf32")]
made += [getattr(rnnc, name)(spec, backend="cuda") for name in ("vjp", "jvp", "hvp")]
for program in made:
    assert "__global__" in program.ir("cuda") and "chip H100" in program.explain() and program.ir("commands")
if toolkit.available()[0]:
    assert ".entry loop0" in made[0].ir("ptx")
params = spec.init(0)
uses = [lambda: made[0].bind(params), lambda: made[4](params, None),
        lambda: rnnc.Sequential(spec, rnnc.Linear(4, 2)).compile(backend="cuda")]
for use in uses[:2]:
    try:
        use()
    except rnnc.BackendError as error:
        print(error)
assert "cupy" not in sys.modules
"""


def test_without_a_gpu_nothing_imports_cupy(tmp_path: Path) -> None:
    """Whatever needs no GPU works, and what needs one says so; a CuPy is there, that must not be imported."""
    (tmp_path / "cupy.py").write_text("raise AssertionError('imported')")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "RNNC_CUDA_CHIP": "H100"}
    done = subprocess.run([sys.executable, "-c", WITHOUT], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2 and lines[0] == lines[1]
    assert lines[0].startswith("backend 'cuda': no NVIDIA driver") and "backend='cuda-emulated'" in lines[0]
