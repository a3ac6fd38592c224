"""The backends under test: every test that takes `backend` runs once on each.

`--backends reference` narrows the run while one works on a backend; the default is all of them, and a backend that
cannot run here fails its tests rather than skipping them.

`--update-golden` writes the texts in tests/golden and the generated parts of docs/ instead of comparing them.
"""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import settings

from rnnc.ir import pipeline
from tests import effort, golden
from tests.remembered import remembering

# Tests neither read nor fill the user's cache; among themselves they share one, as processes of one user do.
CACHE = os.environ.setdefault("RNNC_TESTS_CACHE", tempfile.mkdtemp(prefix="rnnc-tests-"))
os.environ["RNNC_CACHE_DIR"] = CACHE
# Memory that nobody has written holds NaN: what reads it cannot go unseen.
os.environ["RNNC_POISON"] = "1"
os.environ.setdefault("RNNC_VERIFY", "1")
# Compiled code stays for the whole session: the collector need not look at all of it again and again.
gc.set_threshold(100_000, 50, 100)

BACKENDS = ("reference", "llvm")

# The same examples on every run: a test that fails must fail for everyone, and again after a fix.
settings.register_profile("rnnc", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("rnnc")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--backends", default=",".join(BACKENDS), help="comma-separated backends to test")
    parser.addoption(
        "--effort",
        choices=effort.CHOICES,
        default="all",
        help="fast: each value of each parameter, no tests marked rare; rest: what is left, up to pairs of values",
    )
    parser.addoption("--update-golden", action="store_true", help="write golden texts instead of comparing")


def pytest_configure(config: pytest.Config) -> None:
    golden.update = config.getoption("--update-golden")
    pipeline.optimize = remembering(pipeline.optimize)


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # not in the workers of pytest-xdist, who share it
        shutil.rmtree(CACHE, ignore_errors=True)


@pytest.fixture(autouse=True, scope="module")
def codegen(request: pytest.FixtureRequest) -> Iterator[None]:
    """`make test-all` spares LLVM's effort: results have the same bits. Modules marked shipped compile as users do."""
    quick = request.config.getoption("--effort") != "all" and request.node.get_closest_marker("shipped") is None
    with pytest.MonkeyPatch.context() as patch:
        if quick:
            patch.setenv("RNNC_CODEGEN", "0")
        yield


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "backend" in metafunc.fixturenames:
        names = metafunc.config.getoption("--backends").split(",")
        metafunc.parametrize("backend", names, scope="module")  # "session" would part the uses of one graph


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """`make test` runs the fast ones, `make test-all` the rest as well."""
    chosen = set(effort.chosen(items, config.getoption("--effort")))
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = [item for item in items if item in chosen]
