"""Heat maps: matrices as coloured cells, several side by side, with their values or a colour bar."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize, TwoSlopeNorm, to_rgb
from matplotlib.figure import Figure

from analysis.figures.panels import HeatMap
from analysis.figures.style import LIGHT, WIDTH, Theme, color_axes, color_map, one_line, readable_on, wrapped
from analysis.texts import spaced

_NAME_LETTERS = 22
_ROW_INCHES = 0.25


def heat_figure(maps: Sequence[HeatMap], theme: Theme = LIGHT, width: float = WIDTH, heading: str = "") -> Figure:
    """Heat maps of the same rows side by side; all have the colours and limits of the first.

    Args:
        maps: at least one; rows are named at the first one only.
        theme: colours.
        width: inches.
        heading: above all maps.
    """
    first = maps[0]
    low, high = first.limits
    norm = TwoSlopeNorm(0.0, min(low, -1e-9), max(high, 1e-9)) if first.diverging else Normalize(low, high)
    colors = color_map(theme, theme.diverging if first.diverging else theme.sequential)
    slanted = max(len(name) for each in maps for name in each.columns) > 3
    height = 1.3 + _ROW_INCHES * len(first.rows) + (0.9 if slanted else 0.0) + (0.0 if first.words else 0.45)
    height += 0.3 if heading else 0.0
    figure = Figure(figsize=(width, height), layout="constrained", facecolor=theme.background)
    if heading:
        figure.suptitle(one_line(heading), x=0.005, ha="left", fontsize=10, color=theme.text)
    every = figure.subplots(1, len(maps), squeeze=False, width_ratios=[max(2, len(each.columns)) for each in maps])[0]
    for number, (axes, each) in enumerate(zip(every, maps, strict=True)):
        color_axes(axes, theme)
        _draw(axes, each, colors, norm, theme, size=_word_size(maps, width), names=number == 0, slanted=slanted)
    if not first.words:
        bar = figure.colorbar(
            ScalarMappable(norm, colors), ax=list(every), location="bottom", shrink=0.5, aspect=36, pad=0.04
        )
        bar.set_label(first.unit, fontsize=9, color=theme.text)
        bar.ax.tick_params(colors=theme.text, labelsize=8.5)
        bar.outline.set_visible(False)
    return figure


def draw_heat_map(
    axes: Axes,
    values: Sequence[Sequence[float]],
    words: Sequence[Sequence[str]],
    colors: Colormap,
    norm: Normalize,
    theme: Theme,
    size: float = 8.5,
) -> None:
    """Draws coloured cells, with a word in each.

    Args:
        axes: where.
        values: NaN where there is nothing.
        words: as many as values; may be empty.
        colors: colours from the weakest to the strongest.
        norm: place of a value among them.
        theme: colours of everything else.
        size: of the words, in points.
    """
    axes.imshow(values, cmap=colors, norm=norm, aspect="auto", interpolation="nearest")
    for row, (numbers, texts) in enumerate(zip(values, words, strict=False)):
        for column, (number, text) in enumerate(zip(numbers, texts, strict=True)):
            fill = colors(norm(number)) if number == number else to_rgb(theme.background)
            word = axes.text(column, row, text, ha="center", va="center", fontsize=size)
            word.set_color(readable_on(fill[:3], theme))
            word.set_in_layout(False)  # It lies in its cell; measuring hundreds of words takes long.
    axes.tick_params(which="both", length=0)
    axes.xaxis.tick_top()
    axes.spines[:].set_visible(False)
    if words:
        # Gaps between the cells, drawn as lines of the background.
        axes.set_xticks([column - 0.5 for column in range(1, len(values[0]))], minor=True)
        axes.set_yticks([row - 0.5 for row in range(1, len(values))], minor=True)
        axes.tick_params(which="both", length=0)
        axes.grid(which="minor", color=theme.background, linewidth=1.5)


def _draw(
    axes: Axes,
    each: HeatMap,
    colors: Colormap,
    norm: Normalize,
    theme: Theme,
    *,
    size: float,
    names: bool,
    slanted: bool,
) -> None:
    values = [[float("nan") if value is None else value for value in row] for row in each.values]
    draw_heat_map(axes, values, each.words, colors, norm, theme, size)
    shown = [_name(name) for name in each.rows] if names else []
    axes.set_yticks(range(len(shown)), shown)
    if not names:
        axes.tick_params(axis="y", labelleft=False)
    every = -(-len(each.columns) // 16) if not slanted else 1
    places = range(0, len(each.columns), every)
    axes.set_xticks(places, [_name(each.columns[place]) for place in places])
    axes.tick_params(labelsize=8.5)
    if slanted:
        for label in axes.get_xticklabels():
            label.set(rotation=40, ha="left", rotation_mode="anchor")
    axes.set_xlabel(each.x_label, fontsize=9)
    axes.xaxis.set_label_position("bottom")
    if names:
        axes.set_ylabel(each.y_label, fontsize=9)
    axes.set_title(wrapped(each.title, 40), loc="left", fontsize=9.5, color=theme.text, pad=8)
    header, ends = each.row_ends
    if not ends:
        return
    for row, text in enumerate(ends):
        axes.text(1.02, row, text, transform=axes.get_yaxis_transform(), va="center", fontsize=8, color=theme.text)
    axes.text(1.02, 1.01, header, transform=axes.transAxes, va="bottom", fontsize=8, color=theme.muted)


def _name(text: str) -> str:
    return one_line(spaced(text), _NAME_LETTERS)


def _word_size(maps: Sequence[HeatMap], width: float) -> float:
    """Points such that the longest word fits into a cell."""
    letters = max((len(word) for each in maps for row in each.words for word in row), default=1)
    slanted = max(len(name) for each in maps for name in each.columns) > 3
    margin = 1.6 + (0.9 * len(maps) if slanted else 0.0)  # names of rows, and ends of slanted names
    cell = (width - margin) / sum(len(each.columns) for each in maps)
    return max(5.0, min(8.5, 72 * cell / (0.6 * letters)))
