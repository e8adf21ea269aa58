"""The folder of a launch: nobody else's business, and gone with the launch."""

import os
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from grid.launch import private_folder as module
from grid.launch.private_folder import private_folder
from tta_core.errors import InputError

LIVING = "from grid.launch.private_folder import private_folder\nwith private_folder(): print('made'); input()\n"


@pytest.fixture
def temporary(monkeypatch):
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)
        yield Path(folder)


@pytest.fixture
def living(temporary):
    """Another process that has a folder, until it is killed."""
    process = subprocess.Popen([sys.executable, "-c", LIVING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "made\n"
    yield process
    process.kill()
    process.wait()


def test_only_its_owner_can_enter_and_it_goes_with_the_launch(temporary):
    with private_folder() as folder:
        assert folder.parent == temporary
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        (folder / module.RAY / "session").mkdir()
    assert list(temporary.iterdir()) == []


def test_a_killed_launch_is_cleaned_up_and_a_living_one_is_left_alone(temporary, living):
    (theirs,) = temporary.iterdir()
    with private_folder() as folder:
        assert theirs.exists()
        assert folder != theirs
    living.send_signal(signal.SIGKILL)
    living.wait()
    assert theirs.exists()
    with private_folder():
        assert not theirs.exists()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="who writes where is asked of /proc")
def test_what_a_launch_leaves_running_ends_with_its_folder_and_a_reader_does_not(temporary):
    with private_folder() as folder:
        log = folder / module.RAY / "log"
        with log.open("w") as output, log.open() as text:
            writer = subprocess.Popen(["sleep", "60"], stdout=output)
            reader = subprocess.Popen(["sleep", "60"], stdin=text)
    assert writer.wait(timeout=5) == -signal.SIGKILL
    assert reader.poll() is None
    reader.kill()
    reader.wait()
    assert list(temporary.iterdir()) == []


def test_what_no_launch_of_this_user_made_is_left_alone(temporary, monkeypatch):
    (temporary / "tta-grid-notes").mkdir()
    (temporary / "tta-grid-file").touch()
    (temporary / "elsewhere").mkdir()
    (temporary / "elsewhere" / module.LOCK).touch()
    (temporary / "tta-grid-link").symlink_to(temporary / "elsewhere")
    (temporary / "tta-grid-theirs").mkdir()
    (temporary / "tta-grid-theirs" / module.LOCK).touch()
    own = os.getuid()
    monkeypatch.setattr("os.getuid", lambda: own + 1)
    with private_folder():
        pass
    assert len(list(temporary.iterdir())) == 5
    monkeypatch.setattr("os.getuid", lambda: own)
    with private_folder():
        pass
    assert not (temporary / "tta-grid-theirs").exists()
    assert len(list(temporary.iterdir())) == 4


def test_a_long_path_gives_way_to_a_short_one_or_to_one_message(temporary, monkeypatch):
    deep = temporary / ("d" * 60)
    deep.mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(deep))
    with private_folder() as folder:
        assert folder.parent == Path("/tmp")
    monkeypatch.setattr(module, "ROOM", 10)
    message = r"'/tmp/t\w+/d+' has too long a path for Ray's sockets.*Set TMPDIR to a shorter"
    with pytest.raises(InputError, match=message), private_folder():
        pass


def test_the_longest_path_that_is_taken_is_one_that_sockets_can_have():
    longest = "x" * module.ROOM + "/session_2026-11-27_19-47-00_546805_4194304/sockets/plasma_store"
    assert len(longest) == 107
