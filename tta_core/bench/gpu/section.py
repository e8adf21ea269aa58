"""A part of the report: rows that are measured one by one, each within a limit of time."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch

from tta_core.bench.candidate import reason
from tta_core.bench.data import write_photographs
from tta_core.bench.measure import Tell, free_memory
from tta_core.bench.request import BenchRequest
from tta_core.data.files.encoded import ImageFiles

PHOTOGRAPHS = 256
LONGEST_REASON = 300
LEAST_SECONDS = 1.0
"""A row is not begun with less."""


@dataclass(frozen=True)
class Asked:
    """What every section gets.

    Attributes:
        request: network, batch, methods and device of the report.
        device: the accelerator.
        image_size: height and width of photographs in pixels.
        folder: for files that are gone when the report is done.
    """

    request: BenchRequest
    device: torch.device
    image_size: int
    folder: Path

    @cached_property
    def photographs(self) -> ImageFiles:
        """Files of photographs, written when first asked for."""
        return write_photographs(self.folder / "photographs", PHOTOGRAPHS, self.image_size)


class Unit(NamedTuple):
    """One row.

    Attributes:
        label: columns that say what it is.
        work: measures the others.
    """

    label: dict[str, str]
    work: Callable[[], dict[str, Any]]


@dataclass(frozen=True)
class Section:
    """A part of the report.

    Attributes:
        name: its key in the JSON.
        title, meaning: for people; `meaning` says what the columns are.
        units: the rows to measure.
        shown: the columns of the table, in order; what a row holds beyond them is in the JSON.
        share: its part of the time, compared with the shares of the other sections.
        most: the largest part of the section's time that one row may take.
    """

    name: str
    title: str
    meaning: str
    units: Callable[[Asked], Sequence[Unit]]
    shown: tuple[str, ...]
    share: float
    most: float = 0.25


@dataclass
class Found:
    """What a section found: a row for each unit. One that failed has `error`, one that was not begun `left_out`."""

    section: Section
    rows: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0


def measure(section: Section, asked: Asked, seconds: float, tell: Tell) -> Iterator[Found]:
    """Measures the rows of a section in turn, and goes on after one that fails.

    Args:
        section: the section.
        asked: what is measured.
        seconds: time for all rows.
        tell: takes each line of progress.

    Yields:
        What was found so far, after every row.
    """
    began = time.monotonic()
    found = Found(section)
    try:
        units = section.units(asked)
    except Exception as error:
        found.rows.append({"error": reason(error)[:LONGEST_REASON]})
        yield found
        return
    for unit in units:
        left = seconds - (time.monotonic() - began)
        limit = section.most * seconds
        if left <= min(LEAST_SECONDS, limit):
            found.rows.append({**unit.label, "left_out": "the time was over"})
            continue
        tell(f"{section.title}: {' '.join(unit.label.values())}")
        # Whatever is wrong with one row must not cost the others.
        try:
            with limited(min(left, limit)):
                row = {**unit.label, **unit.work()}
        except Exception as error:
            row = {**unit.label, "error": reason(error)[:LONGEST_REASON]}
        found.rows.append(row)
        free_memory(asked.device)
        found.seconds = time.monotonic() - began
        yield found
    yield found


class OverTimeError(Exception):
    """A row took longer than it may."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raises `OverTimeError` inside once the time is over; in the main thread only, others have no alarm."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise OverTimeError(f"stopped after {seconds:.0f} s, its part of the time")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
