"""The table of GPU memory: what `bench --memory` measured, by network, precision, method and batch size. No torch."""

from __future__ import annotations

import csv
import math
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tta_core.backbones.table import BACKBONES
from tta_core.cache import cache_root
from tta_core.errors import InputError

COLUMNS = ("network", "precision", "method", "batch_size", "held_mib", "peak_mib")

Key = tuple[str, str, str]
"""Network, precision, method."""


@dataclass(frozen=True)
class Memory:
    """Memory of tensors in MiB: `held` between steps, `peak` the most at once."""

    held: float
    peak: float

    @property
    def step(self) -> float:
        """What a step takes beyond what is held."""
        return self.peak - self.held


Table = dict[Key, dict[int, Memory]]
"""By batch size, for each key."""


def network_of(backbone: str) -> str:
    """The architecture of a backbone: weights do not change how much memory it takes."""
    source = BACKBONES[backbone].source if backbone in BACKBONES else backbone
    kind, _, name = source.rpartition(":")
    return backbone if kind == "embedded" else name.partition(".")[0]


def table_file() -> Path:
    """Where `bench --memory` keeps what it measured on a GPU."""
    return cache_root() / "gpu-memory.csv"


def read_table(file: Path) -> Table:
    """Reads a table; it is empty if there is no file.

    Raises:
        InputError: if it cannot be read.
    """
    found: Table = {}
    try:
        with file.open(newline="", encoding="utf-8") as opened:
            for row in csv.DictReader(opened):
                memory = Memory(float(row["held_mib"]), float(row["peak_mib"]))
                size = int(row["batch_size"])
                if size < 1 or not 0 <= memory.held <= memory.peak < math.inf:
                    raise ValueError(f"batch size {size}, {memory.held:g} MiB held, {memory.peak:g} at the peak")
                found.setdefault((row["network"], row["precision"], row["method"]), {})[size] = memory
    except FileNotFoundError:
        return {}
    except (OSError, KeyError, ValueError, TypeError, csv.Error) as error:
        what = f"no column {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(
            f"{file} is no table of GPU memory ({what}): delete it, and measure again with tta-grid bench --memory"
        ) from None
    return found


def remember(file: Path, rows: Iterable[tuple[Key, int, Memory]]) -> None:
    """Puts rows into a table, in place of older ones of the same key and batch size.

    Raises:
        InputError: if the file is no such table, or cannot be written.
    """
    table = read_table(file)
    for key, batch_size, memory in rows:
        table.setdefault(key, {})[batch_size] = memory
    aside = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("w", newline="", encoding="utf-8") as opened:
            writer = csv.writer(opened, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows(
                (*key, size, f"{memory.held:.1f}", f"{memory.peak:.1f}")
                for key in sorted(table)
                for size, memory in sorted(table[key].items())
            )
        aside.replace(file)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise InputError(f"{file} cannot be written ({error.strerror}): name another file by --table") from None
