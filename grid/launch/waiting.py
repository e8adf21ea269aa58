"""Notices that no cell runs because no node has room for one. Imports no ray."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from grid.plan.sweep import Resources

QUIET_SECONDS = 30.0
"""How long nothing need be said: workers take some seconds to start."""

LONGEST_PAUSE = 600.0
"""Seconds from one message to the next, at most."""


@dataclass(frozen=True)
class Room:
    """What one node has: name of a resource -> amount."""

    total: dict[str, float]
    free: dict[str, float]


class Waiting:
    """Says what a launch waits for.

    Attributes:
        reason: what is waited for now; empty while cells run.
        given_up: whether it took longer than was allowed.
    """

    def __init__(
        self,
        resources: Resources,
        rooms: Callable[[], Sequence[Room]],
        *,
        alone: bool = False,
        most_seconds: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begins to look.

        Args:
            resources: what one trial asks for.
            rooms: asks the cluster for its living nodes.
            alone: whether this launch has the cluster for itself, as on one machine: only its own workers take room.
            most_seconds: how long a launch waits; None for any time.
            clock: seconds.
        """
        self._wanted = {"GPU": resources.gpu, "CPU": resources.cpu}
        self._rooms = rooms
        self._alone = alone
        self._most = most_seconds
        self._clock = clock
        self._since = clock()
        self._next = QUIET_SECONDS
        self.reason = ""
        self.given_up = False

    def look(self, *, running: bool) -> str:
        """Returns what to tell the user now; empty if nothing is new.

        Args:
            running: whether any cell runs.
        """
        if running:
            self._since, self._next, self.reason = self._clock(), QUIET_SECONDS, ""
            return ""
        waited = self._clock() - self._since
        self.given_up = self._most is not None and waited >= self._most
        if waited < self._next and not self.given_up:
            return ""
        self._next = waited + min(waited, LONGEST_PAUSE)
        self.reason = self._shortage()
        return self.reason

    def _shortage(self) -> str:
        if self._alone:
            return "the workers are still starting; a busy machine takes a minute to import torch"
        rooms = self._rooms()
        for name, wanted in self._wanted.items():
            if wanted and not any(room.free.get(name, 0.0) >= wanted for room in rooms):
                free, total = (
                    sum(room.get(name, 0.0) for room in each)
                    for each in ([room.free for room in rooms], [room.total for room in rooms])
                )
                # A worker of ours takes its room before it says that it has started.
                held = any(room.total.get(name, 0.0) >= wanted for room in rooms)
                starting = ", or our workers are still starting there" if held else ""
                return f"no node has {wanted:g} {name} free ({free:g} of {total:g}){starting}"
        return f"no worker has started yet on {len(rooms)} node{'s' * (len(rooms) != 1)}"
