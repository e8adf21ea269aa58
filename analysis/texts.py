"""Numbers and names as text, each in one way for tables, figures and sentences."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

NOT_AVAILABLE = "\u2013"
MINUS = "\u2212"
TIMES = "\u00d7"


def percent(value: float) -> str:
    """A share in [0, 1] in per cent with one decimal."""
    return f"{100 * value:.1f}"


def whole_percent(value: float) -> str:
    """A share in [0, 1] in per cent without decimals."""
    return f"{100 * value:.0f}"


def points(value: float) -> str:
    """A difference of shares in percentage points with one decimal and its sign."""
    text = f"{100 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", MINUS)


def number(value: float | None) -> str:
    """Three significant digits."""
    if value is None:
        return NOT_AVAILABLE
    text = "0" if value == 0 else f"{value:#.3g}".rstrip(".") if abs(value) < 1000 else f"{value:,.0f}"
    return text.replace("-", MINUS)


def count(value: float | None) -> str:
    """A mean of counts, with a decimal only where it is not whole."""
    return NOT_AVAILABLE if value is None else f"{value:.1f}".removesuffix(".0")


def counted(number: int, noun: str) -> str:
    """`1 cell`, `2 cells`, `2 studies`."""
    many = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number} {noun if number == 1 else many}"


def cosine(value: float | None) -> str:
    """Two decimals."""
    return NOT_AVAILABLE if value is None else f"{value:.2f}".replace("-0.00", "0.00").replace("-", MINUS)


def value_text(value: Any) -> str:
    """A value of a protocol or a setting."""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:.6g}"
    return json.dumps(value, ensure_ascii=False)


def spaced(name: str) -> str:
    """A name of code or of a file as words: `gaussian_noise` is `gaussian noise`."""
    return name.replace("_", " ")


def join_words(items: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    words = list(items)
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""


def printable(text: str) -> str:
    """The text without control characters, which could play tricks on a terminal; line ends become spaces."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
