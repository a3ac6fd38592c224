"""How the command line takes arguments: help, hints, exit codes, and completion in the shells that are installed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import rnnc
from rnnc.cli import entry, main
from rnnc.cli.completion import described

NAMES = [command.name for command in described()[1:]]


def test_help_teaches_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    whole = capsys.readouterr().out
    for name in NAMES:
        assert re.search(rf"^    {name}\b", whole, re.MULTILINE)
        assert main([name, "--help"]) == 0
        text = capsys.readouterr().out
        assert f"rnnc {name}" in text.split("options:")[-1] or "$(rnnc completion" in text, f"{name} shows no example"


def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"rnnc {rnnc.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspekt", "x"], "(did you mean 'inspect'?)"),
        (
            ["inspect", "spec.json", "--stge", "asm"],
            "inspect: there is no option --stge (did you mean '--stage'?)",
        ),
        (["inspect", "spec.json", "--stge=asm"], "there is no option --stge (did you mean '--stage'?)"),
        (["inspect", "spec.json", "--derivative", "vpj"], "expected vjp, jvp or hvp, got 'vpj' (did you mean 'vjp'?)"),
        (["inspect", "spec.json", "other.json"], "one argument too many: 'other.json'"),
        (["inspect", "spec.json", "--st", "asm"], "there is no option --st"),
        (["inspect"], "the following arguments are required: SPEC"),
        (["completion", "bsh"], "(did you mean 'bash'?)"),
    ],
)
def test_wrong_use_is_one_line_with_a_hint(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert message in captured.err


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "a first example:" in capsys.readouterr().err


@pytest.mark.parametrize(("raised", "code"), [(KeyboardInterrupt(), 130), (rnnc.ArgumentError("x: no"), 2)])
def test_exit_codes(
    raised: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rnnc.backends import cache

    def fail() -> None:
        raise raised

    monkeypatch.setattr(cache, "entries", fail)
    monkeypatch.setenv("RNNC_CACHE_DIR", "/nowhere")
    assert main(["cache"]) == code
    assert capsys.readouterr().err.startswith("rnnc cache: ")


def test_a_command_says_no_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    parser = entry.command_parser()
    options = parser.parse_args(["cache"])
    options.run = lambda _: 1
    assert entry._finished(options) == 1


# ---- completion


def script(shell: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    assert main(["completion", shell]) == 0
    (folder / "script").write_text(capsys.readouterr().out)
    return folder / "script"


def said(*command: str, folder: Path) -> list[str]:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


LINES = [
    ("rnnc ins", ["inspect"]),
    ("rnnc inspect spec.toml --stage opt", ["optimized"]),
    ("rnnc inspect --sta", ["--stage"]),
    ("rnnc compile a --backend cud", ["cuda", "cuda-emulated"]),
    ("rnnc completion f", ["fish"]),
    ("rnnc explain my_", ["my_spec.toml"]),
]


def test_bash_completes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = script("bash", tmp_path, capsys)
    (tmp_path / "my_spec.toml").touch()
    for line, expected in LINES:
        words = line.split()
        code = f'. {path}; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _rnnc; echo "${{COMPREPLY[@]}}"'
        assert said("bash", "--norc", "-c", code, folder=tmp_path) == expected, line


def test_fish_completes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = script("fish", tmp_path, capsys)
    (tmp_path / "my_spec.toml").touch()
    for line, expected in LINES:
        found = said("fish", "--no-config", "-c", f"source {path}; complete -C '{line}' | cut -f1", folder=tmp_path)
        assert found == expected, line


def test_zsh_takes_the_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = script("zsh", tmp_path, capsys)
    code = f"autoload -Uz compinit; compinit -u -D; . {path}; whence -w _rnnc; print $_comps[rnnc]"
    assert said("zsh", "-f", "-c", code, folder=tmp_path) == ["_rnnc:", "function", "_rnnc"]
