"""Entropies and the terms that online losses are made of. Softmax and logarithms run in float32 or wider."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

HALF_PRECISIONS = (torch.float16, torch.bfloat16)


def widened(logits: Tensor) -> Tensor:
    """Returns half-precision logits as float32; wider ones as they are."""
    return logits.float() if logits.dtype in HALF_PRECISIONS else logits


def softmax_entropy(logits: Tensor) -> Tensor:
    """Entropy of the softmax in nat: `(batch, classes)` -> `(batch,)`."""
    log_probabilities = widened(logits).log_softmax(dim=-1)
    return -(log_probabilities.exp() * log_probabilities).sum(dim=-1)


def soft_cross_entropy(logits: Tensor, target_logits: Tensor) -> Tensor:
    """Cross-entropy in nat of the softmax of logits to that of a target's, both `(batch, classes)` -> `(batch,)`."""
    target = widened(target_logits).softmax(dim=-1)
    return -(target * widened(logits).log_softmax(dim=-1)).sum(dim=-1)


def symmetric_cross_entropy(logits: Tensor, target_logits: Tensor) -> Tensor:
    """Half the cross-entropy to a target and half that of the target to it: `(batch, classes)` twice -> `(batch,)`."""
    return (soft_cross_entropy(logits, target_logits) + soft_cross_entropy(target_logits, logits)) / 2


def teacher_loss(student: Tensor, teacher: Tensor, kind: Literal["symmetric", "one_directional"]) -> Tensor:
    """Mean cross-entropy in nat of two logits `(batch, classes)`, the teacher's without a graph (continual §4.3)."""
    loss = symmetric_cross_entropy if kind == "symmetric" else soft_cross_entropy
    return loss(student, teacher).mean()


def entropy_margin(coefficient: float, num_classes: int) -> float:
    """`coefficient` times the largest possible entropy, ln(classes), in nat."""
    return coefficient * math.log(num_classes)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` where `mask` holds, both `(batch,)`; exactly 0 with zero gradient where it holds nowhere.

    No host synchronisation: the number of selected samples stays on the device.
    """
    return torch.where(mask, values, 0).sum() / mask.sum().clamp(min=1)
