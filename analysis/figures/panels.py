"""What diagnostic figures draw: curves in small panels, and matrices as heat maps. Data only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Curve:
    """A line with a band.

    Attributes:
        x: where the points are.
        mean: the line.
        lowest, highest: the band, such as worst and best seed.
    """

    x: tuple[float, ...]
    mean: tuple[float, ...]
    lowest: tuple[float, ...]
    highest: tuple[float, ...]

    def scaled(self, factor: float) -> Curve:
        """The curve in another unit."""
        lines = (tuple(factor * value for value in line) for line in (self.mean, self.lowest, self.highest))
        return Curve(self.x, *lines)


@dataclass(frozen=True, slots=True)
class Panel:
    """One pair of axes.

    Attributes:
        title: what is shown.
        unit: of the vertical axis; empty for numbers without one.
        x_label: what the horizontal axis is, with its unit.
        curves: number of a series -> its line.
        x_ticks: places on the horizontal axis and their names; empty to let numbers be chosen.
        reference: a dotted line to compare with.
        reference_label: what it is, for the legend.
        borders: where to draw thin vertical lines.
        markers: whether the points are marked.
    """

    title: str
    unit: str
    x_label: str
    curves: Mapping[int, Curve]
    x_ticks: tuple[tuple[float, str], ...] = ()
    reference: Curve | None = None
    reference_label: str = ""
    borders: tuple[float, ...] = ()
    markers: bool = False


@dataclass(frozen=True, slots=True)
class Series:
    """How a line is named and drawn in all panels of a figure.

    Attributes:
        label: for the legend.
        color: number of a colour in `style.Theme.series`; None for the grey, dashed line of `source`.
    """

    label: str
    color: int | None


@dataclass(frozen=True, slots=True)
class HeatMap:
    """A matrix, to be drawn with or without its values in the cells.

    Attributes:
        title: what is shown.
        rows, columns: names.
        values: one row a name in `rows`; None where there is nothing.
        words: what is written into the cells; empty if they stay blank and a colour bar is drawn instead.
        y_label, x_label: what rows and columns are.
        unit: of the values, for the colour bar.
        limits: values of the weakest and the strongest colour.
        diverging: whether 0 is neutral.
        row_ends: header and one text a row, to write at the right; empty for none.
    """

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    y_label: str
    x_label: str
    limits: tuple[float, float]
    unit: str = ""
    words: tuple[tuple[str, ...], ...] = ()
    diverging: bool = False
    row_ends: tuple[str, tuple[str, ...]] = field(default=("", ()))


def as_curves(found: Iterable[Sequence[Any]]) -> dict[int, Curve]:
    """Curves from rows (number of the series, x, mean, lowest, highest), sorted by x."""
    points: dict[int, list[Sequence[float]]] = {}
    for number, *point in found:
        points.setdefault(number, []).append(point)
    return {number: Curve(*map(tuple, zip(*each, strict=True))) for number, each in points.items()}
