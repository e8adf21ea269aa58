"""Augmentation of whole batches: parameters drawn for each image, no loop over images, nothing waits for the device.

All functions take and return pixels `(batch, 3, height, width)` in [0, 1] and compute what torchvision's functions of
the same name compute for one image. Factors are tensors with one for each image, or one number for all, which is
known to the host and saves the clipping that it makes needless.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from tta_core.device import is_accelerator, upload

LUMA = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in a grey value."""

BLUR_TAPS = 5
DARKEST = 1e-8
"""What the correction of gamma takes black for."""

Factor = Tensor | float

LARGEST_ANGLE = 15.0
"""Degrees, at full strength."""


def augment(pixels: Tensor, strengths: Tensor, generator: torch.Generator) -> Tensor:
    """The augmentation of MoASE++ (moase §3, step 4).

    Args:
        pixels: images in [0, 1].
        strengths: `(3,)` in (0, 1), of geometry, colour and noise, the same for all images.
        generator: on the CPU; what is drawn for each image.

    Returns:
        Augmented images in [0, 1].
    """
    geometry, colour, noise = strengths.to(pixels.dtype).unbind()
    batch, height = len(pixels), pixels.shape[-2]
    uniform = upload(torch.rand(5, batch, generator=generator).to(pixels.dtype), pixels.device)
    flips, spread = uniform[0] < geometry, 2 * uniform[1:] - 1
    # The published padding doubles the side and the translation is a 16th of it. The padding is wide enough that its
    # outside never comes into view, so clamped coordinates do the same without it.
    shift = 2 * height * geometry / 16
    pixels = affine(pixels, LARGEST_ANGLE * geometry, shift, 1 + 0.2 * (geometry - 0.5))
    pixels = torch.where(flips.view(-1, 1, 1, 1), pixels.flip(-1), pixels)
    pixels = adjust_brightness(pixels, 1 + 0.2 * colour * spread[0])
    pixels = adjust_contrast(pixels, 1 + 0.15 * colour * spread[1])
    pixels = adjust_saturation(pixels, 1 + 0.25 * colour * spread[2])
    pixels = adjust_hue(pixels, 0.06 * colour * spread[3])
    pixels = gaussian_blur(pixels, 0.001 + 0.499 * colour)
    return (pixels + 0.02 * noise * normal_like(pixels, generator)).clamp(0, 1)


def affine(pixels: Tensor, angle: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Rotates about the centre, scales and shifts all images alike; nearest pixel, edges repeated outside.

    Args:
        pixels: images.
        angle: degrees, clockwise, no dimensions.
        shift: pixels to the right and down, no dimensions.
        scale: factor, no dimensions.
    """
    height, width = pixels.shape[-2:]
    y = torch.arange(height, device=pixels.device, dtype=pixels.dtype) - (height - 1) / 2
    x = torch.arange(width, device=pixels.device, dtype=pixels.dtype) - (width - 1) / 2
    turn = angle * (math.pi / 180)
    cosine, sine = turn.cos() / scale, turn.sin() / scale
    across, down = (x - shift).unsqueeze(0), (y - shift).unsqueeze(1)
    from_x = (cosine * across + sine * down + (width - 1) / 2).round().clamp(0, width - 1).long()
    from_y = (cosine * down - sine * across + (height - 1) / 2).round().clamp(0, height - 1).long()
    return pixels[..., from_y, from_x]


def adjust_brightness(pixels: Tensor, factor: Factor) -> Tensor:
    """Multiplies each image by its factor."""
    return _within(pixels * _each(factor), factor)


def adjust_contrast(pixels: Tensor, factor: Factor) -> Tensor:
    """Moves each image from its mean grey value (factor 0) through itself (1)."""
    return _blend(pixels, grey(pixels.mean(dim=(2, 3), keepdim=True)), factor)


def adjust_saturation(pixels: Tensor, factor: Factor) -> Tensor:
    """Moves each image from its grey version (factor 0) through itself (1)."""
    return _blend(pixels, grey(pixels), factor)


def adjust_hue(pixels: Tensor, turn: Factor) -> Tensor:
    """Turns the hue of each image by its part of a full circle."""
    red, green, blue = pixels.unbind(1)
    largest, smallest = pixels.amax(dim=1), pixels.amin(dim=1)
    chroma = largest - smallest
    # Without chroma there is no hue; whatever it is set to has no effect.
    divisor = torch.where(chroma > 0, chroma, 1)
    hue = torch.where(
        largest == red,
        (green - blue) / divisor,
        torch.where(largest == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    hue = (hue + 6 * (turn.view(-1, 1, 1) if isinstance(turn, Tensor) else turn)) % 6
    smallest_to_largest = ((hue - 3).abs() - 1, 2 - (hue - 2).abs(), 2 - (hue - 4).abs())
    return torch.stack([smallest + chroma * share.clamp(0, 1) for share in smallest_to_largest], dim=1)


def adjust_gamma(pixels: Tensor, gamma: Factor) -> Tensor:
    """Raises each image to its power, black taken for 1e-8."""
    return pixels.clamp(min=DARKEST).pow(_each(gamma))


def gaussian_blur(pixels: Tensor, sigma: Tensor) -> Tensor:
    """Blurs all images alike with a kernel of five by five pixels; `sigma` in pixels, no dimensions."""
    half = BLUR_TAPS // 2
    offsets = torch.arange(-half, half + 1, device=pixels.device, dtype=pixels.dtype)
    weights = torch.exp(-0.5 * (offsets / sigma) ** 2)
    weights = weights / weights.sum()
    padded = functional.pad(pixels, (half, half, half, half), mode="reflect")
    across = _taps(padded, weights, dim=-1)
    return _taps(across, weights, dim=-2)


def grey(pixels: Tensor) -> Tensor:
    """Grey values `(batch, 1, height, width)`."""
    red, green, blue = pixels.split(1, dim=1)
    return LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue


def normal_like(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal noise, drawn on the device of the pixels from a seed that the generator gives."""
    if not is_accelerator(pixels.device):
        return torch.randn(pixels.shape, generator=generator, dtype=pixels.dtype)
    seed = int(torch.randint(2**62, (), generator=generator))  # On the CPU: nothing waits.
    own = torch.Generator(pixels.device).manual_seed(seed)
    return torch.randn(pixels.shape, generator=own, device=pixels.device, dtype=pixels.dtype)


def _taps(padded: Tensor, weights: Tensor, dim: int) -> Tensor:
    """Weighted sum of shifted copies along one axis, shorter than the input by the number of taps less one."""
    length = padded.shape[dim] - BLUR_TAPS + 1
    blurred = padded.narrow(dim, 0, length) * weights[0]
    for tap in range(1, BLUR_TAPS):
        blurred = torch.addcmul(blurred, padded.narrow(dim, tap, length), weights[tap])
    return blurred


def _blend(pixels: Tensor, other: Tensor, factor: Factor) -> Tensor:
    return _within(torch.lerp(other.expand_as(pixels), pixels, _each(factor)), factor)


def _within(pixels: Tensor, factor: Factor) -> Tensor:
    """Clips to [0, 1] unless the factor is known to lead nowhere else."""
    return pixels if isinstance(factor, float) and 0 <= factor <= 1 else pixels.clamp(0, 1)


def _each(factor: Factor) -> Factor:
    return factor.view(-1, 1, 1, 1) if isinstance(factor, Tensor) else factor
