"""The embedded benchmark of segmentation, `digit-scenes`: scenes of test digits under weather. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tta_core.cache import cached_array
from tta_core.data.benchmarks import CLEAN
from tta_core.data.sources.base import Domain, Storage, Targets
from tta_core.data.sources.embedded import MadeHere
from tta_core.data.sources.scene_weather import weathered
from tta_core.data.sources.scenes import Split, make_scenes
from tta_core.data.spec import BenchmarkSpec, Crop
from tta_core.data.survey import Survey
from tta_core.errors import InputError, unknown_name

TRAINING_SCENES = 2000


class DigitScenes(Storage):
    """Scenes that are made once, into the cache, and then shared by all processes.

    Held-out domains, such as `fog-train`, show training digits: settings are chosen there.
    """

    below_root = False
    has_source = True

    def inside(self, spec: BenchmarkSpec) -> Sequence[str]:
        """Nothing: there is no folder."""
        return ()

    def check(self, domain: Domain) -> None:
        """They are always here."""

    def open(self, domain: Domain, *, whole: bool = True) -> tuple[NDArray[np.uint8], Targets]:
        """Opens one domain through the cache, building it if need be.

        Returns:
            Images `(n, 64, 64, 3)` and labels `(n, 64, 64)`, read-only memory maps.

        Raises:
            InputError: if there is no such domain, severity or seed, or the cache cannot be used.
        """
        row, seed = domain.row, domain.data_seed or 0
        allowed = (CLEAN, *row.domains, *row.held_out_domains)
        if domain.name not in allowed:
            raise unknown_name(f"domain of {row.name}", domain.name, allowed)
        split: Split = "train" if domain.name in row.held_out_domains else "test"
        count = row.count(domain.name)
        clean = _scenes(row, split, count, "images")
        if domain.name == CLEAN:
            return clean, self.labels(domain)
        if domain.severity not in row.severities:
            raise InputError(f"severity {domain.severity!r} is not allowed: give a whole number from 1 to 5")
        if seed < 0:
            raise InputError(f"data seed {seed} is not allowed: give a whole number that is not negative")
        weather = domain.name.removesuffix("-train")
        key = _key(row, domain.name, count) | {"severity": domain.severity, "data_seed": seed}
        images = cached_array(key, lambda: weathered(clean, weather, domain.severity, seed=seed))
        return images, self.labels(domain)

    def labels(self, domain: Domain) -> Targets:
        """Weather moves no pixel: all domains of a split have the same labels."""
        split: Split = "train" if domain.name in domain.row.held_out_domains else "test"
        return _scenes(domain.row, split, domain.row.count(domain.name), "labels")

    def check_training(self, row: BenchmarkSpec, *, whole: bool = True) -> None:
        """They are always here."""

    def open_training(
        self, row: BenchmarkSpec, crop: Crop, size: int, *, whole: bool = True
    ) -> tuple[NDArray[np.uint8], Targets]:
        """The scenes that the network was trained on."""
        return _scenes(row, "train", TRAINING_SCENES, "images"), _scenes(row, "train", TRAINING_SCENES, "labels")

    def survey(self, root: Path, *, decode: bool) -> Survey:
        """There is nothing to look for."""
        return MadeHere()


def _scenes(row: BenchmarkSpec, split: Split, count: int, what: Literal["images", "labels"]) -> NDArray[np.uint8]:
    """Images or labels of the first scenes of a split."""
    place = ("images", "labels").index(what)
    return cached_array(_key(row, f"{split}-{what}", count), lambda: make_scenes(split, count)[place])


def _key(row: BenchmarkSpec, name: str, count: int) -> dict[str, object]:
    return {"benchmark": row.name, "recipe": row.version, "domain": name, "count": count}


STORAGE = DigitScenes()
