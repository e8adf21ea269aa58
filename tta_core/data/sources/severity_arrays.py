"""Benchmarks with one array a corruption that holds all severities, such as CIFAR-10-C. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tta_core.data.benchmarks import CLEAN
from tta_core.data.root import data_root, not_here, own_folder
from tta_core.data.spec import BenchmarkSpec

ONE_SEVERITY = "; one severity alone does not say which it is: all must be there, one after the other"


def load_domain(spec: BenchmarkSpec, domain: str, severity: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Opens one severity of a corruption.

    Returns:
        Images `(images, height, width, 3)` as a read-only memory map, and the labels `(images,)`.

    Raises:
        InputError: if a file is missing or is not what it should be.
    """
    folder, count = own_folder(spec, data_root(spec)), spec.images_per_domain
    total = count * len(spec.severities)
    first = 0 if domain == CLEAN else spec.severities.index(severity) * count
    images = _opened(spec, folder / f"{domain}.npy")
    expected = count if domain == CLEAN else total
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[0] != expected or images.shape[3] != 3:
        raise not_here(
            spec,
            f"{folder / domain}.npy holds {images.dtype} of shape {images.shape}, not uint8 of shape "
            f"({expected}, height, width, 3)" + (ONE_SEVERITY if images.shape[:1] == (count,) else ""),
        )
    labels = _opened(spec, folder / "labels.npy")
    if labels.shape not in ((count,), (total,)) or labels.dtype.kind not in "iu":
        raise not_here(
            spec,
            f"{folder / 'labels.npy'} holds {labels.dtype} of shape {labels.shape}, not {count} or {total} integers",
        )
    # The same images at all severities: the labels may be there once or be repeated.
    own = np.asarray(labels if len(labels) == count else labels[first : first + count], dtype=np.int64)
    _check_labels(spec, folder / "labels.npy", own)
    counts = np.bincount(own, minlength=spec.num_classes)
    if spec.images_per_class and (counts != spec.images_per_class).any():
        number = int(np.argmax(counts != spec.images_per_class))
        raise not_here(
            spec,
            f"{folder / 'labels.npy'} has {counts[number]} images of the class {number}, not {spec.images_per_class}: "
            "these look like the labels of another benchmark",
        )
    return images[first : first + count], own


def load_training(spec: BenchmarkSpec) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Opens the training images `(images, height, width, 3)` as a read-only memory map, and their labels `(images,)`.

    Raises:
        InputError: if a file is missing or is not what it should be.
    """
    folder = own_folder(spec, data_root(spec))
    images, labels = _opened(spec, folder / "train.npy"), _opened(spec, folder / "train_labels.npy")
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or not len(images):
        raise not_here(
            spec,
            f"{folder / 'train.npy'} holds {images.dtype} of shape {images.shape}, not uint8 (n, height, width, 3)",
        )
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise not_here(
            spec,
            f"{folder / 'train_labels.npy'} holds {labels.dtype} of shape {labels.shape}, not {len(images)} integers",
        )
    _check_labels(spec, folder / "train_labels.npy", labels)
    return images, np.asarray(labels, dtype=np.int64)


def _check_labels(spec: BenchmarkSpec, file: Path, labels: NDArray[Any]) -> None:
    if labels.min() < 0 or labels.max() >= spec.num_classes:
        raise not_here(spec, f"{file} has labels outside 0 to {spec.num_classes - 1}")


def mapped(file: Path) -> NDArray[Any]:
    """Maps an array read-only.

    Raises:
        OSError: if the file is missing or may not be read.
        ValueError: if it is damaged, or no array, such as an archive of arrays or a pickle.
    """
    try:
        # Unlike np.load, this takes no archive.
        return np.lib.format.open_memmap(file, mode="r")
    except (EOFError, OverflowError, MemoryError, TypeError, ValueError) as error:
        raise ValueError(f"{error}: no .npy file with an array of numbers, or cut short") from None


def _opened(spec: BenchmarkSpec, file: Path) -> NDArray[Any]:
    try:
        return mapped(file)
    except (OSError, ValueError) as error:
        raise not_here(spec, f"{file} cannot be read ({getattr(error, 'strerror', None) or error})") from None
