"""The memory of RoTTA: category-balanced sampling with timeliness and uncertainty (Yuan et al. 2023, algorithm 1).

Which image stays is decided on the host from predicted classes and entropies; the images stay on the device.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from typing import Any

import torch
from torch import Tensor

from tta_core.device import upload


@dataclass(frozen=True)
class Kept:
    """What is known of an image in the memory.

    Attributes:
        category: predicted class.
        uncertainty: entropy of its prediction in nat.
        born: number of samples that had been offered before it.
    """

    category: int
    uncertainty: float
    born: int


class BalancedMemory:
    """At most `capacity` images with about as many of each predicted class; old and uncertain ones leave first.

    Attributes:
        entries: what is known of each image, by slot. A slot that is taken again holds another image.
        images: `(slots, channels, height, width)`, of which the first `len(entries)` are in use; None before the first.
        offered: samples offered so far.
    """

    def __init__(self, capacity: int, num_classes: int, lambda_timeliness: float, lambda_uncertainty: float) -> None:
        self.capacity = capacity
        self.num_classes = num_classes
        self.lambda_timeliness = lambda_timeliness
        self.lambda_uncertainty = lambda_uncertainty
        self.entries: list[Kept] = []
        self.images: Tensor | None = None
        self.offered = 0
        self._taken: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.entries)

    def offer(self, category: int, uncertainty: float, position: int) -> bool:
        """Decides about one sample; if it stays, its image is fetched by the next `fetch`.

        While its class holds less than an equal share, a sample goes into a free slot, or takes the place of an image
        of the largest classes; otherwise that of an image of its own class. There it must beat the image that is worst.

        Args:
            category: predicted class.
            uncertainty: entropy of the prediction in nat.
            position: of the sample in its batch.

        Returns:
            Whether it stays.
        """
        slot = self._slot_for(category, uncertainty)
        if slot is not None:
            kept = Kept(category, uncertainty, self.offered)
            if slot == len(self.entries):
                self.entries.append(kept)
            else:
                self.entries[slot] = kept
            self._taken[slot] = position
        self.offered += 1
        return slot is not None

    def fetch(self, batch: Tensor) -> None:
        """Copies the images that stay since the last call out of their batch `(batch, channels, height, width)`."""
        if not self._taken:
            return
        if self.images is None or self.images.shape[1:] != batch.shape[1:]:
            self.images = batch.new_zeros(self.capacity, *batch.shape[1:])
        slots, positions = upload(torch.tensor([list(self._taken), list(self._taken.values())]), batch.device)
        self.images.index_copy_(0, slots, batch[positions])
        self._taken = {}

    def content(self) -> Tensor:
        """The images in use, `(images, channels, height, width)`; to be called with one at least, after `fetch`."""
        assert self.images is not None
        return self.images[: len(self.entries)]

    def ages(self) -> list[int]:
        """How many samples have been offered since each image, itself included."""
        return [self.offered - kept.born for kept in self.entries]

    def state_dict(self) -> dict[str, Any]:
        """Everything that later decisions depend on; to be called after `fetch`."""
        images = None if self.images is None else self.content()
        return {"entries": list(map(astuple, self.entries)), "images": images, "offered": self.offered}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        self.entries, self.offered = [Kept(*known) for known in state["entries"]], state["offered"]
        self.images, self._taken = None, {}
        if state["images"] is not None:
            self.images = state["images"].new_zeros(self.capacity, *state["images"].shape[1:])
            self.images[: len(self.entries)] = state["images"]

    def _slot_for(self, category: int, uncertainty: float) -> int | None:
        """The slot that a sample takes, a free one if it is the number of entries; None if it does not stay."""
        counts = Counter(kept.category for kept in self.entries)
        if counts[category] >= self.capacity / self.num_classes:
            rivals = {category}
        elif len(self.entries) < self.capacity:
            return len(self.entries)
        else:
            largest = max(counts.values())
            rivals = {name for name, count in counts.items() if count == largest}
        # Of equal ones the latest leaves, as released.
        worst = max(
            (slot for slot, kept in enumerate(self.entries) if kept.category in rivals),
            key=lambda slot: (
                self._badness(self.entries[slot].uncertainty, self.offered - self.entries[slot].born),
                self.entries[slot].born,
            ),
        )
        kept = self.entries[worst]
        stays = self._badness(kept.uncertainty, self.offered - kept.born) > self._badness(uncertainty, 0)
        return worst if stays else None

    def _badness(self, uncertainty: float, age: int) -> float:
        """How much an image should leave: timeliness and uncertainty, each in [0, 1], weighed (equation 4)."""
        timeliness = 1 / (1 + math.exp(-age / self.capacity))
        largest = math.log(self.num_classes) if self.num_classes > 1 else 1.0
        return self.lambda_timeliness * timeliness + self.lambda_uncertainty * uncertainty / largest
