"""Arrays on disk, mapped read-only. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def mapped(file: Path) -> NDArray[Any]:
    """Maps an array read-only.

    Raises:
        OSError: if the file is missing or may not be read.
        ValueError: if it is damaged, or no array, such as an archive of arrays or a pickle.
    """
    try:
        # Unlike np.load, this takes no archive.
        return np.lib.format.open_memmap(file, mode="r")
    except (EOFError, OverflowError, MemoryError, TypeError, ValueError) as error:
        raise ValueError(f"{error}: no .npy file with an array of numbers, or cut short") from None
