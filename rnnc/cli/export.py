"""`rnnc export`: a model file as native libraries that need no Python."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rnnc.cli.common import add_trust
from rnnc.cli.parser import add_command

if TYPE_CHECKING:
    import argparse

    from rnnc.cli.parser import Commands
    from rnnc.exporting.network import Exportable


def add(commands: Commands) -> None:
    """Declares the command."""
    parser = add_command(
        commands,
        "export",
        _export,
        help="write a model as a native library, with a C header, that needs no Python",
        examples=[
            "rnnc export vad.rnnc --folder build --name vad",
            "rnnc export vad.onnx --folder build --name vad --target x86-64 --target aarch64 --target wasm32",
            "rnnc export tagger.rnnc --folder build --target cortex-m4f --weights int8 --small --sizes",
            "rnnc export vad.rnnc --folder dist --name vad --wheel",
        ],
    )
    parser.add_argument("model", metavar="MODEL", help="a file of rnnc.save, of a model's method save, or an ONNX file")
    parser.add_argument("--folder", required=True, help="where the files go")
    parser.add_argument("--name", default="model", help="of the library; functions are NAME_step, ... (default model)")
    parser.add_argument(
        "--target",
        action="append",
        metavar="MACHINE",
        help="host (default), x86-64, or a machine; may be given several times; 'list' lists all",
    )
    parser.add_argument("--kind", choices=("stream", "whole"), help="default: a stream, if the network can be one")
    parser.add_argument("--weights", choices=("int8", "bfloat16"), help="store the weights in a narrow format")
    parser.add_argument("--weights-file", action="store_true", help="weights in a file of their own")
    parser.add_argument("--small", action="store_true", help="small code rather than fast code, for a microcontroller")
    parser.add_argument("--sizes", action="store_true", help="print the bytes of each function")
    parser.add_argument(
        "--wheel", action="store_true", help="write a wheel per target that pip installs, not libraries"
    )
    add_trust(parser)


def _export(options: argparse.Namespace) -> None:
    from rnnc.exporting.export import export

    if options.target and "list" in options.target:
        print(_listed())
        return
    targets = options.target or ["host"]
    model = _model(options)
    if options.wheel:
        from rnnc.exporting.wheel import export_wheel

        for path in export_wheel(model, options.folder, options.name, targets=targets, kind=options.kind):
            print(f"{path.stat().st_size:>10,}   {path}")
        return
    weights = "file" if options.weights_file else "embedded"
    size = "small" if options.small else "fast"
    made = export(model, options.folder, options.name, targets=targets, weights=weights, kind=options.kind, size=size)
    print(made)
    if options.sizes and made.report:
        print(f"\n{made.report}")


def _model(options: argparse.Namespace) -> Exportable:
    from rnnc.files.kinds import ONNX, kind_of
    from rnnc.files.models import load_model
    from rnnc.files.named import NamedFile

    if kind_of(NamedFile.of(options.model)) == ONNX:
        from rnnc.onnx.network import from_onnx

        return from_onnx(options.model, weights=options.weights)
    return load_model(options.model, trusted=options.trust, weights=options.weights)  # type: ignore[return-value]


def _listed() -> str:
    from rnnc.backends.llvm.portable.machines import MACHINES

    lines = ["x86-64           chooses among x86-64-v2, -v3 and -v4 when it is loaded (Linux)"]
    return "\n".join([*lines, *(f"{machine.name:<16} {machine.about}" for machine in MACHINES.values())])
