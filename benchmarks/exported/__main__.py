"""Exported libraries on every target that can be run here: are they right, what do they weigh, what does a frame take?

    python -m benchmarks.exported                                   # everything that is installed, in some minutes
    python -m benchmarks.exported matrix --targets aarch64,wasm32   # kinds of networks, against the reference backend
    python -m benchmarks.exported models --nets silero,RNNoise      # real models, against their own programs
    python -m benchmarks.exported models --nets LSTM --targets x86-64-v4 --rtneural CHECKOUT

Native code and wasmtime's are timed, in CPU time of one thread, medians of turns; under QEMU instructions are counted.
RTNeural's static models take part if --rtneural names a checkout of github.com/jatinchowdhury18/RTNeural.
The exit status is 1 if a result is wrong.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.exported import matrix, models, runners
from benchmarks.exported.nets import all_nets

PARTS = ("matrix", "models")


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.exported", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--targets", type=_words, default=list(runners.TARGETS), help=",".join(runners.TARGETS))
    parser.add_argument("--nets", type=_words, default=[], help="words of names of models")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--rtneural", type=Path, metavar="CHECKOUT")
    options = parser.parse_args()
    for name, given, known in (("parts", options.parts, PARTS), ("targets", options.targets, runners.TARGETS)):
        if unknown := [word for word in given if word not in known]:
            parser.error(f"{name}: unknown {', '.join(unknown)}; there are {', '.join(known)}")
    wrong = False
    if "matrix" in (options.parts or PARTS):
        cells = matrix.measured(targets=options.targets)
        print(matrix.table(cells), flush=True)
        wrong = any(cell.right < cell.ran for cell in cells.values())
    if "models" in (options.parts or PARTS):
        rows = models.measured(list(all_nets(options.nets)), options.targets, options.rounds, options.rtneural)
        print(models.table(rows))
        wrong |= any(row.error > row.tolerance for row in rows)
    return int(wrong)


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


if __name__ == "__main__":
    sys.exit(main())
