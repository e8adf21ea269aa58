"""Benchmarks with one image file an image and one folder a class, such as ImageNet-C. Imports no torch."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tta_core.data.benchmarks import CLEAN
from tta_core.data.root import data_root, not_here
from tta_core.errors import InputError
from tta_core.spec import BenchmarkSpec, Crop

SUFFIXES = (".jpeg", ".jpg", ".png")

NAMES_SHOWN = 3
"""How many of the missing names a message gives."""


class ImageFiles:
    """The images of one domain, decoded when they are asked for.

    Attributes:
        folder: the domain's folder.
        names: `<class>/<file>` of each image.
        crop: how an image is brought to `size`.
        size: height and width of the decoded images in pixels.
    """

    def __init__(self, folder: Path, names: Sequence[str], crop: Crop, size: int) -> None:
        self.folder = folder
        self.names = names
        self.crop = crop
        self.size = size

    def __len__(self) -> int:
        return len(self.names)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of the array of all images."""
        return len(self.names), self.size, self.size, 3

    def __getitem__(self, key: slice | Sequence[int] | NDArray[Any]) -> NDArray[np.uint8]:
        """Decodes some of the images: uint8 `(n, size, size, 3)`.

        Raises:
            InputError: naming the file, if one cannot be decoded.
        """
        numbers = np.arange(len(self.names))[key]
        images = np.empty((len(numbers), *self.shape[1:]), dtype=np.uint8)
        for place, number in enumerate(numbers):
            images[place] = self._decoded(self.folder / self.names[number])
        return images

    def _decoded(self, file: Path) -> NDArray[np.uint8]:
        try:
            with Image.open(file) as opened:
                image = opened.convert("RGB")
        # Pillow's decoders raise any of these for a file that is cut short or damaged.
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise InputError(
                f"the image {file} cannot be decoded ({error}): restore the file, then run again"
            ) from None
        return np.asarray(cropped(image, self.crop, self.size, file))


def cropped(image: Image.Image, crop: Crop, size: int, file: Path) -> Image.Image:
    """Brings an image to `size` by `size` pixels, with the rounding of torchvision's `Resize` and `CenterCrop`.

    Raises:
        InputError: if it is too small for a crop without resizing.
    """
    width, height = image.size
    if crop == "resize-center":
        short = round(size * 256 / 224)
        # The long side is rounded down.
        width, height = (short, short * height // width) if width <= height else (short * width // height, short)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    if min(width, height) < size:
        raise InputError(
            f"the image {file} has {width}x{height} pixels, too few to cut {size}x{size} out: give crop: resize-center"
        )
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.crop((left, top, left + size, top + size))


def domain_folder(spec: BenchmarkSpec, root: Path, domain: str, severity: int) -> Path:
    """The folder of a domain below the data root."""
    if domain == CLEAN:
        return root / spec.clean_folder
    return root / spec.folder / domain / str(severity) if spec.severities else root / spec.folder


def check_domain(spec: BenchmarkSpec, domain: str, severity: int) -> Path:
    """Looks for the class folders of a domain, not at the images in them.

    Returns:
        The domain's folder.

    Raises:
        InputError: if the folder, a class in it or the list of images is missing.
    """
    root = data_root(spec)
    folder = domain_folder(spec, root, domain, severity)
    _check_classes(spec, folder)
    if spec.image_list:
        _listed(spec, root / spec.image_list)
    return folder


def check_training(spec: BenchmarkSpec) -> Path:
    """Looks for the class folders of the training images; returns their folder.

    Raises:
        InputError: if the folder or a class in it is missing.
    """
    folder = data_root(spec) / spec.training_folder
    _check_classes(spec, folder)
    return folder


def load_training(spec: BenchmarkSpec, size: int) -> tuple[ImageFiles, NDArray[np.int64]]:
    """Lists the training images, as many as there are; none is decoded yet.

    Returns:
        The images, resized and cropped to `size`, and the labels `(images,)`.

    Raises:
        InputError: if the folder, a class in it or all images are missing.
    """
    folder = check_training(spec)
    names = _below(spec, folder)
    if not names:
        raise not_here(spec, f"the folder {folder} has no images")
    return ImageFiles(folder, names, "resize-center", size), _labels(spec, names)


def _check_classes(spec: BenchmarkSpec, folder: Path) -> None:
    try:
        found = {entry.name for entry in os.scandir(folder) if entry.is_dir()}
    except OSError as error:
        raise not_here(spec, f"the folder {folder} cannot be read ({error.strerror})") from None
    missing = [name for name in spec.class_names if name not in found]
    if missing:
        present = spec.num_classes - len(missing)
        raise not_here(
            spec, f"the folder {folder} has {present} of {spec.num_classes} class folders, without {_first(missing)}"
        )


def load_domain(
    spec: BenchmarkSpec, domain: str, severity: int, crop: Crop, size: int
) -> tuple[ImageFiles, NDArray[np.int64]]:
    """Lists the images of a domain; none is decoded yet.

    Clean photographs have any size, so they are resized whatever `crop` says.

    Returns:
        The images, and the labels `(images,)`.

    Raises:
        InputError: if files are missing or there are more than there should be.
    """
    folder = check_domain(spec, domain, severity)
    if spec.image_list:
        names = _listed(spec, data_root(spec) / spec.image_list)
        missing = [name for name in names if not os.path.isfile(f"{folder}/{name}")]  # noqa: PTH113 thrice as fast
        if missing:
            raise not_here(spec, f"the folder {folder} lacks {len(missing)} listed images: {_first(missing)}")
    else:
        names = _found(spec, folder, spec.count(domain))
    return ImageFiles(folder, names, "resize-center" if domain == CLEAN else crop, size), _labels(spec, names)


def _labels(spec: BenchmarkSpec, names: Sequence[str]) -> NDArray[np.int64]:
    numbers = dict(zip(spec.class_names, spec.class_numbers or range(spec.num_classes), strict=True))
    return np.array([numbers[name.partition("/")[0]] for name in names], dtype=np.int64)


def _below(spec: BenchmarkSpec, folder: Path) -> list[str]:
    """All images below the class folders, by class and then by name."""
    return [
        # All domains hold the same names: interned, they are in memory once.
        sys.intern(f"{name}/{file}")
        for name in spec.class_names
        for file in sorted(entry.name for entry in os.scandir(folder / name))
        if file.lower().endswith(SUFFIXES)
    ]


def _found(spec: BenchmarkSpec, folder: Path, count: int) -> list[str]:
    """All images of a domain, which must be as many as the table says."""
    names = _below(spec, folder)
    if len(names) != count:
        counts = Counter(name.partition("/")[0] for name in names)
        fewest = min(spec.class_names, key=lambda name: counts[name])
        raise not_here(
            spec,
            f"the folder {folder} has {len(names)} images, not {count}; fewest in {fewest}: {counts[fewest]}",
        )
    return names


def _listed(spec: BenchmarkSpec, file: Path) -> list[str]:
    """The images that a list names, in its order."""
    try:
        names = file.read_text().split()
    except (OSError, UnicodeDecodeError) as error:
        raise not_here(spec, f"the list {file} cannot be read ({error})") from None
    classes = set(spec.class_names)
    wrong = [name for name in names if name.count("/") != 1 or name.partition("/")[0] not in classes]
    if wrong:
        raise not_here(spec, f"the list {file} has {len(wrong)} lines that are no <class>/<file>: {_first(wrong)}")
    if len(set(names)) != spec.images_per_domain or len(names) != spec.images_per_domain:
        raise not_here(
            spec, f"the list {file} names {len(set(names))} different images, not {spec.images_per_domain} once each"
        )
    return names


def _first(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more
