"""Batches that are read while the network is busy, by threads: the loop waits for no disk and no decoder."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import TypeVar

import torch

from tta_core.data.files.encoded import EncodedImages
from tta_core.data.label_space import ChosenImages
from tta_core.data.opened import DomainImages
from tta_core.device import stream_of_its_own, upload
from tta_core.machine import usable_cores
from tta_core.streams.batches import Batch

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")

AHEAD = 2
"""Batches that are read ahead by one thread."""

MOST_THREADS = 8


@contextmanager
def prefetched(
    load: Callable[[Item], Loaded], items: Iterable[Item], *, threads: int = 1
) -> Iterator[Iterator[tuple[Item, Loaded]]]:
    """Reads ahead what is iterated over: in order, a bounded number of items, in threads that end with the context.

    Args:
        load: makes one item's value; called in other threads. What it raises is raised where the item's turn comes.
        items: the items; taken one by one.
        threads: how many items are made at once.

    Yields:
        An iterator over the items with their values.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="prefetch")
    try:
        yield _in_order(pool, load, iter(items), AHEAD + threads - 1)
    finally:
        # However the context is left, nothing more is begun, and what was begun is waited for.
        pool.shutdown(wait=True, cancel_futures=True)


def _in_order(
    pool: ThreadPoolExecutor, load: Callable[[Item], Loaded], items: Iterator[Item], ahead: int
) -> Iterator[tuple[Item, Loaded]]:
    begun: deque[tuple[Item, Future[Loaded]]] = deque((item, pool.submit(load, item)) for item in islice(items, ahead))
    while begun:
        item, value = begun.popleft()
        loaded = value.result()
        begun.extend((other, pool.submit(load, other)) for other in islice(items, 1))
        yield item, loaded


def reading_threads(domains: Iterable[DomainImages]) -> int:
    """Threads that reading ahead should have: one where images are copied, several where files are decoded."""
    for domain in domains:
        images = domain.images.images if isinstance(domain.images, ChosenImages) else domain.images
        if isinstance(images, EncodedImages):
            return min(MOST_THREADS, usable_cores())
    return 1


class ToDevice:
    """Brings batches to an accelerator while it computes, on a stream of their own. Without streams does nothing.

    Attributes:
        device: the device.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = stream_of_its_own(device)

    def send(self, batch: Batch) -> Batch:
        """Begins the copy; may be called in any thread."""
        if self._stream is None:
            return batch
        with torch.get_device_module(self.device).stream(self._stream):
            return replace(batch, images=upload(torch.as_tensor(batch.images), self.device))

    def receive(self, batch: Batch) -> Batch:
        """Lets the device's current stream wait for the copy; the host does not wait."""
        if self._stream is not None and isinstance(batch.images, torch.Tensor):
            current = torch.get_device_module(self.device).current_stream(self.device)
            current.wait_stream(self._stream)
            # Else the memory could be handed out again while the current stream still reads it.
            batch.images.record_stream(current)
        return batch
