"""The cache under many processes, kills, damage and bad folders."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

import tta_core
from tta_core import cache
from tta_core.cache import cache_root, cached_array
from tta_core.errors import InputError

KEY = {"benchmark": "toy", "domain": "fog", "severity": 5}
VALUES = np.arange(60, dtype=np.uint8).reshape(5, 12)

PROGRAM = """
import os, sys, time
from pathlib import Path
import numpy as np
from tta_core.cache import cached_array

folder = Path(sys.argv[1])
def build():
    with (folder / "builds.log").open("a") as log:
        log.write("built\\n")
    time.sleep({build_seconds})
    return np.arange(60, dtype=np.uint8).reshape(5, 12)
{before}
array = cached_array({key!r}, build, root=folder)
assert array.sum() == 1770, array
"""


def start(folder, *, build_seconds=0.0, before=""):
    program = PROGRAM.format(build_seconds=build_seconds, before=textwrap.dedent(before), key=KEY)
    environment = {**os.environ, "PYTHONPATH": str(Path(tta_core.__file__).parents[1])}
    return subprocess.Popen([sys.executable, "-c", program, str(folder)], env=environment)


def wait_for(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def partial_files(folder):
    return list(folder.glob(".*partial-*"))


def array_file(folder):
    (path,) = folder.glob("*.npy")
    return path


@pytest.fixture
def builds():
    calls = []

    def build():
        calls.append(1)
        return VALUES

    build.calls = calls
    return build


def test_an_array_is_built_once_and_mapped_read_only(tmp_path, builds):
    first = cached_array(KEY, builds, root=tmp_path)
    second = cached_array(KEY, builds, root=tmp_path)
    assert len(builds.calls) == 1
    assert np.array_equal(first, VALUES)
    assert np.array_equal(second, VALUES)
    assert isinstance(second, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        second[0, 0] = 1


def test_the_name_is_readable_and_the_order_of_keys_does_not_share_files_wrongly(tmp_path, builds):
    cached_array(KEY, builds, root=tmp_path)
    assert array_file(tmp_path).name.startswith("toy-fog-5-")
    cached_array({**KEY, "severity": "5"}, builds, root=tmp_path)
    assert len(builds.calls) == 2


def test_a_key_cannot_leave_the_folder(tmp_path, builds):
    folder = tmp_path / "inner"
    cached_array({"domain": "../../etc/x", "n": 1}, builds, root=folder)
    assert array_file(folder).parent == folder


def damage_by_cutting(path):
    path.write_bytes(path.read_bytes()[:-7])


def damage_by_growing(path):
    path.write_bytes(path.read_bytes() + b"x")


def damage_by_emptying(path):
    path.write_bytes(b"")


def damage_with_noise(path):
    path.write_bytes(b"\x00" * 300)


def damage_with_a_zip(path):
    path.write_bytes(b"PK\x03\x04 and the rest")


def damage_with_another_type(path):
    np.save(path, VALUES.astype(np.float64))


def damage_the_header(path):
    path.write_bytes(path.read_bytes().replace(b"(5, 12)", b"(5, 99)"))


@pytest.mark.parametrize(
    "damage",
    [
        damage_by_cutting,
        damage_by_growing,
        damage_by_emptying,
        damage_with_noise,
        damage_with_a_zip,
        damage_with_another_type,
        damage_the_header,
    ],
)
def test_a_damaged_file_is_built_again(damage, tmp_path, builds):
    cached_array(KEY, builds, root=tmp_path)
    damage(array_file(tmp_path))
    assert np.array_equal(cached_array(KEY, builds, root=tmp_path), VALUES)
    assert len(builds.calls) == 2
    cached_array(KEY, builds, root=tmp_path)
    assert len(builds.calls) == 2


def test_many_processes_at_once_build_once(tmp_path):
    processes = [start(tmp_path, build_seconds=0.5) for _ in range(4)]
    assert [process.wait(60) for process in processes] == [0, 0, 0, 0]
    assert (tmp_path / "builds.log").read_text() == "built\n"
    assert not partial_files(tmp_path)


def test_a_kill_while_building_leaves_nothing(tmp_path, builds):
    process = start(tmp_path, build_seconds=60)
    wait_for((tmp_path / "builds.log").exists)
    waiting = start(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    # The one that waited takes over.
    assert waiting.wait(30) == 0
    assert np.array_equal(cached_array(KEY, builds, root=tmp_path), VALUES)
    assert not builds.calls


def test_a_kill_while_writing_leaves_no_torn_file(tmp_path, builds):
    process = start(tmp_path, before="os.fsync = lambda _: time.sleep(60)")
    wait_for(lambda: any(file.stat().st_size for file in partial_files(tmp_path)))
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    assert not list(tmp_path.glob("*.npy"))
    assert partial_files(tmp_path)
    assert np.array_equal(cached_array(KEY, builds, root=tmp_path), VALUES)
    assert len(builds.calls) == 1
    assert not partial_files(tmp_path)


def test_a_folder_that_cannot_be_made_is_an_input_error(tmp_path, builds):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"cannot write toy-fog-5.* to the cache folder .*file.*Set TTA_GRID_CACHE"):
        cached_array(KEY, builds, root=tmp_path / "file" / "inner")
    assert not builds.calls


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_still_serves_what_it_has(tmp_path, builds):
    cached_array(KEY, builds, root=tmp_path)
    tmp_path.chmod(0o555)
    try:
        assert np.array_equal(cached_array(KEY, builds, root=tmp_path), VALUES)
        with pytest.raises(InputError, match="Set TTA_GRID_CACHE"):
            cached_array({**KEY, "severity": 4}, builds, root=tmp_path)
    finally:
        tmp_path.chmod(0o755)


def test_a_full_disk_is_an_input_error_and_leaves_nothing(tmp_path, builds, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache.os, "fsync", full)
    with pytest.raises(InputError, match=r"No space left on device.*Set TTA_GRID_CACHE"):
        cached_array(KEY, builds, root=tmp_path)
    assert not partial_files(tmp_path)
    assert not list(tmp_path.glob("*.npy"))


def test_a_build_error_is_passed_on_and_frees_the_lock(tmp_path, builds):
    def broken():
        raise OSError("the data set is missing")

    with pytest.raises(OSError, match="the data set is missing"):
        cached_array(KEY, broken, root=tmp_path)
    assert np.array_equal(cached_array(KEY, builds, root=tmp_path), VALUES)


def test_a_lock_that_is_never_freed_is_an_input_error(tmp_path, builds, monkeypatch):
    monkeypatch.setattr(cache, "LOCK_SECONDS", 0.2)
    process = start(tmp_path, build_seconds=60)
    try:
        wait_for((tmp_path / "builds.log").exists)
        with pytest.raises(InputError, match="another process has held the lock"):
            cached_array(KEY, builds, root=tmp_path)
    finally:
        process.kill()
        process.wait(30)


def test_the_folder_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("TTA_GRID_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_root() == tmp_path / "own"
    monkeypatch.setenv("TTA_GRID_CACHE", "~/here")
    assert cache_root() == tmp_path / "home" / "here"
    monkeypatch.setenv("TTA_GRID_CACHE", "relative")
    assert cache_root() == Path.cwd() / "relative"
    monkeypatch.setenv("TTA_GRID_CACHE", "")
    assert cache_root() == tmp_path / "xdg" / "tta-grid"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_root() == tmp_path / "home" / ".cache" / "tta-grid"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_root() == tmp_path / "home" / ".cache" / "tta-grid"
