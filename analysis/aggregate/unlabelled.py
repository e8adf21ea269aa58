"""Reads the outcome of a cell as rules without labels see it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from analysis.aggregate.rules import Outputs, Unlabelled
from analysis.results.reading import ResultsError, first_line

Classes = NDArray[np.int32]
Places = NDArray[np.int64]


def read_unlabelled(
    cell: Path, *, classes: int, samples: int, source: Path | None = None, clean: Path | None = None
) -> Unlabelled:
    """The outcome of a finished cell without its labels.

    Args:
        cell: its folder.
        classes: number of classes.
        samples: in its stream.
        source: folder of the cell that adapts nothing on the same stream.
        clean: folder of the cell that adapts nothing on clean images, whose labels count as known.

    Raises:
        ResultsError: if a file is damaged.
    """
    table = read_columns(cell, "samples", ("position", "prediction", "confidence", "entropy"))
    positions = table["position"].to_numpy()
    return Unlabelled(
        position=positions,
        prediction=_known(table["prediction"]),
        confidence=table["confidence"].to_numpy(),
        entropy=table["entropy"].to_numpy(),
        classes=classes,
        samples=samples,
        outputs=read_outputs(cell),
        source=None if source is None else _predictions(source, positions),
        clean=None if clean is None else _clean(clean),
    )


def read_outputs(cell: Path) -> Outputs | None:
    """What a cell kept of its probabilities; None if it kept nothing."""
    if not (cell / "outputs.parquet").exists():
        return None
    table = read_columns(cell, "outputs", ("quantity", "item", "values"))
    quantity, item = np.asarray(table["quantity"].to_pylist()), table["item"].to_numpy()
    values = np.stack(table["values"].to_numpy(zero_copy_only=False)).astype(np.float64)
    kept = quantity == "probabilities"
    return Outputs(
        mean=values[quantity == "mean"][0],
        gram=values[quantity == "gram"],
        positions=item[kept],
        probabilities=values[kept],
    )


def read_columns(cell: Path, file: str, columns: Sequence[str]) -> pa.Table:
    """Columns of a file of a finished cell.

    Raises:
        ResultsError: if it is damaged.
    """
    try:
        return pq.read_table(cell / f"{file}.parquet", columns=list(columns), partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise ResultsError(
            f"{cell / file}.parquet cannot be read ({first_line(error)}): tta-grid check DIR --repair moves damaged "
            "cells away, and running the sweep again makes them anew"
        ) from error


def _known(column: pa.ChunkedArray) -> Classes | None:
    """Classes of samples; None of segmentation, where they are empty."""
    return None if column.null_count else column.to_numpy()


def _predictions(cell: Path, positions: Places) -> Classes | None:
    table = read_columns(cell, "samples", ("position", "prediction"))
    known = _known(table["prediction"])
    return None if known is None else known[np.searchsorted(table["position"].to_numpy(), positions)]


def _clean(cell: Path) -> tuple[NDArray[np.float32], NDArray[np.bool_]] | None:
    table = read_columns(cell, "samples", ("label", "prediction", "confidence"))
    label, prediction = (_known(table[name]) for name in ("label", "prediction"))
    return None if label is None else (table["confidence"].to_numpy(), label == prediction)
