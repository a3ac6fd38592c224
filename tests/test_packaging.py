"""The package: what a wheel holds is what a checkout holds, and importing it stays light."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import rnnc

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MAP = PROJECT["tool"]["setuptools"]["package-dir"]


def packages_in(folder: Path, name: str) -> set[str]:
    """Dotted names of a folder and of those below it that hold Python files, without following the links."""
    found = {name}
    for child in folder.iterdir():
        if child.is_dir() and not child.is_symlink() and any(child.glob("**/*.py")):
            found |= packages_in(child, f"{name}.{child.name}")
    return found


def test_the_list_of_packages_is_what_the_folders_hold() -> None:
    expected = {package for name, folder in MAP.items() for package in packages_in(ROOT / folder, name)}
    listed = PROJECT["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted(expected)


def test_every_package_says_what_it_is() -> None:
    for package in PROJECT["tool"]["setuptools"]["packages"]:
        base = max((name for name in MAP if f"{package}.".startswith(f"{name}.")), key=len)
        folder = ROOT / MAP[base] / Path(*package.removeprefix(base).split("."))
        assert (folder / "__init__.py").read_text().startswith('"""'), folder


@pytest.mark.parametrize(("link", "target"), [("ir", "../ir"), ("backends", "../backends")])
def test_a_link_stands_for_each_mapped_folder(link: str, target: str) -> None:
    path = ROOT / "rnnc" / link
    assert path.is_symlink()
    assert os.readlink(path) == target
    assert MAP[f"rnnc.{link}"] == link


def test_types_ship_and_dependencies_stay_three() -> None:
    assert (ROOT / "rnnc" / "py.typed").exists()
    assert "py.typed" in PROJECT["tool"]["setuptools"]["package-data"]["rnnc"]
    names = {d.partition(">")[0] for d in PROJECT["project"]["dependencies"]}
    assert names == {"numpy", "networkx", "llvmlite"}


def test_importing_rnnc_and_making_a_spec_loads_nothing_heavy() -> None:
    """networkx and llvmlite are most of the time a compile spends on imports; only compile may load them."""
    code = (
        "import sys, rnnc; spec = rnnc.LSTM(3, 4); spec.init(); spec.to_json();"
        "print(sorted({m.partition('.')[0] for m in sys.modules} & set(sys.argv[1:])))"
    )
    heavy = ["networkx", "llvmlite", "torch", "difflib", "asyncio", "argparse", "importlib_metadata"]
    result = subprocess.run([sys.executable, "-c", code, *heavy], cwd="/", capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def test_every_public_name_is_there_and_documented() -> None:
    for name in rnnc.__all__:
        assert getattr(rnnc, name).__doc__, name
    assert rnnc.__version__ == PROJECT["project"]["version"]
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        rnnc.nothing  # noqa: B018
