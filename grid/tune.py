"""Runs cells as Ray Tune trials."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Protocol

from grid.environment import SWITCHES, set_switches
from grid.store import ResultStore
from grid.sweep import Resources
from grid.trial import CellEnd, Launch, run_cell
from tta_core.errors import InputError


class CellListener(Protocol):
    """Hears what happens to cells, in the driver."""

    def cell_started(self, cell: str) -> None:
        """A worker took the cell."""

    def cell_ended(self, cell: str, end: CellEnd) -> None:
        """The cell is in the store, finished or failed."""


def run_cells(
    launch: Launch, store: ResultStore, resources: Resources, listeners: Sequence[CellListener], address: str | None
) -> None:
    """Runs all cells of a launch; returns when each is in the store, or when the user interrupted.

    One trial is one cell. Workers are reused, so that a short cell does not pay for a process and for importing torch.
    A trial whose worker died is tried again; what is finished is in the store whatever happens here.

    Raises:
        InputError: if the cluster cannot be reached or can never hold a trial.
    """
    with _cluster(address, resources):
        from ray import tune

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
                name=launch_name(launch),
                storage_path=str(store.folder / ".tune"),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=resources.max_retries),
                callbacks=[_callback(launch, store, listeners)],
            ),
        )
        try:
            tuner.fit()
        finally:
            # The store is what counts; Tune's own snapshots are never restored.
            shutil.rmtree(store.folder / ".tune" / launch_name(launch), ignore_errors=True)


def launch_name(launch: Launch) -> str:
    """Name of the Tune experiment: unique, since two experiments of one name would mix their files."""
    return f"{launch.sweep}-{socket.gethostname()}-{os.getpid()}"


def _trainable(config: dict[str, Any], launch: Launch) -> None:
    from ray import tune

    tune.report(asdict(run_cell(config["cell"], launch)))


def _cell_of(trial: Any) -> str:
    return str(trial.config["cell"])


def _callback(launch: Launch, store: ResultStore, listeners: Sequence[CellListener]) -> Any:
    """Tells the listeners, and records cells whose worker failed for good."""
    from ray import tune

    class CellEvents(tune.Callback):
        def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            for listener in listeners:
                listener.cell_started(_cell_of(trial))

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            names = [field.name for field in fields(CellEnd)]
            self._ended(_cell_of(trial), CellEnd(**{name: trial.last_result[name] for name in names}))

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            cell = _cell_of(trial)
            details = _error_text(trial)
            reason = details.strip().splitlines()[-1] if details.strip() else "its worker died"
            store.write_failure(
                launch.cells[cell], reason, sweep=launch.sweep, git_commit=launch.git_commit, traceback=details
            )
            self._ended(cell, CellEnd("failed", reason=reason))

        def _ended(self, cell: str, end: CellEnd) -> None:
            for listener in listeners:
                listener.cell_ended(cell, end)

    return CellEvents()


def _error_text(trial: Any) -> str:
    try:
        return Path(trial.error_file).read_text() if trial.error_file else ""
    except OSError:
        return ""


@contextmanager
def _cluster(address: str | None, resources: Resources) -> Iterator[None]:
    """Connects to Ray, or starts it here for as long as the context lasts."""
    set_switches(local_cluster=address is None)
    if address is not None:
        _check_reachable(address)
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        if address is None:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
            _check_fits(resources, ray.cluster_resources())
        else:
            environment = {name: os.environ[name] for name in SWITCHES}
            ray.init(
                address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env={"env_vars": environment},
            )
        with _terminate_like_interrupt():
            yield
    except ConnectionError as error:
        raise InputError(f"no Ray cluster at {address!r} ({error}): start one, or leave --address out") from None
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Fails within seconds where Ray would wait for minutes."""
    if address in ("auto", "local") or "://" in address:
        return
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        raise InputError(f"address {address!r}: give host:port of a Ray head, or auto")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError as error:
        raise InputError(
            f"no Ray head answers at {address!r} ({error}): start it, give another --address, or leave it out to "
            "run on this machine"
        ) from None


def _check_fits(resources: Resources, available: dict[str, float]) -> None:
    for name, wanted in (("CPU", resources.cpu), ("GPU", resources.gpu)):
        if wanted > available.get(name, 0.0):
            raise InputError(
                f"a trial asks for {wanted:g} {name}, this machine has {available.get(name, 0.0):g}: lower "
                f"resources.{name.lower()} in the sweep (or --set resources.{name.lower()}=N), or give a cluster's "
                "--address"
            )


@contextmanager
def _terminate_like_interrupt() -> Iterator[None]:
    """Makes SIGTERM, which batch systems send before they kill, end the sweep as Ctrl-C does."""
    previous = signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
