"""Notices that the images have changed: follows the descriptor of the current domain (imse §1.7 and §1.9)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from tta_core.errors import InputError
from tta_core.methods.imse.descriptor import Descriptor, average, blend, distance
from tta_core.methods.imse.spec import IMSESettings


class DomainTracker:
    """Compares each batch with the running descriptor of the current domain, and with that alone.

    Attributes:
        current: running descriptor of the current domain; None before its first full batch.
        full_batch: images in a full batch; the largest seen so far if the stream does not say.
    """

    def __init__(self, settings: IMSESettings, batch_size: int | None) -> None:
        self.settings = settings
        self.batch_size = batch_size
        self.full_batch = batch_size or 0
        self.current: Descriptor | None = None

    def observe(
        self, batch: Descriptor, images: int, ask: Callable[[Descriptor], Tensor]
    ) -> tuple[Tensor, Descriptor | None, list[float]]:
        """Takes in the descriptor of a batch.

        Waits for the device once: whether there is a shift decides what is computed next, and how large the bank is.

        Args:
            batch: the batch's descriptor.
            images: number of images in it.
            ask: what else is to be read of the current domain, numbers `(n,)` of its descriptor.

        Returns:
            The distance from the current domain `()`, 0 where there is nothing to compare with; the descriptor of the
            domain that this batch ended, without the batch itself, None if it goes on; and what was asked of that.
        """
        settings = self.settings
        if self.batch_size is None:
            self.full_batch = max(self.full_batch, images)
        full = images >= self.full_batch
        found, ended, answer = torch.zeros_like(batch.mean[0]), None, []
        if self.current is not None:
            found = distance(self.current, batch, settings.shift_distance, settings.variance_epsilon)
            if full or settings.tail_batch_detection:
                shifted = (found > settings.shift_threshold).to(found)
                # All in one wait, whether or not it will be needed.
                differs, *answer = torch.cat([shifted.view(1), ask(self.current)]).tolist()
                if differs:
                    ended, self.current = self.current, None
        if full:
            self.current = batch if self.current is None else blend(self.current, batch, settings.descriptor_ema)
        return found, ended, answer

    def state_dict(self) -> dict[str, Any]:
        """Everything that later batches depend on."""
        current = self.current and (self.current.mean, self.current.variance)
        return {"full_batch": self.full_batch, "current": current}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        self.full_batch = state["full_batch"]
        self.current = state["current"] and Descriptor(*state["current"])


def source_descriptor(
    batches: Iterable[Tensor], describe: Callable[[Tensor], Descriptor], settings: IMSESettings
) -> Descriptor:
    """Describes the source by the first `source_samples` images.

    Args:
        batches: source images `(batch, channels, height, width)`.
        describe: gives the descriptor of such a batch.
        settings: `source_descriptor` says whether batches are pooled or follow each other like those of a domain, in
            which case those of less than full size are left out.

    Raises:
        InputError: if there are no source images.
    """
    described: list[tuple[Descriptor, int]] = []
    missing = settings.source_samples
    for images in batches:
        described.append((describe(images[:missing]), min(len(images), missing)))
        missing -= described[-1][1]
        if missing == 0:
            break
    if not described:
        raise InputError("imse was given source images without a single batch: give at least one")
    if settings.source_descriptor == "mean":
        return average(described)
    full_batch = described[0][1]
    full = [descriptor for descriptor, images in described if images == full_batch]
    return reduce(lambda old, new: blend(old, new, settings.descriptor_ema), full)
