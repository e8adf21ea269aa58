"""Supports of each class: unit features with the entropy of their prediction, of which the most certain are kept.

All start empty; the rows of the classifier are the first batch.
"""

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
        """One for each class, `(classes, dim)`: the mean of its supports, or that scaled to length 1; 0 without any."""
        if scaled:
            return functional.normalize(self.sums, dim=-1)
        return self.sums / self.counts().clamp(min=1)[:, None]


class FilteredSupports(Supports):
    """At most `limit` supports of each class, those of the lowest entropy; of equal ones the older stays.

    A buffer of fixed size for each class, so that nothing waits for the device.
    """

    # The sums too: they would round differently if they were made again.
    remembers = ("vectors", "entropies", "sums")

    def __init__(self, like: Tensor, limit: int) -> None:
        """Takes the most supports of a class, and a tensor of the shape `(classes, dim)` of the sums."""
        self.vectors = like.new_zeros(len(like), limit, like.shape[1])
        self.entropies = like.new_full((len(like), limit), torch.inf)  # Of empty places.
        self.sums = torch.zeros_like(like)

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

    def __init__(self, like: Tensor) -> None:
        """Takes a tensor of the shape `(classes, dim)` of the sums."""
        self.sums = torch.zeros_like(like)
        self.number = like.new_zeros(len(like))

    def counts(self) -> Tensor:
        """Number of supports of each class `(classes,)`."""
        return self.number

    def add(self, unit: Tensor, entropy: Tensor, labels: Tensor) -> None:
        """Takes in a batch, whatever its entropy."""
        member = functional.one_hot(labels, len(self.sums)).to(unit.dtype)
        with torch.autocast(unit.device.type, enabled=False):
            self.sums += member.T @ unit  # A product adds in a fixed order.
        self.number += member.sum(dim=0)


class DwindlingSupports(Supports):
    """All supports but one a class and step: the least certain goes, the only one too, as released (further §5).

    The first batch, the rows of the classifier, is kept whole.

    Attributes:
        vectors, entropies, labels: every support that there ever was, `(supports, dim)` and `(supports,)` twice; one
            that went has entropy -inf.
    """

    remembers = ("vectors", "entropies", "labels", "sums")

    def __init__(self, like: Tensor) -> None:
        """Takes a tensor of the shape `(classes, dim)` of the sums."""
        self.vectors = like.new_zeros(0, like.shape[1])
        self.entropies, self.labels = like.new_zeros(0), torch.zeros(0, dtype=torch.int64, device=like.device)
        self.sums = torch.zeros_like(like)

    def counts(self) -> Tensor:
        """Number of supports of each class `(classes,)`."""
        return self.sums.new_zeros(len(self.sums)).index_add_(0, self.labels, self.entropies.isfinite().to(self.sums))

    def add(self, unit: Tensor, entropy: Tensor, labels: Tensor) -> None:
        """Takes in a batch, then lets the least certain of each class go; of equal ones the latest."""
        first = not len(self.labels)
        self.vectors = torch.cat([self.vectors, unit])
        self.entropies = torch.cat([self.entropies, entropy])
        self.labels = torch.cat([self.labels, labels])
        if not first:
            largest = self.sums.new_full((len(self.sums),), -torch.inf)
            largest = largest.scatter_reduce(0, self.labels, self.entropies, "amax")
            number = torch.arange(len(self.labels), device=unit.device)
            last = torch.where(self.entropies == largest[self.labels], number, -1)
            going = torch.full_like(largest, -1, dtype=torch.int64).scatter_reduce(0, self.labels, last, "amax")
            self.entropies = torch.where(number == going[self.labels], -torch.inf, self.entropies)
        kept = torch.where(self.entropies.isfinite()[:, None], self.vectors, 0)
        self.sums = torch.zeros_like(self.sums).index_add_(0, self.labels, kept)
