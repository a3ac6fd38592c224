"""The on-disk cache of object code: it saves work, and nothing that happens to its files can do harm."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import rnnc
from rnnc.backends import cache
from rnnc.backends.llvm.executable import LlvmExecutable, compile
from rnnc.ir import settings

SPEC = rnnc.GRU(3, 5)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RNNC_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def made() -> LlvmExecutable:
    return compile(SPEC.stack(), threads=1)


def check_right() -> None:
    params = SPEC.init(seed=0)
    x = np.ones((4, 2, 3), np.float32)
    got, want = (rnnc.compile(SPEC, params, backend=b)(x)[0] for b in ("llvm", "reference"))
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_the_second_compile_comes_from_the_cache(folder: Path) -> None:
    first, second = made(), made()
    assert (first.code.cached, second.code.cached) == (False, True)
    assert first.code.object_code() == second.code.object_code()
    assert len(list(folder.iterdir())) == 1
    assert folder.stat().st_mode & 0o077 == 0
    check_right()


@pytest.mark.parametrize("damage", [b"", b"rnnc object 1\n", b"noise" * 100])
def test_a_damaged_entry_is_rebuilt(folder: Path, damage: bytes) -> None:
    made()
    (entry,) = folder.iterdir()
    entry.write_bytes(damage)
    assert not made().code.cached
    assert made().code.cached


@pytest.mark.parametrize("place", [0.0, 0.3, 0.99])
def test_one_wrong_bit_is_noticed(folder: Path, place: float) -> None:
    made()
    (entry,) = folder.iterdir()
    data = bytearray(entry.read_bytes())
    data[int(place * len(data))] ^= 1
    entry.write_bytes(data)
    assert not made().code.cached
    check_right()


def test_a_folder_that_cannot_be_made_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RNNC_CACHE_DIR", str(tmp_path / "file" / "cache"))
    assert not made().code.cached
    assert not made().code.cached
    check_right()


def test_the_cache_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RNNC_CACHE_DIR", "off")
    assert settings.cache_folder() is None
    assert not made().code.cached


def test_another_target_is_another_entry(folder: Path) -> None:
    from rnnc.backends.llvm.target import host

    made()
    assert not compile(SPEC.stack(), threads=1, target=host("generic")).code.cached
    assert len(list(folder.iterdir())) == 2


def test_concurrent_writers_leave_whole_entries(folder: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: cache.store("entry", b"x" * 100_000), range(40)))
    assert cache.load("entry") == b"x" * 100_000
    assert [f.name for f in folder.iterdir()] == ["entry"]


def test_the_oldest_entries_go_when_it_is_full(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MOST_ENTRIES", 8)
    for number in range(20):
        cache.store(f"{number}", b"code")
    assert len(list(folder.iterdir())) <= 8
    assert cache.load("19") == b"code"


def test_it_serves_another_process(folder: Path) -> None:
    made()
    code = (
        "import rnnc; from rnnc.backends.llvm.executable import compile\n"
        "raise SystemExit(not compile(rnnc.GRU(3, 5).stack(), threads=1).code.cached)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
