"""What a block of the page holds, and which configurations its figures show."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from analysis.figures.drawings import Drawing
from analysis.figures.panels import Series
from analysis.figures.style import LIGHT, MOST_LINES, series_colors
from analysis.figures.table import Table
from analysis.results.configurations import Section
from analysis.vocabulary import SOURCE

MOST_MAPS = 3
"""So many configurations are drawn as heat maps of one kind, one below the other."""
MOST_MATRICES = 4
"""So many configurations are drawn as square matrices of one kind, two side by side."""


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
