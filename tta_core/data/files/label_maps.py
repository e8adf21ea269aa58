"""Photographs of any one size, and the maps of classes that belong to them, as files. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tta_core.data.files.encoded import ImageFiles, decoded
from tta_core.errors import InputError

IGNORED = 255
"""Marks pixels that are not scored."""

Table = NDArray[np.uint8]
"""`(256,)`: the class of each number in a file."""


def file_size(file: Path) -> tuple[int, int]:
    """Height and width of an image; only its header is read.

    Raises:
        InputError: if it cannot be read.
    """
    try:
        with Image.open(file) as opened:
            return opened.height, opened.width
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"the image {file} cannot be read ({error}): get it again") from None


class WholeFiles(ImageFiles):
    """Image files that are all of one size, and stay so.

    Attributes:
        pixels: height and width.
    """

    kind = "whole"

    def __init__(self, folder: Path, names: Sequence[str], pixels: tuple[int, int]) -> None:
        super().__init__(folder, names, "none", pixels[1])
        self.pixels = pixels

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array of all images."""
        return len(self.names), *self.pixels, 3

    def chosen(self, numbers: Sequence[int]) -> WholeFiles:
        """Some of the images, in this order."""
        return WholeFiles(self.folder, [self.names[number] for number in numbers], self.pixels)

    def fitted(self, image: Image.Image, place: str) -> NDArray[np.uint8]:
        """The pixels of an image, which must be of that size."""
        self._check_size(image, place)
        return np.asarray(image)

    def _check_size(self, image: Image.Image, place: str) -> None:
        if (image.height, image.width) != self.pixels:
            raise InputError(
                f"the image {place} has {image.width}x{image.height} pixels, others have {self.pixels[1]}x"
                f"{self.pixels[0]}: all images and label maps of a domain must have one size"
            )


class LabelMaps(WholeFiles):
    """One map of classes for each image.

    Attributes:
        tables: what the numbers in a file mean, by the end of its name.
        classes: number of classes; beside them there is `IGNORED`.
    """

    kind = "labels"

    def __init__(
        self, folder: Path, names: Sequence[str], pixels: tuple[int, int], tables: Mapping[str, Table], classes: int
    ) -> None:
        super().__init__(folder, names, pixels)
        self.tables = tables
        self.classes = classes

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array of all maps."""
        return len(self.names), *self.pixels

    def chosen(self, numbers: Sequence[int]) -> LabelMaps:
        """Some of the maps, in this order."""
        names = [self.names[number] for number in numbers]
        return LabelMaps(self.folder, names, self.pixels, self.tables, self.classes)

    def decode(self, content: bytes) -> Image.Image:
        """The numbers of a file as they are; of one with a palette the indices."""
        return decoded(content, mode=None)

    def fitted(self, image: Image.Image, place: str) -> NDArray[np.uint8]:
        """The classes `(height, width)`.

        Raises:
            InputError: if the file has colours, or numbers that are no classes.
        """
        if image.mode not in ("L", "P"):
            raise InputError(
                f"the label map {place} is of mode {image.mode}: give one channel of 8 bits that holds numbers of "
                "classes, such as *_labelTrainIds.png"
            )
        self._check_size(image, place)
        table = next(table for end, table in self.tables.items() if place.endswith(end))
        found: NDArray[np.uint8] = table[np.asarray(image)]
        strange = np.unique(found[(found >= self.classes) & (found != IGNORED)])
        if len(strange):
            raise InputError(
                f"the label map {place} holds {strange[0]}, which is neither a class (0 to {self.classes - 1}) nor "
                f"{IGNORED}: get the maps of numbers, not of colours"
            )
        return found

    def __getitem__(self, key: slice | Sequence[int] | NDArray[Any]) -> NDArray[np.uint8]:
        """Decodes some maps: uint8 `(n, height, width)`."""
        return super().__getitem__(key)
