"""Benchmarks with a file for each image and one for its label map: Cityscapes and ACDC. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from tta_core.data.files.label_maps import IGNORED, LabelMaps, Table, WholeFiles, file_size
from tta_core.data.root import data_root, not_here, own_folder, readable
from tta_core.data.sources.base import Domain, Storage
from tta_core.data.sources.segmentation_pairs import Pairs
from tta_core.data.sources.segmentation_survey import SegmentationSurvey
from tta_core.data.spec import BenchmarkSpec, Crop
from tta_core.errors import first_names

CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""The number of each of the 19 classes in files of all ids; all other ids are not scored."""


def _by_id() -> Table:
    table = np.full(256, IGNORED, np.uint8)
    table[list(CITYSCAPES_IDS)] = np.arange(len(CITYSCAPES_IDS))
    return table


TRAIN_IDS, ALL_IDS = np.arange(256, dtype=np.uint8), _by_id()


@dataclass(frozen=True)
class Layout:
    """Where the files of a benchmark lie.

    Attributes:
        images, maps: folders of images and of label maps, with `{split}` and, where there are any, `{domain}`.
        image_end: how names of images end.
        map_ends: how the name of the label map ends in its place -> what its numbers mean; the first that is there.
        split: the split of a domain whose name says none.
    """

    images: str
    maps: str
    image_end: str
    map_ends: Mapping[str, Table]
    split: str


LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {
        "acdc": Layout(
            "rgb_anon/{domain}/{split}",
            "gt/{domain}/{split}",
            "_rgb_anon.png",
            {"_gt_labelTrainIds.png": TRAIN_IDS, "_gt_labelIds.png": ALL_IDS},
            "train",
        ),
        "cityscapes": Layout(
            "leftImg8bit/{split}",
            "gtFine/{split}",
            "_leftImg8bit.png",
            {"_gtFine_labelTrainIds.png": TRAIN_IDS, "_gtFine_labelIds.png": ALL_IDS},
            "val",
        ),
    }
)
"""By the name of the benchmark."""

TRAINING = "train"
"""The split of training images, where a domain is named."""


class SegmentationFolders(Storage):
    """`<folder>/<sequence or city>/<file>`, sorted by folder and then by file."""

    encoded = True
    has_source = True

    def inside(self, spec: BenchmarkSpec) -> Sequence[str]:
        """The folder of all images."""
        return (LAYOUTS[spec.name].images.partition("/")[0],)

    def check(self, domain: Domain) -> None:
        """Looks for a first image and its label map."""
        pairs(domain)

    def open(self, domain: Domain, *, whole: bool = True) -> tuple[WholeFiles, LabelMaps]:
        """Lists images and label maps; none is decoded yet. Fewer than there should be are taken as they are."""
        return self.opened(domain.row, pairs(domain))

    def check_training(self, row: BenchmarkSpec, *, whole: bool = True) -> None:
        """Looks for training images with label maps."""
        pairs(Domain(row, TRAINING))

    def open_training(
        self, row: BenchmarkSpec, crop: Crop, size: int, *, whole: bool = True
    ) -> tuple[WholeFiles, LabelMaps]:
        """Lists the training images."""
        return self.opened(row, pairs(Domain(row, TRAINING)))

    def survey(self, root: Path, *, decode: bool) -> SegmentationSurvey:
        """Counts images and label maps, and compares their sizes."""
        return SegmentationSurvey(find, self.opened, decode=decode)

    def opened(self, row: BenchmarkSpec, found: Pairs) -> tuple[WholeFiles, LabelMaps]:
        """The files of pairs; the first of each kind states the size of all."""
        images = WholeFiles(found.images, found.names, file_size(found.images / found.names[0]))
        pixels, tables = file_size(found.maps / found.map_names[0]), LAYOUTS[row.name].map_ends
        return images, LabelMaps(found.maps, found.map_names, pixels, tables, row.num_classes)


def pairs(domain: Domain) -> Pairs:
    """The images of a domain that is here and whole in itself.

    Raises:
        InputError: if there are none, or an image has no label map.
    """
    found = find(domain.row, domain.name)
    if not found.names and not found.without_map:
        raise not_here(domain.row, f"the folder {found.images} has no images")
    if found.without_map:
        raise not_here(
            domain.row,
            f"{len(found.without_map)} images of {domain.name} have no label map in {found.maps}: "
            f"{first_names(found.without_map)}",
        )
    return found


@readable()
def find(row: BenchmarkSpec, name: str) -> Pairs:
    """Lists what is there of a domain.

    Raises:
        InputError: if there is no data root, or a folder may not be read.
    """
    layout, root = LAYOUTS[row.name], data_root(row)
    folder = own_folder(row, root, (layout.images.partition("/")[0],))
    if "{domain}" in layout.images:
        domain, _, split = name.partition("-")
    else:
        domain, split = "", name if name == TRAINING else ""
    where = {"domain": domain, "split": split or layout.split}
    images, maps = folder / layout.images.format(**where), folder / layout.maps.format(**where)
    files = _files(images)
    names = tuple(file for file in files if file.endswith(layout.image_end))
    there = set(_files(maps))
    names_with, chosen, missing = [], [], []
    for file in names:
        stem = file.removesuffix(layout.image_end)
        label = next((stem + end for end in layout.map_ends if stem + end in there), None)
        if label is None:
            missing.append(file)
        else:
            names_with.append(file)
            chosen.append(label)
    stems = {file.removesuffix(layout.image_end) for file in names}
    alone = [
        file
        for end in list(layout.map_ends)[:1]
        for file in sorted(there)
        if file.endswith(end) and file.removesuffix(end) not in stems
    ]
    strange = tuple(file for file in files if not file.endswith(layout.image_end))
    return Pairs(images, maps, tuple(names_with), tuple(chosen), tuple(missing), tuple(alone), strange)


def _files(folder: Path) -> list[str]:
    """The PNG files `<folder>/<file>` below a folder, sorted by folder and then by file; none where it is missing."""
    if not folder.is_dir():
        return []
    inner = sorted(each for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))
    return [
        f"{each.name}/{file}"
        for each in inner
        for file in sorted(found.name for found in each.iterdir())
        if file.endswith(".png") and not file.startswith(".")
    ]


STORAGE = SegmentationFolders()
