"""The images behind `digits-c`: scikit-learn's handwritten digits, enlarged to 32x32. Imports no torch."""

from __future__ import annotations

from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tta_core.errors import unknown_name

TRAIN_IMAGES = 898
TEST_IMAGES = 899
IMAGE_SIZE = 32
NATIVE_MAXIMUM = 16.0
"""scikit-learn stores the ink of a native pixel as a count from 0 to 16."""


def load_digits(split: Literal["train", "test"]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Loads one half of the digits: the first 898 images to train on, the last 899 to test on.

    The split is contiguous: it needs no random numbers, and since images by one writer tend to stand together, it is
    a harder test than a random split (by about a point of accuracy).

    Args:
        split: "train" or "test".

    Returns:
        Images `(n, 32, 32, 3)` with three equal channels and labels `(n,)`, for the caller alone.

    Raises:
        InputError: if the split has another name.
    """
    if split not in ("train", "test"):
        raise unknown_name("split of digits", split, ("train", "test"))
    images, labels = _all_digits()
    part = slice(0, TRAIN_IMAGES) if split == "train" else slice(TRAIN_IMAGES, TRAIN_IMAGES + TEST_IMAGES)
    return images[part].copy(), labels[part].copy()


@cache
def _all_digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images and labels of both halves: enlarging takes longer than a short cell."""
    # Imported here: so does this import, and it is not needed where the cache has the images.
    import sklearn.datasets

    native = sklearn.datasets.load_digits()
    images = np.repeat(np.stack([_enlarge(image) for image in native.images])[..., None], 3, axis=3)
    labels = np.asarray(native.target, dtype=np.int64)
    return images, labels


def _enlarge(native: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Pads an `(8, 8)` image by one native pixel, so that no stroke touches the border, and enlarges it."""
    padded = np.pad(native.astype(np.float32) / NATIVE_MAXIMUM, 1)
    enlarged = Image.fromarray(padded).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
    # Bicubic interpolation overshoots at edges, hence the clamp.
    return np.rint(np.clip(np.asarray(enlarged), 0.0, 1.0) * 255.0).astype(np.uint8)
