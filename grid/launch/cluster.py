"""Connects to a Ray cluster, or starts Ray on this machine for as long as it is needed."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from grid.launch.environment import SWITCHES, set_switches
from grid.plan.sweep import Resources
from tta_core.errors import InputError


@contextmanager
def ray_cluster(address: str | None, resources: Resources) -> Iterator[None]:
    """Holds a connection to Ray while the context lasts. SIGTERM ends what runs inside as Ctrl-C does.

    Args:
        address: a Ray head (`host:port` or `auto`); None starts Ray on this machine, on loopback.
        resources: what one trial asks for.

    Raises:
        InputError: if no head answers, or this machine can never hold a trial.
    """
    set_switches(local_cluster=address is None)
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        if address is None:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
            _check_fits(resources, ray.cluster_resources())
        else:
            switches = {name: os.environ[name] for name in SWITCHES}
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR, runtime_env={"env_vars": switches})
        with terminate_like_interrupt():
            yield
    except ConnectionError as error:
        raise InputError(f"no Ray cluster at {address!r} ({error}): start one, or leave --address out") from None
    finally:
        ray.shutdown()


def check_reachable(address: str) -> None:
    """Fails within seconds where Ray would wait for minutes.

    Raises:
        InputError: if nothing answers there.
    """
    if address in ("auto", "local") or "://" in address:
        return
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


def _check_fits(resources: Resources, available: dict[str, float]) -> None:
    for name, wanted in (("CPU", resources.cpu), ("GPU", resources.gpu)):
        if wanted > available.get(name, 0.0):
            raise InputError(
                f"a trial asks for {wanted:g} {name}, this machine has {available.get(name, 0.0):g}: lower "
                f"resources.{name.lower()} in the sweep (or --set resources.{name.lower()}=N), or give a cluster's "
                "--address"
            )


@contextmanager
def terminate_like_interrupt() -> Iterator[None]:
    """Makes SIGTERM, which batch systems send before they kill, end the sweep as Ctrl-C does."""
    previous = signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
