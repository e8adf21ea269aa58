"""Connects to a Ray cluster, or starts Ray on this machine for as long as it is needed."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from grid.events import LaunchError
from grid.launch.environment import QUIET, SWITCHES, fresh_ray, leave_job_folder, set_switches, silent
from grid.launch.head_watch import watching_head
from grid.launch.own_ray import own_ray
from grid.plan.sweep import Resources
from tta_core.errors import InputError

PAUSES = (0, 5, 15)
"""Seconds before each try to connect."""


@contextmanager
def ray_cluster(address: str | None, resources: Resources) -> Iterator[Path | None]:
    """Holds a connection to Ray while the context lasts. SIGTERM ends what runs inside as Ctrl-C does.

    Args:
        address: a Ray head (`host:port` or `auto`); None starts Ray on this machine. That one listens on loopback only,
            asks for a token that is made for it, and keeps its files where no other user can enter.
        resources: what one trial asks for.

    Yields:
        A folder for Tune's files, which goes with the context; None on a cluster, whose nodes could not see it.

    Raises:
        InputError: if no head answers, or this machine can never hold a trial.
        LaunchError: if Ray does not start on this machine, or the cluster does not take the driver in.
    """
    set_switches()
    connection = own_ray() if address is None else connected(address)
    # Ray takes SIGTERM for itself when it starts.
    with terminate_like_interrupt(), connection as folder, terminate_like_interrupt():
        if address is None:
            import ray

            _check_fits(resources, ray.cluster_resources())
        yield folder


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Holds a connection to the head of a cluster, and ends the process with one message if the head is lost.

    Raises:
        InputError: if there is no head, it refuses the token, or it has other versions.
        LaunchError: if it does not take the driver in.
    """
    set_switches()
    leave_job_folder()
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    # In a job the switches may be set by the job: its values and ours are the same, and Ray asks who wins.
    os.environ.setdefault("RAY_OVERRIDE_JOB_RUNTIME_ENV", "1")
    ray = fresh_ray()
    try:
        _connect(ray, address)
        with silent(ray), watching_head(ray.get_runtime_context().gcs_address):
            yield None
    finally:
        ray.shutdown()


def _connect(ray: Any, address: str) -> None:
    """Connects, and does so again where the machine is too busy: Ray's own patience ends after 30 s."""
    switches = {name: os.environ[name] for name in SWITCHES}
    for pause in PAUSES:
        time.sleep(pause)
        try:
            ray.init(address, runtime_env={"env_vars": switches}, **QUIET)
            return
        except ray.exceptions.AuthenticationError:
            raise InputError(
                f"the Ray cluster at {address!r} refuses this token: give its own in RAY_AUTH_TOKEN, or in the file "
                "that RAY_AUTH_TOKEN_PATH names"
            ) from None
        except ConnectionError as error:
            raise InputError(
                f"no Ray cluster at {address!r} ({_first_line(error)}): start one, or leave --address out. A driver "
                "runs on a node of the cluster; from anywhere else use tta-grid submit"
            ) from None
        except Exception as error:  # Ray raises this very class, and whatever else it met.
            if "ersion mismatch" in str(error):
                raise InputError(
                    f"the cluster at {address!r} has another Python or Ray ({_first_line(error)}): install the same "
                    "on all nodes, see clusters/README.md"
                ) from None
            problem = error
        ray.shutdown()
    raise LaunchError(
        f"the Ray cluster at {address!r} did not take this driver in, tried {len(PAUSES)} times "
        f"({_first_line(problem)}): this machine may be too busy, or its own part of Ray is not running. Finished "
        "cells are kept: go on later with the same command"
    ) from problem


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def check_reachable(address: str) -> None:
    """Fails within seconds where Ray would wait for minutes.

    Raises:
        InputError: if nothing answers there, or there is no token to show.
    """
    if not (address in ("auto", "local") or "://" in address):
        host, colon, port = address.rpartition(":")
        if not colon or not port.isdigit():
            raise InputError(f"address {address!r}: give host:port of a Ray head, or auto")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except (OSError, OverflowError) as error:
            raise InputError(
                f"no Ray head answers at {address!r} ({error}): start it, give another --address, or leave it out to "
                "run on this machine"
            ) from None
    if os.environ.get("RAY_AUTH_MODE", "token").lower() == "token" and not has_token():
        raise InputError(
            f"no token for the Ray cluster at {address!r}: make one with `ray get-auth-token --generate`, copy the "
            "file to all nodes and start Ray there with RAY_AUTH_MODE=token; or set RAY_AUTH_MODE=disabled for a "
            "cluster without tokens, which anyone who reaches it controls"
        )
    if address == "auto" and not os.environ.get("RAY_ADDRESS"):
        raise InputError(
            "address 'auto' means the cluster that RAY_ADDRESS names, as it does in a job: give host:port of the head, "
            "or set RAY_ADDRESS"
        )


def has_token() -> bool:
    """Whether there is a token to show, where Ray looks for one."""
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return True
    return (Path.home() / ".ray" / "auth_token").exists()


def _check_fits(resources: Resources, available: dict[str, float]) -> None:
    for name, wanted in (("CPU", resources.cpu), ("GPU", resources.gpu)):
        # Without a GPU here, cells that choose their share take none.
        if wanted > available.get(name, 0.0) and not (name == "GPU" and resources.auto):
            raise InputError(
                f"a trial asks for {wanted:g} {name}, this machine has {available.get(name, 0.0):g}: lower "
                f"resources.{name.lower()} in the sweep (or --set resources.{name.lower()}=N), or give a cluster's "
                "--address"
            )


@contextmanager
def terminate_like_interrupt() -> Iterator[None]:
    """Makes SIGTERM of batch systems and SIGHUP of a closed terminal end the sweep as Ctrl-C does, at any moment."""
    asked = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        handler = signal.getsignal(signal.SIGINT)
        # Tune has a handler of its own. A shell ignores Ctrl-C for what it starts in the background.
        if handler is None or isinstance(handler, int) or handler is interrupt:
            handler = signal.default_int_handler
        handler(signal.SIGINT, frame)

    previous = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    for each, handler in previous.items():
        if handler is not signal.SIG_IGN:  # As nohup does.
            signal.signal(each, interrupt)
    try:
        yield
    except ImportError as error:
        # A compiled module that is interrupted in mid-import says that it cannot be imported.
        if asked:
            raise KeyboardInterrupt from error
        raise
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)
