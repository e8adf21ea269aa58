"""Fog, night, rain and snow over scenes of digits, in five severities. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tta_core.data.sources.scenes import SIDE, fractal, to_bytes
from tta_core.errors import unknown_name

Pixels = NDArray[np.float64]
"""An image `(64, 64, 3)`, or a map `(64, 64)`, in [0, 1]."""

Weather = Callable[[Pixels, np.random.Generator, int], Pixels]
"""Pixels, random numbers and the severity less one -> pixels, not clipped."""


def weathered(images: NDArray[np.uint8], name: str, severity: int, *, seed: int = 0) -> NDArray[np.uint8]:
    """Puts weather over scenes. Each has random numbers of its own: the same scene is the same in any subset.

    Args:
        images: `(n, 64, 64, 3)`, the first n scenes.
        name: `fog`, `night`, `rain` or `snow`.
        severity: 1 to 5.
        seed: seed of the random choices, not negative.

    Returns:
        `(n, 64, 64, 3)`.

    Raises:
        InputError: if there is no such weather.
    """
    if name not in WEATHER:
        raise unknown_name("weather", name, WEATHER)
    apply, number = WEATHER[name], list(WEATHER).index(name)
    changed = np.empty_like(images)
    for index, image in enumerate(images):
        rng = np.random.default_rng([seed, number, severity, index])
        changed[index] = to_bytes(apply(image / 255, rng, severity - 1))
    return changed


def fog(x: Pixels, rng: np.random.Generator, level: int) -> Pixels:
    """Light of the air in front of what is far, which is the top."""
    thickness = (0.30, 0.42, 0.50, 0.60, 0.72)[level]
    depth = np.linspace(1.25, 0.55, SIDE)[:, None] * (0.6 + 0.8 * fractal(rng))
    seen = np.exp(-thickness * depth)[..., None]
    return x * seen + np.array([0.78, 0.80, 0.82]) * (1 - seen)


def night(x: Pixels, rng: np.random.Generator, level: int) -> Pixels:
    """Little blue light, one to three lamps, and the noise of a camera."""
    exposure, gamma = (0.92, 0.86, 0.82, 0.79, 0.74)[level], (1.08, 1.14, 1.18, 1.21, 1.24)[level]
    noise, halo = (0.008, 0.014, 0.018, 0.021, 0.024)[level], (0.10, 0.15, 0.18, 0.205, 0.235)[level]
    dark = x**gamma * exposure * np.array([0.85, 0.92, 1.15])
    rows, columns = np.mgrid[:SIDE, :SIDE]
    for _ in range(rng.integers(1, 4)):
        (row, column), radius = rng.uniform(0, SIDE, 2), rng.uniform(3, 7)
        glow = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * radius**2))
        dark = dark + halo * rng.uniform(0.5, 1) * glow[..., None] * np.array([1, 0.85, 0.55])
    shot = noise * np.sqrt(np.clip(dark, 0, None)) * rng.standard_normal(x.shape)
    return dark + rng.normal(0, noise, x.shape) + shot


def rain(x: Pixels, rng: np.random.Generator, level: int) -> Pixels:
    """Slanting streaks before a blurred, grey scene."""
    density, length = (0.007, 0.011, 0.017, 0.022, 0.027)[level], (5, 6, 7, 8, 9)[level]
    veil = (0.09, 0.15, 0.24, 0.31, 0.37)[level]
    side = SIDE * 3 // 2
    points = _points(rng, side, density, 0.5)
    runs = ndimage.convolve1d(points, np.ones(length), axis=0, mode="constant")
    turned = ndimage.rotate(runs, rng.uniform(8, 25), reshape=False, order=1)
    margin = (side - SIDE) // 2
    streaks = 0.55 * np.clip(turned[margin : margin + SIDE, margin : margin + SIDE], 0, 1)[..., None]
    blurred = ndimage.gaussian_filter(x, (0.5, 0.5, 0))
    grey = blurred * (1 - veil) + 0.42 * veil
    return grey * (1 - streaks) + streaks * np.array([0.85, 0.88, 0.92])


def snow(x: Pixels, rng: np.random.Generator, level: int) -> Pixels:
    """Small and large flakes before a whitened scene."""
    density, whiteness = (0.002, 0.0035, 0.007, 0.012, 0.018)[level], (0.03, 0.045, 0.07, 0.11, 0.14)[level]
    small = 2.6 * ndimage.gaussian_filter(_points(rng, SIDE, density, 0.7), 0.7)
    large = 7 * ndimage.gaussian_filter(_points(rng, SIDE, density / 4, 1.0), 1.4)
    flakes = np.clip(small + large, 0, 1)[..., None]
    grey = x.mean(axis=-1, keepdims=True)
    white = x * (1 - whiteness) + whiteness * np.minimum(1, 0.6 * grey + 0.55)
    return white * (1 - flakes) + flakes


def _points(rng: np.random.Generator, side: int, density: float, weakest: float) -> Pixels:
    """A map with single points: each place has one with probability `density`, of a strength from `weakest` to 1."""
    there = rng.random((side, side)) < density
    return np.where(there, rng.uniform(weakest, 1, (side, side)), 0.0)


WEATHER: dict[str, Weather] = {"fog": fog, "night": night, "rain": rain, "snow": snow}
"""The domains, in the order in which they come."""
