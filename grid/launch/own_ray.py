"""Ray on this machine for one launch: on loopback, behind a token of its own, in a folder only its owner can enter."""

from __future__ import annotations

import functools
import ipaddress
import os
import secrets
import signal
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from grid.background import repeating
from grid.events import LaunchError
from grid.launch.environment import QUIET, fresh_ray, silent
from grid.launch.head_watch import end_process
from grid.launch.private_folder import RAY, TUNE, private_folder, remove_folder
from tta_core.errors import InputError

PAUSES = (0, 10, 30)
"""Seconds before each try to start Ray."""

PARTS = ("gcs_server", "raylet")
"""Processes of Ray without which nothing runs. Ray would notice after a minute, and abort this process (2.60)."""

LOOK_SECONDS = 1.0

START_PATIENCE = 15.0
"""How long a start may go on without one of them: Ray takes the others away, and starts again."""

TO_GROUPS = (signal.SIGTERM, signal.SIGHUP)
"""What batch systems, `timeout` and terminals send to all processes of a command: the driver ends the others."""


@contextmanager
def own_ray() -> Iterator[Path]:
    """Runs Ray while the context lasts.

    Yields:
        A folder for Tune's files, which goes with the context.

    Raises:
        InputError: if Ray would listen to others, or there is no folder for it.
        LaunchError: if it does not start.
    """
    private = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        # Ray's name for: every process listens on loopback only.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # While workers are awaited that no cell asked for, the loss of a raylet ends this process with status 1 (2.60).
        "RAY_prestart_worker_first_driver": "0",
        # What the user has for a cluster. Ray does not come up where there is no such file.
        "RAY_AUTH_TOKEN_PATH": None,
        "RAY_ADDRESS": None,
    }
    with private_folder() as folder, _environment(private):
        ray = fresh_ray()
        if not ipaddress.ip_address(ray.util.get_node_ip_address()).is_loopback:
            raise InputError(
                "Ray would listen on all interfaces of this machine, since it was imported before the launch began: "
                "launch in a process that has not imported ray, or with the command tta-grid"
            )
        try:
            _start(ray, folder / RAY)
            with silent(ray), _watching(folder):
                yield folder / TUNE
        finally:
            _shut_down(ray)


def _start(ray: Any, folder: Path) -> None:
    """Starts Ray, and starts it again where it does not come up.

    On a busy machine it often does not: its node gives up if the Python processes beside it take 15 s to import Ray,
    and no setting moves that (2.60).
    """
    import psutil  # Ray brings it along.

    known = psutil.Process().children()
    for pause in PAUSES:
        time.sleep(pause)
        try:
            with _fewer_processes(ray), _passed_on_blocked(TO_GROUPS), _watching(folder.parent, START_PATIENCE):
                ray.init("local", include_dashboard=False, _temp_dir=str(folder), **QUIET)
            return
        except Exception as error:  # Ray raises this very class, and whatever else it met.
            problem = error
        ray.shutdown()
        # Ray forgets the processes of a start that failed.
        started = [child for child in psutil.Process().children(recursive=True) if child not in known]
        for child in started:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        psutil.wait_procs(started, timeout=10)
    words = next(iter(str(problem).splitlines()), type(problem).__name__)
    raise LaunchError(
        f"Ray did not start on this machine, tried {len(PAUSES)} times ({words}): the machine may be too busy, or "
        "without memory or disk. Finished cells are kept: go on later with the same command"
    ) from problem


def _shut_down(ray: Any) -> None:
    """Disconnects, and kills Ray's processes at once: they do not hear SIGTERM, for which Ray would wait."""
    node = ray._private.worker._global_node
    if node is not None:
        kill = node.kill_all_processes
        node.kill_all_processes = lambda **_: kill(check_alive=False, allow_graceful=False)
    ray.shutdown()


@contextmanager
def _watching(folder: Path, patience: float = 0.0) -> Iterator[None]:
    """Ends this process, and what Ray left, if a part of Ray ends and the context lasts so many seconds more."""
    import psutil

    parts: dict[Any, str] = {}
    ended: list[float] = []

    def look() -> None:
        with suppress(psutil.NoSuchProcess):
            parts.update({child: child.name() for child in psutil.Process().children() if child.name() in PARTS})
        gone, _ = psutil.wait_procs(parts, timeout=0)
        ended.extend(time.monotonic() for _ in gone)
        if gone and time.monotonic() - ended[0] >= patience:
            remove_folder(folder)
            end_process(
                f"Error: Ray on this machine was lost (its {parts[gone[0]]} was killed, or crashed). Finished cells "
                "are kept: go on with the same command"
            )

    try:
        with repeating(look, LOOK_SECONDS, name="ray-watch"):
            yield
    finally:
        if not patience:
            look()


@contextmanager
def _passed_on_blocked(signals: Iterable[signal.Signals]) -> Iterator[None]:
    """Blocks signals in processes that are started while the context lasts; here they wait for its end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _fewer_processes(ray: Any) -> Iterator[None]:
    """Leaves out what only clusters need, the autoscaler's monitor, and what prints logs of workers: 200 MB less."""
    parameter = ray._private.parameter
    plain = parameter.RayParams
    parameter.RayParams = functools.partial(plain, no_monitor=True, include_log_monitor=False)
    try:
        yield
    finally:
        parameter.RayParams = plain


@contextmanager
def _environment(values: Mapping[str, str | None]) -> Iterator[None]:
    """Sets environment variables while the context lasts, or takes away those that are None."""
    before = {name: os.environ.get(name) for name in values}
    try:
        _set_environment(values)
        yield
    finally:
        _set_environment(before)


def _set_environment(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
