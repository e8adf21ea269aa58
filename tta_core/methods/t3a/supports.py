"""Supports of each class: unit features with the entropy of their prediction, of which the most certain are kept."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn import functional

from tta_core.methods.stateful import Remembering


class Supports(Remembering, ABC):
    """What the prototypes of the classes are made of: sums `(classes, dim)` of supports, and how many they are."""

    sums: Tensor

    @abstractmethod
    def counts(self) -> Tensor:
        """Number of supports of each class `(classes,)`."""

    @abstractmethod
    def add(self, unit: Tensor, entropy: Tensor, labels: Tensor) -> None:
        """Takes in a batch.

        Args:
            unit: features of length 1, `(batch, dim)`.
            entropy: of their predictions in nat, `(batch,)`.
            labels: the classes that they become supports of, int64 `(batch,)`.
        """

    def prototypes(self, scaled: bool) -> Tensor:
        """One for each class, `(classes, dim)`: the mean of its supports, or that scaled to length 1."""
        return functional.normalize(self.sums, dim=-1) if scaled else self.sums / self.counts()[:, None]


class FilteredSupports(Supports):
    """At most `limit` supports of each class, those of the lowest entropy; of equal ones the older stays.

    A buffer of fixed size for each class, so that nothing waits for the device.
    """

    # The sums too: they would round differently if they were made again.
    remembers = ("vectors", "entropies", "sums")

    def __init__(self, unit: Tensor, entropy: Tensor, limit: int) -> None:
        """Starts with one support for each class, `(classes, dim)`, and its entropy `(classes,)`."""
        classes, dim = unit.shape
        self.vectors = unit.new_zeros(classes, limit, dim)
        self.entropies = entropy.new_full((classes, limit), torch.inf)  # Of empty places.
        self.vectors[:, 0], self.entropies[:, 0] = unit, entropy
        self.sums = unit.clone()

    def counts(self) -> Tensor:
        """Number of supports of each class `(classes,)`."""
        return self.entropies.isfinite().sum(dim=-1)

    def add(self, unit: Tensor, entropy: Tensor, labels: Tensor) -> None:
        """Takes in a batch and lets the least certain go."""
        classes, limit, dim = self.vectors.shape
        # Only classes that occur can change. One that occurs twice is worked out twice, to the same result.
        rows = labels if len(labels) < classes else torch.arange(classes, device=labels.device)
        incoming = torch.where(labels == rows[:, None], entropy, torch.inf)
        ordered, order = torch.cat([self.entropies[rows], incoming], dim=1).sort(dim=1, stable=True)
        ordered, order = ordered[:, :limit], order[:, :limit]
        old = self.vectors[rows].gather(1, order.clamp(max=limit - 1)[..., None].expand(-1, -1, dim))
        new = unit[(order - limit).clamp(min=0)]
        kept = torch.where((order < limit)[..., None], old, new) * ordered.isfinite()[..., None]
        self.vectors.index_copy_(0, rows, kept)
        self.entropies.index_copy_(0, rows, ordered)
        self.sums.index_copy_(0, rows, kept.sum(dim=1))


class AllSupports(Supports):
    """All supports that there ever were. Only their sums and their number matter."""

    remembers = ("sums", "number")

    def __init__(self, unit: Tensor) -> None:
        """Starts with one support for each class, `(classes, dim)`."""
        self.sums = unit.clone()
        self.number = unit.new_ones(len(unit))

    def counts(self) -> Tensor:
        """Number of supports of each class `(classes,)`."""
        return self.number

    def add(self, unit: Tensor, entropy: Tensor, labels: Tensor) -> None:
        """Takes in a batch, whatever its entropy."""
        member = functional.one_hot(labels, len(self.sums)).to(unit.dtype)
        with torch.autocast(unit.device.type, enabled=False):
            self.sums += member.T @ unit  # A product adds in a fixed order.
        self.number += member.sum(dim=0)
