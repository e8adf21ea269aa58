"""What a launch on many slots would take, replayed on paper: no Ray, no clock."""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

CELL_SECONDS = 0.1
"""What handing out one cell costs a launch, beside its loop (measured with workers that are reused)."""


def duration(seconds: float) -> str:
    """Seconds as `0:42`, `12:05` or `3:07:00`."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@dataclass(frozen=True)
class Simulation:
    """A launch on paper.

    Attributes:
        slots: cells at once.
        wall_seconds: until the last cell ended.
        idle_share: share of all slots' time that no cell used, in [0, 1].
        busy_hours: slots' time that cells used, in h, with what was lost to failures.
        failures: cells that died once, and ran again.
    """

    slots: int
    wall_seconds: float
    idle_share: float
    busy_hours: float
    failures: int

    def values(self) -> dict[str, Any]:
        """For machines."""
        return asdict(self)


def simulate(
    seconds: Sequence[float], slots: int, *, startup: float, failure_rate: float = 0.0, seed: int = 0
) -> Simulation:
    """Replays cells over slots, in the order in which a launch hands them out; one that dies runs again last.

    Args:
        seconds: of each cell's loop, in order.
        slots: cells at once, at least one.
        startup: seconds before the first cell of each slot.
        failure_rate: share of cells that die once, at a random moment of their loop; in [0, 1].
        seed: of those moments.
    """
    chance = random.Random(seed)
    waiting = deque((each + CELL_SECONDS, True) for each in seconds)
    free_at = [startup] * min(slots, len(waiting))
    heapq.heapify(free_at)
    busy, failures, wall = 0.0, 0, 0.0
    while waiting:
        cost, may_die = waiting.popleft()
        began = heapq.heappop(free_at)
        used = cost
        if may_die and chance.random() < failure_rate:
            used = cost * chance.random()
            failures += 1
            waiting.append((cost, False))
        busy += used
        wall = max(wall, began + used)
        heapq.heappush(free_at, began + used)
    idle = 1 - busy / (slots * wall) if wall else 0.0
    return Simulation(slots, wall, idle, busy / 3600, failures)


@dataclass(frozen=True)
class Outlook:
    """What a plan would cost elsewhere.

    Attributes:
        simulation: the launch on paper; None if none was asked for.
        slot_hours: hours of loops of the cells that are left, on one slot.
        gpu_share: GPUs of one cell, or 1 if it takes none: a price is then that of a slot.
        price: of an hour; None if none was given.
        basis: what the seconds rest on.
    """

    simulation: Simulation | None
    slot_hours: float
    gpu_share: float
    price: float | None
    basis: str

    @property
    def hours(self) -> float:
        """Hours that are paid: all slots until the last cell ended, or without a simulation the loops alone."""
        if self.simulation is None:
            return self.slot_hours * self.gpu_share
        return self.simulation.wall_seconds / 3600 * self.simulation.slots * self.gpu_share

    def lines(self) -> list[str]:
        """For people."""
        lines = []
        if self.simulation is not None:
            each = self.simulation
            lines.append(
                f"on {each.slots} slots: {duration(each.wall_seconds)} until the last cell ended, "
                f"{each.idle_share:.1%} of the slots' time idle, {each.failures} cells died once "
                f"(on paper; {self.basis})"
            )
        if self.price is not None:
            how = "all slots to the end" if self.simulation else "loops alone"
            lines.append(f"price: {self.hours:.2f} h x {self.price:g} = {self.hours * self.price:.2f} ({how})")
        return lines

    def values(self) -> dict[str, Any]:
        """For machines; empty if nothing was asked for."""
        found: dict[str, Any] = {} if self.simulation is None else {"simulation": self.simulation.values()}
        if self.price is not None:
            found["price"] = {"hours": self.hours, "per_hour": self.price, "total": self.hours * self.price}
        return found
