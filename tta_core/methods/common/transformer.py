"""Where methods take hold of timm's VisionTransformer: its tokens before the first block, and what follows them."""

from __future__ import annotations

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from tta_core.errors import InputError


def as_transformer(network: nn.Module, method: str) -> VisionTransformer:
    """Returns the network if it is a VisionTransformer of timm.

    Raises:
        InputError: if it is not; `method` is the one that wants it.
    """
    if not isinstance(network, VisionTransformer):
        raise InputError(
            f"{method} adapts the blocks of timm's VisionTransformer, and this network is a "
            f"{type(network).__name__}: choose a vision transformer"
        )
    return network


def embed(network: VisionTransformer, images: Tensor) -> Tensor:
    """Tokens `(batch, tokens, channels)` before the first block, without gradient."""
    with torch.no_grad():
        tokens = network._pos_embed(network.patch_embed(images))
        return network.norm_pre(network.patch_drop(tokens))


def predict(network: VisionTransformer, tokens: Tensor) -> Tensor:
    """Logits `(batch, classes)` from the tokens of `embed`; together the two are `network(images)`."""
    return network.forward_head(network.norm(network.blocks(tokens)))
