"""Turns a sweep into its cells: unique, in a fixed order. Imports no torch, ray, mlflow or optuna."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, product
from typing import Any

from grid.plan.exclude import Exclusions
from grid.plan.sweep import Axes, Sweep, scoped_keys
from tta_core.errors import InputError
from tta_core.methods.registry import method_spec
from tta_core.run.config import RunConfig

Point = dict[str, Any]

MOST_COMBINATIONS = 1_000_000
"""More are a mistake: a plan of so many takes minutes, and to run them years."""


@dataclass(frozen=True)
class Expansion:
    """The cells of a sweep.

    Attributes:
        cells: cell id -> configuration, in the order in which they run.
        duplicates: combinations that were the same cell as an earlier one.
        excluded: combinations that an `exclude` entry took out.
    """

    cells: dict[str, RunConfig]
    duplicates: int
    excluded: int


def expand(sweep: Sweep) -> Expansion:
    """Expands a sweep into cells.

    Seeds vary slowest, so that a sweep that is cut short has whole seeds; then the variants, then the axes in the order
    of the file, then the axes of the cell's own method. A variant's values win over those of the axes.

    Raises:
        InputError: if a cell is not allowed, no method is named, an entry of `exclude` matches nothing, or no cell is
            left.
    """
    cells: dict[str, RunConfig] = {}
    duplicates = excluded = 0
    exclusions = Exclusions(sweep.exclude)
    points = list(_points(sweep))
    made: list[tuple[RunConfig, Callable[[int], str]] | None] = [None] * len(points)
    for seed in sweep.seeds:
        for number, point in enumerate(points):
            try:
                # Nothing else that a cell is resolved to depends on its seed.
                first, cell_id = made[number] = made[number] or _resolved(sweep, point, seed)
            except InputError:
                # What is left out need not be allowed.
                if not exclusions.take_out(point | {"seed": seed}, None):
                    raise
                excluded += 1
                continue
            config = first if first.seed == seed else first.model_copy(update={"seed": seed})
            if sweep.exclude and exclusions.take_out(point | {"seed": seed}, config):
                excluded += 1
                continue
            cell = cell_id(seed)
            duplicates += cell in cells
            cells.setdefault(cell, config)
    exclusions.check_used()
    if not cells:
        raise InputError(f"sweep {sweep.sweep!r} has no cells: its exclude list takes out all {excluded}; shorten it")
    return Expansion(cells, duplicates, excluded)


def _points(sweep: Sweep) -> Iterator[Point]:
    groups: list[Axes] = [{key: axis} for key, axis in sweep.grid.items()] + list(sweep.zip)
    common = [group for group in groups if not all(map(_is_scoped, group))]
    scoped = [group for group in groups if all(map(_is_scoped, group))]
    variants = sweep.variants or [{}]
    # Too many are refused before they are made.
    left = MOST_COMBINATIONS // len(sweep.seeds)
    if len(variants) * _product_length(common) > left:
        raise _too_many(sweep)
    outer: list[tuple[Point, list[Axes]]] = []
    for variant, *steps in product(variants, *map(_steps, common)):
        point = _merged([sweep.base, *steps, variant])
        if "method" not in point:
            raise InputError(
                f"sweep {sweep.sweep!r} names no method: add `method: [source, tent]` to its grid, or one to its base"
            )
        own = [group for group in scoped if scoped_keys(group, str(point["method"]))]
        left -= _product_length(own)
        if left < 0:
            raise _too_many(sweep)
        outer.append((point, own))
    for point, own in outer:
        for own_steps in product(*map(_steps, own)):
            yield _merged([point, *own_steps])


def _product_length(groups: Iterable[Axes]) -> int:
    return math.prod(len(axis) for group in groups for axis in islice(group.values(), 1))


def _too_many(sweep: Sweep) -> InputError:
    return InputError(
        f"sweep {sweep.sweep!r} has more than {MOST_COMBINATIONS:,} combinations: shorten its axes or its seeds, fix "
        "some with --set key=value, or split it"
    )


def _is_scoped(key: str) -> bool:
    return "." in key


def _steps(axes: Axes) -> list[Point]:
    """Axes that step together: one point for each place in them."""
    return [dict(zip(axes, values, strict=True)) for values in zip(*axes.values(), strict=True)]


def _merged(points: Iterable[Point]) -> Point:
    return {key: value for point in points for key, value in point.items()}


def _resolved(sweep: Sweep, point: Point, seed: int) -> tuple[RunConfig, Callable[[int], str]]:
    """A point's configuration, and its id under any seed."""
    config = _config(sweep, point, seed)
    return config, config.cell_ids()


def _config(sweep: Sweep, point: Point, seed: int) -> RunConfig:
    method = point["method"]
    method_spec(method)  # An unknown method is named before its settings are looked at.
    values = {key: value for key, value in point.items() if not _is_scoped(key)}
    try:
        return RunConfig.from_values(values | {"settings": scoped_keys(point, method), "seed": seed})
    except InputError as error:
        what = str(error).rstrip(".")
        raise InputError(
            f"{what}. This is in the cells of {method!r} in sweep {sweep.sweep!r}: change the file, or "
            "give --set key=value"
        ) from None
