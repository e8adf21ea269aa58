"""Accuracy by stretch of the stream, where domains come back or change in steps."""

from __future__ import annotations

from collections.abc import Sequence

import duckdb

from analysis.figures.panels import Panel, as_curves
from analysis.results.configurations import Section
from analysis.results.load import rows
from analysis.results.scores import scores
from analysis.schema import METRICS, MIOU


def segment_panel(con: duckdb.DuckDBPyConnection, section: Section, numbers: Sequence[int]) -> Panel | None:
    """Accuracy in each round of a stream that repeats its domains, else in each segment, by configuration.

    None for a stream with one segment a domain at most: the accuracy by domain says it all.

    Args:
        con: connection from `open_results`.
        section: the configurations.
        numbers: those to show, by their number in the section.
    """
    owner = {cell: number for cell, number in section.owners.items() if number in set(numbers)}
    seeds = {cell.cell: cell.seed for each in section.configurations for cell in each.cells}
    domain_of = {
        (cell, segment): domain
        for cell, segment, domain in rows(
            con,
            """
            select cell, segment, if(count(distinct domain) = 1, any_value(domain), '') as domain
            from samples where cell in (select unnest($cells)) and segment is not null group by cell, segment
            """,
            {"cells": list(owner)},
        )
    }
    found = [
        # Of segmentation a round is the mean of its segments.
        (cell, segment, domain_of[cell, segment], *((score, 1) if section.metric == MIOU else (score * size, size)))
        for cell, segment, score, size in scores(con, list(owner), ["segment"])
        if (cell, segment) in domain_of  # A fetch may have brought the cell in between.
        if segment is not None
    ]
    if not found:
        return None
    first = found[0][0]
    domains = [domain for cell, _, domain, *_ in found if cell == first]
    length = _round_length(domains)
    if len(domains) <= len(set(domains)):
        return None
    counts: dict[tuple[int, int, int], tuple[float, int]] = {}
    for cell, segment, _, hits, size in found:
        key = (owner[cell], segment // length + 1, seeds[cell])
        known_hits, known_size = counts.get(key, (0, 0))
        counts[key] = (known_hits + hits, known_size + size)
    by_point: dict[tuple[int, int], list[float]] = {}
    for (number, place, _), (hits, size) in counts.items():
        by_point.setdefault((number, place), []).append(100 * hits / size)
    points = [(*key, sum(each) / len(each), min(each), max(each)) for key, each in sorted(by_point.items())]
    word = METRICS[section.metric]
    changes = [place for place in range(1, len(domains)) if domains[place] != domains[place - 1]] if length == 1 else []
    return Panel(
        title=f"{word} in each round" if length > 1 else f"{word} in each segment",
        unit=f"{word} (%)",
        x_label=f"round of {length} segments" if length > 1 else "segment",
        curves=as_curves(points),
        borders=tuple(place + 0.5 for place in changes),
        markers=length > 1 or len(domains) <= 40,
    )


def _round_length(domains: Sequence[str]) -> int:
    """Segments in a round, if the stream goes through the same domains again and again; else 1."""
    length = len(set(domains))
    repeats = all(domain == domains[place % length] for place, domain in enumerate(domains))
    return length if repeats and len(domains) > length else 1
