"""The queue of a launch: which cell runs next, and which one again. Imports no ray."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Protocol

from grid.events import CellState
from tta_core.run.config import RunConfig

MOST_NODES_LOST = 20
"""Nodes that one cell may lose: one that brings its node down must end some time."""


class CellSource(Protocol):
    """Says which cells are to run. A plan is one; a search, which chooses cells by the results of earlier ones, too.

    Attributes:
        cells: the cells whose results count in the end, as far as they are known.
        labels: cell id -> short text that tells a cell from the others, of all that are known.
        expected_cells: cells that are left, about.
        expected_cost: estimated seconds of their loops.
        expected_wall: estimated wall time of a launch in s.
    """

    @property
    def cells(self) -> Mapping[str, RunConfig]: ...  # noqa: D102

    @property
    def labels(self) -> Mapping[str, str]: ...  # noqa: D102

    @property
    def expected_cells(self) -> int: ...  # noqa: D102

    @property
    def expected_cost(self) -> float: ...  # noqa: D102

    @property
    def expected_wall(self) -> float: ...  # noqa: D102

    def cost(self, cell: str) -> float:
        """Estimated seconds of a cell's loop."""

    def may_stop(self, cell: str) -> bool:
        """Whether a cell may end without a result once its predictions are of few classes."""

    def next(self, states: Mapping[str, CellState]) -> Mapping[str, RunConfig]:
        """Returns cells that may run now, in order: cell id -> configuration.

        A cell that it returned before is not run again. Nothing new means: wait for the cells that run, or, if none
        runs, that the source is done.

        Args:
            states: the cells that have ended: finished in this launch or before, or failed in this one.
        """


class CellQueue:
    """Hands out the cells of a source, each once, and again those that died.

    The source is asked when no cell waits, and again after each cell that ended.
    """

    def __init__(
        self,
        source: CellSource,
        states: Mapping[str, CellState],
        *,
        max_retries: int = 0,
        max_concurrent: int | None = None,
    ) -> None:
        """Makes the queue.

        Args:
            source: where cells come from.
            states: what the results folder has. Finished cells are not run; those that failed are.
            max_retries: how often a cell that died is tried again.
            max_concurrent: cells at once; None for any number.
        """
        self._source = source
        self._states: dict[str, CellState] = {cell: state for cell, state in states.items() if state == "done"}
        self._max_retries = max_retries
        self._max_concurrent = max_concurrent
        self._configs: dict[str, RunConfig] = {}
        self._waiting: deque[str] = deque()
        self._running: set[str] = set()
        self._retries: dict[str, int] = {}
        self._lost: dict[str, int] = {}
        self._may_have_more = True

    def take(self) -> tuple[str, RunConfig] | None:
        """Returns the next cell and its configuration; None if there is none now, see `done`."""
        if self._max_concurrent is not None and len(self._running) >= self._max_concurrent:
            return None
        if not self._waiting and self._may_have_more:
            self._ask()
        if not self._waiting:
            return None
        cell = self._waiting.popleft()
        self._running.add(cell)
        return cell, self._configs[cell]

    def died(self, cell: str) -> bool:
        """Whether the cell died before, with its node still there."""
        return cell in self._retries

    def may_stop(self, cell: str) -> bool:
        """Whether a cell may end without a result once its predictions are of few classes."""
        return self._source.may_stop(cell)

    @property
    def done(self) -> bool:
        """Whether no cell runs, and there are no more."""
        return not (self._running or self._waiting or self._may_have_more)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to run at all; asks the source if no cell waits."""
        if not self._waiting and self._may_have_more:
            self._ask()
        return self.done

    def retry(self, cell: str, *, node_lost: bool = False) -> bool:
        """Puts a cell that died behind those that wait; returns False if it was tried often enough.

        Args:
            cell: the cell.
            node_lost: whether its node was lost with it, as one that was lent is any time: that says nothing against
                the cell, and is counted apart.
        """
        tries, most = (self._lost, MOST_NODES_LOST) if node_lost else (self._retries, self._max_retries)
        if self._max_retries == 0 or tries.get(cell, 0) >= most:
            return False
        tries[cell] = tries.get(cell, 0) + 1
        self._running.discard(cell)
        self._waiting.append(cell)
        return True

    def end(self, cell: str, state: CellState) -> None:
        """Records how a cell ended."""
        self._running.discard(cell)
        self._states[cell] = state
        self._may_have_more = True

    def _ask(self) -> None:
        given = self._source.next(self._states)
        new = {cell: config for cell, config in given.items() if cell not in self._configs and cell not in self._states}
        self._configs |= new
        self._waiting.extend(new)
        self._may_have_more = bool(new)
