"""What a batch looks like before the first block, and how far two such descriptors are apart (imse §1.7)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from tta_core.methods.common.losses import widened
from tta_core.methods.imse.spec import Distance


class Descriptor(NamedTuple):
    """Mean and unbiased variance of each channel, `(channels,)` each, or `(entries, channels)` for several."""

    mean: Tensor
    variance: Tensor


def describe(tokens: Tensor) -> Descriptor:
    """Describes patch tokens `(batch, tokens, channels)`, over images and tokens together."""
    variance, mean = torch.var_mean(widened(tokens), dim=(0, 1))
    return Descriptor(mean, variance)


def describe_patches(transformer: VisionTransformer, tokens: Tensor) -> Descriptor:
    """Describes the patches among `tokens`: class and register tokens are the same for every image."""
    return describe(tokens[:, transformer.num_prefix_tokens :])


def blend(old: Descriptor, new: Descriptor, keep: float) -> Descriptor:
    """`keep` parts of the old descriptor and `1 - keep` of the new, mean and variance independently."""
    return Descriptor(*(keep * was + (1 - keep) * now for was, now in zip(old, new, strict=True)))


def average(descriptors: Iterable[tuple[Descriptor, int]]) -> Descriptor:
    """Pools the descriptors of batches, each with its number of images: mean and variance over all tokens."""
    found = list(descriptors)
    means = torch.stack([descriptor.mean for descriptor, _ in found])
    variances = torch.stack([descriptor.variance for descriptor, _ in found])
    weights = means.new_tensor([images for _, images in found])[:, None] / sum(images for _, images in found)
    mean = (weights * means).sum(dim=0)
    return Descriptor(mean, (weights * (variances + (means - mean).square())).sum(dim=0))


def distance(one: Descriptor, other: Descriptor, kind: Distance, variance_epsilon: float) -> Tensor:
    """Distance of two descriptors, mean over channels; symmetric, 0 for equal ones.

    Args:
        one: a descriptor, or several.
        other: what to compare with, in a shape that broadcasts.
        kind: `kl`, the symmetric Kullback-Leibler divergence of diagonal Gaussians (nat a channel); `mean` or
            `variance`, the squared difference; `mean_variance`, the sum of both.
        variance_epsilon: added to variances in `kl`.

    Returns:
        `()` or `(entries,)`.
    """
    between_means = (one.mean - other.mean).square()
    between_variances = (one.variance - other.variance).square()
    if kind == "kl":
        first, second = one.variance + variance_epsilon, other.variance + variance_epsilon
        channels = (first + between_means) / (2 * second) + (second + between_means) / (2 * first) - 1
    else:
        channels = {
            "mean": between_means,
            "variance": between_variances,
            "mean_variance": between_means + between_variances,
        }[kind]
    return channels.mean(dim=-1)
