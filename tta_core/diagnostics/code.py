"""Spectral codes: how far they drift, which spectral experts change most, whether domains agree (imse §7.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from tta_core.diagnostics.directions import Directions, cosines, entries
from tta_core.diagnostics.observer import Measurement, Moment, Observer, Scene, Segment
from tta_core.methods.base import Method

LARGEST = 5
"""Number of the most increased and of the most decreased experts that are reported for each layer."""


class HasCode(Protocol):
    """A method whose parameters are singular values; both give layer -> `(experts,)`."""

    def spectral_code(self) -> Mapping[str, Tensor]:
        """The code as it is."""

    def source_code(self) -> Mapping[str, Tensor]:
        """The code of the source network."""


class Code(Observer):
    """Measures the distance of the code from that of the source, whatever the stream's resets."""

    remembers = ("_drifts", "_directions")
    memory_types = (Directions,)

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._method = cast(HasCode, scene.method)
        self._source = {layer: code.detach().clone() for layer, code in self._method.source_code().items()}
        self._drifts: list[tuple[int, Tensor]] = []
        self._directions = Directions()

    @classmethod
    def applies_to(cls, method: Method[Any]) -> bool:
        """Whether the method has a spectral code."""
        return hasattr(method, "spectral_code") and hasattr(method, "source_code")

    def after_step(self, moment: Moment, logits: Tensor) -> None:
        """Keeps each layer's drift at measuring steps."""
        if moment.measuring:
            changes = self._changes()
            drifts = [change.abs().sum() / self._source[layer].abs().sum() for layer, change in changes.items()]
            self._drifts.append((moment.step, torch.stack(drifts)))

    def at_segment_end(self, segment: Segment) -> None:
        """Keeps the direction that the code has taken by the end of the segment."""
        self._directions.add(segment.domain, self._changes())

    def measurements(self) -> list[Measurement]:
        """`code_drift` by step and layer; `code_change` at the end; `code_similarity` between domains."""
        found = [
            Measurement("code_drift", value, step=step, layer=layer)
            for step, drifts in self._drifts
            for layer, value in zip(self._source, drifts.tolist(), strict=True)
        ]
        for layer, change in self._changes().items():
            found += [
                Measurement("code_change", value, layer=layer, item=expert)
                for expert, value in largest_changes(change, LARGEST)
            ]
        matrix = cosines(self._directions.products()[""])
        found += [
            Measurement("code_similarity", value, domain=domain, against=against)
            for domain, against, value in entries(self._directions.domains, matrix)
        ]
        return found

    def _changes(self) -> dict[str, Tensor]:
        code = self._method.spectral_code()
        return {layer: code[layer].detach() - source for layer, source in self._source.items()}


def largest_changes(change: Tensor, number: int) -> list[tuple[int, float]]:
    """The most increased and the most decreased entries of `(experts,)`, at most `number` of each: index and value."""
    values = change.tolist()
    upwards = sorted((i for i, value in enumerate(values) if value > 0), key=lambda i: -values[i])
    downwards = sorted((i for i, value in enumerate(values) if value < 0), key=lambda i: values[i])
    return [(i, values[i]) for i in (*upwards[:number], *downwards[:number])]
