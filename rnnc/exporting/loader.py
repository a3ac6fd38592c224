"""Calls a library that rnnc exported, on NumPy arrays. This file needs NumPy alone: copy it wherever the library goes.

f = Library("libvad.so")
output, state = f(x)            # x: (T, I), the first T steps of a stream; or (T, B, I) of B streams
output, state = f(more, state)  # the next ones
"""

import ctypes
import json
import platform
import re
from pathlib import Path
from typing import Any

import numpy as np

VERSION = 1
RESULTS = {
    1: "x: an integer is no row of its table",
    2: "state: it is of another model",
    4: "lengths: one is not in 0..T",
}
NEEDS = {
    "x86-64-v2": "sse4_2 popcnt",
    "x86-64-v3": "avx2 fma bmi1 bmi2 f16c movbe abm",
    "x86-64-v4": "avx2 fma bmi2 avx512f avx512bw avx512cd avx512dq avx512vl",
}


class Library:
    """The function in a library. about: what the library tells of itself.

    Threads may call it at the same time. Errors are of the classes below.
    """

    value_error: type[Exception] = ValueError
    shape_error: type[Exception] = ValueError
    type_error: type[Exception] = TypeError
    file_error: type[Exception] = OSError

    def __init__(self, path: Any, weights: Any = None) -> None:
        """weights: the path of the file of weights, for a library that does not hold them."""
        self.path, self._weights = Path(path), None
        shown = repr(str(path))
        content = self._bytes("path", path)
        found = re.findall(rb'\{"rnnc":(\d+),"name":"(\w+)","machine":"([\w-]+)"', content)
        if not found or int(found[0][0]) != VERSION:
            version = f"has version {int(found[0][0])} of the interface, not {VERSION}" if found else "is not of rnnc"
            raise self.file_error(f"path: {shown} {version}; expected a library of rnnc's export")
        machine, self._name = found[0][2].decode(), found[0][1].decode()
        cpu = Path("/proc/cpuinfo")
        has = set(cpu.read_text().split()) if cpu.exists() and platform.machine() == "x86_64" else None
        if len(found) == 1 and has is not None and (lacks := set(NEEDS.get(machine, "").split()) - has):
            raise self.file_error(f"path: {shown} is for {machine}; this processor lacks {', '.join(sorted(lacks))}")
        try:
            self._library = ctypes.CDLL(str(self.path.resolve()))
        except OSError as error:
            here = f"{platform.system()} on {platform.machine()}"
            raise self.file_error(f"path: {shown} is for {machine}, and this is {here}: {error}") from error
        self.about: dict[str, Any] = json.loads(self._call("about", result=ctypes.c_char_p))
        if (self.about["weights"] == "file") != (weights is not None):
            what = "the library holds its weights" if weights is not None else "expected the path of the weights' file"
            raise self.value_error(f"weights: {what}")
        if weights is not None:
            self._weights = _aligned(self._bytes("weights", weights))
        if self.about["kind"] == "stream":
            self._new_state()  # says what is wrong with the weights

    def __call__(self, x: Any, state: Any = None, *, lengths: Any = None) -> tuple[Any, Any]:
        """(output, state). x: an array, or a dict of several; of whole sequences (T, B, I), or (B, T, I) if the network
        was made so, and lengths may be B integers. state: what an earlier call returned; None starts. Several outputs
        are a dict."""
        streams = self.about["kind"] == "stream"
        names = [port["name"] for port in self.about["inputs"]]
        given = dict(x) if isinstance(x, dict) else {names[0]: x}
        if sorted(given) != sorted(names):
            raise self.value_error(f"x: expected arrays {', '.join(names)}, got {', '.join(map(str, given))}")
        arrays = [self._checked(port, given[port["name"]]) for port in self.about["inputs"]]
        _, _, batch, alone = arrays[0]
        steps = max(timed for _, timed, _, _ in arrays)
        for (_, timed, rows, _), port in zip(arrays, self.about["inputs"], strict=True):
            if rows != batch or rows == 0 or timed != (steps if port["steps"] else 0) or steps == 0 < port["steps"]:
                what = f"x[{port['name']!r}]: expected {steps or 'some'} steps of {batch or 'some'} sequences"
                raise self.shape_error(f"{what}, got {timed} of {rows}")
        if not streams:
            return self._whole([array for array, *_ in arrays], steps, batch, state, lengths, alone)
        if lengths is not None or steps % self.about["frame"]:
            multiple = f"x: expected a multiple of {self.about['frame']} steps, got {steps}"
            raise self.shape_error("lengths: a stream has none" if lengths is not None else multiple)
        return self._streams([array for array, *_ in arrays], steps // self.about["frame"], batch, state, alone)

    def _streams(self, arrays: list[Any], frames: int, batch: int, state: Any, alone: bool) -> tuple[Any, Any]:
        states = np.stack([self._new_state() for _ in range(batch)]) if state is None else np.array(state, ndmin=2)
        if states.dtype != np.uint8 or len(states) != batch or states.shape[1:] != self._new_state().shape:
            raise self.shape_error(f"state: expected what an earlier call of {batch} streams returned")
        found = [np.zeros((batch, frames, p["width"]), p["dtype"]) for p in self.about["outputs"]]
        scratch = np.empty(self._call("scratch_size", frames, result=ctypes.c_size_t), np.uint8)
        for row in range(batch):
            pieces = [np.ascontiguousarray(array[:, row]) for array in arrays]
            self._call("run", states[row], frames, *pieces, *(each[row] for each in found), scratch)
        shown = []
        for port, array in zip(self.about["outputs"], found, strict=True):
            each = array.reshape(batch, frames * port["steps"], -1).swapaxes(0, 1) if port["steps"] else array[:, 0]
            shown.append((each[:, 0] if port["steps"] else each[0]) if alone else each)
        return self._named(shown), states[0] if alone else states

    def _whole(
        self, arrays: list[Any], steps: int, batch: int, state: Any, lengths: Any, alone: bool
    ) -> tuple[Any, dict[str, Any]]:
        first, ports, initial = self.about["batch_first"], self.about["states"], dict(state or {})
        shapes = {p["name"]: (p.get("slabs", 1), batch, p["width"] // p.get("slabs", 1)) for p in ports}
        for name, array in initial.items():
            if name not in shapes or np.shape(array) != shapes[name] or array.dtype != self.about["dtype"]:
                raise self.shape_error(f"state[{name!r}]: expected {self.about['dtype']} arrays of {shapes}")
        ends = None if lengths is None else np.ascontiguousarray(lengths, np.int64)
        if ends is not None and ends.shape != (batch,):
            raise self.shape_error(f"lengths: expected {batch} integers, got shape {ends.shape}")
        lead = (batch, steps) if first else (steps, batch)
        found = [np.zeros((*(lead if p["steps"] else (batch,)), p["width"]), p["dtype"]) for p in self.about["outputs"]]
        final = {name: np.zeros(shape, self.about["dtype"]) for name, shape in shapes.items()}
        scratch = np.empty(self._call("scratch_size", steps, batch, result=ctypes.c_size_t), np.uint8)
        starts = [None if initial.get(n) is None else np.ascontiguousarray(initial[n]) for n in shapes]
        weights = [] if self._weights is None else [self._weights]
        given = [np.ascontiguousarray(array.swapaxes(0, 1)) if first else array for array in arrays]
        self._call("run", *weights, steps, batch, ends, *given, *starts, *found, *final.values(), scratch)
        return self._named([each.squeeze(0 if first else -2) if alone else each for each in found]), final

    def _checked(self, port: dict[str, Any], array: Any) -> tuple[Any, int, int, bool]:
        """An input as (T, B, width); its steps, 0 without any; its sequences; whether it came without B."""
        label, integers, timed = f"x[{port['name']!r}]", "rows" in port, port["steps"] > 0
        came = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        if not isinstance(array, np.ndarray) or (array.dtype.kind not in "iu" if integers else came != port["dtype"]):
            raise self.type_error(f"{label}: expected {'integers' if integers else port['dtype']}, got {came}")
        width, axes = port["width"] // max(port["steps"], 1), 1 + timed + (not integers)
        if array.ndim not in (axes - 1, axes) or not integers and array.shape[-1] != width:
            layout = f"{'(T, B' if timed else '(B'}{'' if integers else f', {width}'}"
            raise self.shape_error(f"{label}: expected {layout}), or without B; got {array.shape}")
        alone = array.ndim < axes
        if alone:
            array = np.expand_dims(array, 1 if timed else 0)
        elif self.about["batch_first"] and timed:
            array = array.swapaxes(0, 1)
        array = np.ascontiguousarray(array, np.int64 if integers else None)
        return array, len(array) if timed else 0, array.shape[1 if timed else 0], alone

    def _named(self, arrays: list[Any]) -> Any:
        """The output, or a dict of several."""
        ports = self.about["outputs"]
        if "columns" in ports[0]:
            return {name: arrays[0][..., first:end] for name, (first, end) in ports[0]["columns"].items()}
        return arrays[0] if len(ports) == 1 else {p["name"]: a for p, a in zip(ports, arrays, strict=True)}

    def _new_state(self) -> Any:
        state = np.zeros(self._call("state_size", result=ctypes.c_size_t), np.uint8)
        self._call("reset", state, *([] if self._weights is None else [self._weights]))
        return state

    def _call(self, name: str, *arguments: Any, result: Any = ctypes.c_int) -> Any:
        function = ctypes.CFUNCTYPE(
            result, *(ctypes.c_size_t if isinstance(a, int) else ctypes.c_void_p for a in arguments)
        )
        found = function((f"{self._name}_{name}", self._library))(
            *(a.ctypes.data if isinstance(a, np.ndarray) else a for a in arguments)
        )
        if result is ctypes.c_int and found == 3:
            raise self.file_error("weights: the file is not of this library")
        if result is ctypes.c_int and found:
            raise self.value_error(RESULTS.get(found, f"{name}: the library returned {found}"))
        return found

    def _bytes(self, what: str, path: Any) -> bytes:
        try:
            return Path(path).read_bytes()
        except OSError as error:
            raise self.file_error(f"{what}: cannot read {str(path)!r}: {error.strerror}") from error


def _aligned(content: bytes) -> Any:
    """A copy of some bytes at a multiple of 64, as weights must be."""
    block = np.zeros(len(content) + 64, np.uint8)
    start = -block.ctypes.data % 64
    block[start : start + len(content)] = np.frombuffer(content, np.uint8)
    return block[start : start + len(content)]
