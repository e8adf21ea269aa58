"""Benchmarks with one folder a class, such as ImageNet-C, whatever their images are stored in. Imports no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tta_core.data.benchmarks import CLEAN
from tta_core.data.crops import photograph_crop
from tta_core.data.files.encoded import EncodedImages
from tta_core.data.files.find import IN_PART, check_any, check_classes, find_images
from tta_core.data.files.image_list import listed_names
from tta_core.data.root import data_root, not_here, own_folder
from tta_core.data.sources.base import Domain, Labels, Storage
from tta_core.data.sources.folder_survey import FolderSurvey
from tta_core.data.spec import BenchmarkSpec, Crop
from tta_core.errors import InputError, first_names


class ClassFolders(Storage):
    """`FOLDER/<class>/<file>`, or archives and tables of such files, see `tta_core.data.files.find`."""

    encoded = True
    named = True

    def inside(self, spec: BenchmarkSpec) -> Sequence[str]:
        """Domains, or classes where there is one domain."""
        return (*spec.domains, *spec.held_out_domains) if spec.severities else spec.class_names

    def crop(self, row: BenchmarkSpec, name: str, wanted: Crop | None) -> Crop:
        """Clean photographs have any size, so they are resized whatever is wanted of others."""
        crop = row.crop(wanted)
        return photograph_crop(crop) if name == CLEAN else crop

    def check(self, domain: Domain) -> None:
        """Looks for the classes of a domain, not at their images. Where a list names these, any class will do."""
        row, root = domain.row, data_root(domain.row)
        folder = self.domain_folder(row, root, domain.name, domain.severity)
        if row.image_list:
            listed_names(row, root / row.image_list)
            check_any(row, root, folder)
        else:
            check_classes(row, root, folder)

    def open(self, domain: Domain, *, whole: bool = True) -> tuple[EncodedImages, Labels]:
        """Lists the images of a domain; none is decoded yet."""
        if whole:
            self.check(domain)
        images = self._found(domain)
        if not domain.row.image_list and whole:
            _check_count(domain.row, images, domain.row.count(domain.name))
        return images, self.labels_of(domain, images.names)

    def check_training(self, row: BenchmarkSpec, *, whole: bool = True) -> None:
        """Looks for the classes of the training images."""
        root = data_root(row)
        (check_classes if whole else check_any)(row, root, root / row.training_folder)

    def open_training(
        self, row: BenchmarkSpec, crop: Crop, size: int, *, whole: bool = True
    ) -> tuple[EncodedImages, Labels]:
        """Lists the training images, as many as there are. They are photographs, cut as clean ones are."""
        self.check_training(row, whole=whole)
        root = data_root(row)
        images = find_images(row, root, root / row.training_folder, photograph_crop(crop), size)
        if not len(images):
            raise not_here(row, f"the folder {root / row.training_folder} has no images")
        return images, self.labels_of(Domain(row, CLEAN), images.names)

    def survey(self, root: Path, *, decode: bool) -> FolderSurvey:
        """Counts and names images by class."""
        return FolderSurvey(root, self.domain_folder, decode=decode)

    def names(self, domain: Domain, *, whole: bool) -> Sequence[str]:
        """By class and then by file."""
        return self.open(domain, whole=whole)[0].names

    def labels_of(self, domain: Domain, names: Sequence[str]) -> Labels:
        """The class stands in the name."""
        row = domain.row
        numbers = dict(zip(row.class_names, row.class_numbers or range(row.num_classes), strict=True))
        if wrong := [name for name in names if name.partition("/")[0] not in numbers]:
            raise InputError(
                f"images of no class that {domain.name} of {row.name} has: {first_names(wrong)}; a name is "
                f"<class>/<file>, such as {row.class_names[0]}/..."
            )
        return np.array([numbers[name.partition("/")[0]] for name in names], dtype=np.int64)

    def material(self, spec: BenchmarkSpec, size: int) -> tuple[EncodedImages, None]:
        """The clean photographs."""
        root = data_root(spec)
        return find_images(spec, root, root / spec.clean_folder, "resize-center", size), None

    def domain_folder(self, row: BenchmarkSpec, root: Path, name: str, severity: int) -> Path:
        """The folder of a domain below the data root."""
        if name == CLEAN:
            return root / row.clean_folder
        folder = own_folder(row, root, self.inside(row))
        return folder / name / str(severity) if row.severities else folder

    def _found(self, domain: Domain) -> EncodedImages:
        """The images of a domain, or those that the row lists."""
        row, root = domain.row, data_root(domain.row)
        folder = self.domain_folder(row, root, domain.name, domain.severity)
        images = find_images(row, root, folder, domain.crop, domain.size)
        if not row.image_list:
            return images
        places = {name: number for number, name in enumerate(images.names)}
        names = listed_names(row, root / row.image_list)
        if missing := [name for name in names if name not in places]:
            where = f"the folder {folder}" if images.kind == "folders" else str(images.folder)
            raise not_here(row, f"{where} lacks {len(missing)} listed images: {first_names(missing)}")
        return images.chosen([places[name] for name in names])


def _check_count(spec: BenchmarkSpec, images: EncodedImages, count: int) -> None:
    """Raises `InputError` if there are not as many images as the table says."""
    if len(images) != count:
        counts = Counter(name.partition("/")[0] for name in images.names)
        word, choose = ("fewest", min) if len(images) < count else ("most", max)
        name = choose(spec.class_names, key=lambda name: counts[name])
        where = f"the folder {images.folder}" if images.kind == "folders" else str(images.folder)
        raise not_here(
            spec, f"{where} has {len(images)} images, not {count}; {word} in {name}: {counts[name]} ({IN_PART})"
        )


STORAGE = ClassFolders()
