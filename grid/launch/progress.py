"""Shows how a launch goes: a bar in a terminal, and one line a cell both there and in a log file."""

from __future__ import annotations

import sys
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from analysis.texts import counted
from grid.events import CellEnd
from grid.launch.pace import Pace
from grid.launch.queue import CellSource
from grid.plan.simulate import duration


class LaunchProgress:
    """Counts the cells of a launch and tells the user. Use as a context manager around the launch.

    Attributes:
        finished: cells that finished in this launch.
        failed: cells that failed in this launch.
    """

    def __init__(self, source: CellSource, first: str = "starting Ray", stream: TextIO | None = None) -> None:
        self._source = source
        self._first = first
        self._total = source.expected_cells
        self._width = max(map(len, source.labels.values()), default=0)
        stream = stream or sys.stdout
        # A log file gets each line whole, however long.
        width = None if stream.isatty() else 10_000
        self._console = Console(file=stream, width=width, highlight=False, soft_wrap=not stream.isatty())
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[summary]}"),
            console=self._console,
            transient=True,
            disable=not stream.isatty(),
        )
        self._task = self._bar.add_task(self._first, total=self._total, summary="")
        self._pace = Pace(source)
        self._best: tuple[float, str] | None = None
        self.finished = 0
        self.failed = 0

    def __enter__(self) -> LaunchProgress:
        self._bar.start()
        if self._bar.disable:
            self._console.print(f"{self._first} for {counted(self._total, 'cell')}")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._bar.stop()

    def cell_started(self, cell: str) -> None:
        """Says that Ray is up."""
        self._bar.update(self._task, description="running cells")

    def warn(self, text: str) -> None:
        """Says what may go wrong."""
        self._console.print(f"warning: {text}", markup=False)

    def waiting(self, reason: str) -> None:
        """Says what keeps all cells from running."""
        self._bar.update(self._task, description="waiting")
        self._console.print(f"waiting: {reason}", markup=False)

    def cell_ended(self, cell: str, end: CellEnd) -> None:
        """Prints the cell's line and moves the bar."""
        if end.status == "unwritten":
            return  # The launch says so when it ends.
        if end.status == "retry":
            self._console.print(f"to be tried again: {self._source.labels[cell]}: {end.reason}", markup=False)
            return
        self.finished += end.status == "done"
        self.failed += end.status == "failed"
        self._pace.ended(cell)
        label = self._source.labels[cell]
        if end.accuracy is not None and (self._best is None or end.accuracy > self._best[0]):
            self._best = (end.accuracy, label)
        accuracy = f"{end.accuracy:7.1%}" if end.accuracy is not None else "       "
        seconds = f"{end.seconds:8.1f} s" if end.seconds is not None else " " * 10
        done = self.finished + self.failed
        total = max(self._total, done)  # Of a search it is an estimate.
        place = f"[{done:>{len(str(total))}}/{total}]"
        line = f"{place} {end.status:<6} {label:<{self._width}} {accuracy} {seconds}"
        self._console.print(f"{line}   {self._summary()}" if self._bar.disable else line, markup=False)
        if end.status == "failed":
            self._console.print(f"{' ' * len(place)} reason: {end.reason}", markup=False)
        self._bar.update(self._task, completed=done, summary=self._summary())

    def _summary(self) -> str:
        best = f"best {self._best[0]:.1%} ({self._best[1]})" if self._best else "no result yet"
        return f"{self.failed} failed | {best} | {duration(self._pace.seconds_left)} left"
