"""What stored outcomes are worth: the one place that turns them into scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import duckdb

from analysis.results.load import rows


def scores(
    con: duckdb.DuckDBPyConnection, cells: Sequence[str] | None = None, by: Sequence[str] = ()
) -> list[tuple[Any, ...]]:
    """Scores of samples, grouped.

    Of classification the share of samples that are right. Of segmentation the mean over segments of the mean IoU, which
    is over classes with any pixel, of all images of a segment together: mean IoU of images is never averaged.

    Args:
        con: connection from `open_results`.
        cells: the cells; all if not given.
        by: columns of `samples` to group by beside the cell.

    Returns:
        `(cell, *by, score, samples)`, sorted.
    """
    keys = ", ".join(("cell", *by))
    return rows(
        con,
        f"""
        with picked as (
            select * from samples where $cells is null or cell in (select unnest($cells))
        ), counted as (
            select {keys}, avg((label = prediction)::int) as score, count(*) as n from picked group by {keys}
        ), classwise as (
            select {", ".join(f"picked.{key}" for key in ("cell", *by))}, picked.segment as part, class,
                sum(intersection) as hits, sum(predicted) + sum(labelled) - sum(intersection) as wholes
            from classes join picked on picked.cell = classes.cell and picked.position = classes.position
            group by all
        ), parts as (
            select {keys}, part, avg(hits / wholes) as score from classwise where wholes > 0 group by {keys}, part
        ), maps as (
            select {keys}, avg(score) as score from parts group by {keys}
        )
        select {", ".join(f"counted.{key}" for key in ("cell", *by))}, coalesce(maps.score, counted.score), n
        from counted left join maps on {" and ".join(f"maps.{key} = counted.{key}" for key in ("cell", *by))}
        order by all
        """,
        {"cells": None if cells is None else list(cells)},
    )
