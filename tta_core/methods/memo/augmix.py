"""AugMix views of images (Hendrycks et al., ICLR 2020), as MEMO makes them: all views of a batch at once.

A view is cropped and mirrored, then mixed with three chains of one to three random operations each. The operations
compute what PIL computes on images of 8 bits, for each image with parameters of its own. Values of pixels here are
float32 from 0 to 255 and whole between operations. Everything random comes from uniform numbers that are drawn on the
CPU in the order of the images: a view depends neither on the other images of a batch nor on how a batch is divided.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from tta_core.device import upload

Crop = Literal["none", "resized", "padded"]

OPERATIONS = (
    *("autocontrast", "equalize", "posterize", "solarize"),
    *("rotate", "shear_x", "shear_y", "translate_x", "translate_y"),
)
CHAINS = 3
LONGEST_CHAIN = 3

LARGEST_LEVEL = 10
"""The level at which an operation is as strong as the next constants say."""
LARGEST_ANGLE = 30
"""Degrees."""
LARGEST_SHEAR = 0.3
LARGEST_SHIFT = 1 / 3
"""Part of the side."""
POSTERIZED_BITS = 4
"""Bits that are kept at level 0; at the largest level none are."""
LEAST_LEVEL = 0.1
ALMOST_WHOLE = 1e-3

AREAS = (0.08, 1.0)
RATIOS = (3 / 4, 4 / 3)
"""Of the box that `resized` cuts out: part of the image's area, width to height."""
BOX_ATTEMPTS = 10
BLACK = (0, 0, 0)
PADDING = 4
"""Black pixels that `padded` puts around an image."""

_BOX_NUMBERS = 2 * BOX_ATTEMPTS + 2
_CHAIN_NUMBERS = 1 + 3 * LONGEST_CHAIN
NUMBERS = _BOX_NUMBERS + 1 + CHAINS * _CHAIN_NUMBERS + CHAINS + 1
"""Uniform numbers that a view is made of."""


@dataclass(frozen=True)
class Draws:
    """What makes views, on the CPU; the first dimensions of all are (images, views).

    Attributes:
        boxes: left, top, width and height of what is cut out, in pixels `(..., 4)`; beyond the image is black.
        flips: whether left and right change places `(...)`.
        operations: index into `OPERATIONS`, -1 for none `(..., chains, steps)`.
        levels: strength of each operation, likewise, from `LEAST_LEVEL` on.
        backwards: likewise, whether an operation with a direction goes the other way.
        weights: of the chains `(..., chains)`; they add up to 1.
        original: weight of the view without operations against all chains `(...)`, in [0, 1].
    """

    boxes: Tensor
    flips: Tensor
    operations: Tensor
    levels: Tensor
    backwards: Tensor
    weights: Tensor
    original: Tensor

    def __getitem__(self, images: slice) -> Draws:
        """Those of some of the images."""
        return Draws(*(getattr(self, field.name)[images] for field in fields(self)))

    def of_views(self, views: slice) -> Draws:
        """Those of some of the views of all images."""
        return Draws(*(getattr(self, field.name)[:, views] for field in fields(self)))


def draw_views(
    images: int,
    views: int,
    size: tuple[int, int],
    generator: torch.Generator,
    *,
    severity: float = 1.0,
    crop: Crop = "none",
    flip: bool = False,
) -> Draws:
    """Draws what makes `views` views of each of `images` images.

    Args:
        images: number of images.
        views: number of views of each.
        size: height and width.
        generator: on the CPU.
        severity: largest level of an operation, from `LEAST_LEVEL` to `LARGEST_LEVEL`.
        crop: `resized`, a box of random area and shape, enlarged to the whole; `padded`, a window of the image's size
            in the image with a black frame; `none`.
        flip: whether half of the views are mirrored.
    """
    numbers = torch.rand(images, views, NUMBERS, generator=generator, dtype=torch.float64)
    box, mirror, chains, shares, original = numbers.split([_BOX_NUMBERS, 1, CHAINS * _CHAIN_NUMBERS, CHAINS, 1], dim=-1)
    length, steps = chains.unflatten(-1, (CHAINS, _CHAIN_NUMBERS)).split([1, 3 * LONGEST_CHAIN], dim=-1)
    which, level, direction = steps.unflatten(-1, (3, LONGEST_CHAIN)).unbind(-2)
    # Which of its steps a chain takes: the first one, two or three.
    taken = torch.arange(LONGEST_CHAIN) < 1 + (LONGEST_CHAIN * length).floor()
    operations = (len(OPERATIONS) * which).long()
    exponential = -torch.log1p(-shares)  # Normalised, exponential numbers are uniform on the simplex: Dirichlet(1).
    return Draws(
        boxes=_boxes(box, size, crop),
        flips=(mirror[..., 0] < 0.5) & flip,
        operations=torch.where(taken, operations, -1),
        levels=LEAST_LEVEL + (severity - LEAST_LEVEL) * level,
        backwards=direction < 0.5,
        weights=exponential / exponential.sum(dim=-1, keepdim=True),
        original=original[..., 0],
    )


def make_views(pixels: Tensor, draws: Draws, fill: Sequence[float] = BLACK) -> Tensor:
    """Makes the views of images.

    Args:
        pixels: images `(images, 3, height, width)`; they are clipped to [0, 1] and rounded to 8 bits.
        draws: what makes the views of each.
        fill: colour, from 0 to 255, of what rotations, shears and translations bring in.

    Returns:
        Views in [0, 1], float32 `(images, views, 3, height, width)`.
    """
    images, views = draws.flips.shape
    whole = (255 * pixels.float()).round_().clamp_(0, 255)
    base = _cut(whole.repeat_interleave(views, dim=0), draws)
    chains = base.repeat_interleave(CHAINS, dim=0)
    for step in range(LONGEST_CHAIN):
        parts = (draws.operations, draws.levels, draws.backwards)
        operations, levels, backwards = (part[..., step].flatten() for part in parts)
        apply(chains, operations, levels, backwards, fill)
    weights, original = (_to(part.flatten(), whole) for part in (draws.weights, draws.original))
    mixed = (chains.view(-1, CHAINS, *base.shape[1:]) * weights.view(-1, CHAINS, 1, 1, 1)).sum(dim=1)
    mixed = torch.lerp(mixed, base, original.view(-1, 1, 1, 1)).div_(255)
    return mixed.view(images, views, *mixed.shape[1:])


def apply(images: Tensor, operations: Tensor, levels: Tensor, backwards: Tensor, fill: Sequence[float] = BLACK) -> None:
    """Applies to each image its operation, in place.

    Args:
        images: values from 0 to 255 `(images, 3, height, width)`.
        operations: index into `OPERATIONS` of each image, -1 for none; on the CPU, like the next two.
        levels: strength of each.
        backwards: whether it goes the other way.
        fill: colour of what comes in from outside.
    """
    for name, operation in {"autocontrast": autocontrast, "equalize": equalize}.items():
        chosen = _where(operations == OPERATIONS.index(name), images)
        if chosen is not None:
            images[chosen] = operation(images[chosen])
    for name, steps, change in (("posterize", POSTERIZED_BITS, posterize), ("solarize", 256, solarize)):
        own = operations == OPERATIONS.index(name)
        chosen = _where(own, images)
        if chosen is not None:
            strengths = _to((levels[own] * steps / LARGEST_LEVEL).floor(), images)
            images[chosen] = change(images[chosen], strengths)
    own = operations >= OPERATIONS.index("rotate")
    chosen = _where(own, images)
    if chosen is not None:
        matrices = affine_matrices(operations[own], levels[own], backwards[own], images.shape[-2:])
        images[chosen] = affine(images[chosen], matrices, fill)


def autocontrast(images: Tensor) -> Tensor:
    """Stretches each channel from its darkest and brightest value to 0 and 255."""
    low = images.amin(dim=(2, 3)).double().unsqueeze(-1)
    high = images.amax(dim=(2, 3)).double().unsqueeze(-1)
    scale = torch.full_like(high, 255).div(high - low)  # `255 / ...` multiplies by a reciprocal, which rounds twice.
    values = torch.arange(256, device=images.device, dtype=torch.float64)
    stretched = (values * scale - low * scale).trunc().clamp(0, 255)
    return _looked_up(images, torch.where(high > low, stretched, values))


def equalize(images: Tensor) -> Tensor:
    """Gives each channel values that are as evenly spread from 0 to 255 as they can be."""
    values = images.flatten(2).long()
    counts = torch.zeros(*values.shape[:2], 256, device=images.device, dtype=torch.int64)
    counts.scatter_add_(2, values, torch.ones_like(values))
    last = counts.gather(2, values.amax(dim=2, keepdim=True))
    # A channel of one value has step 0, and so have those of so few other values that nothing can be spread.
    step = (values.shape[2] - last) // 255
    before = counts.cumsum(dim=2) - counts
    spread = ((before + step // 2) // step.clamp(min=1)).clamp(0, 255)
    unchanged = torch.arange(256, device=images.device)
    return _looked_up(images, torch.where(step > 0, spread, unchanged))


def posterize(images: Tensor, less: Tensor) -> Tensor:
    """Keeps `POSTERIZED_BITS` bits less `less` `(images,)` of each value."""
    width = torch.exp2(8 - POSTERIZED_BITS + less).view(-1, 1, 1, 1)
    return (images / width).floor() * width


def solarize(images: Tensor, depth: Tensor) -> Tensor:
    """Inverts the brightest `depth` `(images,)` of the 256 values."""
    return torch.where(images >= 256 - depth.view(-1, 1, 1, 1), 255 - images, images)


def affine_matrices(
    operations: Tensor, levels: Tensor, backwards: Tensor, size: tuple[int, int] | torch.Size
) -> Tensor:
    """Where rotations, shears and translations take each pixel from, on the CPU.

    Args:
        operations: index into `OPERATIONS`, of an operation that moves pixels.
        levels: strength of each.
        backwards: whether it goes the other way.
        size: height and width.

    Returns:
        `(images, 2, 3)`: x and y in the image from x, y and 1 in the result. The middle of the first pixel is 0.5.
    """
    height, width = size
    sign = torch.where(backwards, -1.0, 1.0)
    share = levels / LARGEST_LEVEL
    turn = -sign * (share * LARGEST_ANGLE).floor() * (math.pi / 180)
    shear = sign * share * LARGEST_SHEAR
    right, down = (sign * (share * side * LARGEST_SHIFT).floor() for side in (width, height))
    rotate, shear_x, shear_y, translate_x, translate_y = (
        operations == OPERATIONS.index(name) for name in ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
    )
    turn = torch.where(rotate, turn, 0)
    matrices = torch.zeros(len(operations), 2, 3, dtype=levels.dtype)
    matrices[:, 0, 0] = matrices[:, 1, 1] = turn.cos()
    matrices[:, 0, 1] = turn.sin() + torch.where(shear_x, shear, 0)
    matrices[:, 1, 0] = -turn.sin() + torch.where(shear_y, shear, 0)
    # A rotation leaves the centre where it is.
    centre = torch.tensor([width / 2, height / 2], dtype=levels.dtype)
    kept = centre - matrices[:, :, :2] @ centre
    shift = torch.stack([torch.where(translate_x, right, 0), torch.where(translate_y, down, 0)], dim=1)
    matrices[:, :, 2] = torch.where(rotate.unsqueeze(1), kept, 0) + shift
    return matrices


def affine(images: Tensor, matrices: Tensor, fill: Sequence[float] = BLACK) -> Tensor:
    """Takes each pixel from where its image's matrix says: bilinear, cut to whole numbers.

    Args:
        images: values from 0 to 255 `(images, 3, height, width)`.
        matrices: of `affine_matrices`.
        fill: colour of pixels from outside the image.
    """
    height, width = images.shape[-2:]
    x = (torch.arange(width, device=images.device, dtype=images.dtype) + 0.5).view(1, 1, -1)
    y = (torch.arange(height, device=images.device, dtype=images.dtype) + 0.5).view(1, -1, 1)
    entries = _to(matrices, images).view(-1, 6, 1, 1).unbind(1)
    from_x = entries[0] * x + entries[1] * y + entries[2]
    from_y = entries[3] * x + entries[4] * y + entries[5]
    inside = (from_x >= 0) & (from_x < width) & (from_y >= 0) & (from_y < height)
    # What should be whole may come out slightly smaller.
    moved = _sample(images, from_x, from_y).add_(ALMOST_WHOLE).floor_()
    for channel, value in enumerate(fill):
        moved[:, channel].masked_fill_(~inside, value)
    return moved


def _boxes(numbers: Tensor, size: tuple[int, int], crop: Crop) -> Tensor:
    """Boxes `(..., 4)` from uniform numbers `(..., _BOX_NUMBERS)`."""
    height, width = size
    shape = numbers.shape[:-1]
    if crop == "none":
        return torch.tensor([0, 0, width, height], dtype=numbers.dtype).expand(*shape, 4)
    attempts, place = numbers.split([2 * BOX_ATTEMPTS, 2], dim=-1)
    if crop == "padded":
        corner = ((2 * PADDING + 1) * place).floor() - PADDING
        sides = torch.tensor([width, height], dtype=numbers.dtype).expand_as(corner)
        return torch.cat([corner, sides], dim=-1)
    area, shape_ratio = attempts.unflatten(-1, (2, BOX_ATTEMPTS)).unbind(-2)
    area = height * width * (AREAS[0] + (AREAS[1] - AREAS[0]) * area)
    low, high = map(math.log, RATIOS)
    ratio = torch.exp(low + (high - low) * shape_ratio)
    sides = torch.stack([(area * ratio).sqrt().round(), (area / ratio).sqrt().round()], dim=-1)
    limits = torch.tensor([width, height], dtype=numbers.dtype)
    fits = ((sides > 0) & (sides <= limits)).all(dim=-1)
    # The first attempt that fits; the whole image if none does.
    first = fits.int().argmax(dim=-1)[..., None, None].expand(*shape, 1, 2)
    chosen = torch.where(fits.any(dim=-1, keepdim=True), sides.gather(-2, first).squeeze(-2), limits)
    corner = ((limits - chosen + 1) * place).floor()
    return torch.cat([corner, chosen], dim=-1)


def _cut(images: Tensor, draws: Draws) -> Tensor:
    """Cuts out each image's box, enlarges it to the whole and mirrors it; bilinear, rounded."""
    height, width = images.shape[-2:]
    whole = torch.tensor([0, 0, width, height], dtype=draws.boxes.dtype)
    if bool((draws.boxes == whole).all()) and not bool(draws.flips.any()):  # Both are on the CPU.
        return images
    left, top, wide, high = _to(draws.boxes.reshape(-1, 4), images).view(-1, 4, 1, 1).unbind(1)
    flips = _to(draws.flips.flatten(), images).view(-1, 1, 1)
    x = (torch.arange(width, device=images.device, dtype=images.dtype) + 0.5).view(1, 1, -1)
    y = (torch.arange(height, device=images.device, dtype=images.dtype) + 0.5).view(1, -1, 1)
    x = torch.lerp(x, width - x, flips)
    from_x = left + x * (wide / width)
    from_y = top + y * (high / height)
    inside = (from_x >= 0) & (from_x < width) & (from_y >= 0) & (from_y < height)
    # An enlarged box is sharp at its edges: nothing of what lies beyond shines in.
    from_x = from_x.clamp(left + 0.5, left + wide - 0.5)
    from_y = from_y.clamp(top + 0.5, top + high - 0.5)
    return _sample(images, *torch.broadcast_tensors(from_x, from_y)).round_().mul_(inside.unsqueeze(1))


def _sample(images: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Bilinear values at places `(images, height, width)` in pixels, edges repeated outside."""
    height, width = images.shape[-2:]
    grid = torch.stack([x * (2 / width) - 1, y * (2 / height) - 1], dim=-1)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _looked_up(images: Tensor, table: Tensor) -> Tensor:
    """Replaces each value by what the table `(images, channels, 256)` of its channel has for it."""
    return table.to(images.dtype).gather(2, images.flatten(2).long()).view_as(images)


def _where(mask: Tensor, images: Tensor) -> Tensor | None:
    """Indices on the images' device where a mask on the CPU holds; None if it holds nowhere."""
    index = mask.nonzero().squeeze(1)
    return upload(index, images.device) if len(index) else None


def _to(values: Tensor, images: Tensor) -> Tensor:
    """Values from the CPU as numbers of the images' kind and device."""
    return upload(values.to(images.dtype), images.device)
