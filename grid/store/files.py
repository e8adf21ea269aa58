"""What is done to files of a store so that no reader sees a half of anything, after a power cut either."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def as_bytes(text: str) -> bytes:
    """A text as a file; names of files in it may hold bytes that are none."""
    return text.encode("utf-8", errors="backslashreplace")


def move_if_there(folder: Path, target: Path) -> None:
    """Moves a folder, if it is there: no reader sees it half removed."""
    with suppress(FileNotFoundError):
        folder.rename(target)


def flush(path: Path) -> None:
    """Forces a file or folder to disk, so that what a rename shows is whole after a power cut too."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
