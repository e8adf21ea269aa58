"""Direction agreement: do the domains move the parameters the same way (moetta §6.2 and §7.1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tta_core.diagnostics.directions import Directions, cosines, entries, pairs
from tta_core.diagnostics.observer import Measurement, Observer, Scene, Segment
from tta_core.methods.base import Method


class Displacement(Observer):
    """Displacement of all trained parameters over each segment, from what they were at its start.

    Where the stream resets the method before each domain, the start is the source, the protocol of moetta §7.1;
    elsewhere it is where the segment before had left them. One copy of the parameters for each domain is kept, in the
    host's memory.
    """

    remembers = ("_start", "_directions")
    memory_types = (Directions,)

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._start: Mapping[str, Tensor] = scene.method.source_parameters
        self._directions = Directions()

    @classmethod
    def applies_to(cls, method: Method[Any]) -> bool:
        """Whether the method trains anything."""
        return bool(method.trainable_parameters())

    @torch.no_grad()
    def at_segment_end(self, segment: Segment) -> None:
        """Keeps the displacement of each layer: of the module that the parameters belong to."""
        with self.scene.off_clock():
            parameters = self.scene.method.trainable_parameters()
            parts: dict[str, list[Tensor]] = {}
            for name, parameter in parameters.items():
                moved = (parameter - self._start[name]).flatten()
                # A parameter of the network itself, such as the class token, is a layer of its own.
                parts.setdefault(name.rpartition(".")[0] or name, []).append(moved.to("cpu", torch.float32))
            self._directions.add(segment.domain, {layer: torch.cat(moved) for layer, moved in parts.items()})
            if not self.scene.order.reset_at_segments:
                self._start = {name: parameter.detach().clone() for name, parameter in parameters.items()}

    def measurements(self) -> list[Measurement]:
        """Norm of each domain's displacement, cosine of each pair; mean and least of the pairs, also in each layer."""
        products = self._directions.products()
        domains, matrix = self._directions.domains, cosines(products[""])
        found = [
            Measurement("displacement_norm", float(value), domain=domain)
            for domain, value in zip(domains, np.sqrt(np.diag(products[""])), strict=True)
        ]
        found += [
            Measurement("displacement_cosine", value, domain=domain, against=against)
            for domain, against, value in entries(domains, matrix)
        ]
        for layer, of_layer in products.items():
            defined = pairs(cosines(of_layer))
            if len(defined):
                found += [
                    Measurement("displacement_cosine_mean", float(defined.mean()), layer=layer),
                    Measurement("displacement_cosine_min", float(defined.min()), layer=layer),
                ]
        return found
