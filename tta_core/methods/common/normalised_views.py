"""One random view of normalised images, for what is trained on it."""

from __future__ import annotations

import torch
from torch import Tensor

from tta_core.methods.base import Context
from tta_core.methods.common.views import random_view, scale_channels


@torch.no_grad()
def normalised_view(images: Tensor, context: Context, generator: torch.Generator) -> Tensor:
    """Draws a view, one draw for all images as published, and applies it to their pixels.

    Args:
        images: normalised images `(batch, 3, height, width)`.
        context: has the normalisation, which is undone before the view is made and done again afterwards.
        generator: on the CPU.

    Returns:
        Normalised images of the same shape.
    """
    mean, std = context.mean, context.std
    pixels = random_view(scale_channels(images, std, mean), generator)
    back = [-centre / width for centre, width in zip(mean, std, strict=True)]
    return scale_channels(pixels, [1 / width for width in std], back)
