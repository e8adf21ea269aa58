"""Ends a run whose predictions have become of few classes: no observer of a cell, a guard of cells that only choose."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tta_core.diagnostics.observer import Measurement, Moment, Observer, Scene
from tta_core.errors import COLLAPSED
from tta_core.methods.base import Method

LEAST_WINDOW = 512
"""Samples between two looks; five for each class if that is more."""

SHARE = 0.5
"""Of the entropy that the source's predictions have on the same samples: less is a collapse."""

LOOKS = 2
"""Looks in a row that must see it; twice as many of a method that recovers by itself."""


class CollapsedError(RuntimeError):
    """The predictions have become of few classes; the run was ended, and has no result."""


class CollapseGuard(Observer):
    """Compares the classes of the last predictions with those that the source predicts on the same samples.

    So streams where one class follows another raise no alarm. It reads no label. Each look waits for the device.
    """

    remembers = ("_positions", "_predictions", "_seen", "_alarms")

    def __init__(self, scene: Scene, source: NDArray[np.int32], *, recovers: bool = False) -> None:
        """Makes the guard.

        Args:
            scene: the run.
            source: `(samples,)`, what the source predicts at each position, -1 where it is not known; of segmentation
                `(samples, classes)`, how many pixels of each class.
            recovers: whether the method recovers by itself.
        """
        super().__init__(scene)
        self._source = source
        self._looks = LOOKS * (2 if recovers else 1)
        self._positions: list[Tensor] = []
        self._predictions: list[Tensor] = []
        self._seen = 0
        self._alarms = 0

    @classmethod
    def applies_to(cls, method: Method[Any]) -> bool:
        """Every method predicts."""
        return True

    def after_step(self, moment: Moment, logits: Tensor) -> None:
        """Takes note of a batch, and looks at a window when it is full.

        Raises:
            CollapsedError: if the windows of late were of few classes.
        """
        places = moment.positions
        self._positions.append(torch.arange(places.start, places.stop) if isinstance(places, slice) else places)
        best = logits.detach().argmax(dim=1)
        self._predictions.append(best if best.ndim == 1 else _pixels(best, logits.shape[1]))
        self._seen += len(logits)
        window = max(LEAST_WINDOW, 5 * logits.shape[1])
        if self._seen < window:
            return
        own = _spread(torch.cat(self._predictions).cpu().numpy())
        usual = _spread(self._source[torch.cat(self._positions).numpy()])
        self._alarms = self._alarms + 1 if own < SHARE * usual else 0
        if self._alarms >= self._looks:
            name, at = type(self.scene.method).__name__, int(self._positions[-1][-1]) + 1
            raise CollapsedError(
                f"{name} {COLLAPSED}at {at} of {len(self.scene.order)} samples its last predictions have "
                f"{own / usual:.2f} of the entropy of the source's"
            )
        self._positions, self._predictions, self._seen = [], [], 0

    def measurements(self) -> list[Measurement]:
        """Nothing: it only ends runs."""
        return []


def _pixels(maps: Tensor, classes: int) -> Tensor:
    """Pixels of each class in maps `(batch, height, width)`, `(batch, classes)`."""
    return torch.stack([torch.bincount(one.flatten(), minlength=classes) for one in maps])


def _spread(predictions: NDArray[Any]) -> float:
    """Entropy of the shares of the classes, in nat, of classes `(samples,)` or of pixels `(samples, classes)`."""
    counts = predictions.sum(axis=0) if predictions.ndim > 1 else np.bincount(predictions[predictions >= 0])
    shares = counts[counts > 0] / max(1, counts.sum())
    return float(-(shares * np.log(shares)).sum())
