"""Tables as text cells, written as Markdown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from analysis.aggregate.estimates import Estimate
from analysis.texts import NOT_AVAILABLE, printable


@dataclass(frozen=True, slots=True)
class Table:
    """Text cells with what a renderer needs to know.

    Attributes:
        headers: column names.
        rows: text cells; `NOT_AVAILABLE` where there is no number.
        numeric: for each column, whether it is aligned to the right.
        kinds: for each row, `best`, `reference`, `alarm` or empty.
        notes: sentences to put below the table.
        caption: what the table shows, if its surroundings do not say it.
    """

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[bool, ...]
    kinds: tuple[str, ...]
    notes: tuple[str, ...]
    caption: str = ""

    def titled(self, caption: str) -> Table:
        """The same table with a caption."""
        return replace(self, caption=caption)


def interval_text(estimate: Estimate, words: Callable[[float], str]) -> str:
    """The interval as `low to high`, or `NOT_AVAILABLE`."""
    if estimate.interval is None:
        return NOT_AVAILABLE
    low, high = estimate.interval
    return f"{words(low)} to {words(high)}"


def markdown(table: Table) -> str:
    """The table as Markdown, with aligned columns, its notes below."""
    cells = [[markdown_cell(text) for text in row] for row in (table.headers, *table.rows)]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(table.headers))]
    lines = [
        "| " + " | ".join(_padded(*each) for each in zip(row, widths, table.numeric, strict=True)) + " |"
        for row in cells
    ]
    rule = ["-" * (width - 1) + (":" if right else "-") for width, right in zip(widths, table.numeric, strict=True)]
    lines.insert(1, "| " + " | ".join(rule) + " |")
    return "\n".join([*lines, *(f"\n{note}" for note in table.notes)])


def _padded(text: str, width: int, right: bool) -> str:
    return text.rjust(width) if right else text.ljust(width)


def markdown_cell(text: str) -> str:
    """The text as it may stand in a cell of a Markdown table."""
    return " ".join(printable(text).split()).replace("\\", "\\\\").replace("|", "\\|")
