"""Benchmarks with one array a corruption that holds all severities, such as CIFAR-10-C. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tta_core.data.benchmarks import CLEAN, benchmark_spec
from tta_core.data.files.arrays import mapped
from tta_core.data.root import not_here
from tta_core.data.sources.array_survey import ArraySurvey
from tta_core.data.sources.base import Domain, Labels, Storage
from tta_core.data.spec import BenchmarkSpec, Crop, Ladder

ONE_SEVERITY = "; one severity alone does not say which it is: all must be there, one after the other"


class SeverityArrays(Storage):
    """`FOLDER/<corruption>.npy` and `FOLDER/labels.npy`; for clean images and training `clean.npy`, `train.npy`."""

    proven: ClassVar[bool] = False
    ladder: ClassVar[Ladder] = "cifar"

    def inside(self, spec: BenchmarkSpec) -> Sequence[str]:
        """The arrays."""
        return tuple(f"{name}.npy" for name in (*spec.domains, *spec.held_out_domains))

    def check(self, domain: Domain) -> None:
        """Maps the arrays, which takes no time."""
        self.open(domain)

    def open(self, domain: Domain, *, whole: bool = True) -> tuple[NDArray[np.uint8], Labels]:
        """Maps one severity of a corruption read-only."""
        spec, name, count = domain.row, domain.name, domain.row.images_per_domain
        folder = self.folder(spec)
        total = count * len(spec.severities)
        first = 0 if name == CLEAN else spec.severities.index(domain.severity) * count
        images = _opened(spec, folder / f"{name}.npy")
        expected = count if name == CLEAN else total
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[0] != expected or images.shape[3] != 3:
            raise not_here(
                spec,
                f"{folder / name}.npy holds {images.dtype} of shape {images.shape}, not uint8 of shape "
                f"({expected}, height, width, 3)" + (ONE_SEVERITY if images.shape[:1] == (count,) else ""),
            )
        labels = _opened(spec, folder / "labels.npy")
        if labels.shape not in ((count,), (total,)) or labels.dtype.kind not in "iu":
            raise not_here(
                spec,
                f"{folder / 'labels.npy'} holds {labels.dtype} of shape {labels.shape}, not {count} or {total} "
                "integers",
            )
        # The same images at all severities: the labels may be there once or be repeated.
        own = np.asarray(labels if len(labels) == count else labels[first : first + count], dtype=np.int64)
        _check_labels(spec, folder / "labels.npy", own)
        counts = np.bincount(own, minlength=spec.num_classes)
        if spec.images_per_class and (counts != spec.images_per_class).any():
            number = int(np.argmax(counts != spec.images_per_class))
            raise not_here(
                spec,
                f"{folder / 'labels.npy'} has {counts[number]} images of the class {number}, not "
                f"{spec.images_per_class}: these look like the labels of another benchmark",
            )
        return images[first : first + count], own

    def check_training(self, row: BenchmarkSpec, *, whole: bool = True) -> None:
        """Maps the arrays."""
        self.open_training(row, "none", 1)

    def open_training(
        self, row: BenchmarkSpec, crop: Crop, size: int, *, whole: bool = True
    ) -> tuple[NDArray[np.uint8], Labels]:
        """Maps the training images read-only."""
        folder = self.folder(row)
        images, labels = _opened(row, folder / "train.npy"), _opened(row, folder / "train_labels.npy")
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or not len(images):
            raise not_here(
                row,
                f"{folder / 'train.npy'} holds {images.dtype} of shape {images.shape}, not uint8 (n, height, width, 3)",
            )
        if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
            raise not_here(
                row,
                f"{folder / 'train_labels.npy'} holds {labels.dtype} of shape {labels.shape}, not {len(images)} "
                "integers",
            )
        _check_labels(row, folder / "train_labels.npy", labels)
        return images, np.asarray(labels, dtype=np.int64)

    def survey(self, root: Path, *, decode: bool) -> ArraySurvey:
        """Counts the images in arrays; there is nothing to decode."""
        return ArraySurvey(self.folder)

    def material(self, spec: BenchmarkSpec, size: int) -> tuple[NDArray[np.uint8], Labels]:
        """The clean images of the published benchmark, which are smaller than photographs."""
        return self.open(Domain(benchmark_spec(spec.generated_from), CLEAN))


def _check_labels(spec: BenchmarkSpec, file: Path, labels: NDArray[Any]) -> None:
    if labels.min() < 0 or labels.max() >= spec.num_classes:
        raise not_here(spec, f"{file} has labels outside 0 to {spec.num_classes - 1}")


def _opened(spec: BenchmarkSpec, file: Path) -> NDArray[Any]:
    try:
        return mapped(file)
    except (OSError, ValueError) as error:
        raise not_here(spec, f"{file} cannot be read ({getattr(error, 'strerror', None) or error})") from None


STORAGE = SeverityArrays()
