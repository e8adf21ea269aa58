"""What methods recorded at single steps, in columns of their own in `batches`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from analysis.figures.panels import Curve, as_curves
from analysis.results.configurations import Section
from analysis.results.load import rows, scalar_fields

MOST_POINTS = 80
"""Steps are averaged into so many points of a curve."""

OWNERS = "owners as (select unnest($cells) as cell, unnest($numbers) as number, unnest($seeds) as seed)"
"""SQL: a table with the configuration and the seed of each cell. Its parameters are what `owners_of` returns."""


@dataclass(frozen=True, slots=True)
class Scalar:
    """A column that methods add to `batches`.

    Attributes:
        name, unit, meaning: as in the files.
        numbers: the configurations that recorded it, best first.
    """

    name: str
    unit: str
    meaning: str
    numbers: tuple[int, ...]


def owners_of(section: Section) -> dict[str, list[Any]]:
    """The parameters of `OWNERS`."""
    cells = [(cell, number) for number, each in enumerate(section.configurations) for cell in each.cells]
    return {
        "cells": [cell.cell for cell, _ in cells],
        "numbers": [number for _, number in cells],
        "seeds": [cell.seed for cell, _ in cells],
    }


def recorded_scalars(con: duckdb.DuckDBPyConnection, section: Section) -> tuple[Scalar, ...]:
    """The scalars that any cell of the section recorded.

    Args:
        con: connection from `open_results`.
        section: the configurations.
    """
    fields = scalar_fields(con)
    counts = "".join(f", count({_identifier(name)})" for name in fields)
    found = rows(
        con,
        f"with {OWNERS} select number{counts} from batches join owners on owners.cell = batches.cell "
        "group by number order by number",
        owners_of(section),
    )
    scalars = [
        Scalar(name, unit, meaning, tuple(number for number, *known in found if known[column]))
        for column, (name, (unit, meaning)) in enumerate(fields.items())
    ]
    return tuple(scalar for scalar in scalars if scalar.numbers)


def scalar_curves(
    con: duckdb.DuckDBPyConnection, section: Section, name: str, numbers: Sequence[int]
) -> dict[int, Curve]:
    """Configuration -> a scalar by samples seen, averaged over neighbouring steps, then over seeds.

    Args:
        con: connection from `open_results`, or a cursor of it.
        section: the configurations.
        name: of the scalar.
        numbers: the configurations to take, by their number in the section.
    """
    found = rows(
        con,
        f"""
        with {OWNERS}, placed as (
            select number, seed, step, samples_seen, {_identifier(name)} as value,
                step * $points // (max(step) over () + 1) as point
            from batches join owners on owners.cell = batches.cell where number in (select unnest($shown))
        ), each_seed as (
            select number, seed, max(samples_seen) as seen, avg(value) as value from placed
            where isfinite(value) group by number, seed, point
        )
        select number, seen, avg(value), min(value), max(value) from each_seed group by all order by all
        """,
        owners_of(section) | {"shown": list(numbers), "points": MOST_POINTS},
    )
    return as_curves(found)


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
