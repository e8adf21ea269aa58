"""Opens the domains of any benchmark: which reader serves which row of the table. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tta_core.data.benchmarks import CLEAN, owner
from tta_core.data.domains import split_severity
from tta_core.data.files.decoded import DecodedImages, decoded_if_there
from tta_core.data.files.encoded import EncodedImages
from tta_core.data.generated import check_made_here
from tta_core.data.label_space import ChosenImages, kept_classes, of_kept_classes
from tta_core.data.sources import class_folders, severity_arrays
from tta_core.data.sources import embedded as digits_c
from tta_core.data.sources.digits import load_digits
from tta_core.data.spec import BenchmarkSpec, Crop, LabelSpace

WholeImages = NDArray[np.uint8] | EncodedImages | DecodedImages
"""Images `(images, height, width, 3)`: an array, usually a memory map, files that are decoded when asked for, or what
they were decoded to.
"""

Images = WholeImages | ChosenImages
"""All images of a domain, or some."""


@dataclass(frozen=True)
class DomainImages:
    """One domain.

    Attributes:
        images: uint8 `(images, height, width, 3)`: an array, usually a memory map, or files that are decoded when asked
            for. Index it with an array or a slice.
        labels: int64 `(images,)`.
    """

    images: Images
    labels: NDArray[np.int64]


TRAINING = "training"
"""Stands for the training images where a domain is named."""


def read_domain(
    spec: BenchmarkSpec,
    name: str,
    severity: int,
    *,
    data_seed: int,
    crop: Crop,
    image_size: int,
    label_space: LabelSpace = "full",
    whole: bool = True,
    build: bool = False,
) -> tuple[Images, NDArray[np.int64]]:
    """Opens one domain.

    Args:
        spec: the benchmark.
        name: a domain, `clean` included, or a domain at a severity of its own, such as `fog@3`.
        severity: strength of a domain that has none of its own.
        data_seed: seed of the corruptions, of a benchmark that is made here.
        crop: how an image file is brought to the network's size; a domain whose row lacks it has that row's default.
        image_size: that size.
        label_space: if `masked`, images of other classes than the benchmark's are left out, as of `clean`.
        whole: whether all images must be there; else as many image files as there are.
        build: whether to decode image files into the cache if `TTA_GRID_DECODE_CACHE` says so, see
            `tta_core.data.files.decoded`. What is there already is used anyway.

    Returns:
        The images, and the labels `(images,)`.

    Raises:
        InputError: if files are missing or are not what they should be.
    """
    domain, severity = split_severity(name, severity)
    row = owner(spec, domain)
    return _labelled_in(
        spec,
        label_space,
        *_read(row, domain, severity, data_seed, row.crop(crop), image_size, whole, build),
    )


def _read(
    spec: BenchmarkSpec,
    domain: str,
    severity: int,
    data_seed: int,
    crop: Crop,
    image_size: int,
    whole: bool,
    build: bool,
) -> tuple[WholeImages, NDArray[np.int64]]:
    """Opens a domain of the row that it is read by."""
    check_kind(spec, domain, data_seed)
    if spec.storage == "class-folders":
        images, labels = class_folders.load_domain(spec, domain, severity, crop, image_size, whole=whole)
        return decoded_if_there(spec, domain, own_severity(spec, domain, severity), images, build=build), labels
    if spec.storage == "severity-arrays":
        return severity_arrays.load_domain(spec, domain, severity)
    return digits_c.load_domain(domain, severity, data_seed=data_seed)


def check_kind(spec: BenchmarkSpec, domain: str, data_seed: int | None) -> None:
    """Looks whether files that were made here, or downloaded, are where the row that reads a domain says so.

    Raises:
        InputError: see `tta_core.data.generated.check_made_here`; it has the arguments too.
    """
    if spec.storage != "embedded" and not (domain == CLEAN and spec.clean_folder):
        check_made_here(spec, data_seed)


def own_severity(spec: BenchmarkSpec, domain: str, severity: int) -> int:
    """The severity of a domain, 0 if it has none."""
    return severity if spec.severities and domain != CLEAN else 0


def check_domain(spec: BenchmarkSpec, name: str, severity: int, *, data_seed: int | None = None) -> None:
    """Looks whether the files of a domain are here, without reading the images.

    Args:
        spec: the benchmark.
        name: a domain, see `read_domain`.
        severity: its strength.
        data_seed: seed of corruptions that were made here; None for any.

    Raises:
        InputError: if they are not.
    """
    domain, severity = split_severity(name, severity)
    spec = owner(spec, domain)
    check_kind(spec, domain, data_seed)
    if spec.storage == "class-folders":
        class_folders.check_domain(spec, domain, severity)
    elif spec.storage == "severity-arrays":
        severity_arrays.load_domain(spec, domain, severity)


def read_source(
    spec: BenchmarkSpec, *, image_size: int, crop: Crop = "none", label_space: LabelSpace = "full"
) -> Images:
    """Clean images that the benchmark's backbones were trained on, or else their clean test images."""
    if spec.storage == "embedded":
        return read_training(spec, image_size=image_size, label_space=label_space)[0]
    return read_domain(spec, CLEAN, 0, data_seed=0, crop=crop, image_size=image_size, label_space=label_space)[0]


def read_training(
    spec: BenchmarkSpec, *, image_size: int, crop: Crop = "none", label_space: LabelSpace = "full"
) -> tuple[Images, NDArray[np.int64]]:
    """The images that the benchmark's backbones were trained on, and their labels `(images,)`.

    Raises:
        InputError: if they are missing or are not what they should be.
    """
    row = owner(spec, CLEAN)
    if row.storage == "class-folders":
        images, labels = class_folders.load_training(row, crop, image_size)
        return _labelled_in(spec, label_space, decoded_if_there(row, TRAINING, 0, images, build=False), labels)
    if row.storage == "severity-arrays":
        return _labelled_in(spec, label_space, *severity_arrays.load_training(row))
    return _labelled_in(spec, label_space, *load_digits("train"))


def read_images(images: Images, numbers: NDArray[np.int64]) -> tuple[NDArray[np.uint8], dict[int, tuple[str, str]]]:
    """Reads some images, also where some cannot be decoded: those become black.

    Returns:
        uint8 `(n, height, width, 3)`; and of those that cannot be decoded, by place in `numbers`, where the image lies
        and what is wrong with it.

    Raises:
        InputError: if a file is missing or may not be read.
    """
    if isinstance(images, ChosenImages):
        # Images are chosen once, from all of a domain.
        whole, numbers = images.images, images.numbers[numbers]
    else:
        whole = images
    if not isinstance(whole, EncodedImages | DecodedImages):
        return np.asarray(whole[numbers]), {}
    found, damaged = whole.read(numbers)
    return found, {place: (whole.place(int(numbers[place])), reason) for place, reason in damaged.items()}


def check_training(spec: BenchmarkSpec) -> None:
    """Looks whether the training images are here, without reading them.

    Raises:
        InputError: if they are not.
    """
    spec = owner(spec, CLEAN)
    if spec.storage == "class-folders":
        class_folders.check_training(spec)
    elif spec.storage == "severity-arrays":
        severity_arrays.load_training(spec)


def _labelled_in(
    spec: BenchmarkSpec, space: LabelSpace, images: WholeImages, labels: NDArray[np.int64]
) -> tuple[Images, NDArray[np.int64]]:
    """The images of the classes that a label space has, with their labels in it."""
    classes = kept_classes(spec, space)
    if not classes:
        return images, labels
    numbers, own = of_kept_classes(labels, classes)
    return images if len(numbers) == len(labels) else ChosenImages(images, numbers), own
