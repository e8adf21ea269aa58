"""Clean images to corrupt: those of a benchmark, of any folder, or of an array."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tta_core.corruptions.corrupt import SMALLEST
from tta_core.data.files.arrays import mapped
from tta_core.data.files.encoded import SUFFIXES, EncodedImages, cropped, decoded, is_image
from tta_core.errors import InputError


class ImageSource(Protocol):
    """Images with names. Any number of threads may read them at once."""

    @property
    def names(self) -> Sequence[str]:
        """Relative path of each image, which also seeds its random choices."""

    def read(self, number: int) -> NDArray[np.uint8] | str:
        """One image `(height, width, 3)`; if it cannot be read, decoded or corrupted, what is wrong with it."""


class BenchmarkImages:
    """Images of a benchmark, brought to one size."""

    def __init__(self, images: EncodedImages) -> None:
        self._images = images
        self.names = images.names

    def read(self, number: int) -> NDArray[np.uint8] | str:
        """See `ImageSource`."""
        images, damaged = self._images.read(np.array([number]))
        return damaged[0] if damaged else images[0]


class FolderImages:
    """All images below a folder.

    Args:
        folder: the folder.
        size: pixels that each is resized and cropped to, as images of ImageNet are; None leaves them as they are.

    Attributes:
        left_out: other files below the folder: suffix -> how many.

    Raises:
        InputError: if there are none.
    """

    def __init__(self, folder: Path, size: int | None) -> None:
        if not folder.is_dir():
            raise InputError(f"there is no folder {folder}: give one with images, or an array .npy")
        self._folder = folder
        self._size = size
        files = [
            os.path.relpath(Path(place, file), folder)
            for place, _, files in os.walk(folder, followlinks=True)
            for file in files
            if not file.startswith(".")
        ]
        self.names = sorted(file for file in files if is_image(Path(file).name))
        others = (Path(file).suffix.lower() or "without suffix" for file in files if not is_image(Path(file).name))
        self.left_out = dict(Counter(others).most_common())
        if not self.names:
            raise InputError(f"the folder {folder} has no images ({', '.join(SUFFIXES)}): give another")

    def read(self, number: int) -> NDArray[np.uint8] | str:
        """See `ImageSource`."""
        file = self._folder / self.names[number]
        try:
            image = decoded(file.read_bytes())
        except (OSError, ValueError) as error:
            return str(getattr(error, "strerror", None) or error)
        if self._size is not None:
            image = cropped(image, "resize-center", self._size, file)
        if min(image.size) < SMALLEST:
            return f"{image.width}x{image.height} pixels are too few: at least {SMALLEST} each way"
        return np.asarray(image)


def read_array(file: Path) -> NDArray[np.uint8]:
    """Opens an array of images `(images, height, width, 3)` as a read-only memory map.

    Raises:
        InputError: if it cannot be read or holds something else.
    """
    try:
        images = mapped(file)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"the array {file} cannot be read ({reason}): give a whole .npy file of images") from None
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or not len(images):
        raise InputError(
            f"{file} holds {images.dtype} of shape {images.shape}: give uint8 of shape (images, height, width, 3)"
        )
    return images
