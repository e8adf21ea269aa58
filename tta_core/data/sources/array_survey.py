"""Counts the images of benchmarks that are arrays, and looks at their labels. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tta_core.data.files.arrays import mapped
from tta_core.data.spec import BenchmarkSpec
from tta_core.data.survey import Beside, Checked, Survey, made_by


class ArraySurvey(Survey):
    """Looks at one array a corruption.

    Args:
        folder_of: the folder of a row's arrays.
    """

    def __init__(self, folder_of: Callable[[BenchmarkSpec], Path]) -> None:
        self._folder_of = folder_of
        self._labelled: set[str] = set()

    def begin(self, row: BenchmarkSpec, one: Checked) -> Callable[[], Beside]:
        """Maps the array; there is nothing to wait for."""

        def end() -> Beside:
            folder = self._folder_of(row)
            beside = [] if row.name in self._labelled else [_look_at_labels(row, folder)]
            self._labelled.add(row.name)
            _look_at_array(row, folder, one)
            return beside

        return end


def _look_at_labels(row: BenchmarkSpec, folder: Path) -> Checked:
    """What was found of the labels that all arrays of a row share."""
    file, count = folder / "labels.npy", row.images_per_domain
    one = Checked("labels", None, row.name, count, place=str(file), expected_classes=row.num_classes)
    labels = _opened(file, one)
    if labels is None:
        return one
    total = count * len(row.severities)
    if labels.shape not in ((count,), (total,)) or labels.dtype.kind not in "iu":
        told = f"It holds {labels.dtype} of shape {labels.shape}, not {count:,} or {total:,} integers: get it again."
        one.add("wrong file", [str(file)], told)
        return one
    one.found = count
    numbers, counts = np.unique(labels[:count], return_counts=True)
    one.found_classes = len(numbers)
    outside = [str(number) for number in numbers if not 0 <= number < row.num_classes]
    one.add("wrong file", outside, f"{file} has labels outside 0 to {row.num_classes - 1}: get it again.")
    found = dict(zip(numbers.tolist(), counts.tolist(), strict=True))
    one.classes = {
        str(number): (row.images_per_class or None, found.get(number, 0))
        for number in range(row.num_classes)
        if (found.get(number, 0) != row.images_per_class if row.images_per_class else number not in found)
    }
    one.add("wrong file", list(one.classes), f"{file} has another number of these labels than it should: get it again.")
    return one


def _look_at_array(row: BenchmarkSpec, folder: Path, one: Checked) -> None:
    """Counts the images of one severity in the array of a corruption."""
    file = folder / f"{one.domain}.npy"
    one.place = str(file)
    images = _opened(file, one, made_by(row))
    if images is None:
        return
    one.proven = False
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        told = f"It holds {images.dtype} of shape {images.shape}, not uint8 (images, height, width, 3): get it again."
        one.add("wrong file", [str(file)], told)
        return
    strengths = 1 if one.severity is None else len(row.severities)
    place = 0 if one.severity is None else row.severities.index(one.severity)
    one.found = min(max(0, len(images) - place * one.expected), one.expected)
    surplus = max(0, len(images) - strengths * one.expected) if place == strengths - 1 else 0
    told = f"{file} has {len(images):,} images, not {strengths * one.expected:,}: get it again."
    one.add("missing images", [], told, count=one.expected - one.found)
    one.add("too many images", [], told, count=surplus)


def _opened(file: Path, one: Checked, made: str = "") -> np.ndarray[Any, Any] | None:
    """Maps an array; None, and a problem, if it is not here or is damaged."""
    try:
        return mapped(file)
    except FileNotFoundError:
        one.present = False
        one.add("missing file", [str(file)], f"{made or 'Put what is missing there'}.")
    except PermissionError:
        one.add("unreadable", [str(file)], f"Let yourself read it: chmod u+r {file}")
    except (OSError, ValueError) as error:
        one.add("corrupt", [str(file)], f"It cannot be read ({error}): get it again.")
    return None
