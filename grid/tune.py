"""Runs cells as Ray Tune trials. Imports ray: set the switches of `grid.environment` before importing this."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Protocol

from ray import tune

from grid.store import ResultStore
from grid.sweep import Resources
from grid.trial import CellEnd, Launch, run_cell


class CellListener(Protocol):
    """Hears what happens to cells, in the driver."""

    def cell_started(self, cell: str) -> None:
        """A worker took the cell."""

    def cell_ended(self, cell: str, end: CellEnd) -> None:
        """The cell is in the store, finished or failed."""


def run_cells(launch: Launch, store: ResultStore, resources: Resources, listeners: Sequence[CellListener]) -> None:
    """Runs all cells of a launch on the connected cluster; returns early, without an error, when interrupted.

    One trial is one cell. Workers are reused, so that a short cell does not pay for a process and for importing torch.
    A trial whose worker died is tried again; what is finished is in the store whatever happens here.
    """
    # Two experiments of one name would mix their files.
    name = f"{launch.sweep}-{socket.gethostname()}-{os.getpid()}"
    tuner = tune.Tuner(
        tune.with_resources(
            tune.with_parameters(_trainable, launch=launch), {"cpu": resources.cpu, "gpu": resources.gpu}
        ),
        param_space={"cell": tune.grid_search(list(launch.cells))},
        tune_config=tune.TuneConfig(
            reuse_actors=True,
            max_concurrent_trials=resources.max_concurrent,
            trial_name_creator=_cell_of,
            trial_dirname_creator=_cell_of,
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=str(store.tune_folder),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=resources.max_retries),
            callbacks=[CellEvents(launch, store, listeners)],
        ),
    )
    try:
        tuner.fit()
    finally:
        # The store is what counts; Tune's own snapshots are never restored.
        shutil.rmtree(store.tune_folder / name, ignore_errors=True)


def _trainable(config: dict[str, Any], launch: Launch) -> None:
    tune.report(asdict(run_cell(config["cell"], launch)))


def _cell_of(trial: Any) -> str:
    return str(trial.config["cell"])


class CellEvents(tune.Callback):
    """Tells the listeners, and records cells whose worker died for good."""

    def __init__(self, launch: Launch, store: ResultStore, listeners: Sequence[CellListener]) -> None:
        self._launch = launch
        self._store = store
        self._listeners = listeners

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its callbacks for a restore of its own that we never ask for."""
        return {}

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
        """A trial died more often than it may be tried again."""
        cell, details = _cell_of(trial), _error_text(trial)
        reason = details.strip().splitlines()[-1] if details.strip() else "its worker died"
        self._store.write_failure(
            self._launch.cells[cell],
            reason,
            sweep=self._launch.sweep,
            git_commit=self._launch.git_commit,
            traceback=details,
        )
        self._ended(cell, CellEnd("failed", reason=reason))

    def _ended(self, cell: str, end: CellEnd) -> None:
        for listener in self._listeners:
            listener.cell_ended(cell, end)


def _error_text(trial: Any) -> str:
    try:
        return Path(trial.error_file).read_text() if trial.error_file else ""
    except OSError:
        return ""
