"""What rules that choose settings without labels need of the probabilities, see `analysis.aggregate.rules`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tta_core.diagnostics.observer import Measurement, Moment, Observer, Output, Scene
from tta_core.methods.base import Method

KEPT = 2048
"""Samples whose probabilities are kept."""


class OutputsKept(Observer):
    """Mean and second moments of the probabilities over the stream, and the probabilities of evenly spaced samples.

    The spaced samples are the same in all cells of one order. A step costs one product `(classes, batch, classes)`.
    """

    remembers = ("_count", "_sum", "_products", "_positions", "_probabilities")

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        samples = len(scene.order)
        self._wanted = np.unique(np.linspace(0, samples - 1, min(samples, KEPT)).astype(np.int64))
        self._count = 0
        self._sum: list[Tensor] = []
        self._products: list[Tensor] = []
        self._positions: list[Tensor] = []
        self._probabilities: list[Tensor] = []

    @classmethod
    def applies_to(cls, method: Method[Any]) -> bool:
        """Every method predicts."""
        return True

    @torch.no_grad()
    def after_step(self, moment: Moment, logits: Tensor) -> None:
        """Adds a batch."""
        probabilities = logits.float().softmax(dim=1)
        total, products = probabilities.sum(dim=0).double(), (probabilities.T @ probabilities).double()
        self._sum = [total if not self._sum else self._sum[0] + total]
        self._products = [products if not self._products else self._products[0] + products]
        self._count += len(logits)
        places = moment.positions
        positions = np.arange(places.start, places.stop) if isinstance(places, slice) else places.numpy()
        rows = np.flatnonzero(np.isin(positions, self._wanted, assume_unique=True))
        if len(rows):
            self._positions.append(torch.from_numpy(positions[rows]))
            self._probabilities.append(probabilities[torch.from_numpy(rows).to(probabilities.device)].half())

    def measurements(self) -> list[Measurement]:
        """Nothing that is one number."""
        return []

    def outputs(self) -> list[Output]:
        """`mean`, one row; `gram`, a row a class; `probabilities`, a row a kept sample, in half precision."""
        if not self._count:
            return []
        mean = (self._sum[0] / self._count).cpu().numpy()
        gram = (self._products[0] / self._count).cpu().numpy()
        positions = torch.cat(self._positions).tolist()
        kept = torch.cat(self._probabilities).float().cpu().numpy()
        return [
            Output("mean", 0, mean),
            *(Output("gram", number, row) for number, row in enumerate(gram)),
            *(Output("probabilities", position, row) for position, row in zip(positions, kept, strict=True)),
        ]
