"""Notices that the head of a cluster is gone, before Ray aborts the driver in mid-sentence."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from grid.background import repeating
from grid.events import LaunchError

EVERY_SECONDS = 5.0
PATIENCE_SECONDS = 40.0
"""How long the head may be silent. After 60 s without it Ray (2.60) aborts the process, and no Python code runs any
more."""


@contextmanager
def watching_head(
    address: str,
    *,
    lost: Callable[[str], None] | None = None,
    every: float = EVERY_SECONDS,
    patience: float = PATIENCE_SECONDS,
) -> Iterator[None]:
    """Looks after the head while the context lasts.

    Args:
        address: host:port of the head.
        lost: what to do when it has been silent for too long, given a message; by default the process prints it and
            ends with status 3.
        every: seconds from one look to the next.
        patience: seconds of silence.
    """
    heard = time.monotonic()

    def watch() -> bool:
        nonlocal heard
        if _answers(address, every):
            heard = time.monotonic()
        silent = time.monotonic() - heard >= patience
        if silent:
            (lost or end_process)(
                f"Error: the Ray head at {address} has not answered for {patience:.0f} s, and its cells are lost "
                "with it. Finished cells are kept: start the cluster again, then go on with the same command"
            )
        return silent

    with repeating(watch, every, name="head-watch"):
        yield


def _answers(address: str, timeout: float) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=timeout).close()
    except OSError:
        return False
    return True


def end_process(message: str, status: int = LaunchError.status) -> None:
    """Ends this process with a message, whatever its main thread does: that may sit in a call of Ray for ever."""
    sys.stdout.flush()
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()
    os._exit(status)
