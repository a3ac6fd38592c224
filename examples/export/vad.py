"""Exports a voice-activity detector, as its authors publish it, for the examples in this folder.

    pip install '.[onnx]' && pip install --no-deps silero-vad
    python examples/export/vad.py build host wasm32 cortex-m4f

The detector is Silero VAD (MIT licence): of each 32 ms of sound at 16 kHz, behind the 4 ms before them, it gives the
probability that somebody speaks.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import rnnc


def published() -> Path:
    """The file of the model: the variant whose batch axis is time, so that it is one network with a state."""
    spec = find_spec("silero_vad")
    if spec is None or spec.origin is None:
        sys.exit("the model is missing: pip install --no-deps silero-vad")
    return Path(spec.origin).parent / "data" / "silero_vad_16k_sequence.onnx"


def main(folder: str, *targets: str) -> None:
    """Writes the libraries. A microcontroller gets int8 weights, a quarter of the size."""
    path = published()
    small = [target for target in targets if target.startswith("cortex")]
    if large := [target for target in targets if target not in small] or ([] if small else ["host"]):
        print(rnnc.export(rnnc.from_onnx(path), folder, "vad", targets=large))
    if small:
        print(rnnc.export(rnnc.from_onnx(path, weights="int8"), Path(folder) / "small", "vad", targets=small))


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(*sys.argv[1:])
