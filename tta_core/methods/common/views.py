"""Random views of a batch, and what a network says to them: the augmentation of CoTTA and ViDA (continual §4.1).

ROID's has neither blur nor noise, and mirrors the image at its edges (further §3).

One draw is shared by all images of a batch, as published. What is drawn are plain numbers on the host, so that nothing
waits for the device, and work whose outcome they tell beforehand is left out. The published order is: clip, colours,
padding that doubles the side, affine map, blur, middle of the image, flip, noise, clip. All but the colours is computed
for the middle only: nothing outside of the padding comes into view (from 20 pixels on), so clamped coordinates stand in
for it, and the flip is part of the map.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from tta_core.methods.common.augmentation import (
    adjust_brightness,
    adjust_contrast,
    adjust_gamma,
    adjust_hue,
    adjust_saturation,
    normal_like,
)
from tta_core.methods.context import Context

COLOURS = (
    ("brightness", 0.6, 1.4),
    ("contrast", 0.7, 1.3),
    ("saturation", 0.5, 1.5),
    ("hue", -0.06, 0.06),
    ("gamma", 0.7, 1.3),
)
"""Colour operations with the range of their factor; of the hue, parts of a full circle."""
LARGEST_ANGLE = 15.0
"""Degrees."""
LARGEST_SHIFT = 1 / 16
"""Part of the side of the padded image."""
SCALES = (0.9, 1.1)
BLURS = (0.001, 0.5)
"""Standard deviation in pixels."""
BLUR_RADIUS = 2
FLIP_PROBABILITY = 0.5
NOISE = 0.005
"""Standard deviation."""

IMAGES_AT_ONCE = {"cpu": 16, "cuda": 256}
"""Images in one forward of several views: few where larger batches are no faster, on the CPU."""

ADJUST: dict[str, Callable[[Tensor, float], Tensor]] = {
    "brightness": adjust_brightness,
    "contrast": adjust_contrast,
    "saturation": adjust_saturation,
    "hue": adjust_hue,
    "gamma": adjust_gamma,
}


@dataclass(frozen=True)
class View:
    """What makes one view, but for its noise.

    Attributes:
        colours: colour operations with their factors, in the order in which they are applied.
        angle: degrees, clockwise.
        shift: whole pixels to the right and down.
        scale: factor.
        blur: standard deviation in pixels.
        flip: whether left and right change places.
    """

    colours: tuple[tuple[str, float], ...]
    angle: float
    shift: tuple[int, int]
    scale: float
    blur: float
    flip: bool


def draw_view(height: int, width: int, generator: torch.Generator) -> View:
    """Draws a view for images of this size; the generator is on the CPU."""
    uniform = torch.rand(len(COLOURS) + 6, generator=generator, dtype=torch.float64).tolist()
    order = torch.randperm(len(COLOURS), generator=generator).tolist()
    factors = [(name, low + (high - low) * uniform[i]) for i, (name, low, high) in enumerate(COLOURS)]
    angle, right, down, scale, blur, flip = uniform[len(COLOURS) :]
    return View(
        colours=tuple(factors[i] for i in order),
        angle=LARGEST_ANGLE * (2 * angle - 1),
        shift=(_shift(width, right), _shift(height, down)),
        scale=SCALES[0] + (SCALES[1] - SCALES[0]) * scale,
        blur=BLURS[0] + (BLURS[1] - BLURS[0]) * blur,
        flip=flip < FLIP_PROBABILITY,
    )


def random_view(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Draws a view and applies it to a batch.

    Args:
        pixels: images `(batch, 3, height, width)`, which are clipped to [0, 1]; they are left as they are.
        generator: on the CPU.

    Returns:
        Augmented images in [0, 1].
    """
    height, width = pixels.shape[-2:]
    moved = apply_view(pixels, draw_view(height, width, generator))
    return moved.add_(normal_like(moved, generator), alpha=NOISE).clamp_(0, 1)


def reflected_view(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """A view of ROID, see `random_view`: colours and an affine map of the image mirrored at its edges."""
    height, width = pixels.shape[-2:]
    return apply_reflected(pixels, draw_view(height, width, generator))


def apply_view(pixels: Tensor, view: View) -> Tensor:
    """The part of `random_view` that is no noise."""
    taps = blur_taps(view.blur, pixels.dtype)
    return blur(move(_coloured(pixels, view), view, margin=len(taps) // 2), taps)


def apply_reflected(pixels: Tensor, view: View) -> Tensor:
    """Makes the view of ROID that is drawn; its blur is left out."""
    return move(_coloured(pixels, view), view, mirrored=True).clamp_(0, 1)


def _coloured(pixels: Tensor, view: View) -> Tensor:
    pixels = pixels.clamp(0, 1)
    for name, factor in view.colours:
        pixels = ADJUST[name](pixels, factor)
    return pixels


def move(pixels: Tensor, view: View, margin: int = 0, *, mirrored: bool = False) -> Tensor:
    """Turns about the centre, scales, shifts, then flips a batch: bilinear.

    Args:
        pixels: images `(batch, channels, height, width)`.
        view: what is done.
        margin: pixels that the result is larger by on each side.
        mirrored: whether the image is mirrored at its edges, whose pixels are there once; otherwise they are repeated.
    """
    batch, channels, height, width = pixels.shape
    y = torch.arange(-margin, height + margin, device=pixels.device, dtype=pixels.dtype) - (height - 1) / 2
    x = torch.arange(-margin, width + margin, device=pixels.device, dtype=pixels.dtype) - (width - 1) / 2
    across, down = ((-x if view.flip else x) - view.shift[0]).unsqueeze(0), (y - view.shift[1]).unsqueeze(1)
    turn = math.radians(view.angle)
    cosine, sine = math.cos(turn) / view.scale, math.sin(turn) / view.scale
    # What grid_sample calls 1 is half a side from the centre, or with `mirrored` the middle of the last pixel.
    less = 1 if mirrored else 0
    from_x = (cosine * across + sine * down) * (2 / (width - less))
    from_y = (cosine * down - sine * across) * (2 / (height - less))
    grid = torch.stack([from_x, from_y], dim=-1).unsqueeze(0)
    # All images are one with many channels: the places to sample at are worked out once.
    together = pixels.reshape(1, batch * channels, height, width)
    outside = "reflection" if mirrored else "border"
    moved = functional.grid_sample(together, grid, mode="bilinear", padding_mode=outside, align_corners=mirrored)
    return moved.view(batch, channels, *moved.shape[-2:])


def blur_taps(sigma: float, dtype: torch.dtype) -> list[float]:
    """Weights of a Gaussian kernel of at most 5 pixels, without those at its ends that make no difference."""
    weights = [math.exp(-0.5 * (offset / sigma) ** 2) for offset in range(BLUR_RADIUS + 1)]
    total = weights[0] + 2 * sum(weights[1:])
    kept = [weight / total for weight in weights if weight > torch.finfo(dtype).eps / 8]
    return [*reversed(kept[1:]), *kept]


def blur(pixels: Tensor, taps: Sequence[float]) -> Tensor:
    """Weighted sum of neighbours in both directions, smaller than `pixels` by the number of taps less one."""
    for dim in (-1, -2) if len(taps) > 1 else ():
        half = len(taps) // 2
        length = pixels.shape[dim] - 2 * half
        blurred = pixels.narrow(dim, half, length) * taps[half]
        for offset in range(1, half + 1):
            for start in (half - offset, half + offset):
                blurred.add_(pixels.narrow(dim, start, length), alpha=taps[half + offset])
        pixels = blurred
    return pixels


@torch.no_grad()
def predict_views(
    network: Callable[[Tensor], Tensor],
    images: Tensor,
    number: int,
    generator: torch.Generator,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    augment: Callable[[Tensor, torch.Generator], Tensor] = random_view,
    images_at_once: int | None = None,
) -> Tensor:
    """What a network says to random views of a batch; without a graph, in forwards of bounded size.

    Args:
        network: gives logits `(images, classes)`; its samples must not depend on their neighbours.
        images: normalised images `(batch, 3, height, width)`.
        number: number of views, at least 1.
        generator: on the CPU; what is drawn for each view.
        mean: per-channel mean that was subtracted from the images' pixels.
        std: standard deviation that they were divided by. Both are undone before a view is made and done again
            afterwards. With 0 and 1 the images are taken for pixels, and clipped, whatever they are (the release).
        augment: makes one view of pixels, from the generator.
        images_at_once: images in one forward if there are more views than one; by default as the device wants it.

    Returns:
        Logits `(number, batch, classes)`.
    """
    at_once = images_at_once or IMAGES_AT_ONCE.get(images.device.type, IMAGES_AT_ONCE["cpu"])
    together = max(1, at_once // len(images))
    pixels, back = scale_channels(images, std, mean), _normalisation(mean, std)
    logits = []
    for start in range(0, number, together):
        views = [scale_channels(augment(pixels, generator), *back) for _ in range(min(together, number - start))]
        found = network(torch.cat(views) if len(views) > 1 else views[0])
        logits.append(found.view(len(views), len(images), -1))
    return torch.cat(logits)


@torch.no_grad()
def normalised_view(
    images: Tensor,
    context: Context,
    generator: torch.Generator,
    augment: Callable[[Tensor, torch.Generator], Tensor] = random_view,
) -> Tensor:
    """A random view of normalised images that is normalised like them, for what is trained on it.

    Args:
        images: normalised images `(batch, 3, height, width)`.
        context: has the normalisation, which is undone before the view is made and done again afterwards.
        generator: on the CPU.
        augment: makes the view of pixels, from the generator.

    Returns:
        Normalised images of the same shape.
    """
    pixels = augment(scale_channels(images, context.std, context.mean), generator)
    return scale_channels(pixels, *_normalisation(context.mean, context.std))


def scale_channels(images: Tensor, factors: Sequence[float], offsets: Sequence[float]) -> Tensor:
    """Images with each channel multiplied by its factor, its offset added; the same images if that changes nothing.

    The numbers never go to the device as a tensor, which would be waited for.
    """
    if all(factor == 1 for factor in factors) and not any(offsets):
        return images
    scaled = torch.empty_like(images)
    for channel, (factor, offset) in enumerate(zip(factors, offsets, strict=True)):
        torch.mul(images[:, channel], factor, out=scaled[:, channel]).add_(offset)
    return scaled


def _normalisation(mean: Sequence[float], std: Sequence[float]) -> tuple[list[float], list[float]]:
    """The factor and the offset of each channel that normalise pixels."""
    return [1 / width for width in std], [-centre / width for centre, width in zip(mean, std, strict=True)]


def _shift(side: int, uniform: float) -> int:
    padded = side + 2 * (side // 2)
    return round(LARGEST_SHIFT * padded * (2 * uniform - 1))
