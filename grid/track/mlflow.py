"""Mirrors the result store into MLflow: one parent run a launch, one child run a cell.

The driver does all of it, in one background thread, from the files of the store. So there is no race between workers,
a cell is logged once however often a launch is repeated, and what a killed driver did not log the next one does.
MLflow may be missing, slow or down: cells run all the same, and the next launch catches up.
"""

from __future__ import annotations

import importlib
import json
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from analysis.texts import counted
from grid.events import CellEnd
from grid.launch.queue import CellSource
from grid.plan.plan import Plan
from grid.store.store import ResultStore
from grid.track.cell import TrackedCell, read_tracked_cell
from grid.track.studies import log_studies
from grid.track.uri import artifact_location, check_tracking_uri, sqlite_file

if TYPE_CHECKING:
    from mlflow.entities import Run

LOUD = ("alembic", "mlflow", "sqlalchemy")
"""Loggers that would print whole tracebacks of what the mirror says in one line."""

PATIENCE_SECONDS = 120.0
"""How long a driver waits for another that logs into the same file."""

MOST_WAITING = 500
"""Cells that may wait to be logged while a launch lasts. The next run logs the others, or `tta-grid track`."""

LAST_SECONDS = 120.0
"""How long the end of a launch waits for MLflow."""

AT_ONCE = 4
"""Cells that are logged at once where each waits for a server. A file has one writer at a time."""

REST_SECONDS = 30.0
"""How long a store that failed is left alone."""

LAG_TOLD = 50
"""Cells behind of which people are told, once a minute."""

log = logging.getLogger(__name__)

RUN_STATUS = {"done": "FINISHED", "failed": "FAILED"}


class MlflowMirror:
    """Logs the cells of one launch. Use as a context manager around the launch.

    Attributes:
        uri: tracking store.
        problem: what goes wrong, if anything does; cells are not affected.
        logged: cells that were logged.
    """

    def __init__(
        self,
        plan: Plan,
        store: ResultStore,
        uri: str | None = None,
        *,
        source: CellSource | None = None,
        patience: float | None = LAST_SECONDS,
    ) -> None:
        """Makes a mirror; nothing is read or written before it is entered.

        Args:
            plan: the cells.
            store: where their results are.
            uri: tracking store; by default the sweep's, then an sqlite file in the results folder.
            source: where the launch has its cells from; by default the plan.
            patience: seconds that its end may take; None for as long as it takes.

        Raises:
            InputError: if MLflow cannot write to this kind of store.
        """
        uri = uri or plan.sweep.tracking.uri
        if uri is not None:
            check_tracking_uri(uri)
        self.uri = uri or f"sqlite:///{store.folder / 'mlflow.db'}"
        self.problem: str | None = None
        self._plan = plan
        self._source = source or plan
        self._store = store
        self._experiment_name = plan.sweep.tracking.experiment or plan.sweep.sweep
        self._choosing_name = f"{self._experiment_name}/search" if source is not None else None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mlflow")
        # SQLite has one writer at a time, and two drivers that make its tables at once both fail.
        file = sqlite_file(self.uri)
        self._at_once = 1 if file else AT_ONCE
        self._loggers = ThreadPoolExecutor(max_workers=self._at_once, thread_name_prefix="mlflow-cell")
        self._turn: AbstractContextManager[object] = (
            FileLock(f"{file}.lock", timeout=PATIENCE_SECONDS, thread_local=False) if file else nullcontext()
        )
        self._parent: str | None = None
        self._finished = self._failures = 0
        self._patience = patience
        # The launch's thread adds to the end of it, while this mirror's takes from its beginning.
        self._waiting: deque[str] = deque()
        self._earlier: deque[str] = deque()
        self._work: Future[None] | None = None
        self._ready = self._late = False
        self._rests_until = 0.0
        self._told = time.monotonic()
        self._left_out = 0
        self._unreadable: list[str] = []
        self.logged = 0

    def __enter__(self) -> MlflowMirror:
        # Imported here, in the main thread: importing it beside Ray in another thread is asking for trouble.
        importlib.import_module("mlflow.tracking")
        for name in LOUD:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self._work = self._later(self._drain)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        complete = self._finished + self._failures == len(self._plan.to_run)
        # A store that failed is asked once more, also if it fails after this line, in what is being logged now.
        self._thread.submit(self._wake)
        self._later(self._drain_to_the_end)
        if self._choosing_name:
            states = self._store.states()
            complete = all(cell in states for cell in self._source.cells)
            self._later(self._log_studies)
        status = "KILLED" if not complete else "FAILED" if self._failures else "FINISHED"
        closing = self._later(self._close, status)
        if lag := self.lag:
            log.warning("MLflow is %d cells behind; waiting for it", lag)
        wait([closing], timeout=self._patience)
        self._late = not closing.done()
        self._thread.shutdown(wait=True)
        self._loggers.shutdown(wait=True)
        if (left := self.lag + self._left_out) and self.problem is None:
            self.problem = f"{counted(left, 'cell')} not logged in time"
        if self._unreadable and self.problem is None:
            self.problem = f"the cell {self._unreadable[0]} cannot be read, see tta-grid check"

    @property
    def lag(self) -> int:
        """Cells that are not logged yet, and are going to be."""
        return len(self._earlier) + len(self._waiting)

    def cell_started(self, cell: str) -> None:
        """Nothing to log yet."""

    def waiting(self, reason: str) -> None:
        """Nothing to log."""

    def cell_ended(self, cell: str, end: CellEnd) -> None:
        """Logs the cell."""
        if end.status in ("retry", "unwritten"):
            return
        self._finished += end.status == "done"
        self._failures += end.status == "failed"
        if len(self._waiting) >= MOST_WAITING:
            self._left_out += 1
        else:
            self._waiting.append(cell)
        if self.lag >= LAG_TOLD and time.monotonic() - self._told > 60:
            self._told = time.monotonic()
            log.warning("MLflow is %d cells behind; no cell waits for it", self.lag + self._left_out)
        if self._work is None or self._work.done():
            self._work = self._later(self._drain)

    def _wake(self) -> None:
        self._rests_until = 0.0

    def _later(self, work: Callable[..., None], *arguments: Any) -> Future[None]:
        return self._thread.submit(self._guarded, work, *arguments)

    def _guarded(self, work: Callable[..., None], *arguments: Any) -> None:
        if time.monotonic() < self._rests_until:
            return
        try:
            work(*arguments)
        # Whatever a tracking store raises, the cells must not suffer; the launch reports it at its end.
        except Exception as error:
            self.problem = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
            # What it left half logged is cleared away before anything more is.
            self._ready = False
            self._rests_until = time.monotonic() + REST_SECONDS

    def _drain(self) -> None:
        """Logs what waits, cells of earlier launches first."""
        if not self._ready:
            with self._turn:
                self._open()
                self._catch_up()
            self._ready, self.problem = True, None
        for waiting in (self._earlier, self._waiting):
            while waiting and not self._late:
                # The launch adds to the queue meanwhile, so that it cannot be gone through.
                some = [waiting[place] for place in range(min(self._at_once, len(waiting)))]
                with self._turn:
                    self._log_all(some)
                for _ in some:
                    waiting.popleft()

    def _drain_to_the_end(self) -> None:
        """Logs what waits, and goes on after a failure if any cell was logged since the one before it."""
        while True:
            before = self.logged
            try:
                return self._drain()
            except Exception:
                if self._late or self.logged == before:
                    raise
                self._ready = False

    def _log_all(self, cells: Sequence[str]) -> None:
        readable = [(cell, tracked) for cell in cells if (tracked := self._read(cell))]
        if readable:
            self._parent_run()
        begun = [self._loggers.submit(self._log, *each) for each in readable]
        # All have ended before what a failure left half logged is cleared away.
        wait(begun)
        self.logged += sum(each.exception() is None for each in begun)
        for each in begun:
            each.result()

    def _open(self) -> None:
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(tracking_uri=self.uri)  # Makes the tables of a new database, which takes seconds.
        self._experiment = self._experiment_named(self._experiment_name)
        # What only chose settings has an experiment of its own, so that filters on the other find reported results.
        self._choosing = self._experiment_named(self._choosing_name) if self._choosing_name else self._experiment

    def _experiment_named(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        return str(self._client.create_experiment(name, artifact_location=artifact_location(self.uri)))

    def _catch_up(self) -> None:
        """Logs cells that the store has and MLflow lacks, and ends what a killed driver left open."""
        logged = set()
        for run in self._runs_of_store():
            parent = run.data.tags.get("mlflow.parentRunId")
            if run.info.run_id == self._parent:
                continue
            if run.info.status != "RUNNING":
                # A cell that failed in an earlier launch may have been run again.
                if run.info.status == "FINISHED" or parent == self._parent:
                    logged.add(run.data.tags.get("cell"))
            elif parent is None:
                self._client.set_terminated(run.info.run_id, status="KILLED")
            else:
                self._client.delete_run(run.info.run_id)
        states = self._plan.states
        self._earlier = deque(cell for cell in states if states[cell] == "done" and cell not in logged)
        # A store that failed may have taken the cell that was being logged.
        for cell in logged.intersection(tuple(self._waiting)):
            self._waiting.remove(cell)

    def _runs_of_store(self) -> list[Run]:
        runs: list[Run] = []
        token = None
        while True:
            page = self._client.search_runs(
                sorted({self._experiment, self._choosing}),
                f"tags.store = '{self._store.id}'",
                max_results=1000,
                page_token=token,
            )
            runs += page
            token = page.token
            if not token:
                return runs

    def _read(self, cell: str) -> TrackedCell | None:
        try:
            return read_tracked_cell(self._store, cell)
        # What damaged bytes raise depends on where they are. The others are logged all the same.
        except Exception:
            self._unreadable.append(cell)
            return None

    def _log(self, cell: str, tracked: TrackedCell) -> None:
        tags = tracked.tags | {
            "store": self._store.id,
            "mlflow.parentRunId": self._parent_run(),
            "mlflow.runName": self._source.labels[cell],
        }
        experiment = self._experiment
        if self._choosing_name:
            reported = cell in self._source.cells
            tags |= {"role": "reported" if reported else "selection"}
            experiment = experiment if reported else self._choosing
        run = self._client.create_run(experiment, start_time=tracked.started_ms, tags=tags)
        self._client.log_batch(run.info.run_id, metrics=_metrics(tracked), params=_params(tracked))
        self._attach(run.info.artifact_uri, tracked)
        self._client.set_terminated(run.info.run_id, RUN_STATUS[tracked.status], end_time=tracked.ended_ms)

    def _attach(self, place: str, tracked: TrackedCell) -> None:
        """Puts a cell's files where its run keeps them; the client would ask for the whole run to know where."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        attached = get_artifact_repository(place, tracking_uri=self.uri)
        with TemporaryDirectory() as folder:
            for name, content in tracked.artefacts.items():
                (Path(folder) / name).write_text(json.dumps(content, indent=2))
            attached.log_artifacts(folder)
        for file in tracked.files:
            attached.log_artifact(str(file))

    def _log_studies(self) -> None:
        """Logs studies, and those of their cells that a launch before this one did not log."""
        if self._late:
            return
        states, logged = self._store.states(), {run.data.tags.get("cell") for run in self._runs_of_store()}
        for cell in self._source.labels:
            if states.get(cell) == "done" and cell not in logged:
                with self._turn:
                    self._log_all([cell])
        if self._parent is not None:
            log_studies(self._client, self._experiment, self._store, self._plan.sweep.sweep, self._parent)

    def _parent_run(self) -> str:
        """The run of this launch, made when the first cell needs it: a launch with nothing to log leaves no run."""
        if self._parent is None:
            sweep = self._plan.sweep
            tags = {"store": self._store.id, "sweep": sweep.sweep, "results": str(self._store.folder)}
            name = f"{sweep.sweep} {time.strftime('%Y-%m-%d %H:%M:%S')}"
            run = self._client.create_run(self._experiment, tags=tags | {"mlflow.runName": name})
            self._parent = str(run.info.run_id)
            # The URL of a database may hold a password.
            values = sweep.model_dump(mode="json", exclude={"search": {"storage"}})
            self._client.log_dict(self._parent, values, "sweep.yaml")
        return self._parent

    def _close(self, status: str) -> None:
        if self._parent is not None:
            with self._turn:
                self._client.log_metric(self._parent, "cells_finished", self._finished)
                self._client.log_metric(self._parent, "cells_failed", self._failures)
                self._client.set_terminated(self._parent, status)


def _params(tracked: TrackedCell) -> list[Any]:
    from mlflow.entities import Param

    return [Param(key, value) for key, value in tracked.params.items()]


def _metrics(tracked: TrackedCell) -> list[Any]:
    from mlflow.entities import Metric

    return [Metric(key, value, tracked.timestamp_ms(step), step) for key, value, step in tracked.metrics]
