"""Spatter: drops of water, or mud. Images are float32 `(n, 3, height, width)` in [0, 1].

The steps are those of the published scripts, which take them from OpenCV: Canny's edges, a distance transform, a
flattened histogram, an emboss kernel.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor, nn

from tta_core.corruptions import separable
from tta_core.corruptions.draws import Draws
from tta_core.corruptions.levels import SLACK

WATER = (175, 238, 238)
MUD = (63, 42, 20)
WEAK_EDGE, STRONG_EDGE = 50, 150
FARTHEST = 20
"""Pixels; all that lie farther from an edge are as far."""
EMBOSS = ((-2, -1, 0), (-1, 1, 1), (0, 1, 2))
TAN_22_5 = 0.41421356
STEPS = {(0, 1): 1.0, (1, 0): 1.0, (1, 1): 1.4, (1, 2): 2.1969, (2, 1): 2.1969}
"""Rows and columns that a step goes -> its length."""


def spatter(
    images: Tensor,
    draws: Draws,
    mean: float,
    deviation: float,
    sigma: float,
    threshold: float,
    amount: float,
    mud: bool,
) -> Tensor:
    """Spatters the lens.

    Args:
        images: the images.
        draws: random numbers.
        mean: of the liquid.
        deviation: likewise.
        sigma: by which it is smoothed, in pixels.
        threshold: below it there is none.
        amount: weight of water; of mud the sigma of its rim.
        mud: whether it is mud.
    """
    liquid = separable.gaussian_blur(mean + deviation * draws.normal(1, *images.shape[2:]), sigma)
    liquid = torch.where(liquid < threshold, torch.zeros_like(liquid), liquid)
    colour = torch.tensor(MUD if mud else WATER, device=images.device).view(1, 3, 1, 1) / 255
    if mud:
        cover = separable.gaussian_blur((liquid > threshold).float(), amount)
        cover = torch.where(cover < 0.8, torch.zeros_like(cover), cover)
        return images * (1 - cover) + colour * cover
    levels = torch.floor(liquid * 255 + SLACK).remainder(256)
    relief = levels * _relief(levels)
    drops = relief / relief.amax((2, 3), keepdim=True).clamp_min(1)
    return images + amount * drops * colour


def _relief(levels: Tensor) -> Tensor:
    """What gives drops their rim: levels of 0 to 255, float32 `(n, 1, height, width)`."""
    far = distances(edges(levels)).clamp_max(FARTHEST)
    flat = equalised(_box(far).floor())
    kernel = torch.tensor(EMBOSS, device=levels.device, dtype=torch.float32)[None, None]
    embossed = nn.functional.conv2d(_padded(flat), kernel).clamp(0, 255)
    return _box(embossed).round()


def _padded(values: Tensor) -> Tensor:
    return nn.functional.pad(values, (1, 1, 1, 1), mode="reflect")


def _box(values: Tensor) -> Tensor:
    """The mean of 3 by 3 pixels."""
    kernel = torch.full((1, 1, 3, 3), 1 / 9, device=values.device)
    return nn.functional.conv2d(_padded(values), kernel)


def edges(levels: Tensor) -> Tensor:
    """Canny's edges of levels `(n, 1, height, width)` with Sobel's derivatives and their absolute sum: bool."""
    near = nn.functional.pad(levels, (1, 1, 1, 1), mode="replicate")
    slope = torch.tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], device=levels.device, dtype=torch.float32)
    both = nn.functional.conv2d(near, torch.stack([slope, slope.t()])[:, None])
    right, down = both[:, :1], both[:, 1:]
    strength = right.abs() + down.abs()
    around = nn.functional.pad(strength, (1, 1, 1, 1))
    height, width = levels.shape[2:]

    def beside(row: int, column: int) -> Tensor:
        return around[:, :, 1 + row : 1 + row + height, 1 + column : 1 + column + width]

    level = (strength > beside(0, -1)) & (strength >= beside(0, 1))
    upright = (strength > beside(-1, 0)) & (strength >= beside(1, 0))
    falling = (strength > beside(-1, -1)) & (strength > beside(1, 1))
    rising = (strength > beside(-1, 1)) & (strength > beside(1, -1))
    slanted = torch.where((right < 0) != (down < 0), rising, falling)
    steep = down.abs() > right.abs() * (TAN_22_5 + 2)
    highest = torch.where(down.abs() < right.abs() * TAN_22_5, level, torch.where(steep, upright, slanted))
    weak = highest & (strength > WEAK_EDGE)
    found = weak & (strength > STRONG_EDGE)
    while True:
        grown = (nn.functional.max_pool2d(found.float(), 3, stride=1, padding=1) > 0) & weak
        if bool((grown == found).all()):
            return found
        found = grown


def distances(marked: Tensor) -> Tensor:
    """Distance to the nearest marked pixel by steps of OpenCV's 5 by 5 mask, float32; beyond `FARTHEST` any above it.

    Args:
        marked: bool `(n, 1, height, width)`.
    """
    height, width = marked.shape[2:]
    far = torch.where(marked, 0.0, 2.0 * FARTHEST)
    for _ in range(FARTHEST):
        near = nn.functional.pad(far, (2, 2, 2, 2), value=2.0 * FARTHEST)
        for row, column in product(range(-2, 3), repeat=2):
            length = STEPS.get((abs(row), abs(column)))
            if length is not None:
                top, left = 2 + row, 2 + column
                far = torch.minimum(far, near[:, :, top : top + height, left : left + width] + length)
    return far


def equalised(levels: Tensor) -> Tensor:
    """Spreads levels `(n, 1, height, width)` of 0 to 255 so that all are about as frequent, as OpenCV does."""
    count, pixels = len(levels), levels[0].numel()
    flat = levels.view(count, -1).long()
    frequency = torch.zeros(count, 256, device=levels.device).scatter_add_(1, flat, torch.ones_like(flat).float())
    # The lowest level that occurs becomes 0 and does not count.
    lowest = flat.amin(1, keepdim=True)
    below = frequency.gather(1, lowest)
    spread = (pixels - below).clamp_min(1)
    table = ((frequency.cumsum(1) - below) * (255 / spread)).round().clamp(0, 255)
    # Where all pixels have one level, they keep it.
    return torch.where((below == pixels), flat.float(), table.gather(1, flat)).view(levels.shape)
