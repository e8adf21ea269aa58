"""Colour: brightness and saturation in HSV, contrast, grey. Images are float32 `(n, 3, height, width)` in [0, 1]."""

from __future__ import annotations

import torch
from torch import Tensor

from tta_core.corruptions.draws import Draws

TINY = 1e-12


def brightness(images: Tensor, _: Draws, amount: float) -> Tensor:
    """Adds to V of HSV."""
    value = images.amax(1, keepdim=True)
    brighter = (value + amount).clamp(0, 1)
    return torch.where(value > 0, images * (brighter / value.clamp_min(TINY)), brighter)


def saturate(images: Tensor, _: Draws, factor: float, offset: float) -> Tensor:
    """Multiplies S of HSV and adds to it; a grey pixel has the hue of red, as in the published scripts."""
    value, least = images.amax(1, keepdim=True), images.amin(1, keepdim=True)
    spread = value - least
    saturation = (spread / value.clamp_min(TINY) * factor + offset).clamp(0, 1)
    # How far each channel lies below V, as a share of the spread.
    red = torch.tensor([0.0, 1.0, 1.0], device=images.device).view(1, 3, 1, 1)
    depth = torch.where(spread > 0, (value - images) / spread.clamp_min(TINY), red)
    return value * (1 - saturation * depth)


def contrast(images: Tensor, _: Draws, factor: float) -> Tensor:
    """Draws each channel towards its mean."""
    # In float64: the mean of an image must not depend on how a library splits the sum.
    mean = images.double().mean((2, 3), keepdim=True).float()
    return (images - mean) * factor + mean


def grey(images: Tensor) -> Tensor:
    """The luminance `(n, 1, height, width)`."""
    return 0.299 * images[:, 0:1] + 0.587 * images[:, 1:2] + 0.114 * images[:, 2:3]
