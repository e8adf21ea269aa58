"""Figures as images for a light and a dark page, inside the page itself."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.figure import Figure

from analysis.figures.style import DARK, LIGHT, Theme, png

DOTS_PER_INCH = 180
"""Of the image files; more than on the page, so that they are crisp on dense screens and on paper."""
MANY_DOTS_PER_INCH = 144
"""Of figures of which a page may hold dozens."""
PIXELS_PER_INCH = 104
"""On the page, so that a figure of full width fills it."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure in the colours of a light and of a dark page, as data URIs."""

    light: str
    dark: str
    alt: str
    width: int


def picture(draw: Callable[[Theme], Figure], alt: str, dots_per_inch: int | None = None) -> Picture:
    """Draws a figure in the colours of both themes.

    Args:
        draw: draws it in the colours of a theme.
        alt: what a reader who cannot see it should know.
        dots_per_inch: of the files; `DOTS_PER_INCH` if not given.
    """
    dpi = DOTS_PER_INCH if dots_per_inch is None else dots_per_inch
    light, dark = draw(LIGHT), draw(DARK)
    return Picture(
        light=_data_uri(png(light, dpi)),
        dark=_data_uri(png(dark, dpi)),
        alt=alt,
        width=round(light.get_figwidth() * PIXELS_PER_INCH),
    )


def _data_uri(image: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"
