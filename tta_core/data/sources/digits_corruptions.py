"""The corruptions of ImageNet-C at 32x32: noise, blur, weather and digital, in five severities. Imports no torch.

Definitions follow Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations", ICLR 2019; the strengths are this package's own, since those for photographs at 224x224 do nothing or
everything to a digit of 8x8 real pixels. What differs: frost and fog come from procedural noise instead of photographs
and diamond-square plasma; elastic distortion samples once instead of twice; spatter has no edge detection.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tta_core.data.domains import CORRUPTIONS, HELD_OUT_CORRUPTIONS
from tta_core.data.sources import digits_kernels as kernels
from tta_core.data.sources.digits_kernels import Fields, Images
from tta_core.errors import InputError, unknown_name

Generators = Sequence[np.random.Generator]
SEVERITIES = (1, 2, 3, 4, 5)
BLOCK = 128
"""Images worked on at once: small enough to stay in the processor's cache."""
WATER = (175, 238, 238)
MUD = (63, 42, 20)


def corrupt(
    images: NDArray[np.uint8], name: str, severity: int, *, seed: int, indices: NDArray[np.integer[Any]]
) -> NDArray[np.uint8]:
    """Corrupts images.

    Every image has a random generator of its own, seeded by (seed, corruption, severity, index): the same image gets
    the same bytes in any subset, order or batch.

    Args:
        images: `(n, 32, 32, 3)`.
        name: a name in `CORRUPTIONS` or `HELD_OUT_CORRUPTIONS`.
        severity: 1 to 5.
        seed: seed of the benchmark's random choices, not negative.
        indices: `(n,)`, number of each image in the benchmark, not negative.

    Returns:
        The corrupted images, `(n, 32, 32, 3)`.

    Raises:
        InputError: if name, severity, seed, shapes or types are not as described.
    """
    _check(images, name, severity, seed, indices)
    corruption = _TABLE[name]
    result = np.empty_like(images, order="C")
    for start in range(0, len(images), BLOCK):
        block = slice(start, start + BLOCK)
        generators = [np.random.default_rng([seed, corruption.number, severity, int(i)]) for i in indices[block]]
        corrupted = corruption.apply(kernels.from_bytes(images[block]), generators, *corruption.strengths[severity - 1])
        result[block] = kernels.to_bytes(corrupted)
    return result


def _check(images: Any, name: str, severity: int, seed: int, indices: Any) -> None:
    if name not in _TABLE:
        raise unknown_name("corruption", name, _TABLE)
    if isinstance(severity, bool) or not isinstance(severity, int | np.integer) or severity not in SEVERITIES:
        raise InputError(f"severity {severity!r} is not allowed: give a whole number from 1 to 5")
    if seed < 0:
        raise InputError(f"seed {seed} is not allowed: give a whole number that is not negative")
    if not (isinstance(images, np.ndarray) and images.dtype == np.uint8 and images.shape[1:] == (32, 32, 3)):
        given = f"{getattr(images, 'dtype', type(images).__name__)} {getattr(images, 'shape', '')}"
        raise InputError(f"images to corrupt are {given.strip()}: give uint8 of shape (n, 32, 32, 3)")
    numbers = np.asarray(indices)
    whole = np.issubdtype(numbers.dtype, np.integer) and (numbers >= 0).all()
    if numbers.shape != (len(images),) or not whole:
        given = f"{numbers.dtype} of shape {numbers.shape}"
        raise InputError(f"indices are {given}: give one whole number, not negative, for each of {len(images)} images")


def _normal(generators: Generators, shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.stack([generator.standard_normal(shape, dtype=np.float32) for generator in generators])


def _uniform(generators: Generators, shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.stack([generator.random(shape, dtype=np.float32) for generator in generators])


def _angles(generators: Generators, low: float, high: float) -> NDArray[np.float64]:
    return np.radians(np.array([generator.uniform(low, high) for generator in generators]))


def _gaussian_noise(images: Images, generators: Generators, deviation: float) -> Images:
    return images + np.float32(deviation) * _normal(generators, images.shape[1:])


def _shot_noise(images: Images, generators: Generators, photons: float) -> Images:
    expected = np.clip(images, 0, 1).astype(np.float64) * photons
    counts = [generator.poisson(mean) for generator, mean in zip(generators, expected, strict=True)]
    return (np.stack(counts) / photons).astype(np.float32)


def _impulse_noise(images: Images, generators: Generators, share: float) -> Images:
    chance = _uniform(generators, images.shape[1:])
    black, white = chance < share / 2, (chance >= share / 2) & (chance < share)
    return np.where(black, np.float32(0), np.where(white, np.float32(1), images))


def _speckle_noise(images: Images, generators: Generators, deviation: float) -> Images:
    return images + images * np.float32(deviation) * _normal(generators, images.shape[1:])


def _defocus_blur(images: Images, _: Generators, radius: float) -> Images:
    return kernels.defocus_blur(images, radius)


def _gaussian_blur(images: Images, _: Generators, sigma: float) -> Images:
    return kernels.gaussian_blur(images, sigma)


def _glass_blur(images: Images, generators: Generators, sigma: float, reach: int, rounds: int) -> Images:
    positions = len(kernels.shuffled_places(images.shape[2], images.shape[3], reach))
    steps = np.stack([generator.integers(-reach, reach, size=(rounds, positions, 2)) for generator in generators])
    blurred = np.clip(kernels.gaussian_blur(images, sigma), 0, 1)
    return kernels.gaussian_blur(kernels.shuffle_nearby(blurred, steps, reach), sigma)


def _motion_blur(images: Images, generators: Generators, length: int, sigma: float) -> Images:
    return kernels.motion_blur(images, length, sigma, _angles(generators, -45, 45))


def _zoom_blur(images: Images, _: Generators, largest: float) -> Images:
    return kernels.zoom_blur(images, largest, steps=10)


def _snow(
    images: Images,
    generators: Generators,
    mean: float,
    deviation: float,
    zoom: float,
    threshold: float,
    length: int,
    sigma: float,
    blend: float,
) -> Images:
    flakes = np.float32(mean) + np.float32(deviation) * _normal(generators, images.shape[2:])
    flakes = kernels.zoom_centre(flakes, zoom)
    flakes = np.clip(np.where(flakes < threshold, np.float32(0), flakes), 0, 1)
    layer = kernels.motion_blur(flakes[:, None], length, sigma, _angles(generators, -135, -45))
    whitened = np.maximum(images, kernels.luminance(images) * np.float32(1.5) + np.float32(0.5))
    result: Images = np.float32(blend) * images + np.float32(1 - blend) * whitened + layer + layer[:, :, ::-1, ::-1]
    return result


def _octaves(generators: Generators, size: int, decay: float, *, ridged: bool) -> Fields:
    points = [2**octave + 1 for octave in range(1, size.bit_length())]
    grids = [_uniform(generators, (count, count)) for count in points]
    return kernels.octave_noise(grids, size, decay, ridged=ridged)


def _frost(images: Images, generators: Generators, image_weight: float, frost_weight: float) -> Images:
    # The square keeps the veins bright and lets the image show between them.
    layer = _octaves(generators, images.shape[2], 2.0, ridged=True)[:, None] ** 2
    result: Images = np.float32(image_weight) * images + np.float32(frost_weight) * layer
    return result


def _fog(images: Images, generators: Generators, amount: float, decay: float) -> Images:
    layer = np.float32(amount) * _octaves(generators, images.shape[2], decay, ridged=False)[:, None]
    brightest = images.max(axis=(1, 2, 3), keepdims=True)
    result: Images = (images + layer) * brightest / (brightest + np.float32(amount))
    return result


def _brightness(images: Images, _: Generators, amount: float) -> Images:
    return kernels.shift_value(images, amount)


def _contrast(images: Images, _: Generators, factor: float) -> Images:
    count, channels = images.shape[:2]
    mean = images.reshape(count, channels, -1).mean(axis=2, dtype=np.float64).astype(np.float32)[:, :, None, None]
    result: Images = (images - mean) * np.float32(factor) + mean
    return result


def _elastic_transform(images: Images, generators: Generators, amplitude: float, sigma: float, affine: float) -> Images:
    size = images.shape[2]
    corners = (2 * _uniform(generators, (3, 2)) - 1) * np.float32(affine * size)
    noise = 2 * _uniform(generators, (2, size, size)) - 1
    rows, columns = kernels.affine_positions(corners, size)
    bends = kernels.gaussian_blur(noise, sigma)
    usual = np.sqrt((bends.reshape(len(bends), 2, -1) ** 2).mean(axis=2, dtype=np.float64))
    bends = bends * (amplitude / np.maximum(usual, 1e-6)).astype(np.float32)[:, :, None, None]
    return kernels.sample_bilinear(images, rows + bends[:, 0], columns + bends[:, 1])


def _pixelate(images: Images, _: Generators, grid: int) -> Images:
    return kernels.pixelate(images, grid)


def _jpeg_compression(images: Images, _: Generators, quality: int) -> Images:
    return kernels.jpeg(images, quality)


def _saturate(images: Images, _: Generators, factor: float, offset: float) -> Images:
    return kernels.scale_saturation(images, factor, offset)


def _spatter(
    images: Images, generators: Generators, mean: float, deviation: float, sigma: float, threshold: float, mud: bool
) -> Images:
    liquid = np.float32(mean) + np.float32(deviation) * _normal(generators, images.shape[2:])
    liquid = kernels.gaussian_blur(liquid, sigma)
    cover = kernels.gaussian_blur((liquid > threshold).astype(np.float32), 0.6)[:, None]
    colour = np.array(MUD if mud else WATER, dtype=np.float32).reshape(1, 3, 1, 1) / np.float32(255)
    result: Images = images * (1 - cover) + colour * cover if mud else images + colour * cover
    return result


@dataclass(frozen=True)
class _Corruption:
    """One corruption; `number` seeds its generators and must never change, or every image of it does."""

    number: int
    apply: Callable[..., Images]
    strengths: tuple[tuple[Any, ...], ...]


_TABLE: dict[str, _Corruption] = {
    "gaussian_noise": _Corruption(0, _gaussian_noise, ((0.15,), (0.27,), (0.38,), (0.50,), (0.62,))),
    "shot_noise": _Corruption(1, _shot_noise, ((20.0,), (7.0,), (3.5,), (1.8,), (1.0,))),
    "impulse_noise": _Corruption(2, _impulse_noise, ((0.08,), (0.17,), (0.26,), (0.34,), (0.42,))),
    "defocus_blur": _Corruption(3, _defocus_blur, ((1.6,), (2.6,), (3.5,), (4.4,), (5.2,))),
    "glass_blur": _Corruption(4, _glass_blur, ((0.7, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.5, 2, 1), (0.6, 2, 2))),
    "motion_blur": _Corruption(5, _motion_blur, ((4, 2.0), (6, 4.0), (8, 5.0), (10, 7.0), (12, 9.0))),
    "zoom_blur": _Corruption(6, _zoom_blur, ((1.25,), (1.5,), (1.75,), (2.05,), (2.4,))),
    "snow": _Corruption(
        7,
        _snow,
        (
            (0.05, 0.3, 2.0, 0.5, 4, 1.5, 0.85),
            (0.13, 0.3, 2.0, 0.5, 5, 2.0, 0.8),
            (0.21, 0.3, 2.0, 0.5, 5, 2.0, 0.8),
            (0.28, 0.3, 2.0, 0.5, 5, 3.0, 0.75),
            (0.35, 0.3, 2.0, 0.5, 6, 3.0, 0.75),
        ),
    ),
    "frost": _Corruption(8, _frost, ((1.0, 0.25), (0.95, 0.37), (0.9, 0.48), (0.85, 0.58), (0.8, 0.68))),
    "fog": _Corruption(9, _fog, ((0.25, 2.0), (0.4, 2.0), (0.6, 1.9), (0.8, 1.8), (1.0, 1.7))),
    "brightness": _Corruption(10, _brightness, ((0.15,), (0.25,), (0.33,), (0.39,), (0.44,))),
    "contrast": _Corruption(11, _contrast, ((0.8,), (0.65,), (0.52,), (0.43,), (0.35,))),
    "elastic_transform": _Corruption(
        12,
        _elastic_transform,
        ((0.8, 3.0, 0.03), (1.1, 3.0, 0.05), (1.5, 2.8, 0.07), (1.9, 2.6, 0.09), (2.3, 2.5, 0.12)),
    ),
    "pixelate": _Corruption(13, _pixelate, ((20,), (16,), (13,), (11,), (8,))),
    "jpeg_compression": _Corruption(14, _jpeg_compression, ((12,), (7,), (4,), (2,), (1,))),
    # The four below are for choosing settings. Top-1 of the supervised backbone at severities 1 to 5, in per cent:
    # 96.9, 93.3, 87.0, 73.5, 58.5
    "speckle_noise": _Corruption(15, _speckle_noise, ((0.15,), (0.4,), (0.65,), (1.1,), (2.5,))),
    # 96.2, 91.8, 84.0, 73.7, 59.1; water up to severity 3, then mud, as in ImageNet-C
    "spatter": _Corruption(
        16,
        _spatter,
        (
            (0.65, 0.3, 1.5, 0.78, False),
            (0.65, 0.3, 1.5, 0.755, False),
            (0.65, 0.3, 1.5, 0.735, False),
            (0.65, 0.3, 1.5, 0.685, True),
            (0.65, 0.3, 1.5, 0.66, True),
        ),
    ),
    # 97.0, 92.8, 82.0, 72.0, 60.8
    "gaussian_blur": _Corruption(17, _gaussian_blur, ((1.5,), (1.9,), (2.2,), (2.5,), (2.8,))),
    # 95.4, 89.3, 81.9, 72.9, 57.8; a grey image has no saturation to scale: only the offset acts, as a red tint
    "saturate": _Corruption(18, _saturate, ((1.0, 0.15), (1.0, 0.4), (1.0, 0.65), (1.0, 0.82), (1.0, 0.95))),
}

assert set(_TABLE) == {*CORRUPTIONS, *HELD_OUT_CORRUPTIONS}
