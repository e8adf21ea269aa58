"""What ROID is made of: weights of samples, losses, correction of the prior (Marsden et al. 2024, section 4)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from tta_core.methods.common.losses import softmax_entropy, widened


def sample_weights(logits: Tensor, trend: Tensor, temperature: float) -> Tensor:
    """Weights samples by certainty and diversity; 0 for those less diverse than the mean of the batch.

    With d = 1 - cos(p, trend) and c = -H(p), each brought to [0, 1] over the batch, a weight is exp(d c / temperature).
    Where all samples of a batch are alike in one of the two, as in a batch of one, that one is 0 for all of them; in
    the paper it is 0/0.

    Args:
        logits: `(batch, classes)`.
        trend: running mean of the predictions, `(classes,)`.
        temperature: above 0.

    Returns:
        `(batch,)`. At least one is not 0.
    """
    probabilities = widened(logits).softmax(dim=-1)
    diversity = _to_unit_range(1 - functional.cosine_similarity(probabilities, trend.unsqueeze(0), dim=-1))
    certainty = _to_unit_range(-softmax_entropy(logits))
    weights = (diversity * certainty / temperature).exp()
    return torch.where(diversity < diversity.mean(), 0, weights)


def soft_likelihood_ratio(logits: Tensor, largest_probability: float, epsilon: float) -> Tensor:
    """Negative log likelihood ratio of each class to all others, weighed by its probability.

    Its gradient does not vanish for certain predictions, unlike that of the entropy, which is why probabilities are cut
    off at `largest_probability`.

    Args:
        logits: `(batch, classes)`.
        largest_probability: below 1.
        epsilon: added to the ratio.

    Returns:
        `(batch,)`.
    """
    probabilities = widened(logits).softmax(dim=-1).clamp(max=largest_probability)
    return -(probabilities * (probabilities / (1 - probabilities) + epsilon).log()).sum(dim=-1)


def symmetric_cross_entropy(one: Tensor, other: Tensor) -> Tensor:
    """Mean of the cross-entropies in nat of two predictions to each other, both ways with a gradient.

    Args:
        one: logits `(batch, classes)`.
        other: likewise.

    Returns:
        `(batch,)`.
    """
    one_log, other_log = (widened(logits).log_softmax(dim=-1) for logits in (one, other))
    return -0.5 * (one_log.exp() * other_log + other_log.exp() * one_log).sum(dim=-1)


def smoothed_prior(logits: Tensor) -> Tensor:
    """Mean prediction of a batch, the smoother the fewer samples or the more certain it is.

    (p + s) / (1 + s classes) with s = max(1 / batch, 1 / classes) / max p.

    Args:
        logits: `(batch, classes)`.

    Returns:
        `(classes,)`, sums to 1.
    """
    batch, classes = logits.shape
    prior = widened(logits).softmax(dim=-1).mean(dim=0)
    smooth = max(1 / batch, 1 / classes) / prior.max()
    return (prior + smooth) / (1 + smooth * classes)


def correct_prior(logits: Tensor, mode: str) -> Tensor:
    """Multiplies predictions with the smoothed prior of their batch.

    Args:
        logits: `(batch, classes)`.
        mode: `probabilities`: the result's softmax is proportional to that of `logits` times the prior. `logits`: the
            logits themselves are multiplied. `none`.

    Returns:
        Logits of the type that was given.
    """
    if mode == "none":
        return logits
    prior = smoothed_prior(logits)
    corrected = logits * prior if mode == "logits" else logits + prior.log()
    return corrected.to(logits.dtype)


def _to_unit_range(values: Tensor) -> Tensor:
    """Brings `(batch,)` to [0, 1]; all 0 if they are equal."""
    lowest = values.min()
    spread = values.max() - lowest
    return (values - lowest) / torch.where(spread > 0, spread, 1)
