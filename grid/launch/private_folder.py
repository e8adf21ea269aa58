"""The folder of one launch on this machine: Ray's session with its sockets and logs, and Tune's files.

Ray makes all of its folders writable for everybody. They lie in one that nobody else can enter.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from tta_core.errors import InputError

PREFIX = "tta-grid-"
LOCK = ".lock"
RAY = "ray"
TUNE = "tune"

ROOM = 107 - len("/session_2026-11-27_19-47-00_546805_4194304/sockets/plasma_store")
"""Characters that Ray's folder may have: Linux takes 107 for the path of a socket."""


@contextmanager
def private_folder() -> Iterator[Path]:
    """Makes a folder for one launch, with folders `RAY` and `TUNE`, and removes it at the end.

    A killed launch removes nothing: the next launch of the same user does. A launch holds a lock in its folder, which
    goes with its process, so that no living launch loses its files.

    Raises:
        InputError: if the names of sockets in the folder would be too long.
    """
    parent = _parent()
    _remove_leftovers(parent)
    # Until it is locked it has a name that others do not look at.
    made = Path(tempfile.mkdtemp(prefix=f".{PREFIX}", dir=parent))
    lock = FileLock(made / LOCK)
    lock.acquire(timeout=0)
    folder = made.rename(parent / made.name.removeprefix("."))
    try:
        for name in (RAY, TUNE):
            (folder / name).mkdir(mode=0o700)
        yield folder
    finally:
        remove_folder(folder)
        lock.release()


def _parent() -> Path:
    """The system's folder for temporary files; `/tmp` where that leaves no room for the names of sockets."""
    given = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()).absolute()
    for parent in (given, Path("/tmp")):
        ray = parent / f"{PREFIX}12345678" / RAY
        if len(os.fsencode(ray)) <= ROOM and os.access(parent, os.W_OK | os.X_OK):
            return parent
    room = ROOM - len(f"/{PREFIX}12345678/{RAY}")
    raise InputError(
        f"the folder for temporary files {str(given)!r} has too long a path for Ray's sockets, or cannot be written: "
        f"at most {room} bytes are allowed. Set TMPDIR to a shorter one"
    )


def _remove_leftovers(parent: Path) -> None:
    """Removes the folders of this user's launches that are no more."""
    for folder in parent.glob(f"{PREFIX}*"):
        try:
            ours = folder.stat(follow_symlinks=False).st_uid == os.getuid() and (folder / LOCK).is_file()
            if ours and not folder.is_symlink():
                with FileLock(folder / LOCK, timeout=0):
                    remove_folder(folder)
        except (OSError, Timeout):
            continue  # It is in use, or another launch is removing it.


def remove_folder(folder: Path) -> None:
    """Ends what the launch left running, and removes what can be removed.

    The lock goes last, since a folder without it is taken for somebody else's.
    """
    _end_processes(folder)
    for name in (RAY, TUNE):
        shutil.rmtree(folder / name, ignore_errors=True)
    if [path.name for path in folder.glob("*")] == [LOCK]:
        shutil.rmtree(folder, ignore_errors=True)


def _end_processes(folder: Path) -> None:
    """Kills processes that write to the folder: those of Ray, which outlive a killed driver, node or GCS.

    Only Linux says which these are.
    """
    deadline = time.monotonic() + 5.0
    while (found := _writing_to(folder)) and time.monotonic() < deadline:
        for process in found:
            with suppress(OSError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.05)


def _writing_to(folder: Path) -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # It ended meanwhile, or is another user's.
            opened = [file.name for file in (process / "fd").iterdir() if file.readlink().is_relative_to(folder)]
            if any(_is_written(process / "fdinfo" / name) for name in opened) and int(process.name) != os.getpid():
                found.append(int(process.name))
    return found


def _is_written(descriptor: Path) -> bool:
    """Whether a file was opened for writing, by the flags of its descriptor."""
    flags = next(line for line in descriptor.read_text().splitlines() if line.startswith("flags:"))
    return int(flags.split()[1], base=8) & (os.O_WRONLY | os.O_RDWR) != 0
