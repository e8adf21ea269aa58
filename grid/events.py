"""What happens to cells: the words that planning, launching, progress and tracking share. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, Self

CellState = Literal["done", "failed"]
"""What a results folder knows of a cell."""


@dataclass(frozen=True)
class CellEnd:
    """How a trial of a cell ended.

    Attributes:
        status: `done`, `failed`, or `retry`: its worker died and it is going to be tried again; or `unwritten`: the
            results folder takes no more, which ends the launch.
        reason: why it did not finish.
        accuracy: score of the stream in [0, 1] (accuracy, or mean IoU), of a cell that finished just now.
        seconds: wall time of its online loop in s.
        node: the node of a cluster where the trial ran; empty on the driver's own machine.
    """

    status: Literal["done", "failed", "retry", "unwritten"]
    reason: str = ""
    accuracy: float | None = None
    seconds: float | None = None
    node: str = ""


class LaunchError(RuntimeError):
    """Ray did not start, or was lost. The user gave nothing wrong: the same command may do later.

    Attributes:
        status: exit status of a command that it ends.
    """

    status = 3


class StoppedError(LaunchError):
    """A launch could not go on: a disk is full, or a node cannot run cells."""

    status = 4


class CellListener(Protocol):
    """Hears what happens to cells, in the driver. A launch enters it, and leaves it when the last cell has ended."""

    def __enter__(self) -> Self:
        """The launch holds the results folder."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """No cell runs any more."""

    def cell_started(self, cell: str) -> None:
        """A worker took the cell."""

    def waiting(self, reason: str) -> None:
        """No cell runs, and why."""

    def cell_ended(self, cell: str, end: CellEnd) -> None:
        """A trial of the cell ended. Of one that is `done` or `failed` the results folder has what there is."""
