"""What a block of the page holds, and which configurations its figures show."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from analysis.figures.heat_maps import heat_figure
from analysis.figures.panel_plots import panel_figure
from analysis.figures.panels import HeatMap, Panel, Series
from analysis.figures.style import LIGHT, WIDTH, Theme, series_colors
from analysis.figures.table import Table
from analysis.results.configurations import SOURCE, Section

MOST_LINES = 6
"""So many configurations besides `source` are drawn as lines: as many as there are colours that can be told apart."""
MOST_MAPS = 3
"""So many configurations are drawn as heat maps of one kind, one below the other."""
MOST_MATRICES = 4
"""So many configurations are drawn as square matrices of one kind, two side by side."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure that has not been drawn yet.

    Attributes:
        draw: draws it in the colours of a theme.
        alt: what a reader who cannot see it should know.
    """

    draw: Callable[[Theme], Figure]
    alt: str


@dataclass(frozen=True, slots=True)
class Block:
    """One card of the page.

    Attributes:
        title: heading.
        lead: what is shown and how to read it.
        drawings: figures, in order.
        tables: tables below them.
        folded: tables that open on a click.
    """

    title: str
    lead: str
    drawings: tuple[Drawing, ...] = ()
    tables: tuple[Table, ...] = ()
    folded: tuple[Table, ...] = ()


def choose(section: Section, numbers: Iterable[int], most: int, urgent: Collection[int] = ()) -> list[int]:
    """Up to `most` configurations, best first: the best of each method, then urgent ones, then the next best.

    Args:
        section: its configurations are sorted by accuracy.
        numbers: configurations to choose from, by their number in the section.
        most: how many.
        urgent: those that a reader should not miss.
    """
    ranked = sorted(set(numbers))
    leaders: dict[str, int] = {}
    for number in ranked:
        leaders.setdefault(section.configurations[number].method, number)
    others = sorted(set(ranked).difference(leaders.values()), key=lambda number: (number not in urgent, number))
    return sorted([*leaders.values(), *others][:most])


def choose_series(section: Section, numbers: Iterable[int], urgent: Collection[int] = ()) -> dict[int, Series]:
    """The configurations that are drawn as lines, with a colour each: the one that other figures give it, if any.

    Args:
        section: the section.
        numbers: configurations to choose from; `source` takes no colour and is always kept.
        urgent: those that a reader should not miss.
    """
    members = section.configurations
    given = list(numbers)
    adapting = choose(section, (n for n in given if members[n].method != SOURCE), MOST_LINES, urgent)
    known = series_colors(members, LIGHT)
    colors = {n: LIGHT.series.index(color) for n in adapting if (color := known[n]) is not None}
    free = iter([color for color in range(len(LIGHT.series)) if color not in colors.values()])
    for number in adapting:
        if number not in colors:
            colors[number] = next(free)
    kept = sorted({*adapting, *(n for n in given if members[n].method == SOURCE)})
    return {number: Series(members[number].label, colors.get(number)) for number in kept}


def panel_drawing(panels: Sequence[Panel], series: Mapping[int, Series], width: float = WIDTH) -> Drawing:
    """Panels of curves as one drawing."""
    return Drawing(
        lambda theme: panel_figure(panels, series, theme, width),
        f"Curves: {'; '.join(panel.title for panel in panels)}.",
    )


def heat_drawing(maps: Sequence[HeatMap], alt: str, width: float = WIDTH, heading: str = "") -> Drawing:
    """Heat maps side by side as one drawing."""
    return Drawing(lambda theme: heat_figure(maps, theme, width, heading), alt)
