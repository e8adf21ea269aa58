"""How figures look: colours of a light and a dark page, empty axes, labels, PNG."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from PIL import Image

from analysis.results.configurations import Configuration

WIDTH = 10.0
"""Inches; text of 10 points is then as large as that of a page 1040 pixels wide."""

LABEL_LETTERS = 44

DASHES = (0, (5, 3))
"""Line style of `source` and of other references."""


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours of a figure.

    Attributes:
        background, text, muted, grid: surface, words, secondary words and lines.
        series: colours of the best configurations, best first; the others are drawn muted.
        sequential: colours of a low and of a high value.
        diverging: colours of a negative, a zero and a positive value.
    """

    background: str
    text: str
    muted: str
    grid: str
    series: tuple[str, ...]
    sequential: tuple[str, str]
    diverging: tuple[str, str, str]


LIGHT = Theme(
    background="#ffffff",
    text="#1c2128",
    muted="#6b7480",
    grid="#e3e6ea",
    series=("#0072b2", "#d55e00", "#009e73", "#b5529a", "#c98600", "#56b4e9"),
    sequential=("#f1f6fb", "#0a5a94"),
    diverging=("#c4511a", "#f7f7f5", "#0a6aa8"),
)
DARK = Theme(
    background="#181c22",
    text="#e4e8ed",
    muted="#98a2ae",
    grid="#30363e",
    series=("#4ba6e3", "#f4854a", "#38c79b", "#de8cc6", "#eeb33c", "#a7dcf8"),
    sequential=("#1d2733", "#58b2ee"),
    diverging=("#e8743b", "#242a31", "#48a4e6"),
)


MOST_LINES = len(LIGHT.series)
"""So many configurations besides `source` are drawn as lines: as many as there are colours that can be told apart."""


def png(figure: Figure, dpi: int) -> bytes:
    """The figure as a PNG file without metadata, with 256 colours: a third of the size, and no difference to see."""
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    image = Image.frombuffer("RGBA", canvas.get_width_height(), canvas.buffer_rgba()).convert("RGB")
    small = image.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    file = io.BytesIO()
    small.save(file, "PNG")
    return file.getvalue()


def empty_figure(width: float, height: float, theme: Theme) -> tuple[Figure, Axes]:
    """A figure with one pair of axes in the colours of the theme; sizes in inches."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor=theme.background)
    axes = figure.add_subplot()
    color_axes(axes, theme)
    return figure, axes


def color_axes(axes: Axes, theme: Theme) -> None:
    """Gives axes the colours of the theme."""
    axes.set_facecolor(theme.background)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(theme.muted)
    axes.tick_params(colors=theme.text, labelsize=9.5)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set_color(theme.text)
        axis.label.set_fontsize(10)


def readable_on(fill: Sequence[float], theme: Theme) -> str:
    """Black or white text, whichever has the higher contrast on the fill (WCAG relative luminance)."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in fill]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#111418" if (luminance + 0.05) ** 2 > 1.05 * 0.05 else "#ffffff"


def color_map(theme: Theme, colors: Sequence[str]) -> Colormap:
    """A map from the first colour to the last; nothing is drawn where there is no number."""
    return LinearSegmentedColormap.from_list("theme", list(colors)).with_extremes(bad=theme.background)


def series_colors(configurations: Sequence[Configuration], theme: Theme) -> list[str | None]:
    """A colour for each of the best configurations, the same in all figures; None for `source` and the others."""
    free = iter(theme.series)
    return [None if each.is_reference else next(free, None) for each in configurations]


def one_line(label: str, letters: int = 2 * LABEL_LETTERS) -> str:
    """The label, cut at the end if it is very long."""
    label = " ".join(label.split())
    return _plain(label if len(label) <= letters else f"{label[: letters - 1]}…")


def wrapped(label: str, letters: int = LABEL_LETTERS) -> str:
    """The label on up to three lines."""
    return _plain("\n".join(textwrap.wrap(label, letters, max_lines=3, placeholder=" …")))


def _plain(text: str) -> str:
    """The text such that matplotlib takes none of it for mathematics."""
    return text.replace("$", r"\$")
