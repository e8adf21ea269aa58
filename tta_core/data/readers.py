"""Opens the domains of any benchmark: which reader serves which row of the table. Imports no torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tta_core.data import class_folders, digits_c, severity_arrays
from tta_core.data.benchmarks import CLEAN
from tta_core.data.class_folders import ImageFiles
from tta_core.data.digits import load_digits
from tta_core.data.domains import split_severity
from tta_core.spec import BenchmarkSpec, Crop

Images = NDArray[np.uint8] | ImageFiles
"""Images `(images, height, width, 3)`: an array, usually a memory map, or files that are decoded when asked for."""


def read_domain(
    spec: BenchmarkSpec, name: str, severity: int, *, data_seed: int, crop: Crop, image_size: int
) -> tuple[Images, NDArray[np.int64]]:
    """Opens one domain.

    Args:
        spec: the benchmark.
        name: a domain, `clean` included, or a domain at a severity of its own, such as `fog@3`.
        severity: strength of a domain that has none of its own.
        data_seed: seed of the corruptions of a benchmark that is made here.
        crop: how an image file is brought to the network's size.
        image_size: that size.

    Returns:
        The images, and the labels `(images,)`.

    Raises:
        InputError: if files are missing or are not what they should be.
    """
    domain, severity = split_severity(name, severity)
    if spec.storage == "class-folders":
        return class_folders.load_domain(spec, domain, severity, crop, image_size)
    if spec.storage == "severity-arrays":
        return severity_arrays.load_domain(spec, domain, severity)
    return digits_c.load_domain(domain, severity, data_seed=data_seed)


def check_domain(spec: BenchmarkSpec, name: str, severity: int) -> None:
    """Looks whether the files of a domain are here, without reading the images.

    Raises:
        InputError: if they are not.
    """
    domain, severity = split_severity(name, severity)
    if spec.storage == "class-folders":
        class_folders.check_domain(spec, domain, severity)
    elif spec.storage == "severity-arrays":
        severity_arrays.load_domain(spec, domain, severity)


def read_source(spec: BenchmarkSpec, *, image_size: int) -> Images:
    """Clean images that the benchmark's backbones were trained on, or else their clean test images."""
    if spec.storage == "embedded":
        return load_digits("train")[0]
    return read_domain(spec, CLEAN, spec.severities[0], data_seed=0, crop=spec.crops[0], image_size=image_size)[0]


def read_training(spec: BenchmarkSpec, *, image_size: int) -> tuple[Images, NDArray[np.int64]]:
    """The images that the benchmark's backbones were trained on, and their labels `(images,)`.

    Raises:
        InputError: if they are missing or are not what they should be.
    """
    if spec.storage == "class-folders":
        return class_folders.load_training(spec, image_size)
    if spec.storage == "severity-arrays":
        return severity_arrays.load_training(spec)
    return load_digits("train")


def check_training(spec: BenchmarkSpec) -> None:
    """Looks whether the training images are here, without reading them.

    Raises:
        InputError: if they are not.
    """
    if spec.storage == "class-folders":
        class_folders.check_training(spec)
    elif spec.storage == "severity-arrays":
        severity_arrays.load_training(spec)
