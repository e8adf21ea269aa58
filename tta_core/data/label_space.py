"""Labels of benchmarks that have only some of the classes that a backbone predicts. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tta_core.data.spec import BenchmarkSpec, LabelSpace


class _Indexed(Protocol):
    """Images `(images, height, width, 3)` that are indexed as an array is."""

    def __len__(self) -> int: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, key: Any, /) -> NDArray[np.uint8]: ...


class ChosenImages:
    """Some of the images of a domain; none is read before it is asked for.

    Attributes:
        images: all of them.
        numbers: `(chosen,)`, which of them.
    """

    def __init__(self, images: _Indexed, numbers: NDArray[np.int64]) -> None:
        self.images = images
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array of the chosen images."""
        return len(self.numbers), *self.images.shape[1:]

    def __getitem__(self, key: slice | Sequence[int] | NDArray[Any]) -> NDArray[np.uint8]:
        """Reads some of the chosen images: uint8 `(n, height, width, 3)`."""
        return self.images[self.numbers[key]]


def kept_classes(spec: BenchmarkSpec, space: LabelSpace) -> tuple[int, ...]:
    """Numbers of the classes whose logits there are, among all that a backbone predicts; empty if there are all."""
    return spec.class_numbers if space == "masked" else ()


def of_kept_classes(labels: NDArray[np.int64], classes: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which images are of some classes, and their labels among these.

    Args:
        labels: `(images,)`, numbers among all classes.
        classes: numbers of the classes, ascending.

    Returns:
        Numbers of the images, ascending, and their labels: places in `classes`.
    """
    known = np.asarray(classes, dtype=np.int64)
    numbers = np.flatnonzero(np.isin(labels, known))
    return numbers, np.searchsorted(known, labels[numbers]).astype(np.int64)
