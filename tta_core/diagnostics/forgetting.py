"""Forgetting: what the method, frozen, still knows of clean images and of earlier domains (moetta §7.4, imse §7.5)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from tta_core.data.benchmarks import CLEAN
from tta_core.data.opened import DomainImages
from tta_core.diagnostics.held_out import frozen_accuracy, held_out, plain
from tta_core.diagnostics.observer import Measurement, Moment, Observer, Scene, Segment
from tta_core.methods.base import Method


class Visit(NamedTuple):
    """A run of segments of one domain.

    Attributes:
        step: number of its last batch.
        domain: its domain; empty if it holds several.
        accuracy: by its end, on each domain seen so far, in [0, 1].
    """

    step: int
    domain: str
    accuracy: Mapping[str, Tensor]


class Forgetting(Observer):
    """Evaluates with `Method.predict`, which adapts nothing, on fixed images of each domain.

    Clean images are evaluated at measuring steps and at the end of each visit to a domain; all domains seen so far at
    the end of each visit. A visit is a run of segments of one domain, whatever their severities, and evaluated at the
    severity of the cell. Its cost grows with the domains seen so far, at most `MAX_IMAGES` images each.
    """

    remembers = ("_clean", "_visits")
    memory_types = (Visit,)

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._images: dict[str, DomainImages] = {}
        self._source = frozen_accuracy(scene, scene.open_source(), self._images_of(CLEAN))
        self._clean: dict[int, Tensor] = {}
        self._visits: list[Visit] = []

    @classmethod
    def applies_to(cls, method: Method[Any]) -> bool:
        """Every method can be frozen."""
        return True

    def after_step(self, moment: Moment, logits: Tensor) -> None:
        """Evaluates clean images at measuring steps."""
        if moment.measuring:
            self._clean[moment.step] = self._accuracy(CLEAN)

    def at_segment_end(self, segment: Segment) -> None:
        """Evaluates clean images and all domains seen so far, unless the visit goes on."""
        following = self.scene.segments[segment.number + 1 : segment.number + 2]
        if any(plain(one.domain) == plain(segment.domain) != "" for one in following):
            return
        if segment.last_step not in self._clean:
            self._clean[segment.last_step] = self._accuracy(CLEAN)
        seen = np.unique(self.scene.order.domain[: segment.stop])
        names = dict.fromkeys(plain(self.scene.order.domains[number]) for number in seen)
        accuracy = {name: self._accuracy(name) for name in names}
        self._visits.append(Visit(segment.last_step, plain(segment.domain), accuracy))

    def measurements(self) -> list[Measurement]:
        """`forgetting_accuracy` on clean images by step, and on each domain after each; what follows from them.

        `forgetting_clean_drop` is the accuracy on clean images at the end minus that of the source: negative if lost.
        """
        clean = {step: float(value) for step, value in sorted(self._clean.items())}
        found = [Measurement("forgetting_accuracy", value, step, domain=CLEAN) for step, value in clean.items()]
        found += [
            Measurement("forgetting_accuracy", float(value), visit.step, domain=domain, against=visit.domain)
            for visit in self._visits
            for domain, value in visit.accuracy.items()
            if visit.domain or domain != CLEAN
        ]
        at_end = clean[max(clean)]
        found.append(Measurement("forgetting_clean_drop", at_end - float(self._source)))
        # A method that starts anew in each domain has nothing to forget.
        if not self.scene.order.reset_at_segments:
            found.append(Measurement("backward_transfer", backward_transfer(self._visits)))
        return found

    def _accuracy(self, domain: str) -> Tensor:
        with self.scene.off_clock():
            return frozen_accuracy(self.scene, self.scene.method.predict, self._images_of(domain))

    def _images_of(self, domain: str) -> DomainImages:
        if domain not in self._images:
            self._images[domain] = held_out(self.scene, domain)
        return self._images[domain]


def backward_transfer(visits: Sequence[Visit]) -> float:
    """Mean over the earlier domains i of A[end, i] - A[first visit of i, i] (imse §7.5); negative: forgotten.

    Returns:
        NaN if there are fewer than two domains, or a visit holds several at once.
    """
    if not all(visit.domain for visit in visits):
        return math.nan
    learned: dict[str, float] = {}
    for visit in visits:
        learned.setdefault(visit.domain, float(visit.accuracy[visit.domain]))
    last = visits[-1]
    changes = [float(last.accuracy[domain]) - then for domain, then in learned.items() if domain != last.domain]
    return statistics.fmean(changes) if changes else math.nan
