"""Looks at images and label maps for `tta-grid data verify`. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tta_core.data.files.label_maps import IGNORED, LabelMaps, WholeFiles, file_size
from tta_core.data.sources.segmentation_pairs import Pairs
from tta_core.data.spec import BenchmarkSpec
from tta_core.data.survey import Beside, Checked, Survey
from tta_core.errors import InputError

GET_AGAIN = "Get it again from the archive."


class SegmentationSurvey(Survey):
    """Counts the images of a domain, pairs them with label maps, and compares the sizes that headers state.

    Args:
        find: lists what is there of a domain of a row.
        opened: the files of pairs.
        decode: whether label maps are decoded and their numbers looked at, and images decoded.
    """

    def __init__(
        self,
        find: Callable[[BenchmarkSpec, str], Pairs],
        opened: Callable[[BenchmarkSpec, Pairs], tuple[WholeFiles, LabelMaps]],
        *,
        decode: bool,
    ) -> None:
        self._find = find
        self._opened = opened
        self._decode = decode

    def begin(self, row: BenchmarkSpec, one: Checked) -> Callable[[], Beside]:
        """Looks when it is ended: there is nothing to wait for but headers."""

        def end() -> Beside:
            found = self._find(row, one.domain)
            one.place, one.found = str(found.images), len(found.names) + len(found.without_map)
            one.expected_classes = row.num_classes
            if not one.found:
                one.present = False
                one.add("missing folder", [str(found.images)], "Unpack what is missing there.")
                return []
            one.add("missing images", [], f"{found.images} lacks some.", count=max(0, one.expected - one.found))
            one.add("too many images", [], f"{found.images} has more.", count=max(0, one.found - one.expected))
            one.add("missing file", found.without_map, f"Their label maps are not in {found.maps}.")
            one.add("missing file", found.without_image, f"These label maps have no image in {found.images}.")
            one.add("wrong file", found.strange, "They are no images of the benchmark: move them elsewhere.")
            _look_at_sizes(found, one)
            one.found_classes = row.num_classes
            if self._decode:
                _look_inside(row, found, one, *self._opened(row, found))
            return []

        return end


def _look_at_sizes(found: Pairs, one: Checked) -> None:
    """Images and label maps must have the size of the first image."""
    broken, wrong, usual = [], [], None
    for folder, names in ((found.images, found.names), (found.maps, found.map_names)):
        for name in names:
            try:
                size = file_size(folder / name)
            except InputError:
                broken.append(name)
                continue
            usual = usual or size
            if size != usual:
                wrong.append(f"{name} {size[1]}x{size[0]}")
    one.add("unreadable", broken, GET_AGAIN)
    if usual is not None:
        one.add("wrong file", wrong, f"Others have {usual[1]}x{usual[0]} pixels. {GET_AGAIN}")


def _look_inside(row: BenchmarkSpec, found: Pairs, one: Checked, images: WholeFiles, maps: LabelMaps) -> None:
    """Decodes everything; all classes must occur."""
    counts = np.zeros(256, np.int64)
    corrupt, strange = [], []
    for number in range(len(found.names)):
        chosen = np.array([number])
        for files, name in ((images, found.names[number]), (maps, found.map_names[number])):
            try:
                content, damaged = files.read(chosen)
            except InputError:
                strange.append(name)
                continue
            if damaged:
                corrupt.append(name)
            elif files is maps:
                counts += np.bincount(content.reshape(-1), minlength=256)
    one.add("corrupt", corrupt, GET_AGAIN)
    one.add("wrong file", strange, f"They hold other numbers than 0 to {row.num_classes - 1} and {IGNORED}.")
    present = counts[: row.num_classes] > 0
    one.found_classes = int(present.sum())
    names = row.class_names or tuple(map(str, range(row.num_classes)))
    one.classes = {name: (None, 0) for name, there in zip(names, present, strict=True) if not there}
