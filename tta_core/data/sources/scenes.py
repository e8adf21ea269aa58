"""Scenes of several handwritten digits on a coloured ground, with a class for each pixel. Imports no torch."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tta_core.data.sources.digits import NATIVE_MAXIMUM, TRAIN_IMAGES
from tta_core.errors import unknown_name

SIDE = 64
"""Pixels."""
GROUND, IGNORED = 10, 255
"""Class of what is no digit, and the mark of pixels that are not scored: the rims of digits."""
GLYPH_SIDES = (18, 22, 26, 30)
"""Pixels of a digit with the pixel of margin that it gets."""
SPLITS: tuple[Literal["train", "test"], ...] = ("train", "test")
OVERLAP = 0.12
"""Largest share of a digit's square that may be taken already."""
TRIES = 40

Split = Literal["train", "test"]


def make_scenes(split: Split, count: int, *, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Makes scenes. Each has a generator of its own: the first scenes are the same however many are made.

    Args:
        split: which digits they show: the first 898, or the others.
        count: number of scenes.
        seed: seed of everything random, not negative.

    Returns:
        Images `(count, 64, 64, 3)`, and labels `(count, 64, 64)`: a digit, `GROUND` or `IGNORED`.

    Raises:
        InputError: if there is no such split.
    """
    if split not in SPLITS:
        raise unknown_name("split of scenes", split, SPLITS)
    import sklearn.datasets  # It takes longer than a short cell, and is not needed where the cache has the scenes.

    native = sklearn.datasets.load_digits()
    part = slice(0, TRAIN_IMAGES) if split == "train" else slice(TRAIN_IMAGES, None)
    digits, classes = native.images[part] / NATIVE_MAXIMUM, native.target[part]
    images, labels = np.empty((count, SIDE, SIDE, 3), np.uint8), np.empty((count, SIDE, SIDE), np.uint8)
    for number in range(count):
        rng = np.random.default_rng([seed, SPLITS.index(split), number])
        images[number], labels[number] = _scene(digits, classes, rng)
    return images, labels


def _scene(
    digits: NDArray[np.float64], classes: NDArray[np.int64], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    colours = rng.uniform(0.15, 0.55, (2, 3))
    if rng.random() < 0.5:
        colours = 1 - colours
    mix = fractal(rng)[..., None]
    pixels = colours[0] * (1 - mix) + colours[1] * mix
    labels = np.full((SIDE, SIDE), GROUND, np.uint8)
    taken = np.zeros((SIDE, SIDE), bool)
    low, high = (0.65, 1.0) if pixels.mean() < 0.5 else (0.0, 0.35)
    for _ in range(rng.integers(3, 6)):
        side, number = int(rng.choice(GLYPH_SIDES)), int(rng.integers(len(digits)))
        for _ in range(TRIES):
            top, left = rng.integers(-2, SIDE - side + 3, 2)
            rows, columns = slice(max(top, 0), top + side), slice(max(left, 0), left + side)
            if taken[rows, columns].mean() <= OVERLAP:
                break
        else:
            continue
        taken[rows, columns] = True
        whole = glyph(digits[number], side)
        ink = whole[rows.start - top :, columns.start - left :][: SIDE - rows.start, : SIDE - columns.start]
        pixels[rows, columns] += ink[..., None] * (rng.uniform(low, high, 3) - pixels[rows, columns])
        part = labels[rows, columns]
        part[ink > 0.25] = IGNORED
        part[ink > 0.5] = classes[number]
    return to_bytes(pixels + rng.normal(0, 0.015, pixels.shape)), labels


def glyph(native: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """The ink in [0, 1] of an `(8, 8)` digit with a pixel of margin, enlarged to `side` by cubic splines."""
    padded = np.pad(native, 1)
    return np.clip(ndimage.zoom(padded, side / len(padded), order=3), 0, 1)


def fractal(rng: np.random.Generator) -> NDArray[np.float64]:
    """Smooth noise `(64, 64)` in [0, 1]: normal grids of 4 to 32 cells, each finer one weaker."""
    total = np.zeros((SIDE, SIDE))
    for octave, cells in enumerate((4, 8, 16, 32)):
        grid = rng.standard_normal((cells, cells))
        total += 0.6**octave * ndimage.zoom(grid, SIDE / cells, order=1)
    lowest, highest = total.min(), total.max()
    return (total - lowest) / (highest - lowest)


def to_bytes(pixels: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Pixels in [0, 1] as bytes; what lies outside is clipped."""
    return np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
