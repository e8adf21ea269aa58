"""Spectral codes of the domains seen so far, found again by what their images look like (imse §1.7)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from tta_core.methods.imse.descriptor import Descriptor, distance
from tta_core.methods.imse.spec import IMSESettings
from tta_core.methods.stateful import Remembering


class Retrieval(NamedTuple):
    """What a bank answers.

    Attributes:
        distances: of every entry from the batch `(entries,)`.
        weights: of every entry in the code `(entries,)`; they sum to 1.
        entry: the nearest entry `()`; with `continual`, the one stored last.
        code: the code to go on with `(scalars,)`.
    """

    distances: Tensor
    weights: Tensor
    entry: Tensor
    code: Tensor


class SpectralBank(Remembering):
    """One entry for each domain; entry 0 is the source and never changes.

    Attributes:
        means, variances: of each domain's tokens, `(entries, channels)`.
        codes: `(entries, scalars)`: all trained singular values, one layer behind the other.
        memories: `(entries, numbers)`: Adam's memory when each was stored; no numbers unless it is ever loaded.
    """

    remembers = ("means", "variances", "codes", "memories")

    def __init__(self, settings: IMSESettings, source: Descriptor, code: Tensor, memory: Tensor) -> None:
        self.settings = settings
        self._set(source.mean[None], source.variance[None], code[None], memory[None])

    @property
    def descriptors(self) -> Descriptor:
        """Means and variances."""
        return Descriptor(self.means, self.variances)

    def __len__(self) -> int:
        return len(self.codes)

    def nearest(self, descriptor: Descriptor) -> Tensor:
        """Distance and number of the entry that a domain may be merged into, `(2,)`; `(0,)` if there is none."""
        settings = self.settings
        if len(self) == 1 or not (self._full or settings.bank_merge):
            return descriptor.mean[:0]
        targets = Descriptor(self.means[1:], self.variances[1:])
        distances = distance(targets, descriptor, settings.shift_distance, settings.variance_epsilon)
        smallest, place = distances.min(dim=0)
        return torch.stack([smallest, place.to(smallest) + 1])

    def store(self, descriptor: Descriptor, code: Tensor, memory: Tensor, nearest: Sequence[float]) -> int:
        """Stores a domain that has ended and returns its entry.

        A domain that is merged into an entry replaces its code, which it has usually started from, and moves its
        descriptor half of the way.

        Args:
            descriptor: of the domain.
            code: its code `(scalars,)`.
            memory: Adam's memory `(numbers,)`.
            nearest: what the method of that name gives for it, read by the host.
        """
        if not nearest or not (self._full or nearest[0] < self.settings.shift_threshold):
            rows: tuple[Tensor, ...] = (descriptor.mean, descriptor.variance, code, memory)
            self._set(*(torch.cat([kept, row[None]]) for kept, row in zip(self._columns(), rows, strict=True)))
            return len(self) - 1
        entry = int(nearest[1])
        mean, variance = self.means[entry] + descriptor.mean, self.variances[entry] + descriptor.variance
        rows = (mean / 2, variance / 2, code, memory)
        index = torch.full((1,), entry, device=code.device)
        self._set(*(kept.index_copy(0, index, row[None]) for kept, row in zip(self._columns(), rows, strict=True)))
        return entry

    def retrieve(self, batch: Descriptor, stored: int) -> Retrieval:
        """Chooses the code to go on with in another domain.

        Args:
            batch: descriptor of the first batch of that domain.
            stored: entry of the domain that has just ended.
        """
        settings = self.settings
        distances = distance(self.descriptors, batch, settings.retrieval_distance, settings.variance_epsilon)
        nearest = distances.argmin()
        entry = torch.full_like(nearest, stored) if settings.retrieval == "continual" else nearest
        if settings.retrieval == "mix":
            weights = (-distances / settings.temperature).softmax(dim=0)
        elif settings.retrieval == "mean":
            weights = torch.full_like(distances, 1 / len(self))
        else:
            weights = functional.one_hot(entry, len(self)).to(distances)
        return Retrieval(distances, weights, entry, self._mixed(weights))

    def _mixed(self, weights: Tensor) -> Tensor:
        """S0 + sum_k w_k (S_k - S0), `(scalars,)`; a weight of 1 gives that very code, without rounding."""
        source = self.codes[0]
        mixed = source + weights.to(source) @ (self.codes - source)
        return torch.where(weights.max() == 1, self.codes.index_select(0, weights.argmax().view(1))[0], mixed)

    @property
    def _full(self) -> bool:
        return bool(self.settings.bank_cap) and len(self) > self.settings.bank_cap

    def _columns(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.means, self.variances, self.codes, self.memories

    def _set(self, means: Tensor, variances: Tensor, codes: Tensor, memories: Tensor) -> None:
        self.means, self.variances, self.codes, self.memories = means, variances, codes, memories
