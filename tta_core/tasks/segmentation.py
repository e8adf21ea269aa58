"""Segmentation: one class for each pixel, scored by counts over images."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from tta_core.data.files.label_maps import IGNORED
from tta_core.methods.common.losses import widened
from tta_core.tasks.base import Columns, Scores, Task

COUNTS = ("intersection", "predicted", "labelled")
"""The outcomes that scores are made of."""


class Segmentation(Task):
    """A sample is an image; of its pixels only counts by class are kept, never a map."""

    metric = "miou"

    def outcomes(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Each image's counts over the pixels that are scored.

        Args:
            logits: `(batch, classes, height, width)`; enlarged bilinearly to the size of the labels if they differ.
            labels: uint8 `(batch, height, width)`, 255 where a pixel is not scored.

        Returns:
            `intersection`, `predicted` and `labelled`: pixels of each class that are right, predicted and labelled so,
            int64 `(batch, classes)`; mean `confidence` and `entropy` (nat) of pixels `(batch,)`, 0 if none is scored.
        """
        logits = widened(logits)
        if logits.shape[-2:] != labels.shape[-2:]:
            logits = functional.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=False)
        classes = logits.shape[1]
        log_probabilities = logits.log_softmax(dim=1)
        best, prediction = log_probabilities.max(dim=1)
        scored = labels != IGNORED
        wanted = torch.where(scored, labels.long(), classes)
        prediction = torch.where(scored, prediction, classes)
        right = torch.where(prediction == wanted, wanted, classes)
        pixels = scored.sum(dim=(1, 2)).clamp(min=1)
        entropy = -(log_probabilities.exp() * log_probabilities).sum(dim=1)
        return {
            "intersection": _counts(right, classes),
            "predicted": _counts(prediction, classes),
            "labelled": _counts(wanted, classes),
            "confidence": torch.where(scored, best.exp(), 0).sum(dim=(1, 2)) / pixels,
            "entropy": torch.where(scored, entropy, 0).sum(dim=(1, 2)) / pixels,
        }

    def scores(self, samples: Columns) -> Scores:
        """Mean intersection over union, pixel accuracy, and mean accuracy of classes.

        Each is of all images of a segment together, and the mean over the segments: so tables are published.
        """
        parts = [
            self._together({name: samples[name][samples["segment"] == segment] for name in COUNTS})
            for segment in np.unique(samples["segment"])
        ]
        return Scores(
            float(np.mean([part.score for part in parts])),
            float(np.mean([part.accuracy for part in parts])),
            class_accuracy=float(np.mean([part.class_accuracy or 0.0 for part in parts])),
        )

    def _together(self, samples: Columns) -> Scores:
        hits, predicted, labelled = (samples[name].sum(axis=0) for name in COUNTS)
        total = int(labelled.sum())
        accuracy = float(hits.sum() / total) if total else 0.0
        return Scores(
            _mean_share(hits, predicted + labelled - hits), accuracy, class_accuracy=_mean_share(hits, labelled)
        )


def _counts(numbers: Tensor, classes: int) -> Tensor:
    """How often each number below `classes` is in each map: `(batch, height, width)` -> `(batch, classes)`."""
    flat = numbers.flatten(1)
    found = torch.zeros(len(flat), classes + 1, dtype=torch.int64, device=flat.device)
    return found.scatter_add_(1, flat, torch.ones_like(flat))[:, :classes]


def _mean_share(parts: NDArray[np.int64], wholes: NDArray[np.int64]) -> float:
    """Mean over classes with any of `part / whole`; 0 if there is none."""
    there = wholes > 0
    return float((parts[there] / wholes[there]).mean()) if there.any() else 0.0
