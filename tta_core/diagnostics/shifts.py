"""Shift detection against the true domain changes, the bank's size, and what is retrieved (imse §1.9 and §7.3)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tta_core.diagnostics.observer import Measurement, Moment, Observer, Scene
from tta_core.methods.base import Method
from tta_core.streams.order import StreamBatch

TOLERANCES = (0, 1, 2, 3)
"""Batches that a detection may be off."""

SOURCE = "source"
"""Domain of the bank's first entry."""


class Shifts(Observer):
    """Follows a method that records `shift`, `bank_size` and `stored` at each step and shows its `last_retrieval`.

    A true change is the first batch of a segment of another domain, unless the method is reset there. Without a bank
    nothing is measured.
    """

    remembers = ("_steps", "_records", "_measured", "_retrievals")

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._steps: list[int] = []
        self._records: list[Tensor] = []
        self._measured: list[int] = []
        self._retrievals: list[tuple[int, Tensor]] = []

    @classmethod
    def applies_to(cls, method: Method[Any]) -> bool:
        """Whether the method is of a kind that detects shifts and retrieves."""
        return hasattr(method, "last_retrieval")

    def after_step(self, moment: Moment, logits: Tensor) -> None:
        """Keeps what the step recorded."""
        method: Any = self.scene.method
        self._steps.append(moment.step)
        self._records.append(torch.stack([method.record[name] for name in ("shift", "bank_size", "stored")]))
        if moment.measuring:
            self._measured.append(moment.step)
        if method.last_retrieval is not None:
            self._retrievals.append((moment.step, method.last_retrieval.detach().clone()))

    def measurements(self) -> list[Measurement]:
        """Precision, recall and F1 by tolerance, detections on short batches, bank sizes, retrieved weights."""
        shifts, sizes, stored = self._by_step()
        if not any(sizes):
            return []
        detected = [step for step, shift in enumerate(shifts) if shift]
        found = [
            Measurement(f"shift_{name}", value, item=tolerance)
            for tolerance in TOLERANCES
            for name, value in detection_scores(detected, self._true_changes(), tolerance).items()
        ]
        short = [step for step in detected if self._size(step) < self.scene.batch_size]
        found.append(Measurement("shift_tail_triggers", float(len(short))))
        found += [Measurement("bank_size", float(sizes[step]), step=step) for step in self._measured]
        entries = self._entries(stored)
        found += [
            Measurement("retrieval", weight, step, domain=self._domain(step, step + 1), against=against, item=item)
            for step, weights in self._retrievals
            for item, (against, weight) in enumerate(zip(entries[step], weights.tolist(), strict=True))
        ]
        return found

    @cached_property
    def _batches(self) -> list[StreamBatch]:
        return list(self.scene.order.batches(self.scene.batch_size))

    def _by_step(self) -> tuple[list[int], list[int], list[int]]:
        """What each step recorded; a step whose images were all left out has no shift and leaves the bank as it is."""
        rows = dict(zip(self._steps, torch.stack(self._records).int().tolist(), strict=True))
        found, size = [], 0
        for step in range(self._steps[-1] + 1):
            shift, size, entry = rows.get(step, (0, size, -1))
            found.append((shift, size, entry))
        shifts, sizes, stored = zip(*found, strict=True)
        return list(shifts), list(sizes), list(stored)

    def _true_changes(self) -> list[int]:
        """Steps that begin a segment of another domain and no reset."""
        if self.scene.order.reset_at_segments:
            return []
        segments = self.scene.segments
        return [
            later.first_step
            for earlier, later in pairwise(segments)
            if later.domain != earlier.domain or not later.domain
        ]

    def _entries(self, stored: Sequence[int]) -> list[list[str]]:
        """The domain of each entry of the bank at each step.

        What is stored when a shift is detected comes from the batches since the shift before; it is of the domain that
        most of their images are of. An entry that others are merged into is of the last.

        Args:
            stored: for each step, the entry that was stored, -1 for none.
        """
        resets = {s.first_step for s in self.scene.segments} if self.scene.order.reset_at_segments else set()
        entries, since = [SOURCE], 0
        at_step: list[list[str]] = []
        for step, entry in enumerate(stored):
            if step in resets:
                entries, since = [SOURCE], step
            if entry >= 0:
                entries = [*entries[:entry], self._domain(since, step), *entries[entry + 1 :]]
                since = step
            at_step.append(entries)
        return at_step

    def _domain(self, first: int, last: int) -> str:
        """The domain that most images of the steps `first` to `last` (exclusive) are of."""
        positions = slice(self._batches[first].start, self._batches[last - 1].stop)
        counts = np.bincount(self.scene.order.domain[positions])
        return self.scene.order.domains[counts.argmax()]

    def _size(self, step: int) -> int:
        return self._batches[step].stop - self._batches[step].start


def detection_scores(detected: Sequence[int], true: Sequence[int], tolerance: int) -> dict[str, float]:
    """Precision, recall and F1 of detections; what has an empty denominator is NaN.

    A detection is right if a true change that no other detection has taken lies at most `tolerance` batches from it,
    earlier or later; as many as possible are paired.

    Args:
        detected: steps at which a shift was detected, ascending.
        true: steps that begin a new domain, ascending.
        tolerance: in batches.
    """
    pairs = following = 0
    for step in detected:
        while following < len(true) and true[following] < step - tolerance:
            following += 1
        if following < len(true) and true[following] <= step + tolerance:
            pairs += 1
            following += 1
    parts = {"precision": len(detected), "recall": len(true), "f1": (len(detected) + len(true)) / 2}
    return {name: pairs / whole if whole else float("nan") for name, whole in parts.items()}
