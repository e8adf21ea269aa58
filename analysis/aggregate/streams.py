"""Accuracy along the stream: over a running window, and where the stream passes from one domain to the next."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import duckdb
import numpy as np

from analysis.results.configurations import Section
from analysis.results.load import rows
from analysis.schema import MIOU

POINTS_PER_WINDOW = 10
"""How many points of a running curve fall into one window."""

MOST_BLOCKS = 40
"""A stream with more changes of domain than this is not drawn as blocks."""


@dataclass(frozen=True, slots=True)
class RunningAccuracy:
    """Accuracy over the last samples, along the stream.

    Attributes:
        samples_seen: samples seen at each point; the first point is at the end of the first full window.
        mean, lowest, highest: over seeds, at each point.
    """

    samples_seen: tuple[int, ...]
    mean: tuple[float, ...]
    lowest: tuple[float, ...]
    highest: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class RunningAccuracies:
    """Curves of all configurations of a section, in its order.

    Attributes:
        window: samples in a window.
        curves: one a configuration.
    """

    window: int
    curves: tuple[RunningAccuracy, ...]


def default_window(section: Section) -> int:
    """Samples in a running window: a fifteenth of the stream, but enough for an accuracy to mean something."""
    longest = max(cell.n_samples for each in section.configurations for cell in each.cells)
    return min(max(longest // 15, 200), longest)


def running_accuracies(
    con: duckdb.DuckDBPyConnection, section: Section, window: int | None = None
) -> RunningAccuracies:
    """Accuracy over the last `window` samples along the stream, for each configuration; empty if no window is full.

    Args:
        con: connection from `open_results`.
        section: the configurations.
        window: samples in a window; `default_window` if not given. Rounded down to a multiple of the distance between
            two points, which is a tenth of it.
    """
    window = default_window(section) if window is None else window
    step = max(1, window // POINTS_PER_WINDOW)
    bins = max(1, window // step)
    owner = section.owners
    if section.metric == MIOU:
        return _running_maps(con, section, step, bins)
    points: list[dict[int, list[float]]] = [{} for _ in section.configurations]
    # Bins are counted back from the end of the stream, so that the last window ends with the last sample.
    for cell, seen, accuracy in rows(
        con,
        """
        with placed as (
            select cell, position, (label = prediction)::int as hit, max(position) over (partition by cell) as last
            from samples where cell in (select unnest($cells))
        ), binned as (
            select cell, last + 1 - $step * ((last - position) // $step) as seen, sum(hit) as hits, count(*) as size
            from placed group by all
        ), running as (
            select cell, seen, sum(hits) over bins as hits, sum(size) over bins as size, max(size) over bins as fullest,
                count(*) over bins as n
            from binned
            window bins as (partition by cell order by seen rows between $bins - 1 preceding and current row)
        )
        select cell, seen, hits / size from running where n = $bins and size = $bins * fullest order by cell, seen
        """,
        {"cells": list(owner), "step": step, "bins": bins},
    ):
        points[owner[cell]].setdefault(int(seen), []).append(accuracy)
    return RunningAccuracies(window=step * bins, curves=tuple(_curve(each) for each in points))


def _running_maps(con: duckdb.DuckDBPyConnection, section: Section, step: int, bins: int) -> RunningAccuracies:
    """The same of segmentation: mean IoU of the images of each window together."""
    counted: dict[str, dict[int, dict[int, tuple[int, int]]]] = {}
    for cell, seen, number, hits, wholes in rows(
        con,
        """
        with placed as (
            select cell, position, max(position) over (partition by cell) as last from samples
            where cell in (select unnest($cells))
        )
        select placed.cell, last + 1 - $step * ((last - placed.position) // $step) as seen, class, sum(intersection),
            sum(predicted) + sum(labelled) - sum(intersection)
        from placed join classes on classes.cell = placed.cell and classes.position = placed.position
        group by all order by all
        """,
        {"cells": list(section.owners), "step": step},
    ):
        counted.setdefault(cell, {}).setdefault(int(seen), {})[number] = (int(hits), int(wholes))
    points: list[dict[int, list[float]]] = [{} for _ in section.configurations]
    for cell, by_bin in counted.items():
        ends = sorted(by_bin)
        table = np.zeros((len(ends), 1 + max(map(max, by_bin.values())), 2), np.int64)
        for place, end in enumerate(ends):
            for number, pair in by_bin[end].items():
                table[place, number] = pair
        # The first bin may hold fewer samples than the others.
        for last in range(bins if ends[0] < step else bins - 1, len(ends)):
            hits, wholes = table[last - bins + 1 : last + 1].sum(axis=0).T
            mean = float((hits[wholes > 0] / wholes[wholes > 0]).mean())
            points[section.owners[cell]].setdefault(ends[last], []).append(mean)
    return RunningAccuracies(window=step * bins, curves=tuple(_curve(each) for each in points))


def domain_blocks(con: duckdb.DuckDBPyConnection, section: Section) -> list[tuple[int, str]]:
    """First position and domain of each block of a stream that goes through its domains one after another.

    Empty for a stream that mixes domains, and if the blocks are not the same for all seeds.
    """
    # Cells of one seed saw the same stream, so one configuration tells them all.
    cells = [cell.cell for cell in max(section.configurations, key=lambda each: len(each.cells)).cells]
    found = rows(
        con,
        """
        with marked as (
            select cell, position, domain, lag(domain) over (partition by cell order by position) as before
            from samples where cell in (select unnest($cells))
        )
        select list(position order by position), list(domain order by position) from marked
        where before is distinct from domain group by cell
        """,
        {"cells": cells},
    )
    if not found or len(found[0][0]) > MOST_BLOCKS or any(each != found[0] for each in found):
        return []
    return list(zip(*found[0], strict=True))


def _curve(points: Mapping[int, Sequence[float]]) -> RunningAccuracy:
    seen = sorted(points)
    return RunningAccuracy(
        samples_seen=tuple(seen),
        mean=tuple(statistics.fmean(points[each]) for each in seen),
        lowest=tuple(min(points[each]) for each in seen),
        highest=tuple(max(points[each]) for each in seen),
    )
