"""What this machine has: cores that may be used, and room on its disks."""

from __future__ import annotations

import os
from pathlib import Path

from tta_core.errors import InputError

RESERVE_BYTES, RESERVE_SHARE = 2**30, 0.05
"""What must stay free on a disk: so much, of a small disk so much of it."""


def usable_cores() -> int:
    """CPU cores that this process may use: as many as `OMP_NUM_THREADS` says (Ray sets it), or the system allows."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(int(given), cores)) if given.isdecimal() else cores


def free_bytes(folder: Path) -> int:
    """Bytes that may be written to the disk of a folder that need not exist yet.

    Raises:
        InputError: if the disk cannot be asked.
    """
    found = _disk(folder)
    return found.f_bavail * found.f_frsize


def reserved_bytes(folder: Path) -> int:
    """Bytes of the disk of a folder that must stay free.

    Raises:
        InputError: if the disk cannot be asked.
    """
    found = _disk(folder)
    return min(RESERVE_BYTES, int(RESERVE_SHARE * found.f_blocks * found.f_frsize))


def _disk(folder: Path) -> os.statvfs_result:
    try:
        existing = next(each for each in (folder, *folder.parents) if each.exists())
        return os.statvfs(existing)
    except (OSError, StopIteration) as error:
        raise InputError(f"cannot look at the disk of {folder}: {error}: give another folder") from None


def gib(size: int) -> str:
    """A number of bytes for people."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 / 10 else f"{size / 2**20:.1f} MiB"
