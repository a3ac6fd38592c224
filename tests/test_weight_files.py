"""Weights from files of other programs: read by content, widened on request, and refused if damaged or hostile."""

from __future__ import annotations

import io
import json
import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rnnc
from tests.refusals import raises_saying

RNG = np.random.default_rng(11)
WEIGHTS = {
    "rnn.weight_ih_l0": RNG.standard_normal((12, 3), dtype=np.float32),
    "rnn.bias_ih_l0": RNG.standard_normal(12),
    "head.weight": RNG.standard_normal((2, 4), dtype=np.float32),
    "head.steps": np.array(7),
}
Weights = dict[str, Any]


def npz(path: Path, weights: Weights) -> None:
    with open(path, "wb") as file:
        np.savez(file, **weights)


def compressed(path: Path, weights: Weights) -> None:
    with open(path, "wb") as file:
        np.savez_compressed(file, **weights)


def safetensors(path: Path, weights: Weights) -> None:
    pytest.importorskip("safetensors.numpy").save_file(weights, path)


def _tensors(weights: Weights) -> dict[str, Any]:
    torch = _torch()
    return {name: torch.tensor(array) for name, array in weights.items()}


def _torch() -> Any:
    return pytest.importorskip("torch")


def pytorch(path: Path, weights: Weights) -> None:
    _torch().save(_tensors(weights), path)


def pytorch_before_1_6(path: Path, weights: Weights) -> None:
    _torch().save({"state_dict": _tensors(weights)}, path, _use_new_zipfile_serialization=False)


def onnx(path: Path, weights: Weights) -> None:
    onnx = pytest.importorskip("onnx")
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()]
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [], tensors)), path)


def hdf5(path: Path | io.BytesIO, weights: Weights) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        for name, array in weights.items():
            file[name] = array
        file["optimizer/vars/0"] = np.zeros(3)


def keras(path: Path, weights: Weights) -> None:
    content = io.BytesIO()
    hdf5(content, weights)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", '{"class_name": "Lambda"}')
        archive.writestr("model.weights.h5", content.getvalue())


KINDS: tuple[Callable[[Path, Weights], None], ...] = (
    npz, compressed, safetensors, pytorch, pytorch_before_1_6, onnx, hdf5, keras,
)  # fmt: skip


@pytest.mark.parametrize("write", KINDS)
def test_arrays_come_by_name_whatever_the_suffix(write: Any, tmp_path: Path) -> None:
    path = tmp_path / "weights.unknown"
    write(path, WEIGHTS)
    found = rnnc.load(path)
    assert found.keys() == WEIGHTS.keys()
    for name, array in WEIGHTS.items():
        assert found[name].dtype == array.dtype and type(found[name]) is np.ndarray
        np.testing.assert_array_equal(found[name], array)
    content = path.read_bytes()
    if write is not onnx:
        found["head.weight"][...] = 0  # theirs to write to; the file stays
    assert path.read_bytes() == content
    spec = rnnc.RNN(3, 12, bias=False)
    with raises_saying(rnnc.ParameterError, "params"):
        rnnc.compile(spec, found)


@pytest.mark.parametrize("write", (npz, safetensors, pytorch, onnx, hdf5))
def test_float16_is_refused_or_widened(write: Any, tmp_path: Path) -> None:
    path, halves = tmp_path / "w", {"a": np.array([1.5, -65504, 6e-8], np.float16), "n": np.arange(3)}
    write(path, halves)
    with raises_saying(rnnc.FileError, "'a'", "widen=True", "same numbers") as caught:
        rnnc.load(path)
    assert "float16" in str(caught.value)
    found = rnnc.load(path, widen=True)
    assert found["a"].dtype == np.float32 and found["n"].dtype == np.int64
    np.testing.assert_array_equal(found["a"], halves["a"])


@pytest.mark.parametrize("kind", ("safetensors", "pytorch", "onnx"))
def test_bfloat16_is_widened_exactly(kind: str, tmp_path: Path) -> None:
    torch = _torch()
    values = torch.tensor([1.0, -3.140625, 3e38, 1e-40, float("inf")]).bfloat16()
    path = tmp_path / "w"
    if kind == "safetensors":
        pytest.importorskip("safetensors.torch").save_file({"a": values}, path)
    elif kind == "pytorch":
        torch.save({"a": values}, path)
    else:
        onnx_ = pytest.importorskip("onnx")
        bits = values.view(torch.int16).numpy().tobytes()
        tensor = onnx_.helper.make_tensor("a", onnx_.TensorProto.BFLOAT16, [5], bits, raw=True)
        onnx_.save(onnx_.helper.make_model(onnx_.helper.make_graph([], "g", [], [], [tensor])), path)
    with raises_saying(rnnc.FileError, "bfloat16", "widen=True"):
        rnnc.load(path)
    np.testing.assert_array_equal(rnnc.load(path, widen=True)["a"], values.float().numpy())


def test_a_state_dict_within_a_file_is_found_or_told(tmp_path: Path) -> None:
    torch, path = _torch(), tmp_path / "w.pt"
    tensors = _tensors(WEIGHTS)
    optimizer = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]}
    torch.save({"epoch": 3, "model": {"net": tensors}, "optimizer": optimizer}, path)
    assert rnnc.load(path).keys() == rnnc.load(path, key="model.net").keys() == WEIGHTS.keys()
    torch.save({"model": tensors, "ema": tensors}, path)
    with raises_saying(rnnc.FileError, "several", "key=", "'model', 'ema'"):
        rnnc.load(path)
    with raises_saying(rnnc.ArgumentError, "key", "'average'", "'model', 'ema'"):
        rnnc.load(path, key="average")
    assert rnnc.load(path, key="ema").keys() == WEIGHTS.keys()
    torch.save([1, 2], path)
    with raises_saying(rnnc.FileError, "no mapping of names to tensors", "list"):
        rnnc.load(path)


# ---- files that run code, claim what they do not have, or are something else


class Runs:
    """Its pickle writes a file where it is read."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return open, (self.path, "w")


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    ran, path = tmp_path / "ran", tmp_path / "w"
    np.savez(tmp_path / "w.npz", a=np.array([Runs(ran)], dtype=object))
    with raises_saying(rnnc.FileError, "a.npy", "Python objects", "run code"):
        rnnc.load(tmp_path / "w.npz")
    path.write_bytes(pickle.dumps({"a": Runs(ran)}))
    with raises_saying(rnnc.FileError, "is a pickle", "numpy.savez"):
        rnnc.load(path)
    for legacy in (True, False):
        _torch().save({"a": Runs(ran)}, path, _use_new_zipfile_serialization=not legacy)
        with raises_saying(rnnc.FileError, "more than tensors", "run code", "state_dict"):
            rnnc.load(path)
    _torch().save(_torch().nn.Linear(2, 3), path)
    with raises_saying(rnnc.FileError, "more than tensors"):
        rnnc.load(path)
    assert not ran.exists()


def npy_header(descr: str, shape: tuple[int, ...]) -> bytes:
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def header(**entries: Any) -> bytes:
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


def test_sizes_are_checked_before_memory_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "w"
    for shape in ((1 << 40,), (1 << 31, 1 << 31), (-5,)):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.npy", npy_header("<f4", shape) + bytes(20))
        with raises_saying(rnnc.FileError, "w", "damaged"):
            rnnc.load(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", npy_header("<f4", (1 << 20,)) + bytes(1 << 22))
        archive.filelist[0].file_size = 1 << 31  # what the list of members claims
    with raises_saying(rnnc.FileError, "w", "claim to unpack to 2147483648"):
        rnnc.load(path)
    entry = {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}
    for start, word in (
        (header(a=entry), "cut short"),
        (header(a=entry | {"data_offsets": [0, 8]}), "place"),
        (header(a=entry | {"shape": [-1]}), "shape"),
        (header(a=entry | {"shape": [True]}), "shape"),
        (header(a=entry | {"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}), "'F8_E4M3'; rnnc reads"),
        (header(a={"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}) + bytes(12), "gap"),
        (header(a=3), "damaged"),
        ((1 << 60).to_bytes(8, "little") + b'{"a": 3}', "size does not fit"),
        (header() + b"x", "cut short"),
    ):
        path.write_bytes(start)
        with raises_saying(rnnc.FileError, "w", word):
            rnnc.load(path)


def test_numbers_of_hdf5_lie_in_the_file_and_in_one_piece(tmp_path: Path) -> None:
    """Other files' numbers are not for a file to name, and HDF5's readers of chunks crash on damaged ones."""
    h5py, path = pytest.importorskip("h5py"), tmp_path / "w.h5"
    (tmp_path / "secret").write_bytes(bytes(64))
    for options in (
        {"chunks": (2,), "data": np.zeros(4)},
        {"compression": "gzip", "data": np.zeros(4)},
        {"external": [(tmp_path / "secret", 0, 32)], "shape": (4,), "dtype": "f8"},
    ):
        with h5py.File(path, "w") as file:
            file.create_dataset("a", **options)
        with raises_saying(rnnc.FileError, "w.h5", "'a' do not lie in one piece", "create_dataset"):
            rnnc.load(path)
    with h5py.File(path, "w") as file:
        file["a"], file["empty"] = np.arange(3, dtype=">f4"), np.zeros((0, 3))
        file["out"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/")
    found = rnnc.load(path)
    assert {name: array.shape for name, array in found.items()} == {"a": (3,), "empty": (0, 3)}
    np.testing.assert_array_equal(found["a"], [0, 1, 2])


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "is empty"),
        (b"\x93NUMPY\x01\x00", "numpy.load"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (b"<!DOCTYPE html>", "web page"),
        (b'{"type": "GRU"}', "rnnc.Spec.from_json"),
        (b"PK\x03\x04" + bytes(40), "zip file"),
        (b"hello, world", "it begins with b'hello, w'"),
    ],
)
def test_other_files_are_told_what_they_are(content: bytes, word: str, tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(content)
    with raises_saying(rnnc.FileError, "path", "w", word):
        rnnc.load(tmp_path / "w")


@pytest.mark.parametrize("write", KINDS)
def test_a_changed_file_gives_arrays_or_an_error_of_rnnc(write: Any, tmp_path: Path) -> None:
    """Bits turned, pieces overwritten, cut off and copied; the same places on every run."""
    path, rng = tmp_path / "w", np.random.default_rng(5)
    write(path, WEIGHTS)
    whole, refused = path.read_bytes(), 0
    for number in range(60):
        content = bytearray(whole)
        place, size = int(rng.integers(len(whole))), int(rng.integers(1, 9))
        match number % 4:
            case 0:
                content[place] ^= 1 << number % 8
            case 1:
                content[place : place + size] = bytes([(0, 127, 128, 255)[number // 4 % 4]]) * size
            case 2:
                del content[place:]
            case 3:
                content[place : place + 16] = content[: len(content[place : place + 16])]
        path.write_bytes(content)
        try:
            assert isinstance(rnnc.load(path), dict)
        except rnnc.RnncError as error:
            refused += 1
            assert "w" in str(error)
    assert refused >= 20


@pytest.mark.parametrize(("write", "package"), ((hdf5, "h5py"), (pytorch, "torch"), (onnx, "onnx")))
def test_a_missing_package_is_named(write: Any, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "w", WEIGHTS)
    monkeypatch.setitem(sys.modules, package, None)
    with raises_saying(rnnc.RnncError, package, "not installed", "pip install"):
        rnnc.load(tmp_path / "w")


# ---- parts


def test_take_cuts_a_prefix_off_or_lists_those_there_are() -> None:
    assert rnnc.take(WEIGHTS, "rnn.") == {name[4:]: WEIGHTS[name] for name in list(WEIGHTS)[:2]}
    assert rnnc.take(WEIGHTS, "") == WEIGHTS
    with raises_saying(rnnc.ParameterError, "prefix", "'lstm.'", "begin with 'head.', 'rnn.'"):
        rnnc.take(WEIGHTS, "lstm.")
    with raises_saying(rnnc.ParameterError, "'head.weight' is the whole name"):
        rnnc.take(WEIGHTS, "head.weight")
    with raises_saying(rnnc.ArgumentError, "prefix", "write 'rnn.'"):
        rnnc.take(WEIGHTS, "rnn")
    for params, prefix in ((3, "a."), (WEIGHTS, 3), ({1: 2}, "a.")):
        with pytest.raises(rnnc.ArgumentTypeError):
            rnnc.take(params, prefix)  # type: ignore[arg-type]
