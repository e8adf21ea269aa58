"""What is computed from logits for each sample, and from samples for a cell."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tta_core.methods.common.losses import softmax_entropy, widened


def sample_outcomes(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Each sample's outcome from its scored logits, on the device of the logits.

    Args:
        logits: `(batch, classes)`.
        labels: `(batch,)`.

    Returns:
        `prediction` (class), `confidence` (largest softmax probability), `entropy` (nat) and `in_top5`, each
        `(batch,)`.
    """
    confidence, prediction = widened(logits).softmax(dim=-1).max(dim=-1)
    best = logits.topk(min(5, logits.shape[-1]), dim=-1).indices
    return {
        "prediction": prediction,
        "confidence": confidence,
        "entropy": softmax_entropy(logits),
        "in_top5": (best == labels.unsqueeze(-1)).any(dim=-1),
    }


def accuracy(prediction: NDArray[np.integer], label: NDArray[np.integer]) -> float:
    """Top-1 accuracy in [0, 1] of predictions and labels `(samples,)`."""
    return float(np.count_nonzero(prediction == label) / len(label))


def accuracy_per_domain(samples: Mapping[str, NDArray[np.generic]]) -> dict[str, float]:
    """Top-1 accuracy in [0, 1] by domain, from columns `domain`, `prediction` and `label` `(samples,)`."""
    correct = samples["prediction"] == samples["label"]
    return {str(name): float(correct[samples["domain"] == name].mean()) for name in np.unique(samples["domain"])}


def all_finite(tensors: Mapping[str, Tensor]) -> bool:
    """Whether no value is infinite or not a number. Waits for the device."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())
