"""What happens to cells in a launch: what launching, progress and tracking tell each other. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class CellEnd:
    """How a cell ended.

    Attributes:
        status: `done`, `failed`, or `retry`: its worker died and it is going to be tried again; or `unwritten`: the
            results folder takes no more, which ends the launch.
        reason: why it did not finish.
        accuracy: top-1 over the stream in [0, 1], of a cell that finished just now.
        seconds: wall time of its online loop in s.
    """

    status: str
    reason: str = ""
    accuracy: float | None = None
    seconds: float | None = None


class LaunchError(RuntimeError):
    """Ray did not start, or was lost. The user gave nothing wrong: the same command may do later."""


class CellListener(Protocol):
    """Hears what happens to cells, in the driver."""

    def cell_started(self, cell: str) -> None:
        """A worker took the cell."""

    def cell_ended(self, cell: str, end: CellEnd) -> None:
        """A trial of the cell ended; unless it says `retry`, the cell is in the store, finished or failed."""
