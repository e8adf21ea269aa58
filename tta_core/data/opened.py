"""Opens the images of any benchmark: its storage finds them, the cache has some of them decoded. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tta_core.data.benchmarks import CLEAN, owner
from tta_core.data.domains import split_severity
from tta_core.data.files.decoded import DecodedImages, decoded_if_there
from tta_core.data.files.encoded import EncodedImages
from tta_core.data.files.label_maps import LabelMaps
from tta_core.data.generated import check_made_here
from tta_core.data.label_space import ChosenImages, kept_classes, of_kept_classes
from tta_core.data.sources.base import Domain, Labels, StoredImages, Targets
from tta_core.data.sources.table import storage_of
from tta_core.data.spec import BenchmarkSpec, Crop, LabelSpace
from tta_core.errors import InputError, first_names

WholeImages = StoredImages | DecodedImages
"""Images `(images, height, width, 3)`: an array, usually a memory map, files that are decoded when asked for, or what
they were decoded to.
"""

Images = WholeImages | ChosenImages
"""All images of a domain, or some."""

TRAINING = "training"
"""Stands for the training images where a domain is named."""


@dataclass(frozen=True)
class DomainImages:
    """One domain.

    Attributes:
        images: uint8 `(images, height, width, 3)`: an array, usually a memory map, or files that are decoded when asked
            for. Index it with an array or a slice.
        labels: int64 `(images,)`; or for each pixel, uint8 `(images, height, width)`, as an array or as files.
        proven: whether names say the classes; else numbers alone do, see `unproven_labels`.
    """

    images: Images
    labels: Targets
    proven: bool = True


@dataclass(frozen=True)
class ImageRequest:
    """Which images of a benchmark are meant, and what is done to them. Domains are named as streams name them.

    Attributes:
        spec: the benchmark.
        severity: strength of domains that are named without one; `fog@3` has its own.
        data_seed: seed of the corruptions, of a benchmark that is made here; None for any.
        crop: how an image file is brought to the network's size; a domain whose row lacks it has that row's default.
        image_size: that size in pixels.
        label_space: if `masked`, images of other classes than the benchmark's are left out, as of `clean`.
    """

    spec: BenchmarkSpec
    severity: int = 0
    data_seed: int | None = None
    crop: Crop | None = None
    image_size: int = 1
    label_space: LabelSpace = "full"

    @property
    def made_here(self) -> bool:
        """Whether corruptions were made here, under a seed of ours."""
        rows = {row.name: row for row in (owner(self.spec, name) for name in self.spec.domains)}.values()
        return any(row.generated_from or not storage_of(row).below_root for row in rows)

    def domain(self, name: str) -> Domain:
        """A domain as the row that reads it has it."""
        plain, severity = split_severity(name, self.severity)
        row = owner(self.spec, plain)
        own = severity if row.severities and plain != CLEAN else 0
        return Domain(row, plain, own, self.data_seed, storage_of(row).crop(row, plain, self.crop), self.image_size)

    def check(self, name: str) -> None:
        """Looks whether the files of a domain are here, without reading the images.

        Raises:
            InputError: if they are not.
        """
        domain = self.domain(name)
        _check_kind(domain)
        storage_of(domain.row).check(domain)

    def open(self, name: str, *, whole: bool = True, build: bool = False) -> DomainImages:
        """Opens one domain.

        Args:
            name: the domain, `clean` included.
            whole: whether all images must be there; else as many image files as there are.
            build: whether to decode image files into the cache if `TTA_GRID_DECODE_CACHE` says so, see
                `tta_core.data.files.decoded`. What is there already is used anyway.

        Raises:
            InputError: if files are missing or are not what they should be.
        """
        domain = self.domain(name)
        _check_kind(domain)
        storage = storage_of(domain.row)
        images, labels = storage.open(domain, whole=whole)
        proven = storage.proven and getattr(images, "proven", True)
        decoded = _decoded(domain.row, domain.name, domain.severity, images, build=build)
        if isinstance(labels, LabelMaps):
            maps = _decoded(domain.row, f"{domain.name}-labels", domain.severity, labels, build=build)
            assert not isinstance(maps, EncodedImages) or isinstance(maps, LabelMaps)
            labels = maps
        return replace(self._labelled(decoded, labels), proven=proven)

    def open_files(self, name: str, *, whole: bool = True) -> EncodedImages:
        """The image files of a domain, or of `training`, whatever the cache has.

        Raises:
            InputError: if its images are no files that are decoded, or files are missing.
        """
        training = name == TRAINING
        domain = self.domain(CLEAN if training else name)
        row, storage = domain.row, storage_of(domain.row)
        if not storage.encoded:
            raise InputError(
                f"{name} of {self.spec.name} has no image files to decode: {row.name} is {row.storage}. Its trials "
                "read arrays already"
            )
        if training:
            images, _ = storage.open_training(row, domain.crop, domain.size)
        else:
            images, _ = storage.open(domain, whole=whole)
        assert isinstance(images, EncodedImages), f"{row.storage} says that it opens image files"
        return images

    def encoded(self, name: str) -> bool:
        """Whether the images of a domain are files that are decoded."""
        return storage_of(self.domain(name).row).encoded

    def check_training(self, *, whole: bool = True) -> None:
        """Looks whether the images are here that the benchmark's backbones were trained on, without reading them.

        Args:
            whole: whether each class must have some.

        Raises:
            InputError: if they are not.
        """
        row = owner(self.spec, CLEAN)
        storage_of(row).check_training(row, whole=whole)

    def open_training(self, *, whole: bool = True) -> DomainImages:
        """The images that the benchmark's backbones were trained on.

        Args:
            whole: whether each class must have some.

        Raises:
            InputError: if they are missing or are not what they should be.
        """
        domain = self.domain(CLEAN)
        images, labels = storage_of(domain.row).open_training(domain.row, domain.crop, domain.size, whole=whole)
        return self._labelled(_decoded(domain.row, TRAINING, 0, images, build=False), labels)

    def open_source(self) -> Images:
        """Clean images that the benchmark's backbones were trained on, or else their clean test images.

        Raises:
            InputError: if they are missing or are not what they should be.
        """
        row = owner(self.spec, CLEAN)
        return self.open_training().images if storage_of(row).has_source else self.open(CLEAN).images

    def labels(self, name: str) -> Labels:
        """Labels `(images,)` of a domain among all classes; no image is decoded.

        They are known without any file where all classes have as many images and these lie in order of class.

        Raises:
            InputError: if they have to be read, and files are missing or are not what they should be.
        """
        domain = self.domain(name)
        row = domain.row
        if row.images_per_class and not row.image_list:
            return np.repeat(
                np.array(row.class_numbers or range(row.num_classes), dtype=np.int64), row.images_per_class
            )
        _check_kind(domain)
        if row.task == "segmentation":
            raise InputError(f"the images of {row.name} have no one class each: no stream of it is ordered by labels")
        return np.asarray(storage_of(row).labels(domain))

    def labels_of(self, name: str, images: Sequence[str]) -> Labels:
        """Labels `(images,)` of images of a domain that are given by name; nothing is read.

        Raises:
            InputError: if the domain's images have no names, or one has a class that the domain lacks.
        """
        domain = self.domain(name)
        return storage_of(domain.row).labels_of(domain, images)

    def same_names(self, name: str, other: str) -> bool:
        """Whether two domains show the same photographs under the same names, such as `fog` and `clean`."""
        one, two = self.domain(name).row, self.domain(other).row
        alike = one.class_names == two.class_names and one.images_per_class == two.images_per_class > 0
        return self.named(name) and self.named(other) and alike

    def named(self, name: str) -> bool:
        """Whether the images of a domain have names `<class>/<file>`."""
        return storage_of(self.domain(name).row).named

    def names(self, name: str, *, whole: bool = False) -> Sequence[str]:
        """`<class>/<file>` of each image of a domain.

        Args:
            name: the domain.
            whole: whether all must be there.

        Raises:
            InputError: if images have no names, or files are missing.
        """
        domain = self.domain(name)
        _check_kind(domain)
        return storage_of(domain.row).names(domain, whole=whole)

    def _labelled(self, images: WholeImages, labels: Targets) -> DomainImages:
        """The images of the classes that the label space has, with their labels in it."""
        classes = kept_classes(self.spec, self.label_space)
        if not classes:
            return DomainImages(images, labels)
        numbers, own = of_kept_classes(np.asarray(labels), classes)
        return DomainImages(images if len(numbers) == len(labels) else ChosenImages(images, numbers), own)


def unproven_labels(domains: Sequence[str]) -> str:
    """What to know of domains whose classes stand as numbers only, for people."""
    return (
        f"the labels of {first_names(domains)} are numbers, and nothing here proves that they count the classes in the "
        "network's order: `tta-grid data check-backbone` tells by the accuracy on clean images"
    )


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


def _check_kind(domain: Domain) -> None:
    """Looks whether files that were made here, or downloaded, are where the row that reads a domain says so.

    Raises:
        InputError: see `tta_core.data.generated.check_made_here`.
    """
    row, storage = domain.row, storage_of(domain.row)
    if storage.below_root and not (domain.name == CLEAN and row.clean_folder):
        check_made_here(row, storage.folder(row), domain.data_seed)


def _decoded(row: BenchmarkSpec, name: str, severity: int, images: StoredImages, *, build: bool) -> WholeImages:
    return decoded_if_there(row, name, severity, images, build=build) if isinstance(images, EncodedImages) else images
