"""Blur: gaussian, defocus, glass, motion, zoom. Images are float32 `(n, 3, height, width)` in [0, 1]."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from tta_core.corruptions import separable
from tta_core.corruptions.draws import Draws
from tta_core.corruptions.levels import truncated


def gaussian_blur(images: Tensor, _: Draws, sigma: float) -> Tensor:
    """Blurs with a Gaussian."""
    return separable.gaussian_blur(images, sigma)


def defocus_blur(images: Tensor, _: Draws, radius: float, rim: float) -> Tensor:
    """Convolves with a disc."""
    kernel = disc(radius, rim).to(images.device)
    reach = kernel.shape[0] // 2
    planes = nn.functional.pad(images, (reach, reach, reach, reach), mode="reflect").flatten(0, 1)[:, None]
    return nn.functional.conv2d(planes, kernel[None, None]).view(images.shape)


@lru_cache(maxsize=32)
def disc(radius: float, rim: float) -> Tensor:
    """A disc whose rim is smoothed by a Gaussian of `rim` pixels, `(side, side)`, about summing to 1."""
    reach, taps = (8, 3) if radius <= 8 else (int(radius), 5)
    steps = np.arange(-reach, reach + 1)
    inside = (steps[:, None] ** 2 + steps[None, :] ** 2 <= radius**2).astype(np.float64)
    weights = np.exp(-0.5 * (np.arange(-(taps // 2), taps // 2 + 1) / rim) ** 2)
    weights /= weights.sum()
    smooth = np.stack([np.convolve(np.pad(row, taps // 2, mode="reflect"), weights, "valid") for row in inside])
    smooth = np.stack([np.convolve(np.pad(row, taps // 2, mode="reflect"), weights, "valid") for row in smooth.T]).T
    return torch.from_numpy((smooth / inside.sum()).astype(np.float32))


def glass_blur(images: Tensor, draws: Draws, sigma: float, reach: int, rounds: int) -> Tensor:
    """Blurs, replaces each pixel by one nearby, and blurs again."""
    seen = truncated(separable.gaussian_blur(images, sigma))
    height, width = images.shape[-2:]
    for _ in range(rounds):
        steps = draws.integers(-reach, reach, 2, height - 2 * reach, width - 2 * reach)
        seen = _from_nearby(seen, steps, reach)
    return separable.gaussian_blur(seen, sigma)


def _from_nearby(images: Tensor, steps: Tensor, reach: int) -> Tensor:
    """Replaces pixels by others nearby, one after the other, from the last of the last row to the first.

    The published scripts mean to swap the two pixels. But they swap views of one array, so that the second assignment
    copies the pixel that the first has just overwritten: only the visited pixel changes. That is what is done here,
    and why it needs no loop over pixels: a pixel has the value of the one that it was replaced by, which is an old
    value if that one is visited later, and else what that one was replaced by.

    Args:
        images: `(n, channels, height, width)`.
        steps: int64 `(n, 2, height - 2 reach, width - 2 reach)`, row and column step to the other pixel.
        reach: largest step in pixels. Rows and columns from `reach + 1` to `size - reach` are visited.
    """
    count, channels, height, width = images.shape
    places = torch.arange(height * width, device=images.device).view(height, width)
    origin = places.repeat(count, 1, 1)
    inside = slice(reach + 1, height - reach + 1), slice(reach + 1, width - reach + 1)
    origin[:, *inside] += steps[:, 0] * width + steps[:, 1]
    origin = origin.view(count, -1)
    replaced = origin
    # Later places are visited first: one that comes from a later one has what that has come to hold.
    follows = origin > places.view(-1)
    while bool(follows.any()):
        further = replaced.gather(1, origin)
        follows, origin = follows & (further > origin), torch.where(follows, further, origin)
    flat = images.flatten(2)
    return flat.gather(2, origin[:, None].expand(-1, channels, -1)).view(images.shape)


def motion_blur(images: Tensor, draws: Draws, radius: int, sigma: float) -> Tensor:
    """Drags each image in a direction of its own, within 45 degrees of the horizontal."""
    return dragged(images, radius, sigma, (draws.uniform(1)[:, 0] * 90 - 45).deg2rad())


def dragged(images: Tensor, radius: int, sigma: float, angles: Tensor) -> Tensor:
    """A one-sided Gaussian streak, as ImageMagick's motion blur; beyond the border lies the border's value.

    ImageMagick 6 cuts fractions of a level off, as measured; that is the caller's to do.

    Args:
        images: `(n, channels, height, width)`.
        radius: the streak has `2 radius + 1` taps, about a pixel apart.
        sigma: its standard deviation in pixels.
        angles: `(n,)` in radians.
    """
    count, channels, height, width = images.shape
    taps = torch.arange(2 * radius + 1, device=images.device)
    weights = torch.exp(-0.5 * (taps / sigma) ** 2)
    weights = weights / weights.sum()
    # In float64: where a tap lies between two pixels, the last bit decides.
    down = torch.ceil(taps * angles[:, None].double().sin() - 0.5).long()
    right = torch.ceil(taps * angles[:, None].double().cos() - 0.5).long()
    rows = torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device)
    flat, result = images.flatten(2), torch.zeros_like(images).flatten(2)
    for tap in range(len(taps)):
        row = (rows + down[:, tap, None]).clamp(0, height - 1)
        column = (columns + right[:, tap, None]).clamp(0, width - 1)
        source = (row[:, :, None] * width + column[:, None, :]).view(count, 1, -1).expand(-1, channels, -1)
        result += weights[tap] * flat.gather(2, source)
    return result.view(images.shape)


def zoom_blur(images: Tensor, _: Draws, last: float, step: float) -> Tensor:
    """The mean of the image and of its enlargements."""
    factors = [float(factor) for factor in np.arange(1, last, step)]
    total = images.clone()
    for factor in factors:
        total += separable.clipped_zoom(images, factor)
    return total / (len(factors) + 1)
