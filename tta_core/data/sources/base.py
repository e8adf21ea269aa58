"""What a kind of storage is: where the images of a benchmark lie, and how they are opened. Imports no torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from tta_core.data.files.decoded import DecodedImages
from tta_core.data.files.encoded import EncodedImages
from tta_core.data.files.label_maps import LabelMaps
from tta_core.data.root import data_root, own_folder
from tta_core.data.spec import BenchmarkSpec, Crop, Ladder
from tta_core.data.survey import Survey
from tta_core.errors import InputError

StoredImages = NDArray[np.uint8] | EncodedImages
"""Images `(images, height, width, 3)` as a storage has them: an array, usually a memory map, or files to decode."""

Labels = NDArray[np.int64]
"""`(images,)`, numbers among all classes that a backbone predicts."""

Targets = Labels | NDArray[np.uint8] | LabelMaps | DecodedImages
"""`Labels`, or for segmentation uint8 maps `(images, height, width)` of classes, in which 255 is not scored."""


@dataclass(frozen=True)
class Domain:
    """One domain, as it is asked of the row that reads it.

    Attributes:
        row: the row.
        name: the domain, `clean` included, without a severity.
        severity: its strength; 0 if it has none.
        data_seed: seed of the corruptions, of images that are made here; None for any.
        crop: how an image file is brought to `size`.
        size: pixels.
    """

    row: BenchmarkSpec
    name: str
    severity: int = 0
    data_seed: int | None = None
    crop: Crop = "none"
    size: int = 1


class Storage(ABC):
    """One way to keep the images of a benchmark. Rows name it in `storage`.

    A new one is one file in this folder, named as rows name it (with `_` for `-`), that ends in `STORAGE = ...`.

    Attributes:
        below_root: whether its images are files below the data root; else they are made when they are asked for.
        encoded: whether it opens image files, which are decoded when they are asked for, or once into the cache.
        named: whether its images have names `<class>/<file>`.
        has_source: whether its training images are what methods get that ask for clean images of the source.
        proven: whether names say the classes, unless image files say otherwise; else numbers alone do.
        ladder: the published strengths that corruptions have where images of a benchmark are made here.
    """

    below_root: ClassVar[bool] = True
    encoded: ClassVar[bool] = False
    named: ClassVar[bool] = False
    has_source: ClassVar[bool] = False
    proven: ClassVar[bool] = True
    ladder: ClassVar[Ladder] = "imagenet"

    @abstractmethod
    def inside(self, spec: BenchmarkSpec) -> Sequence[str]:
        """Names of files or folders of which each tells that a folder is a benchmark's own."""

    @abstractmethod
    def check(self, domain: Domain) -> None:
        """Looks whether the files of a domain are here, without reading images.

        Raises:
            InputError: if they are not.
        """

    @abstractmethod
    def open(self, domain: Domain, *, whole: bool = True) -> tuple[StoredImages, Targets]:
        """Opens a domain.

        Args:
            domain: the domain.
            whole: whether all images must be there, or just any; of image files only.

        Raises:
            InputError: if files are missing or are not what they should be.
        """

    @abstractmethod
    def check_training(self, row: BenchmarkSpec, *, whole: bool = True) -> None:
        """Looks whether the images are here that the benchmark's backbones were trained on, without reading them.

        Args:
            row: the benchmark.
            whole: whether each class must have some; of image files only.

        Raises:
            InputError: if they are not.
        """

    @abstractmethod
    def open_training(
        self, row: BenchmarkSpec, crop: Crop, size: int, *, whole: bool = True
    ) -> tuple[StoredImages, Targets]:
        """Opens those images.

        Raises:
            InputError: if they are missing or are not what they should be.
        """

    @abstractmethod
    def survey(self, root: Path, *, decode: bool) -> Survey:
        """Who looks at files for `tta-grid data verify`.

        Args:
            root: the data root.
            decode: whether each image is decoded.
        """

    def folder(self, spec: BenchmarkSpec) -> Path:
        """The folder of a benchmark's own images.

        Raises:
            InputError: if there is no data root.
        """
        return own_folder(spec, data_root(spec), self.inside(spec))

    def crop(self, row: BenchmarkSpec, name: str, wanted: Crop | None) -> Crop:
        """How images of a domain are cut where `wanted` is asked for; the row's default if they are never cut so."""
        return row.crop(wanted)

    def labels(self, domain: Domain) -> Targets:
        """The labels alone; no image is decoded or made."""
        return self.open(domain)[1]

    def names(self, domain: Domain, *, whole: bool) -> Sequence[str]:
        """`<class>/<file>` of each image of a domain.

        Raises:
            InputError: if its images have no names, or files are missing.
        """
        raise unnamed(domain)

    def labels_of(self, domain: Domain, names: Sequence[str]) -> Labels:
        """Labels `(names,)` of images `<class>/<file>`; nothing is read.

        Raises:
            InputError: if images have no names here, or a name has a class that the row lacks.
        """
        raise unnamed(domain)

    def material(self, spec: BenchmarkSpec, size: int) -> tuple[StoredImages, Labels | None]:
        """What the images of a benchmark are made of that is made here: clean images, and labels if names have none.

        Args:
            spec: the benchmark.
            size: pixels, of image files.

        Raises:
            InputError: if they are not here.
        """
        raise InputError(f"the images of {spec.name} are not made from files: there is nothing to corrupt")


def unnamed(domain: Domain) -> InputError:
    """The error for images that have numbers only."""
    return InputError(f"the images of {domain.row.name} have no names: give their numbers in {domain.name}, from 0")
