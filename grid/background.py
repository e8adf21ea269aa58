"""Work that goes on beside a launch, and processes of this machine."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

JOIN_SECONDS = 10.0
"""A thread that sits in a call for longer than this is left behind."""


@contextmanager
def repeating(work: Callable[[], bool | None], every: float, *, name: str) -> Iterator[None]:
    """Does something again and again, in a thread of its own, while the context lasts.

    Args:
        work: what to do; it raises nothing, and True ends it.
        every: seconds from the beginning of the context to the first time, and from the end of one time to the next.
        name: of the thread.
    """
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(every) and not work():
            pass

    thread = threading.Thread(target=repeat, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(JOIN_SECONDS)


def lives(process: int) -> bool:
    """Whether there is a process of that number on this machine."""
    try:
        os.kill(process, 0)  # Signal 0 is sent to nobody.
    except ProcessLookupError:
        return False
    except PermissionError:  # It is another user's.
        return True
    return True
