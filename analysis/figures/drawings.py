"""Figures that have not been drawn yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from analysis.figures.heat_maps import heat_figure
from analysis.figures.panel_plots import panel_figure
from analysis.figures.panels import HeatMap, Panel, Series
from analysis.figures.style import WIDTH, Theme


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure that is drawn once for a light and once for a dark page.

    Attributes:
        draw: draws it in the colours of a theme.
        alt: what a reader who cannot see it should know.
    """

    draw: Callable[[Theme], Figure]
    alt: str


def panel_drawing(panels: Sequence[Panel], series: Mapping[int, Series], width: float = WIDTH) -> Drawing:
    """Panels of curves as one drawing."""
    return Drawing(
        lambda theme: panel_figure(panels, series, theme, width),
        f"Curves: {'; '.join(panel.title for panel in panels)}.",
    )


def heat_drawing(maps: Sequence[HeatMap], alt: str, width: float = WIDTH, heading: str = "") -> Drawing:
    """Heat maps side by side as one drawing."""
    return Drawing(lambda theme: heat_figure(maps, theme, width, heading), alt)
