"""The embedded benchmark `digits-c`: the digits of the test half under each corruption. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tta_core.cache import cached_array
from tta_core.data.benchmarks import CLEAN
from tta_core.data.sources.base import Domain, Storage, Targets
from tta_core.data.sources.digits import load_digits
from tta_core.data.sources.digits_corruptions import corrupt
from tta_core.data.spec import BenchmarkSpec, Crop
from tta_core.data.survey import Beside, Checked, Survey
from tta_core.errors import InputError, unknown_name


class Embedded(Storage):
    """Images that are made once, into the cache, and then shared by all processes: of `digits-c`, by its own hooks."""

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
            Images `(899, 32, 32, 3)` as a read-only memory map and labels `(899,)`; of scenes see `DigitScenes`.

        Raises:
            InputError: if there is no such domain, severity or seed, or the cache cannot be used.
        """
        row, seed = domain.row, domain.data_seed or 0
        allowed = (CLEAN, *row.domains, *row.held_out_domains)
        if domain.name not in allowed:
            raise unknown_name(f"domain of {row.name}", domain.name, allowed)
        clean = self.clean(domain)
        if domain.name == CLEAN:
            return clean, self.labels(domain)
        if domain.severity not in row.severities:
            raise InputError(f"severity {domain.severity!r} is not allowed: give a whole number from 1 to 5")
        if seed < 0:
            raise InputError(f"data seed {seed} is not allowed: give a whole number that is not negative")
        key = self.key(domain) | {"severity": domain.severity, "data_seed": seed}
        return cached_array(key, lambda: self.changed(clean, domain, seed)), self.labels(domain)

    def key(self, domain: Domain) -> dict[str, object]:
        """What images of a domain depend on, beside severity and seed."""
        return _key(domain.row, domain.name)

    def clean(self, domain: Domain) -> NDArray[np.uint8]:
        """The images that a domain changes."""
        return cached_array(_key(domain.row, CLEAN), lambda: load_digits("test")[0])

    def changed(self, clean: NDArray[np.uint8], domain: Domain, seed: int) -> NDArray[np.uint8]:
        """These images as the domain has them."""
        return corrupt(clean, domain.name, domain.severity, seed=seed, indices=np.arange(len(clean)))

    def labels(self, domain: Domain) -> Targets:
        """All domains show the same images. Cached too: so a worker that finds them need not import scikit-learn."""
        found = cached_array(_key(domain.row, "labels"), lambda: load_digits("test")[1].astype(np.uint8))
        return found.astype(np.int64)

    def check_training(self, row: BenchmarkSpec, *, whole: bool = True) -> None:
        """They are always here."""

    def open_training(
        self, row: BenchmarkSpec, crop: Crop, size: int, *, whole: bool = True
    ) -> tuple[NDArray[np.uint8], Targets]:
        """The training half."""
        return load_digits("train")

    def survey(self, root: Path, *, decode: bool) -> Survey:
        """There is nothing to look for."""
        return MadeHere()


class MadeHere(Survey):
    """All images are made here."""

    def begin(self, row: BenchmarkSpec, one: Checked) -> Callable[[], Beside]:
        """All is here."""
        one.found, one.place = one.expected, "made here"
        one.found_classes = one.expected_classes = row.num_classes
        return list


def _key(row: BenchmarkSpec, domain: str) -> dict[str, object]:
    return {"benchmark": row.name, "recipe": row.version, "domain": domain}


STORAGE = Embedded()
