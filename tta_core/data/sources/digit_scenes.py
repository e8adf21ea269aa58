"""The embedded benchmark of segmentation, `digit-scenes`: scenes of test digits under weather. Imports no torch."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tta_core.cache import cached_array
from tta_core.data.sources.base import Domain, Targets
from tta_core.data.sources.embedded import Embedded
from tta_core.data.sources.scene_weather import weathered
from tta_core.data.sources.scenes import Split, make_scenes
from tta_core.data.spec import BenchmarkSpec, Crop

TRAINING_SCENES = 2000


class DigitScenes(Embedded):
    """Images `(n, 64, 64, 3)` and label maps `(n, 64, 64)`.

    Held-out domains, such as `fog-train`, show training digits: settings are chosen there.
    """

    def key(self, domain: Domain) -> dict[str, object]:
        """The number of scenes counts, too."""
        return _key(domain.row, domain.name, domain.row.count(domain.name))

    def clean(self, domain: Domain) -> NDArray[np.uint8]:
        """The scenes of the domain's split."""
        return _scenes(domain.row, _split(domain), domain.row.count(domain.name), "images")

    def changed(self, clean: NDArray[np.uint8], domain: Domain, seed: int) -> NDArray[np.uint8]:
        """The scenes under the weather of the domain."""
        return weathered(clean, domain.name.removesuffix("-train"), domain.severity, seed=seed)

    def labels(self, domain: Domain) -> Targets:
        """Weather moves no pixel: all domains of a split have the same labels."""
        return _scenes(domain.row, _split(domain), domain.row.count(domain.name), "labels")

    def open_training(
        self, row: BenchmarkSpec, crop: Crop, size: int, *, whole: bool = True
    ) -> tuple[NDArray[np.uint8], Targets]:
        """The scenes that the network was trained on."""
        return _scenes(row, "train", TRAINING_SCENES, "images"), _scenes(row, "train", TRAINING_SCENES, "labels")


def _split(domain: Domain) -> Split:
    return "train" if domain.name in domain.row.held_out_domains else "test"


def _scenes(row: BenchmarkSpec, split: Split, count: int, what: Literal["images", "labels"]) -> NDArray[np.uint8]:
    """Images or labels of the first scenes of a split."""
    place = ("images", "labels").index(what)
    return cached_array(_key(row, f"{split}-{what}", count), lambda: make_scenes(split, count)[place])


def _key(row: BenchmarkSpec, name: str, count: int) -> dict[str, object]:
    return {"benchmark": row.name, "recipe": row.version, "domain": name, "count": count}


STORAGE = DigitScenes()
