"""Tables of segmentation: each condition and round, and each class."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import duckdb
import numpy as np
from numpy.typing import NDArray

from analysis.figures.table import Table
from analysis.results.configurations import Section
from analysis.results.load import rows
from analysis.schema import MIOU
from analysis.texts import NOT_AVAILABLE, percent

CLASS_NAMES = "class_names"
"""Entry of a protocol of segmentation."""

COUNTED = (
    "mIoU, mAcc and aAcc are in per cent: mean IoU and mean accuracy over the classes with any pixel, and accuracy of "
    "pixels, of all images of a condition and round together; then means over seeds. A round is the mean of its "
    "conditions. Rounds after the first are scored on images that were adapted to before."
)
BY_CLASS = "IoU in per cent, mean over conditions, rounds and seeds where the class has any pixel."


@dataclass(frozen=True, slots=True)
class Counts:
    """Pixels of each class in one segment of a cell: `(classes, 3)`, right, predicted, labelled."""

    domain: str
    table: NDArray[np.int64]

    def shares(self) -> NDArray[np.float64]:
        """IoU of each class `(classes,)`, NaN where it has no pixel."""
        hits, predicted, labelled = self.table.T
        return _shares(hits, predicted + labelled - hits)

    def scores(self) -> tuple[float, float, float]:
        """mIoU, mAcc and aAcc."""
        hits, _, labelled = self.table.T
        pixels = max(1, int(labelled.sum()))
        return _mean(self.shares()), _mean(_shares(hits, labelled)), float(hits.sum() / pixels)


def pixel_tables(con: duckdb.DuckDBPyConnection, section: Section) -> tuple[Table, ...]:
    """Both tables of a section of segmentation; none of others."""
    if section.metric != MIOU:
        return ()
    names = section.protocol.get(CLASS_NAMES, "").split(", ")
    counts = _counts(con, section, len(names))
    return _rounds(section, counts), _classes(section, counts, names)


def _counts(con: duckdb.DuckDBPyConnection, section: Section, classes: int) -> dict[str, dict[int, Counts]]:
    """Cell -> segment -> counts."""
    found: dict[str, dict[int, Counts]] = {}
    for cell, segment, domain, number, *values in rows(
        con,
        """
        select samples.cell, segment, any_value(domain), class, sum(intersection), sum(predicted), sum(labelled)
        from classes join samples on samples.cell = classes.cell and samples.position = classes.position
        where samples.cell in (select unnest($cells)) group by samples.cell, segment, class order by all
        """,
        {"cells": list(section.owners)},
    ):
        empty = Counts(domain, np.zeros((classes, 3), np.int64))
        found.setdefault(cell, {}).setdefault(segment, empty).table[number] = values
    return found


def _rounds(section: Section, counts: Mapping[str, Mapping[int, Counts]]) -> Table:
    domains = list(dict.fromkeys(each.domain for cell in counts.values() for each in cell.values()))
    body: list[tuple[str, ...]] = []
    kinds: list[str] = []
    for configuration in section.configurations:
        cells = [list(counts[cell.cell].values()) for cell in configuration.cells if cell.cell in counts]
        if not cells:
            continue
        rounds = -(-max(map(len, cells)) // max(1, len(domains)))
        for number in range(rounds):
            part = [cell[number * len(domains) : (number + 1) * len(domains)] for cell in cells]
            by_domain = {
                domain: [each.scores() for cell in part for each in cell if each.domain == domain] for domain in domains
            }
            every = [each.scores() for cell in part for each in cell]
            body.append(
                (
                    configuration.label,
                    str(number + 1),
                    *(_percent([score[0] for score in by_domain[domain]]) for domain in domains),
                    *(_percent([score[place] for score in every]) for place in range(3)),
                )
            )
            kinds.append("reference" if configuration.is_reference else "")
    return Table(
        headers=("Configuration", "Round", *domains, "mIoU", "mAcc", "aAcc"),
        rows=tuple(body),
        numeric=(False, *(True for _ in range(len(domains) + 4))),
        kinds=tuple(kinds),
        notes=(COUNTED,),
        caption="mIoU of each condition and round",
    )


def _classes(section: Section, counts: Mapping[str, Mapping[int, Counts]], names: Sequence[str]) -> Table:
    body = []
    for configuration in section.configurations:
        parts = [each.shares() for cell in configuration.cells for each in counts.get(cell.cell, {}).values()]
        if parts:
            columns = [[float(part[number]) for part in parts] for number in range(len(names))]
            body.append((configuration.label, *(_percent([v for v in column if v == v]) for column in columns)))
    return Table(
        headers=("Configuration", *names),
        rows=tuple(body),
        numeric=(False, *(True for _ in names)),
        kinds=tuple("reference" if each.is_reference else "" for each in section.configurations)[: len(body)],
        notes=(BY_CLASS,),
        caption="IoU of each class",
    )


def _shares(parts: NDArray[np.int64], wholes: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.where(wholes > 0, parts / np.maximum(wholes, 1), np.nan)


def _mean(values: NDArray[np.float64]) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else 0.0


def _percent(values: Sequence[float]) -> str:
    return percent(statistics.fmean(values)) if values else NOT_AVAILABLE
