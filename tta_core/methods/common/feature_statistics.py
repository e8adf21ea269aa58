"""Class-token features of a vision transformer, and how far a batch of them is from the source (mixed §2.8, §2.9).

After every block the class token is read as the next block sees it, through that block's `norm1`; after the last one,
as the classifier sees it. MGTTA and FOA compare spread and mean of these features with those of clean images.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from tta_core.errors import InputError
from tta_core.methods.common.losses import widened
from tta_core.methods.common.transformer import as_transformer, embed


class FeatureStatistics(NamedTuple):
    """Standard deviation (unbiased) and mean of each feature, both `(depth * dim,)`."""

    std: Tensor
    mean: Tensor


def with_class_token(network: torch.nn.Module, method: str) -> VisionTransformer:
    """Returns the network if its class-token features can be read.

    Raises:
        InputError: if it is no VisionTransformer of timm, has no class token, or has blocks without `norm1`; `method`
            is the one that wants them.
    """
    transformer = as_transformer(network, method)
    if transformer.cls_token is None:
        raise InputError(f"{method} reads the class token, and this network has none: choose one with a class token")
    if not all(hasattr(block, "norm1") for block in transformer.blocks):
        raise InputError(
            f"{method} reads the class token through norm1 of each block, and the blocks of this network "
            f"({type(transformer.blocks[0]).__name__}) have none: choose a vision transformer with ordinary blocks"
        )
    return transformer


def class_token_features(network: VisionTransformer, tokens: Tensor, *, prompts: int = 0) -> tuple[Tensor, Tensor]:
    """Runs the blocks and reads the class token after each of them.

    Args:
        network: the transformer, see `with_class_token`.
        tokens: `(batch, tokens, dim)` before the first block, the class token first (see
            `tta_core.methods.common.transformer.embed`); prompts may have been put in after it.
        prompts: how many; a classifier that reads the mean of the patches leaves them out.

    Returns:
        The features `(batch, depth * dim)`, the last `dim` of them what the classifier reads, at least float32; and the
        logits `(batch, classes)`.
    """
    features = []
    for number, block in enumerate(network.blocks):
        tokens = block(tokens)
        if number + 1 < len(network.blocks):
            features.append(network.blocks[number + 1].norm1(tokens[:, 0]))
    if network.global_pool == "token":
        tokens = tokens[:, :1]  # The final norm of the others would be thrown away.
    elif prompts:
        tokens = torch.cat([tokens[:, :1], tokens[:, 1 + prompts :]], dim=1)
    features.append(network.forward_head(network.norm(tokens), pre_logits=True))
    return torch.cat([widened(feature) for feature in features], dim=-1), network.head(features[-1])


@torch.no_grad()
def source_statistics(
    network: VisionTransformer, batches: Iterable[Tensor], *, samples: int | None = None
) -> FeatureStatistics:
    """Statistics of the features of source images, over all of them together.

    Args:
        network: the source network, see `with_class_token`.
        batches: images `(batch, channels, height, width)`, of any batch sizes.
        samples: how many images are looked at; all, if None.

    Raises:
        InputError: if there are fewer than two images, which have no standard deviation.
    """
    count, mean, squares = 0, torch.zeros(()), torch.zeros(())
    dtype = torch.float32
    for images in batches:
        images = images if samples is None else images[: samples - count]
        if len(images) == 0:
            break
        features, _ = class_token_features(network, embed(network, images))
        dtype = features.dtype
        # Merged in float64: the images do not come all at once, and sums of squares would cancel.
        features = features.double()
        own = features.mean(dim=0)
        mean, squares = mean.to(own), squares.to(own)
        total = count + len(images)
        squares = squares + (features - own).square().sum(dim=0)
        squares = squares + (own - mean).square() * (count * len(images) / total)
        mean = mean + (own - mean) * (len(images) / total)
        count = total
    if count < 2:
        raise InputError(f"statistics of the source need at least two images, and there were {count}: give more")
    return FeatureStatistics((squares / (count - 1)).sqrt().to(dtype), mean.to(dtype))


def discrepancy(features: Tensor, source: FeatureStatistics) -> Tensor:
    """Squared distance of a batch's standard deviations from the source's plus that of the means.

    A single image has no standard deviation (the releases get NaN there): only the means are compared then.

    Args:
        features: `(..., batch, features)`.
        source: statistics of the source.

    Returns:
        One number for each batch, `(...)`.
    """
    distance = (features.mean(dim=-2) - source.mean).square().sum(dim=-1)
    if features.shape[-2] > 1:
        distance = distance + (features.std(dim=-2) - source.std).square().sum(dim=-1)
    return distance
