"""Runs cells as Ray Tune trials. Imports ray: set the switches of `grid.launch.environment` before importing this."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import uuid
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.search import Searcher

from grid.events import CellEnd, CellListener
from grid.launch.queue import CellQueue
from grid.launch.trial import TrialContext, run_cell
from grid.plan.sweep import Resources
from grid.store.store import ResultStore, UnwritableError
from tta_core.errors import InputError
from tta_core.run.config import RunConfig

TELL_FAILURES = ("ray.tune.execution.tune_controller", "ray.tune.tune")
"""Loggers of Tune that print trials that failed."""


def run_cells(
    queue: CellQueue,
    context: TrialContext,
    store: ResultStore,
    resources: Resources,
    listeners: Sequence[CellListener],
    *,
    snapshots: Path,
) -> None:
    """Runs all cells of a queue on the connected cluster; returns early, without an error, when interrupted.

    One trial is one cell. Workers are reused, so that a short cell does not pay for a process and for importing torch.
    A cell whose worker died comes back from the queue as a new trial: Tune's own retries hand the same trial to the
    dead worker that it wants to reuse, again and again, until none is left (Ray 2.60).

    Args:
        queue: the cells.
        context: what all trials share.
        store: where results go.
        resources: what a trial gets.
        listeners: hear what happens.
        snapshots: where Tune may keep files of its own meanwhile; on a cluster its nodes must share it.

    Raises:
        InputError: if the store takes no more results. The cells that it has are kept.
    """
    # Tune would print each failure and its traceback: listeners tell of it, and the store keeps the traceback.
    for name in TELL_FAILURES:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # A searcher's trials wait one by one otherwise, and a worker that ends has none to go on with.
    os.environ.setdefault("TUNE_MAX_PENDING_TRIALS_PG", str(_slots(resources) + 1))
    events = CellEvents(queue, context, store, listeners)
    # Two experiments of one name would mix their files.
    name = f"{context.sweep}-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
    tuner = tune.Tuner(
        tune.with_resources(
            tune.with_parameters(_trainable, context=context), {"cpu": resources.cpu, "gpu": resources.gpu}
        ),
        tune_config=tune.TuneConfig(
            search_alg=_CellSearcher(queue),
            num_samples=-1,
            reuse_actors=True,
            trial_name_creator=_cell_of,
            trial_dirname_creator=lambda trial: f"{_cell_of(trial)}-{trial.trial_id}",
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=str(snapshots),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=0),
            callbacks=[events],
            stop=_StopAtProblem(events),
        ),
    )
    try:
        tuner.fit()
    finally:
        # The store is what counts; Tune's own snapshots are never restored.
        shutil.rmtree(snapshots / name, ignore_errors=True)
    if events.problem:
        raise InputError(f"{events.problem.rstrip('.')}. Finished cells are kept; then go on with the same command")


def _slots(resources: Resources) -> int:
    """How many trials the cluster can run at once."""
    here = ray.cluster_resources()
    wanted = {"CPU": resources.cpu, "GPU": resources.gpu}
    return min(int(here.get(name, 0.0) / amount) for name, amount in wanted.items() if amount)


def _trainable(config: dict[str, Any], context: TrialContext) -> None:
    tune.report(asdict(run_cell(config["config"], context, stop_collapsed=config["stop_collapsed"])))


def _cell_of(trial: Any) -> str:
    return str(trial.config["cell"])


def _config_of(trial: Any) -> RunConfig:
    config: RunConfig = trial.config["config"]
    return config


class _NeverPickled:
    """Tune pickles what it is given for a restore of its own that we never ask for: there is nothing to keep."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _CellSearcher(_NeverPickled, Searcher):
    """Makes a trial of each cell that the queue hands out."""

    def __init__(self, queue: CellQueue) -> None:
        super().__init__()
        self._queue = queue

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next cell; its configuration travels with the trial."""
        taken = self._queue.take()
        if taken is None:
            return Searcher.FINISHED if self._queue.done else None
        cell, config = taken
        return {"cell": cell, "config": config, "stop_collapsed": self._queue.may_stop(cell)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: `CellEvents` hears of it, and why."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the store is what a launch goes on from."""


class CellEvents(_NeverPickled, tune.Callback):
    """Tells queue and listeners what happens to trials, and records cells that are not tried again.

    Attributes:
        problem: why the store takes no more results; empty while it does.
    """

    def __init__(
        self, queue: CellQueue, context: TrialContext, store: ResultStore, listeners: Sequence[CellListener]
    ) -> None:
        self._queue = queue
        self._context = context
        self._store = store
        self._listeners = listeners
        self.problem = ""

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A worker took a trial."""
        for listener in self._listeners:
            listener.cell_started(_cell_of(trial))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial reported how its cell ended."""
        self._ended(
            _cell_of(trial), CellEnd(**{field.name: trial.last_result[field.name] for field in fields(CellEnd)})
        )

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's worker died, or raised what may pass."""
        cell, details = _cell_of(trial), _error_text(trial)
        reason = _reason(details)
        if self._queue.retry(cell):
            self._tell(cell, CellEnd("retry", reason=reason))
            return
        context = self._context
        try:
            self._store.write_failure(
                _config_of(trial), reason, sweep=context.sweep, git_commit=context.git_commit, traceback=details
            )
        except UnwritableError as error:
            self._ended(cell, CellEnd("unwritten", reason=str(error)))
            return
        self._ended(cell, CellEnd("failed", reason=reason))

    def _ended(self, cell: str, end: CellEnd) -> None:
        if end.status in ("done", "failed"):
            self._queue.end(cell, end.status)
        else:
            self.problem = end.reason
        self._tell(cell, end)

    def _tell(self, cell: str, end: CellEnd) -> None:
        for listener in self._listeners:
            listener.cell_ended(cell, end)


class _StopAtProblem(tune.Stopper):
    """Ends all trials when the store takes no more results."""

    def __init__(self, events: CellEvents) -> None:
        self._events = events

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Ends no trial by itself."""
        return False

    def stop_all(self) -> bool:
        """Whether to end all."""
        return bool(self._events.problem)


def _error_text(trial: Any) -> str:
    try:
        return Path(trial.error_file).read_text() if trial.error_file else ""
    except OSError:
        return ""


def _reason(details: str) -> str:
    """The line of Tune's error text that says most: the exception, or that the worker died."""
    if not details.strip() or "The actor died" in details or "The actor is dead" in details:
        return "its worker process died (killed, out of memory, or crashed)"
    return details.strip().splitlines()[-1]
