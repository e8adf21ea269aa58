"""Weather: snow, frost, fog. Images are float32 `(n, 3, height, width)` in [0, 1]."""

from __future__ import annotations

import torch
from torch import Tensor

from tta_core.corruptions import separable
from tta_core.corruptions.blur import dragged
from tta_core.corruptions.colour import grey
from tta_core.corruptions.draws import Draws
from tta_core.corruptions.levels import truncated


def snow(
    images: Tensor,
    draws: Draws,
    mean: float,
    deviation: float,
    zoom: float,
    threshold: float,
    radius: int,
    sigma: float,
    kept: float,
) -> Tensor:
    """Whitens the image and lets flakes fall over it, from both sides."""
    flakes = separable.clipped_zoom(mean + deviation * draws.normal(1, *images.shape[2:]), zoom)
    flakes = truncated(torch.where(flakes < threshold, torch.zeros_like(flakes), flakes))
    angles = (draws.uniform(1)[:, 0] * 90 - 135).deg2rad()
    layer = truncated(dragged(flakes, radius, sigma, angles))
    whitened = torch.maximum(images, grey(images) * 1.5 + 0.5)
    return kept * images + (1 - kept) * whitened + layer + layer.flip(2, 3)


def fog(images: Tensor, draws: Draws, amount: float, decay: float) -> Tensor:
    """Adds a cloud and darkens the whole to the brightness that it had."""
    height, width = images.shape[2:]
    size = 1 << (max(height, width) - 1).bit_length()
    brightest = images.amax((1, 2, 3), keepdim=True)
    layer = plasma(draws, size, decay)[:, None, :height, :width]
    return (images + amount * layer) * brightest / (brightest + amount)


def plasma(draws: Draws, size: int, decay: float) -> Tensor:
    """A cloud by diamonds and squares, in [0, 1], that wraps around: float32 `(n, size, size)`.

    Args:
        draws: random numbers.
        size: a power of two.
        decay: by how much the roughness falls from one scale to the next finer one.
    """
    heights: Tensor | None = None
    step, wobble = size, 100.0
    while step >= 2:
        half, points = step // 2, size // step
        noise = (2 * draws.uniform(3, points, points) - 1).double() * wobble**2
        if heights is None:
            heights = noise.new_zeros(len(noise), size, size)
        corners = heights[:, ::step, ::step]
        across = corners + corners.roll(-1, 1)
        middle = (across + across.roll(-1, 2)) / 4 + noise[:, 0]
        heights[:, half::step, half::step] = middle
        heights[:, ::step, half::step] = (middle + middle.roll(1, 1) + corners + corners.roll(-1, 2)) / 4 + noise[:, 1]
        heights[:, half::step, ::step] = (middle + middle.roll(1, 2) + corners + corners.roll(-1, 1)) / 4 + noise[:, 2]
        step, wobble = half, wobble / decay
    assert heights is not None
    low, high = heights.amin((1, 2), keepdim=True), heights.amax((1, 2), keepdim=True)
    return ((heights - low) / (high - low)).float()


def frost(images: Tensor, draws: Draws, own: float, weight: float, scale: float, textures: list[Tensor]) -> Tensor:
    """Adds a part of a photograph of frost.

    Args:
        images: the images.
        draws: random numbers.
        own: weight of the image.
        weight: weight of the frost.
        scale: how much smaller the photographs are made first; the caller has done so.
        textures: photographs of frost, float32 `(3, height, width)` in [0, 1], each larger than the images.
    """
    height, width = images.shape[2:]
    chosen, starts = draws.integers(0, len(textures), 1)[:, 0].tolist(), draws.uniform(2).tolist()
    parts = []
    for number, (down, right) in zip(chosen, starts, strict=True):
        texture = textures[number]
        top, left = int(down * (texture.shape[1] - height)), int(right * (texture.shape[2] - width))
        parts.append(texture[:, top : top + height, left : left + width])
    return own * images + weight * torch.stack(parts)
