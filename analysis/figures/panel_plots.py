"""Small panels of curves with one legend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from analysis.figures.panels import Curve, Panel, Series
from analysis.figures.style import DASHES, LIGHT, WIDTH, Theme, color_axes, one_line, wrapped

_DOTS = (0, (1, 1.6))
_LINE_INCHES = {1: 3.2, 2: 2.6, 3: 2.15}
_TITLE_LETTERS = {1: 100, 2: 58, 3: 36}
_MOST_NAMES = 26
_NAME_LETTERS = 18


def panel_figure(
    panels: Sequence[Panel], series: Mapping[int, Series], theme: Theme = LIGHT, width: float = WIDTH
) -> Figure:
    """Panels in one, two or three columns, the more there are, with one legend above all.

    Args:
        panels: at least one.
        series: name and colour of every series in any panel, in the order of the legend.
        theme: colours.
        width: inches.
    """
    columns = 2 if len(panels) in (2, 4) else min(3, len(panels))
    lines = -(-len(panels) // columns)
    shown = [number for number in series if any(number in panel.curves for panel in panels)]
    references = list(dict.fromkeys(panel.reference_label for panel in panels if panel.reference is not None))
    legend_columns = _legend_columns([*(one_line(series[number].label) for number in shown), *references], width)
    legend_lines = -(-(len(shown) + len(references)) // legend_columns)
    names = max((_upright_letters(panel, _TITLE_LETTERS[columns]) for panel in panels), default=0)
    figure = Figure(
        figsize=(width, lines * (_LINE_INCHES[columns] + 0.05 * names) + 0.22 * legend_lines),
        layout="constrained",
        facecolor=theme.background,
    )
    every = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axes, panel in zip(every, panels, strict=False):
        color_axes(axes, theme)
        _draw(axes, panel, series, theme, letters=_TITLE_LETTERS[columns])
    for axes in every[len(panels) :]:
        axes.set_visible(False)
    looks = [(one_line(series[number].label), *_look(series[number], theme)) for number in shown]
    looks += [(label, theme.muted, _DOTS) for label in references]
    handles = [every[0].plot([], [], color=color, linestyle=line, linewidth=1.9)[0] for _, color, line in looks]
    figure.legend(
        handles,
        [label for label, _, _ in looks],
        loc="outside upper left",
        ncols=legend_columns,
        frameon=False,
        fontsize=9,
        labelcolor=theme.text,
    )
    return figure


def _draw(axes: Axes, panel: Panel, series: Mapping[int, Series], theme: Theme, letters: int) -> None:
    for number in reversed([number for number in series if number in panel.curves]):
        _line(axes, panel.curves[number], panel.markers, *_look(series[number], theme))
    if panel.reference is not None:
        _line(axes, panel.reference, False, theme.muted, _DOTS)
    for border in panel.borders:
        axes.axvline(border, color=theme.grid, linewidth=0.8, zorder=0)
    axes.set_title(wrapped(panel.title, letters), loc="left", fontsize=9.5, color=theme.text)
    axes.set_xlabel(panel.x_label, fontsize=8.5)
    axes.set_ylabel(panel.unit, fontsize=8.5)
    axes.tick_params(labelsize=8)
    axes.grid(axis="y", color=theme.grid, linewidth=0.8)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    if panel.x_ticks:
        shown = _shown_ticks(panel)
        axes.set_xticks([place for place, _ in shown], [name for _, name in shown])
        axes.tick_params(axis="x", labelsize=7.5, labelrotation=90 if _upright_letters(panel, letters) else 0)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _shown_ticks(panel: Panel) -> list[tuple[float, str]]:
    every = max(1, -(-len(panel.x_ticks) // _MOST_NAMES))
    return [(place, one_line(name, _NAME_LETTERS)) for place, name in panel.x_ticks[::every]]


def _upright_letters(panel: Panel, letters: int) -> int:
    """Letters of the longest name on the horizontal axis, if the names have to stand upright; else 0."""
    names = [name for _, name in _shown_ticks(panel)]
    return max(map(len, names)) if sum(map(len, names)) > letters else 0


def _line(axes: Axes, curve: Curve, markers: bool, color: str, dashes: object) -> None:
    # A line of one point would not be seen.
    marker = "o" if markers or len(curve.x) == 1 else ""
    axes.plot(curve.x, curve.mean, color=color, linestyle=dashes, linewidth=1.7, marker=marker, markersize=4, zorder=3)
    axes.fill_between(curve.x, curve.lowest, curve.highest, color=color, alpha=0.13, linewidth=0, zorder=2)


def _look(series: Series, theme: Theme) -> tuple[str, object]:
    return (theme.muted, DASHES) if series.color is None else (theme.series[series.color], "-")


def _legend_columns(labels: Sequence[str], width: float) -> int:
    return max(1, min(4, round(11 * width) // (6 + max(map(len, labels), default=1))))
