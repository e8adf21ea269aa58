"""`RESULTS/progress.json`: how a launch goes, for whoever looks from elsewhere. Rewritten every few seconds."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from grid.background import lives, repeating
from grid.events import CellEnd
from grid.launch.pace import Pace
from grid.launch.queue import CellSource
from grid.plan.simulate import duration
from grid.store.store import UnwritableError

PROGRESS_FILE = "progress.json"
EVERY_SECONDS = 5.0
KINDS = ("CPU", "GPU")
STALE_SECONDS = 60.0
"""Older than this, the driver that wrote it is gone."""


class StatusFile:
    """Counts the cells of a launch into a file. Use as a context manager around the launch.

    Attributes:
        complete: whether the launch ran all that there was.
    """

    def __init__(
        self,
        folder: Path,
        sweep: str,
        source: CellSource,
        *,
        every: float = EVERY_SECONDS,
        share: Callable[[str], object] | None = None,
    ) -> None:
        """Counts nothing yet.

        Args:
            folder: the results folder.
            sweep: name of the sweep.
            source: the cells.
            every: seconds from one writing to the next.
            share: what the file's name is given to when it is written, for those who do not see the folder.
        """
        self._share = share
        self._file = folder / PROGRESS_FILE
        self._sweep = sweep
        self._source = source
        self._began = time.time()
        self._pace = Pace(source)
        self.complete = False
        self._counts = {"done": 0, "failed": 0, "retried": 0}
        self._running: dict[str, None] = {}
        self._best: dict[str, Any] | None = None
        self._waiting = ""
        self._cluster: dict[str, float] = {}
        self._writing = repeating(self._write_again, every, name="progress-file")

    def __enter__(self) -> Self:
        self._write("running")
        self._writing.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._writing.__exit__(None, None, None)
        self._cluster = {}
        self._write("ended" if self.complete else "interrupted")

    def cell_started(self, cell: str) -> None:
        """A worker took the cell."""
        self._waiting = ""
        self._running[cell] = None

    def waiting(self, reason: str) -> None:
        """No cell runs, and why."""
        self._waiting = reason

    def cell_ended(self, cell: str, end: CellEnd) -> None:
        """Counts the cell."""
        self._running.pop(cell, None)
        if end.status == "unwritten":
            return
        self._counts["retried" if end.status == "retry" else end.status] += 1
        if end.status == "retry":
            return
        self._pace.ended(cell)
        if end.accuracy is not None and (self._best is None or end.accuracy > self._best["accuracy"]):
            self._best = {"cell": cell, "label": self._source.labels[cell], "accuracy": end.accuracy}

    def _write_again(self) -> None:
        # Ray may be on its way out: the rest is worth saying all the same.
        with suppress(Exception):
            self._cluster = _cluster()
        self._write("running")

    def _write(self, state: str) -> None:
        left = max(0, self._source.expected_cells - self._counts["done"] - self._counts["failed"])
        values = {
            "sweep": self._sweep,
            "state": state,
            "total": self._source.expected_cells,
            **self._counts,
            "left": left,
            "running": list(self._running),
            "waiting_for": self._waiting,
            "best": self._best,
            "eta_seconds": round(self._pace.seconds_left, 1) if left else 0.0,
            **self._cluster,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started_at": round(self._began, 1),
            "updated_at": round(time.time(), 1),
        }
        # Whoever reads meanwhile sees the old file or the new one. A full disk is told of by the cells.
        with suppress(OSError, UnwritableError):
            aside = self._file.with_name(f".{PROGRESS_FILE}")
            aside.write_text(json.dumps(values, indent=2) + "\n")
            aside.replace(self._file)
            if self._share:
                self._share(PROGRESS_FILE)


def _cluster() -> dict[str, float]:
    """How many nodes there are, and what they have in all."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]] if ray.is_initialized() else []
    return {"nodes": len(nodes), **{name.lower() + "s": sum(node.get(name, 0.0) for node in nodes) for name in KINDS}}


def read_progress(folder: Path) -> dict[str, Any] | None:
    """What the file in a results folder says; None if there is none. Its `state` is `lost` if its driver is gone."""
    try:
        values: dict[str, Any] = json.loads((folder / PROGRESS_FILE).read_text())
        old = time.time() - values["updated_at"] > STALE_SECONDS
        gone = values["host"] == socket.gethostname() and not lives(values["pid"])
        lost = values["state"] == "running" and (old or gone)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return values | {"state": "lost"} if lost else values


def shown(progress: dict[str, Any]) -> str:
    """What the file says, for people."""
    parts = [f"{progress['done']} of {progress['total']} done", f"{progress['failed']} failed"]
    if progress["state"] == "running":
        parts += [f"waiting: {progress['waiting_for']}"] if progress["waiting_for"] else []
        parts += [f"{len(progress['running'])} running", f"{duration(progress['eta_seconds'])} left"]
    if progress["state"] == "lost":
        parts.append(f"not heard of for {duration(time.time() - progress['updated_at'])}: its driver is gone")
    if progress["best"]:
        parts.append(f"best {progress['best']['accuracy']:.1%} ({progress['best']['label']})")
    return ", ".join(parts)
