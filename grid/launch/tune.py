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

from ray import tune

from grid.events import CellEnd, CellListener
from grid.launch.trial import Launch, run_cell
from grid.plan.sweep import Resources
from grid.store.store import ResultStore
from tta_core.errors import InputError

TELL_FAILURES = ("ray.tune.execution.tune_controller", "ray.tune.tune")
"""Loggers of Tune that print trials that failed."""


def run_cells(
    launch: Launch, store: ResultStore, resources: Resources, listeners: Sequence[CellListener], *, snapshots: Path
) -> None:
    """Runs all cells of a launch on the connected cluster; returns early, without an error, when interrupted.

    One trial is one cell. Workers are reused, so that a short cell does not pay for a process and for importing torch.
    Trials whose worker died are tried again in a round of their own: Tune's own retries hand the trial to the dead
    worker that it wants to reuse, again and again, until none is left (Ray 2.60).

    Args:
        launch: the launch.
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
    left = list(launch.cells)
    for tries_left in range(resources.max_retries, -1, -1):
        round_ = CellEvents(launch, store, listeners, may_retry=tries_left > 0)
        _run_round(left, launch, resources, round_, snapshots)
        if round_.problem:
            raise InputError(f"{round_.problem}. Finished cells are kept; then go on with the same command")
        if round_.ended < len(left):
            return  # Interrupted.
        left = round_.to_retry
        if not left:
            return


def _run_round(cells: Sequence[str], launch: Launch, resources: Resources, events: CellEvents, snapshots: Path) -> None:
    # Two experiments of one name would mix their files.
    name = f"{launch.sweep}-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
    tuner = tune.Tuner(
        tune.with_resources(
            tune.with_parameters(_trainable, launch=launch), {"cpu": resources.cpu, "gpu": resources.gpu}
        ),
        param_space={"cell": tune.grid_search(list(cells))},
        tune_config=tune.TuneConfig(
            reuse_actors=True,
            max_concurrent_trials=resources.max_concurrent,
            trial_name_creator=_cell_of,
            trial_dirname_creator=_cell_of,
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


def _trainable(config: dict[str, Any], launch: Launch) -> None:
    tune.report(asdict(run_cell(config["cell"], launch)))


def _cell_of(trial: Any) -> str:
    return str(trial.config["cell"])


class CellEvents(tune.Callback):
    """Tells the listeners what happens in one round, and records cells that are not tried again.

    Attributes:
        ended: trials that ended in whatever way.
        to_retry: cells whose trial died and may be tried again.
        problem: why the store takes no more results; empty while it does.
    """

    def __init__(
        self, launch: Launch, store: ResultStore, listeners: Sequence[CellListener], *, may_retry: bool
    ) -> None:
        self._launch = launch
        self._store = store
        self._listeners = listeners
        self._may_retry = may_retry
        self.ended = 0
        self.to_retry: list[str] = []
        self.problem = ""

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its callbacks for a restore of its own that we never ask for."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A worker took a trial."""
        for listener in self._listeners:
            listener.cell_started(_cell_of(trial))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial reported how its cell ended."""
        self._ended(trial, CellEnd(**{field.name: trial.last_result[field.name] for field in fields(CellEnd)}))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's worker died, or raised what may pass."""
        details = _error_text(trial)
        reason = _reason(details)
        if self._may_retry:
            self.to_retry.append(_cell_of(trial))
            self._ended(trial, CellEnd("retry", reason=reason))
            return
        try:
            self._store.write_failure(
                self._launch.cells[_cell_of(trial)],
                reason,
                sweep=self._launch.sweep,
                git_commit=self._launch.git_commit,
                traceback=details,
            )
        except OSError as error:
            self._ended(trial, CellEnd("unwritten", reason=self._store.unwritable(error)))
            return
        self._ended(trial, CellEnd("failed", reason=reason))

    def _ended(self, trial: Any, end: CellEnd) -> None:
        self.ended += 1
        if end.status == "unwritten":
            self.problem = end.reason
        for listener in self._listeners:
            listener.cell_ended(_cell_of(trial), end)


class _StopAtProblem(tune.Stopper):
    """Ends all trials of a round when the store takes no more results."""

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
