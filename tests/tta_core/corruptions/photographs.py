"""Real photographs, and what is compared of corrupted ones: moments and spectra."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images

NAMES = ("mean_r", "mean_g", "mean_b", "sd_r", "sd_g", "sd_b", *(f"power_{2**octave}" for octave in range(7)))
"""Means and standard deviations by channel in levels; log power by octave, from `power_N` to twice the frequency N."""


@cache
def photographs(size: int) -> NDArray[np.uint8]:
    """Photographs `(n, size, size, 3)`: eight of 224 pixels, or 38 of 32, cut from scikit-learn's two."""
    china, flower = load_sample_images().images
    corners = [(0, 0), (100, 100), (203, 416), (0, 416)]
    cuts = [whole[top : top + 224, left : left + 224] for whole in (china, flower) for top, left in corners]
    if size == 224:
        return np.stack(cuts)
    cuts += [
        np.ascontiguousarray(whole[top : top + 96, left : left + 96])
        for whole in (china, flower)
        for top in range(0, 330, 110)
        for left in range(0, 540, 108)
    ]
    small = [Image.fromarray(cut).resize((size, size), Image.Resampling.BILINEAR) for cut in cuts]
    return np.stack([np.asarray(image) for image in small])


def statistics_of(images: NDArray[np.uint8]) -> dict[str, float]:
    """Means over images `(n, size, size, 3)` of `NAMES`, as many octaves as the size has."""
    values = images.astype(np.float64)
    found = [*values.mean((0, 1, 2)), *values.std((1, 2)).mean(0)]
    size = images.shape[1]
    grey = values @ np.array([0.299, 0.587, 0.114]) / 255
    window = np.outer(np.hanning(size), np.hanning(size))
    power = np.abs(np.fft.fft2((grey - grey.mean((1, 2), keepdims=True)) * window)) ** 2
    line = np.fft.fftfreq(size) * size
    frequency = np.hypot(line[:, None], line[None, :])
    octaves = [2**octave for octave in range(size.bit_length() - 1)]
    found += [float(np.log(power[:, (frequency >= low) & (frequency < 2 * low)].mean() + 1e-9)) for low in octaves]
    return dict(zip(NAMES, map(float, found), strict=False))
