"""Reads back the outcomes of a cell as its task scores them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

COUNTS = ("intersection", "predicted", "labelled")


def stored_samples(folder: Path) -> dict[str, NDArray[Any]]:
    """The columns of a finished cell that scores are made of, `(samples, ...)`, in stream order."""
    names = ["position", "domain", "segment", "label", "prediction", "confidence"]
    table = pq.read_table(folder / "samples.parquet", page_checksum_verification=True)
    found = {name: table[name].to_numpy() for name in names if name in table.column_names}
    maps = folder / "classes.parquet"
    if not maps.exists():
        return found
    counts = pq.read_table(maps, page_checksum_verification=True)
    row, number = np.searchsorted(found["position"], counts["position"].to_numpy()), counts["class"].to_numpy()
    for name in COUNTS:
        found[name] = np.zeros((len(found["position"]), int(number.max()) + 1), np.int64)
        found[name][row, number] = counts[name].to_numpy()
    return found
