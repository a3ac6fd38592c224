"""Copies and pickles of what is compiled: the same numbers to the bit, the same options, memory of their own."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import rnnc
from rnnc.train import Batch, Evaluation, Trained, TrainingStep
from tests.refusals import raises_saying
from tests.test_specs import Leaky

ROOT = Path(__file__).resolve().parent.parent
SPECS = {
    "lstm": rnnc.LSTM(3, 4, 2, bidirectional=True, proj_size=2),
    "user": rnnc.Recurrent(Leaky(0.25), 3, 5, dtype="float64"),
}
NET = rnnc.Sequential(rnnc.Embedding(7, 3), rnnc.GRU(3, 4, batch_first=True), rnnc.Linear(4, 2), readout="mean")
WORDS = np.arange(12).reshape(3, 4) % 7
each_spec = pytest.mark.parametrize("name", SPECS)


def round_trips(value: Any) -> list[Any]:
    return [pickle.loads(pickle.dumps(value))]


def flat(value: Any) -> list[Any]:
    """Every array of a result, in order."""
    if isinstance(value, dict):
        return [array for item in value.values() for array in flat(item)]
    return [array for item in value for array in flat(item)] if isinstance(value, tuple) else [value]


def check_same(found: Any, expected: Any) -> None:
    for a, b in zip(flat(found), flat(expected), strict=True):
        np.testing.assert_array_equal(a, b, strict=True)


def x_of(spec: rnnc.Spec) -> Any:
    return np.random.default_rng(0).standard_normal((6, 3, spec.input_size)).astype(spec.dtype)


@each_spec
def test_models_and_programs(name: str, backend: str) -> None:
    spec = SPECS[name]
    params = spec.init(seed=1)
    program = rnnc.compile(spec, backend=backend, threads=1)
    model = program.bind(params)
    expected, ragged = model(x_of(spec)), model(x_of(spec), lengths=[6, 0, 2])
    for array in params.values():
        array[...] = np.nan
    for other in (copy.copy(model), copy.deepcopy(model), *round_trips(model)):
        assert (other.spec, other.program.backend, repr(other)) == (spec, backend, repr(model))
        check_same(other(x_of(spec)), expected)
        check_same(other(x_of(spec), lengths=[6, 0, 2]), ragged)
    for again in (copy.deepcopy(program), *round_trips(program)):
        assert again.ir("rolled") == program.ir("rolled")
        check_same(again.bind(spec.init(seed=1))(x_of(spec)), expected)


def test_derivatives(backend: str) -> None:
    spec = SPECS["user"]
    point, zeros = (spec.init(seed=1), x_of(spec), None), (None, None, None)
    f, j, h = (make(spec, backend=backend) for make in (rnnc.vjp, rnnc.jvp, rnnc.hvp))
    result, pullback = f(*point)
    calls = {
        f: lambda f: f(*point)[1](result[0]),
        j: lambda j: j(point, (spec.init(seed=2), None, None)),
        h: lambda h: h(point, (result[0], None), zeros),
    }
    for function, call in calls.items():
        expected = call(function)
        for other in (copy.deepcopy(function), *round_trips(function)):
            assert repr(other) == repr(function)
            check_same(call(other), expected)
    assert copy.deepcopy(pullback) is pullback
    with raises_saying(rnnc.ArgumentTypeError, "Pullback cannot be pickled", "call it again"):
        pickle.dumps(pullback)


def test_networks_and_evaluations(backend: str) -> None:
    params = NET.init(3)
    network, evaluation = NET.compile(params, backend=backend), Evaluation(NET, "cross_entropy", backend=backend)
    trained = Trained(NET, NET.init(3), (), 5, backend)
    batch = Batch({"x": WORDS.T}, {"output": np.zeros((3, 1), np.float32)}, None, {"output": 3})
    expected, loss = network(WORDS), evaluation(params, batch)
    for other in (copy.copy(network), copy.deepcopy(network), *round_trips(network)):
        check_same(other(WORDS, lengths=[4, 4, 4]), expected)
    for again in (copy.deepcopy(evaluation), *round_trips(evaluation)):
        check_same(again(params, batch), loss)
    for more in (copy.deepcopy(trained), *round_trips(trained)):
        assert (more.model, more.history, more.updates, more.backend) == (NET, (), 5, backend)
        assert all(more.params[name] is not trained.params[name] for name in params)
        check_same(more.compile()(WORDS), expected)
    for array in params.values():
        array[...] = np.nan
    check_same(round_trips(network)[0](WORDS), expected)


def test_options_are_kept() -> None:
    spec = rnnc.LSTM(3, 4)
    program = rnnc.compile(spec, backend="cuda", threads=3, matmul="float16")
    for other in round_trips(program):
        assert (other._options.threads, other._options.matmul) == (3, "float16")
        assert other.ir("cuda") == program.ir("cuda")
        assert other.ir("cuda") != rnnc.compile(spec, backend="cuda").ir("cuda")
    for other in round_trips(rnnc.vjp(spec, threads=2, remat="sqrt")):
        assert (other.remat, other._options.threads, other._options.matmul) == ("sqrt", 2, None)
        assert other.saved_bytes(100, 1) == rnnc.vjp(spec, remat="sqrt").saved_bytes(100, 1)


def test_models_of_the_device_are_pickled_with_parameters_of_the_host() -> None:
    spec = rnnc.GRU(3, 4)
    model = rnnc.compile(spec, spec.init(1), backend="cuda-emulated")
    x = x_of(spec)
    check_same(round_trips(model)[0](x), model(x))


def test_a_training_step_says_what_to_do() -> None:
    step = TrainingStep(NET, "cross_entropy", rnnc.optimizers.SGD(0.1), backend="reference")
    for function in (copy.copy, copy.deepcopy, pickle.dumps):
        with raises_saying(rnnc.ArgumentTypeError, "TrainingStep can be neither copied", "`params`", "checkpoint"):
            function(step)  # type: ignore[operator]


def test_a_cell_without_a_name_says_so() -> None:
    class Local(rnnc.Cell):
        name: ClassVar[str] = "local"

        def step(self, x: Any, state: Any, p: Any) -> Any:
            h = x + state.h
            return h, {"h": h}

    spec = rnnc.Recurrent(Local(), 3, 3)
    model = rnnc.compile(spec, spec.init(), backend="reference")
    assert copy.deepcopy(spec) == spec and copy.deepcopy(model) is model
    for value in (spec, model, rnnc.Sequential(spec)):
        with raises_saying(rnnc.ArgumentError, "Local cannot be referred to by name", "at the top of a module"):
            pickle.dumps(value)


SCRIPT = """
import pickle, sys, warnings
import numpy as np, rnnc
class Mine(rnnc.cells.GRUCell):
    pass
spec = rnnc.Recurrent(Mine(), 3, 4)
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    text = spec.to_json()
    data = pickle.dumps(rnnc.compile(spec, spec.init(), backend="reference"))
assert [w.category for w in told] == [rnnc.RnncWarning] * 2, told
assert all("Mine is defined in the main script" in str(w.message) for w in told)
assert pickle.loads(data).spec == spec == rnnc.Spec.from_json(text)
"""


def test_a_cell_of_the_main_script_says_so_when_it_is_saved(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, tmp_path / "script.py"], env=environment, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


def test_a_pickle_serves_another_process(tmp_path: Path) -> None:
    spec = rnnc.GRU(3, 4)
    model = rnnc.compile(spec, spec.init(1), threads=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (tmp_path / "model").write_bytes(pickle.dumps(model))
    np.save(tmp_path / "x.npy", x_of(spec))
    code = (
        "import numpy, pickle, pathlib; model = pickle.loads(pathlib.Path('model').read_bytes()); "
        "numpy.save('y.npy', model(numpy.load('x.npy'))[0])"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), model(x_of(spec))[0])
