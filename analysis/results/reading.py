"""Reading files that a run may replace meanwhile, and the one error of those that cannot be read."""

from __future__ import annotations

import glob
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import duckdb

Answer = TypeVar("Answer")

PATIENCE_SECONDS = 30.0
"""For so long files that vanish are looked for anew; a run replaces one in a millisecond."""

PAUSE_SECONDS = 0.005

UNREADABLE = (duckdb.Error, UnicodeDecodeError)
"""What DuckDB raises for damaged files; its exceptions for damaged headers have no class of their own."""


class ResultsError(ValueError):
    """A results folder that cannot be read.

    The message says what was given, what is allowed and what to do.
    """


def retried(read: Callable[[], Answer], *, named_by_user: bool = False) -> Answer:
    """Reads, and reads again where a file vanished between being listed and being opened.

    Args:
        read: lists the files anew each time.
        named_by_user: whether the user may have named a file that is not there: it is not waited for.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return read()
        except duckdb.IOException as error:
            if time.monotonic() > deadline or (named_by_user and "No files found" in str(error)):
                raise
        time.sleep(PAUSE_SECONDS)


def found_below(folder: Path, pattern: str) -> list[Path]:
    """Files by a pattern, sorted. In a folder that a run takes away meanwhile are none; `Path.glob` raises there."""
    return sorted(folder / name for name in glob.glob(pattern, root_dir=folder))  # noqa: PTH207


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without its full stop."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
