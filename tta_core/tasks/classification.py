"""Classification: one class for each image."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from tta_core.methods.common.losses import softmax_entropy, widened
from tta_core.tasks.base import Columns, Scores, Task


class Classification(Task):
    """A sample is an image, and right or wrong."""

    metric = "accuracy"

    def outcomes(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Each sample's outcome.

        Args:
            logits: `(batch, classes)`.
            labels: `(batch,)`.

        Returns:
            `label` as given, `prediction` (class), `confidence` (largest softmax probability), `entropy` (nat) and
            `in_top5`, each `(batch,)`.
        """
        confidence, prediction = widened(logits).softmax(dim=-1).max(dim=-1)
        best = logits.topk(min(5, logits.shape[-1]), dim=-1).indices
        return {
            "label": labels,
            "prediction": prediction,
            "confidence": confidence,
            "entropy": softmax_entropy(logits),
            "in_top5": (best == labels.unsqueeze(-1)).any(dim=-1),
        }

    def scores(self, samples: Columns) -> Scores:
        """Top-1 and, where it was kept, top-5 accuracy."""
        accuracy = float(np.count_nonzero(samples["prediction"] == samples["label"]) / len(samples["label"]))
        best = samples.get("in_top5")
        return Scores(accuracy, accuracy, accuracy5=None if best is None else float(best.mean()))
