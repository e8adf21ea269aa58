"""Tables in plain text."""

from __future__ import annotations

from collections.abc import Sequence


def text_table(names: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool]) -> str:
    """An aligned table, one line a row.

    Args:
        names: of the columns.
        rows: the cells of each.
        right: of each column, whether it is aligned to the right.
    """
    widths = [max(map(len, column)) for column in zip(names, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(cells, widths, right, strict=True))
        return "  ".join(padded).rstrip()

    return "\n".join([line(names), line(["-" * width for width in widths]), *map(line, rows)])
