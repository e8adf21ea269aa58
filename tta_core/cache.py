"""Arrays that are built once and then shared by all processes as read-only memory maps. Imports no torch."""

from __future__ import annotations

import hashlib
import json
import os
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import filelock
import numpy as np
from numpy.typing import NDArray

from tta_core.errors import InputError

LOCK_SECONDS = 600.0
"""How long to wait for another process that builds the same array; a build takes about a second."""

REMEDY = "Set TTA_GRID_CACHE to a folder on a local disk that has room and that you may write to."


def cache_root() -> Path:
    """The folder of the cache: `TTA_GRID_CACHE`, else `tta-grid` in `XDG_CACHE_HOME`, else `~/.cache/tta-grid`.

    Raises:
        InputError: if none is set and there is no home folder.
    """
    try:
        if own := os.environ.get("TTA_GRID_CACHE"):
            # Workers may run in another folder than the command that started them.
            return Path(own).expanduser().absolute()
        shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
        # The XDG rules say to ignore a relative path.
        return (shared if shared.is_absolute() else Path.home() / ".cache") / "tta-grid"
    except RuntimeError as error:
        raise InputError(f"there is no folder for the cache: {error}. {REMEDY}") from None


def cached_array(
    key: Mapping[str, object], build: Callable[[], NDArray[np.uint8]], *, root: Path | None = None
) -> NDArray[np.uint8]:
    """Opens the array of a key, building it if there is none or if its file is damaged.

    Any number of processes may ask for the same key at once: one builds, the others wait. A process that is killed
    leaves nothing that another would take for an array.

    Args:
        key: everything that the array depends on, in types that JSON has. Its values name the file, in their order.
        build: makes the array; called at most once, and by one process at a time.
        root: folder of the cache; `cache_root()` unless given.

    Returns:
        A read-only memory map.

    Raises:
        InputError: if the folder cannot be written to or read from, or the disk is full.
    """
    folder = cache_root() if root is None else root
    path = folder / _file_name(key)
    array = open_array(path)
    if array is not None:
        return array
    with locked(path):
        array = open_array(path)
        if array is None:
            built = np.ascontiguousarray(build(), dtype=np.uint8)
            write_whole(path, lambda file: np.lib.format.write_array(file, built, allow_pickle=False))
            array = open_array(path)
    if array is None:
        raise InputError(f"the cached file {path} is damaged right after it was written: check the disk. {REMEDY}")
    return array


def _file_name(key: Mapping[str, object]) -> str:
    canonical = json.dumps(key, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    readable = re.sub(r"[^A-Za-z0-9_.-]+", "-", "-".join(str(value) for value in key.values()))[:80].strip(".-")
    return f"{readable}-{hashlib.sha256(canonical.encode()).hexdigest()[:16]}.npy"


def open_array(path: Path) -> NDArray[np.uint8] | None:
    """Maps the file, or returns None if there is none or if it is damaged."""
    try:
        # Unlike np.load, this takes a file of another kind for damaged and not for a zip archive or a pickle.
        array = np.lib.format.open_memmap(path, mode="r")
        complete = path.stat().st_size == array.offset + array.nbytes
    except PermissionError as error:
        raise InputError(f"cannot read the cached file {path}: {error.strerror}. {REMEDY}") from None
    except (OSError, ValueError, EOFError, OverflowError, MemoryError, TypeError):
        return None
    return array if complete and array.dtype == np.uint8 else None


@contextmanager
def locked(path: Path, *, seconds: float | None = None, waiting: Callable[[], object] | None = None) -> Iterator[None]:
    """Holds the lock of one file of the cache; the system frees it if the process dies.

    Args:
        path: the file.
        seconds: how long to wait for another process that holds it; `LOCK_SECONDS` unless given.
        waiting: called if another process holds it.

    Raises:
        InputError: if the folder cannot be written to, or another process holds the lock for too long.
    """
    seconds = LOCK_SECONDS if seconds is None else seconds
    lock = filelock.FileLock(path.with_name(f".{path.name}.lock"), timeout=seconds)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            if waiting is not None:
                waiting()
            lock.acquire()
    except filelock.Timeout:
        raise InputError(
            f"another process has held the lock {lock.lock_file} for {seconds:.0f} s: "
            f"end that process, or wait and run again. {REMEDY}"
        ) from None
    except (OSError, NotImplementedError) as error:
        raise _unwritable(path, error) from None
    try:
        yield
    finally:
        lock.release()


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Writes to a temporary name in the same folder and renames: no reader sees half a file. Needs the lock.

    Args:
        path: the file of the cache.
        write: writes the content into the open file.

    Raises:
        InputError: if the folder cannot be written to, or the disk is full.
    """
    # Only a holder of the lock writes temporary files of this path: those that are here belong to dead processes.
    prefix = f".{path.name}.partial-"
    temporary = path.with_name(prefix + uuid.uuid4().hex)
    try:
        for left in path.parent.glob(f"{prefix}*"):
            left.unlink(missing_ok=True)
        try:
            with temporary.open("xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: BaseException) -> InputError:
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return InputError(f"cannot write {path.name} to the cache folder {path.parent}: {reason}. {REMEDY}")
