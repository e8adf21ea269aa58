"""Images that lie somewhere as JPEG, PNG or the like, decoded when they are asked for. Imports no torch."""

from __future__ import annotations

import io
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from tta_core.data.spec import Crop, OwnCrop
from tta_core.errors import InputError

SUFFIXES = (".jpeg", ".jpg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""What torchvision's `ImageFolder` reads."""

# Damaged EXIF and the like are common, and said with Pillow's own path: what cannot be decoded is an error here.
warnings.filterwarnings("ignore", module=r"PIL\.")

SCAN, END = b"\xff\xda", b"\xff\xd9"
"""Markers of a JPEG: where pixels begin, and where the image ends."""


class EncodedImages(ABC):
    """The images of one domain. Any number of threads may read them at once.

    Attributes:
        kind: how they are stored, such as `folders`; for people.
        folder: the folder or file that they lie in.
        names: `<class>/<file>` of each image.
        crop: how an image is brought to `size`.
        size: height and width of the decoded images in pixels.
        proven: whether names say the classes; else numbers alone do, and nothing proves their order.
    """

    kind = "folders"

    def __init__(self, folder: Path, names: Sequence[str], crop: Crop, size: int, *, proven: bool = True) -> None:
        self.folder = folder
        self.names = names
        self.crop = crop
        self.size = size
        self.proven = proven

    def __len__(self) -> int:
        return len(self.names)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array of all images."""
        return len(self.names), self.size, self.size, 3

    @abstractmethod
    def place(self, number: int) -> str:
        """Where an image lies, for people."""

    @abstractmethod
    def encoded(self, numbers: Sequence[int]) -> Iterable[bytes]:
        """The bytes of some of the images, in this order.

        Raises:
            OSError: if a file is missing or may not be read.
        """

    @abstractmethod
    def listing(self) -> Iterable[str]:
        """Lines that change as soon as images are added, removed, or replaced by others."""

    @abstractmethod
    def chosen(self, numbers: Sequence[int]) -> EncodedImages:
        """Some of the images, in this order."""

    def __getitem__(self, key: slice | Sequence[int] | NDArray[Any]) -> NDArray[np.uint8]:
        """Decodes some of the images: uint8 `(n, size, size, 3)`.

        Raises:
            InputError: naming the file, if one cannot be read or decoded.
        """
        numbers = np.arange(len(self.names))[key]
        images, damaged = self.read(numbers)
        if damaged:
            raise damaged_error(self, numbers, damaged)
        return images

    def read(self, numbers: NDArray[np.int64]) -> tuple[NDArray[np.uint8], dict[int, str]]:
        """Decodes some of the images; those that are damaged become black.

        Returns:
            uint8 `(n, size, size, 3)`, and what is wrong with the damaged ones, by place in `numbers`.

        Raises:
            InputError: if a file is missing or may not be read, or an image is too small for the crop.
        """
        images = np.zeros((len(numbers), *self.shape[1:]), dtype=np.uint8)
        damaged: dict[int, str] = {}
        given = iter(self.encoded([int(number) for number in numbers]))
        for place, number in enumerate(numbers):
            try:
                content = next(given)
            except OSError as error:
                raise InputError(
                    f"the image {self.place(int(number))} cannot be read ({error.strerror or error}): restore the "
                    "file or its permissions, then run again"
                ) from None
            try:
                image = self.decode(content)
            except ValueError as error:
                damaged[place] = str(error)
                continue
            images[place] = self.fitted(image, self.place(int(number)))
        return images, damaged

    def decode(self, content: bytes) -> Image.Image:
        """Decodes one file.

        Raises:
            ValueError: if it is damaged.
        """
        return decoded(content)

    def fitted(self, image: Image.Image, place: str) -> NDArray[np.uint8]:
        """The pixels of a decoded image at the size of all.

        Raises:
            InputError: if it cannot be brought to that.
        """
        return np.asarray(cropped(image, self.crop, self.size, place))


class ImageFiles(EncodedImages):
    """Images with a file each, in class folders below `folder`."""

    def place(self, number: int) -> str:
        """The file."""
        return f"{self.folder}/{self.names[number]}"

    def encoded(self, numbers: Sequence[int]) -> Iterable[bytes]:
        """Reads the files."""
        for number in numbers:
            with open(f"{self.folder}/{self.names[number]}", "rb") as file:  # noqa: PTH123 faster for many files
                yield file.read()

    def chosen(self, numbers: Sequence[int]) -> ImageFiles:
        """Some of the images, in this order."""
        return ImageFiles(self.folder, [self.names[number] for number in numbers], self.crop, self.size)

    def listing(self) -> Iterable[str]:
        """Name, size and time of change of each file."""
        for name in self.names:
            found = os.stat(f"{self.folder}/{name}")  # noqa: PTH116 faster for many files
            yield f"{name} {found.st_size} {found.st_mtime_ns}"


def is_image(file: str) -> bool:
    """Whether a file's name is that of an image. Hidden files are none, such as `._cat.JPEG` that macOS leaves."""
    return file.lower().endswith(SUFFIXES) and not file.startswith(".")


def decoded(content: bytes, mode: str | None = "RGB") -> Image.Image:
    """Decodes an image file.

    Args:
        content: its bytes.
        mode: Pillow's name of what it is brought to; None leaves it as it is.

    Raises:
        ValueError: if it is cut short, damaged, or no image.
    """
    try:
        with Image.open(io.BytesIO(content)) as opened:
            if opened.format == "JPEG" and content.rfind(END) < content.rfind(SCAN):
                # Pillow takes whatever follows a cut for pixels, such as the zeros of a download that broke off.
                raise ValueError("image file is truncated (it has no end)")
            return opened.copy() if mode is None else _in_eight_bits(opened).convert(mode)
    # Pillow's decoders raise any of these for a file that is cut short or damaged.
    except (OSError, SyntaxError, ValueError, IndexError, EOFError, Image.DecompressionBombError) as error:
        reason = "not a known kind of image" if isinstance(error, UnidentifiedImageError) else str(error)
        raise ValueError(reason if content else "the file is empty") from None


def _in_eight_bits(image: Image.Image) -> Image.Image:
    """Brings grey levels of 16 bits to 8: Pillow's own conversion makes all of them white but the darkest."""
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))


def cropped(image: Image.Image, crop: Crop, size: int, place: object) -> Image.Image:
    """Brings an image to `size` by `size` pixels, with the rounding of torchvision's `Resize` and `CenterCrop`.

    Raises:
        InputError: if it is too small for a crop without resizing.
    """
    assert crop != "backbone", "readers take the crop of one backbone"
    width, height = image.size
    if crop == "resize-center" or isinstance(crop, OwnCrop):
        short = crop.short if isinstance(crop, OwnCrop) else round(size * 256 / 224)
        bicubic = isinstance(crop, OwnCrop) and crop.interpolation == "bicubic"
        # The long side is rounded down.
        width, height = (short, short * height // width) if width <= height else (short * width // height, short)
        image = image.resize((width, height), Image.Resampling.BICUBIC if bicubic else Image.Resampling.BILINEAR)
    if min(width, height) < size:
        raise InputError(
            f"the image {place} has {width}x{height} pixels, too few to cut {size}x{size} out: give crop: resize-center"
        )
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.crop((left, top, left + size, top + size))


def damaged_error(images: Any, numbers: NDArray[np.int64], damaged: Mapping[int, str]) -> InputError:
    """The error for images that cannot be decoded.

    Args:
        images: what they were read from.
        numbers: numbers of the images that were asked for.
        damaged: place in these -> what is wrong.
    """
    place, reason = next(iter(damaged.items()))
    more = f", and {len(damaged) - 1} more of the same batch" if len(damaged) > 1 else ""
    return InputError(
        f"the image {images.place(int(numbers[place]))} cannot be decoded ({reason}){more}: restore the file, then run "
        "again; resources.corrupt_images: skip leaves such images of a stream out and counts them"
    )
