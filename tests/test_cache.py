"""The on-disk cache of object code: it saves work, and nothing that happens to its files can do harm."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import rnnc
from rnnc.backends import cache
from rnnc.backends.llvm import LlvmCode, compile
from rnnc.backends.llvm.asm.target import host
from rnnc.backends.llvm.runtime import Runtime
from rnnc.cli import main
from rnnc.ir import settings
from rnnc.ir.computation import Computation

SPEC = rnnc.GRU(3, 5)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    Runtime("float32", host()).address("rnnc_call")  # so that only networks' own code goes there
    monkeypatch.setenv("RNNC_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def entries(folder: Path) -> list[Path]:
    return list((folder / cache.FOLDER).iterdir())


def made() -> LlvmCode:
    return compile(Computation.of_stack(SPEC.stack()), threads=1)


def check_right() -> None:
    params = SPEC.init(seed=0)
    x = np.ones((4, 2, 3), np.float32)
    got, want = (rnnc.compile(SPEC, params, backend=b)(x)[0] for b in ("llvm", "reference"))
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_the_second_compile_comes_from_the_cache(folder: Path) -> None:
    first, second = made(), made()
    assert (first.linked.cached, second.linked.cached) == (False, True)
    assert first.linked.object_files() == second.linked.object_files()
    assert len(entries(folder)) == 1
    assert all(place.stat().st_mode & 0o077 == 0 for place in (folder, folder / cache.FOLDER, *entries(folder)))
    check_right()


@pytest.mark.parametrize("damage", [b"", b"rnnc object 2\n", b"noise" * 100])
def test_a_damaged_entry_is_rebuilt(folder: Path, damage: bytes) -> None:
    made()
    (entry,) = entries(folder)
    entry.write_bytes(damage)
    assert not made().linked.cached
    assert made().linked.cached


@pytest.mark.parametrize("place", [0.0, 0.3, 0.99])
def test_one_wrong_bit_is_noticed(folder: Path, place: float) -> None:
    made()
    (entry,) = entries(folder)
    data = bytearray(entry.read_bytes())
    data[int(place * len(data))] ^= 1
    entry.write_bytes(data)
    assert not made().linked.cached
    check_right()


def test_a_folder_that_cannot_be_made_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RNNC_CACHE_DIR", str(tmp_path / "file" / "cache"))
    assert not made().linked.cached
    assert not made().linked.cached
    check_right()


def test_the_cache_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RNNC_CACHE_DIR", "off")
    assert settings.cache_folder() is None
    assert not made().linked.cached


def test_another_target_is_another_entry(folder: Path) -> None:
    made()
    before = len(entries(folder))
    assert not compile(Computation.of_stack(SPEC.stack()), threads=1, target=host("generic")).linked.cached
    assert len(entries(folder)) > before


def test_concurrent_writers_leave_whole_entries(folder: Path) -> None:
    name = cache.key("entry")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: cache.store(name, b"x" * 100_000), range(40)))
    assert cache.load(name) == b"x" * 100_000
    assert [f.name for f in entries(folder)] == [f"{name}.rnnc"]


def test_entries_that_were_not_used_for_longest_go_when_it_is_full(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RNNC_CACHE_MEGABYTES", "1")
    names = [cache.key(f"{number}") for number in range(20)]
    for age, name in enumerate(names[:9]):
        cache.store(name, b"x" * 100_000)
        os.utime(folder / cache.FOLDER / f"{name}.rnnc", (1000 + age, 1000 + age))
    assert cache.load(names[0])  # it is now the one that was used last
    for name in names[9:11]:
        cache.store(name, b"x" * 100_000)
    assert [cache.load(name) is not None for name in names[:5]] == [True, False, False, False, True]
    assert all(cache.load(name) for name in names[4:11])
    assert sum(entry.size for entry in cache.entries()) <= 1_000_000
    monkeypatch.setenv("RNNC_CACHE_MEGABYTES", "none")
    with pytest.raises(rnnc.ArgumentError, match="RNNC_CACHE_MEGABYTES: expected a positive number, got 'none'"):
        cache.store(names[12], b"code")


def test_the_command_line_shows_and_clears_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache.store(cache.key("entry"), b"x" * 10_000)
    assert main(["cache"]) == 0
    shown = capsys.readouterr().out
    assert f"{folder / cache.FOLDER}\n1 entries, 0.0 of at most 256 MB" in shown
    assert f"{cache.key('entry')[:12]}      10.0 KB   used 0 seconds ago" in shown
    (folder / cache.FOLDER / f"{cache.key('other')}.rnnc").write_text("mine")
    assert main(["cache", "--clear"]) == 0
    assert "deleted: 1 entries" in capsys.readouterr().out
    assert [path.read_text() for path in entries(folder)] == ["mine"]


def test_files_of_others_stay(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RNNC_CACHE_DIR may be any folder: what the cache has not made stays, however it is called and however old."""
    monkeypatch.setattr(settings, "cache_bytes", lambda: 1000)
    own, draft = folder / cache.FOLDER, f"{cache.key('x')}.{'0' * 16}.rnnc-draft"
    own.mkdir(parents=True, mode=0o700)
    names = ("notes", "tmp-1", cache.key("a"), f"{cache.key('b')}.rnnc", draft + "s")
    others = [place / name for place in (folder, own) for name in names]
    others += [folder / f"{number}.txt" for number in range(100)] + [folder / draft]
    for other in others:
        other.write_text("mine")
        os.utime(other, (0, 0))
    (own / cache.key("c")).mkdir()
    (own / f"{cache.key('d')}.rnnc").mkdir()
    for number in range(40):
        cache.store(cache.key(f"{number}"), b"code")
    assert [other for other in others if not other.exists() or other.read_text() != "mine"] == []
    assert cache.load(cache.key("0")) is None and cache.load(cache.key("39")) == b"code"


def test_what_a_killed_writer_left_goes_when_it_is_old(folder: Path) -> None:
    (folder / cache.FOLDER).mkdir(parents=True, mode=0o700)
    left, fresh = (folder / cache.FOLDER / f"{cache.key(n)}.{'0' * 16}.rnnc-draft" for n in ("left", "fresh"))
    for draft in (left, fresh):
        draft.write_bytes(b"rnnc ob")
    os.utime(left, (0, 0))
    cache.store(cache.key("entry"), b"code")
    assert (left.exists(), fresh.exists()) == (False, True)


def test_a_writer_that_fails_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        cache.store(cache.key("entry"), b"code")
    assert entries(folder) == []


def test_an_entry_is_good_for_its_own_name_alone(folder: Path) -> None:
    cache.store(cache.key("a"), b"code")
    (entry,) = entries(folder)
    entry.rename(entry.with_name(f"{cache.key('b')}.rnnc"))
    assert cache.load(cache.key("b")) is None


# ---- code that others may have written


def give_away(path: Path) -> None:
    """To another user, if this one may; the tests then see it through the eyes of another."""
    os.chown(path, 12345, -1)


def link(path: Path) -> None:
    elsewhere = path.with_name("elsewhere")
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def exchange(make: Callable[[Path], None]) -> Callable[[Path], None]:
    def exchanged(path: Path) -> None:
        path.unlink()
        make(path)

    return exchanged


as_root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away")
FOLDERS = [
    pytest.param(lambda path: path.chmod(0o777), "can be written by others (mode 777)", id="open"),
    pytest.param(lambda path: path.chmod(0o770), "can be written by others (mode 770)", id="group"),
    pytest.param(give_away, "belongs to another user (uid 12345)", id="foreign", marks=as_root),
    pytest.param(link, "is a symbolic link", id="link"),
]
ENTRIES = [
    pytest.param(lambda path: path.chmod(0o622), "can be written by others (mode 622)", id="open"),
    pytest.param(give_away, "belongs to another user (uid 12345)", id="foreign", marks=as_root),
    pytest.param(exchange(os.mkfifo), "is no ordinary file", id="pipe"),
    pytest.param(exchange(Path.mkdir), "is no ordinary file", id="folder"),
    pytest.param(link, None, id="link"),
]


@pytest.mark.parametrize(("change", "fault"), FOLDERS)
def test_a_folder_that_others_write_to_is_done_without(
    folder: Path, change: Callable[[Path], None], fault: str
) -> None:
    made()
    change(folder / cache.FOLDER)
    before = sorted(os.listdir(folder / cache.FOLDER))
    with pytest.warns(rnnc.RnncWarning) as told:
        assert not any(made().linked.cached for _ in range(2))
        cache.store(cache.key("entry"), b"code")
    assert len(told) == 1 and f"{folder / cache.FOLDER} {fault}" in str(told[0].message)
    assert "RNNC_CACHE_DIR" in str(told[0].message)
    assert sorted(os.listdir(folder / cache.FOLDER)) == before


@pytest.mark.parametrize(("change", "fault"), ENTRIES)
def test_an_entry_that_others_may_have_written_is_never_run(
    folder: Path, change: Callable[[Path], None], fault: str | None
) -> None:
    """Nor waited for: a named pipe has no other end. Compiling again puts an entry of one's own in its place."""
    made()
    (entry,) = entries(folder)
    change(entry)
    found: list[bool] = []
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        reader = threading.Thread(target=lambda: found.append(made().linked.cached), daemon=True)
        reader.start()
        reader.join(60)
    assert found == [False]
    assert [str(w.message).count(f"{entry} {fault}") for w in told] == [1] * (fault is not None)
    assert made().linked.cached == (not entry.is_dir())


@pytest.mark.parametrize("setting", [None, "~", "~nobody_of_this_name/cache"])
def test_a_user_without_a_home_has_no_cache(setting: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs under a number without an account."""
    for name in ("HOME", "XDG_CACHE_HOME", "RNNC_CACHE_DIR", "USERPROFILE", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # what it does without HOME and without an account
    if setting:
        monkeypatch.setenv("RNNC_CACHE_DIR", setting)
    assert settings.cache_folder() is None
    assert not made().linked.cached


def test_it_serves_another_process(folder: Path) -> None:
    made()
    code = "import rnnc\nraise SystemExit(not rnnc.compile(rnnc.GRU(3, 5), threads=1)._code.linked.cached)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
