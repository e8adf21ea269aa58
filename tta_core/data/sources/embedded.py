"""The embedded benchmark `digits-c`: the digits of the test half under each corruption. Imports no torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tta_core.cache import cached_array
from tta_core.data.benchmarks import BENCHMARKS, CLEAN
from tta_core.data.domains import CORRUPTIONS, HELD_OUT_CORRUPTIONS
from tta_core.data.sources.digits import load_digits
from tta_core.data.sources.digits_corruptions import corrupt
from tta_core.errors import InputError, unknown_name

RECIPE_VERSION = BENCHMARKS["digits-c"].version
"""Part of every cache key: raise `version` in the benchmark's row whenever any image changes."""


def load_domain(domain: str, severity: int, *, data_seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Opens one domain through the cache, building it if need be.

    Args:
        domain: a corruption, or "clean" for the uncorrupted test images whatever the severity.
        severity: 1 to 5.
        data_seed: seed of the corruptions' random choices.

    Returns:
        Images `(899, 32, 32, 3)` as a read-only memory map and labels `(899,)`.

    Raises:
        InputError: if there is no such domain, severity or seed, or the cache cannot be used.
    """
    allowed = (CLEAN, *CORRUPTIONS, *HELD_OUT_CORRUPTIONS)
    if domain not in allowed:
        raise unknown_name("domain of digits-c", domain, allowed)
    clean = cached_array(_key(CLEAN), lambda: load_digits("test")[0])
    # Cached too, so that a worker that finds everything built need not import scikit-learn.
    labels = cached_array(_key("labels"), lambda: load_digits("test")[1].astype(np.uint8)).astype(np.int64)
    if domain == CLEAN:
        return clean, labels
    if severity not in BENCHMARKS["digits-c"].severities:
        raise InputError(f"severity {severity!r} is not allowed: give a whole number from 1 to 5")
    if data_seed < 0:
        raise InputError(f"data seed {data_seed} is not allowed: give a whole number that is not negative")
    key = {**_key(domain), "severity": int(severity), "data_seed": int(data_seed)}
    indices = np.arange(len(clean))
    return cached_array(key, lambda: corrupt(clean, domain, int(severity), seed=data_seed, indices=indices)), labels


def _key(domain: str) -> dict[str, object]:
    return {"benchmark": "digits-c", "recipe": RECIPE_VERSION, "domain": domain}
