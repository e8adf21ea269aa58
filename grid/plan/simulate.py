"""What a launch on many slots would take, replayed on paper: no Ray, no clock."""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from analysis.texts import counted

CELL_SECONDS = 1.0
"""What a cell takes beside its loop, while nothing is measured: to hand it out, read, build the network, write."""

LONGEST_GAP = 60.0
"""A worker that is without a cell for longer waits for something else, such as for the next launch."""


@dataclass(frozen=True)
class Timings:
    """What finished cells took.

    Attributes:
        per_image: (method, backbone) -> seconds of the loop for an image.
        beside_loops: seconds of a cell beside its loop; None if that is not known.
    """

    per_image: Mapping[tuple[str, str], float] = field(default_factory=dict)
    beside_loops: float | None = None


def seconds_beside_loops(cells: Iterable[tuple[float, float]]) -> float | None:
    """What cells took beside their loops: the mean time from the end of one's loop to that of the next one's start.

    Args:
        cells: of finished cells the time of their start, and the seconds of their loops.

    Returns:
        Seconds; None if no cell followed another.
    """
    ends: list[float] = []
    gaps = []
    for start, seconds in sorted(cells):
        # Whoever became free last is taken for the worker that went on.
        if before := [end for end in ends if end <= start]:
            ends.remove(max(before))
            gaps.append(start - max(before))
        ends.append(start + seconds)
    gaps = [gap for gap in gaps if gap <= LONGEST_GAP]
    return sum(gaps) / len(gaps) if gaps else None


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
    seconds: Sequence[float],
    slots: int,
    *,
    startup: float,
    beside: float = CELL_SECONDS,
    failure_rate: float = 0.0,
    seed: int = 0,
) -> Simulation:
    """Replays cells over slots, in the order in which a launch hands them out; one that dies runs again last.

    Args:
        seconds: of each cell's loop, in order.
        slots: cells at once, at least one.
        startup: seconds before the first cell of each slot.
        beside: seconds of each cell beside its loop.
        failure_rate: share of cells that die once, at a random moment of their loop; in [0, 1].
        seed: of those moments.
    """
    chance = random.Random(seed)
    waiting = deque((each + beside, True) for each in seconds)
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
        unit: what is counted and paid, `GPU`; or `slot`, if a cell takes no GPU.
        units: how many of them the launch on paper has; None without it.
        hours: of units that are paid: all of them until the last cell ended, or without a simulation the loops alone.
        price: of an hour of a unit; None if none was given.
        guessed: whether no cell has finished, so that the seconds are those of a CPU core.
    """

    simulation: Simulation | None
    unit: str
    units: float | None
    hours: float
    price: float | None
    guessed: bool

    def lines(self) -> list[str]:
        """For people."""
        lines = []
        if (each := self.simulation) is not None:
            lines.append(
                f"on paper, {self.units:g} {self.unit}s, {counted(each.slots, 'cell')} at once: the last cell ends "
                f"after {duration(each.wall_seconds)}, with the start of Ray; "
                f"{each.idle_share:.1%} of that time is idle"
            )
            if self.unit == "GPU" and self.units is not None and each.slots > self.units:
                lines.append("cells that share a GPU slow each other down, and times are those of cells as they ran")
            if each.failures:
                lines.append(f"{counted(each.failures, 'failure')} on the way, after which the cell runs again")
        if self.price is not None:
            paid = f"{self.units:g} {self.unit}s until then" if self.simulation else "while cells run, no waiting"
            lines.append(
                f"price: {self.hours:.2f} {self.unit} hours x {self.price:g} = {self.hours * self.price:.2f} ({paid})"
            )
        if lines and self.guessed:
            lines.append(
                "no cell has finished here, so times are guesses for one CPU core"
                + (": a GPU is many times faster. Run a few cells there, then plan again" if self.unit == "GPU" else "")
            )
        return lines

    def values(self) -> dict[str, Any]:
        """For machines; empty if nothing was asked for."""
        found: dict[str, Any] = {} if self.simulation is None else {"simulation": self.simulation.values()}
        if self.price is not None:
            found["price"] = {"hours": self.hours, "per_hour": self.price, "total": self.hours * self.price}
        return found
