"""How long the cells that are left may take, by what those took that have ended."""

from __future__ import annotations

import time

from grid.launch.queue import CellSource


class Pace:
    """Adds up the cells of a launch as they end."""

    def __init__(self, source: CellSource) -> None:
        self._source = source
        # (time, estimated cost done) at the first cell that ended: what came before it is starting up.
        self._first: tuple[float, float] | None = None
        self._cost_done = 0.0

    def ended(self, cell: str) -> None:
        """A cell ended."""
        self._cost_done += self._source.cost(cell)
        self._first = self._first or (time.monotonic(), self._cost_done)

    @property
    def seconds_left(self) -> float:
        """Wall time in s."""
        cost_left = max(0.0, self._source.expected_cost - self._cost_done)
        if self._first is None or self._cost_done <= self._first[1]:
            return self._source.expected_wall
        began, cost_before = self._first
        return (time.monotonic() - began) * cost_left / (self._cost_done - cost_before)
