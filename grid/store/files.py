"""What is done to files of a store so that no reader sees a half of anything, after a power cut either."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def as_bytes(text: str) -> bytes:
    """A text as a file; names of files in it may hold bytes that are none."""
    return text.encode("utf-8", errors="backslashreplace")


def move_if_there(folder: Path, target: Path) -> None:
    """Moves a folder, if it is there: no reader sees it half removed."""
    with suppress(FileNotFoundError):
        folder.rename(target)


@contextmanager
def staged(store: Path) -> Iterator[Path]:
    """A new folder of a store that nobody reads, which is gone after the context."""
    staging = store / ".staging" / uuid.uuid4().hex
    staging.mkdir(parents=True)
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def show(whole: Path, target: Path, store: Path, *, replace: bool = False) -> None:
    """Moves a whole cell to its place, by one rename. One that is there stays, unless it is to be replaced."""
    for file in whole.iterdir():
        flush(file)
    with staged(store) as aside:
        if replace:
            # Readers miss it for no longer than two renames take.
            move_if_there(target, aside / "replaced")
        try:
            whole.rename(target)
        except OSError:
            # Another attempt at the same cell was first; it wrote the same numbers.
            if not target.is_dir():
                raise
    flush(target.parent)


def take_away(folder: Path, store: Path) -> None:
    """Removes a folder of a store, if it is there."""
    with staged(store) as aside:
        move_if_there(folder, aside / "gone")


def flush(path: Path) -> None:
    """Forces a file or folder to disk, so that what a rename shows is whole after a power cut too."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
