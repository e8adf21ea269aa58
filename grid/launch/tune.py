"""Runs cells as Ray Tune trials. Imports ray: set the switches of `grid.launch.environment` before importing this."""

from __future__ import annotations

import logging
import os
import socket
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.search import Searcher

from grid.events import CellEnd, CellListener, LaunchError, StoppedError
from grid.launch.nodes import rooms
from grid.launch.queue import CellQueue
from grid.launch.reasons import death_of
from grid.launch.trial import TrialContext, run_cell
from grid.launch.waiting import Waiting
from grid.plan.memory import gpu_share
from grid.plan.sweep import Resources
from grid.store.objects import Objects
from grid.store.store import FULL, ResultStore, UnwritableError
from tta_core.run.config import RunConfig

TELL_FAILURES = ("ray.tune.execution.tune_controller", "ray.tune.tune")
"""Loggers of Tune that print trials that failed."""

MOST_ASKED = 64
"""Trials that a cluster is asked for beyond those that it can hold now: it grows by what it is asked for."""

ARRIVAL_SECONDS = 60.0
"""How long a file system may take to show the driver what a node wrote; NFS looks again after a minute."""


def run_cells(
    queue: CellQueue,
    context: TrialContext,
    store: ResultStore,
    resources: Resources,
    listeners: Sequence[CellListener],
    *,
    snapshots: str | Path,
    most_waiting: float | None = None,
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
        snapshots: path or URL where Tune may keep files of its own meanwhile; on a cluster its nodes must share it.
        most_waiting: seconds after which a launch ends for which no node has room; None for never.

    Raises:
        StoppedError: if the store or the folder for Tune's files takes no more, or a node cannot run cells.
        LaunchError: if no node had room for too long.
    """
    # Tune would print each failure and its traceback: listeners tell of it, and the store keeps the traceback.
    for name in TELL_FAILURES:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if resources.auto and context.mark is None and not ray.cluster_resources().get("GPU"):
        resources = resources.model_copy(update={"auto": False, "gpu": 0.0})
    # A searcher's trials wait one by one otherwise, and a worker that ends has none to go on with.
    asked = _slots(resources) + (1 if context.mark is None else MOST_ASKED)
    os.environ.setdefault("TUNE_MAX_PENDING_TRIALS_PG", str(asked))
    waiting = Waiting(resources, rooms, alone=context.mark is None, most_seconds=most_waiting)
    events = CellEvents(queue, context, store, listeners, waiting)
    # Two experiments of one name would mix their files.
    name = f"{context.sweep}-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
    tuner = tune.Tuner(
        tune.with_resources(
            tune.with_parameters(_trainable, context=context),
            _share if resources.auto else {"cpu": resources.cpu, "gpu": resources.gpu},
        ),
        tune_config=tune.TuneConfig(
            search_alg=_CellSearcher(queue, resources),
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
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise StoppedError(
            f"Ray has no room for its files in {snapshots} ({os.strerror(error.errno)}): make room, or name another "
            "folder with TMPDIR. Finished cells are kept; then go on with the same command"
        ) from error
    finally:
        # The store is what counts; Tune's own snapshots are never restored.
        with suppress(OSError):
            Objects(str(snapshots)).delete(name)
    if events.problem:
        raise StoppedError(f"{events.problem.rstrip('.')}. Finished cells are kept; then go on with the same command")
    if waiting.given_up:
        raise LaunchError(
            f"{waiting.reason}, for longer than --wait allows: add nodes, or let a trial ask for less (resources). "
            "Finished cells are kept; then go on with the same command"
        )


def _slots(resources: Resources) -> int:
    """How many trials the cluster can run at once."""
    here = ray.cluster_resources()
    wanted = {"CPU": resources.cpu, "GPU": resources.gpu}
    return min(int(here.get(name, 0.0) / amount) for name, amount in wanted.items() if amount)


def _trainable(config: dict[str, Any], context: TrialContext) -> None:
    tune.report(asdict(run_cell(config["config"], context, stop_collapsed=config["stop_collapsed"])))


def _share(trial: dict[str, Any]) -> tune.PlacementGroupFactory:
    """What a trial of `resources: auto` gets."""
    return tune.PlacementGroupFactory([{"CPU": trial["cpu"], "GPU": trial["gpu"]}])


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

    def __init__(self, queue: CellQueue, resources: Resources) -> None:
        super().__init__()
        self._queue = queue
        self._resources = resources

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next cell; its configuration travels with the trial."""
        taken = self._queue.take()
        if taken is None:
            return Searcher.FINISHED if self._queue.done else None
        cell, config = taken
        trial = {"cell": cell, "config": config, "stop_collapsed": self._queue.may_stop(cell)}
        if self._resources.auto:
            # The table may be wrong: what died, maybe for lack of memory, has a GPU of its own when tried again.
            share = 1.0 if self._queue.died(cell) else gpu_share(config, self._resources)
            trial |= {"cpu": self._resources.cpu, "gpu": share}
        return trial

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: `CellEvents` hears of it, and why."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the store is what a launch goes on from."""


class CellEvents(_NeverPickled, tune.Callback):
    """Tells queue and listeners what happens to trials, and records cells that are not tried again.

    Attributes:
        problem: why no more cells can run; empty while they can.
    """

    def __init__(
        self,
        queue: CellQueue,
        context: TrialContext,
        store: ResultStore,
        listeners: Sequence[CellListener],
        waiting: Waiting | None = None,
    ) -> None:
        self._queue = queue
        self._context = context
        self._store = store
        self._listeners = listeners
        self._waiting = waiting
        self._running: set[str] = set()
        self.problem = ""

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Tune looked after all trials, as it does several times a second."""
        if self._waiting and (reason := self._waiting.look(running=bool(self._running))):
            for listener in self._listeners:
                listener.waiting(reason)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A worker took a trial."""
        self._running.add(_cell_of(trial))
        for listener in self._listeners:
            listener.cell_started(_cell_of(trial))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial reported how its cell ended."""
        cell = _cell_of(trial)
        end = CellEnd(**{field.name: trial.last_result[field.name] for field in fields(CellEnd)})
        if end.status in ("done", "failed") and not self._arrives(cell, end):
            reason = (
                f"the node {end.node} says that the cell {cell} is {end.status}, and {self._store.shown} does not "
                "have it here: it lies in another folder of that path there. Give --results on a file system that the "
                "driver and all nodes share"
            )
            end = CellEnd("unwritten", reason=reason)
        self._ended(cell, end)

    def _arrives(self, cell: str, end: CellEnd) -> bool:
        """Whether the driver finds what a node wrote."""
        if not end.node and self._store.mirror is None:
            return True
        ends = time.monotonic() + ARRIVAL_SECONDS
        while not self._store.has(cell):
            if time.monotonic() > ends:
                return False
            time.sleep(1)
        return True

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's worker died, or raised what may pass."""
        cell, details = _cell_of(trial), _error_text(trial)
        death = death_of(details)
        reason = death.reason
        if death.hopeless:
            self._ended(cell, CellEnd("unwritten", reason=reason))
            return
        if self._queue.retry(cell, node_lost=death.node_lost):
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

    @property
    def ends(self) -> bool:
        """Whether the launch ends here, with cells left."""
        return bool(self.problem) or (self._waiting is not None and self._waiting.given_up)

    def _ended(self, cell: str, end: CellEnd) -> None:
        if end.status in ("done", "failed"):
            self._queue.end(cell, end.status)
        else:
            self.problem = end.reason
        self._tell(cell, end)

    def _tell(self, cell: str, end: CellEnd) -> None:
        self._running.discard(cell)
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
        return self._events.ends


def _error_text(trial: Any) -> str:
    try:
        return Path(trial.error_file).read_text() if trial.error_file else ""
    except OSError:
        return ""
