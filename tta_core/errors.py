"""Errors that are the user's to mend: one clear message each, no traceback at the command line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

Row = TypeVar("Row")

DIVERGED = "diverged: "
COLLAPSED = "collapsed: "
"""How reasons go on after the method's name where its network became infinite, or predicts few classes: searches know
these failures by it.
"""

LETTERS_SHOWN = 200
"""How much of a value a message shows."""

NAMES_SHOWN = 3
"""How many of many names a message gives."""

_DOTS = re.compile(r"(?<=[^\s./])\.\.(?=\s|$)")


class InputError(ValueError):
    """A mistake in what the user gave.

    The message says what was given, what is allowed (closest match first) and what to do.
    """

    def __init__(self, message: str) -> None:
        # Reasons that libraries give end in a dot, and stand where a sentence of ours ends.
        super().__init__(_DOTS.sub(".", message))


def closest_match(given: str, allowed: Iterable[str]) -> str | None:
    """Returns the allowed name that looks most like `given`, or None if none is near."""
    matches = difflib.get_close_matches(given, list(allowed), n=1, cutoff=0.6)
    return matches[0] if matches else None


def unknown_name(kind: str, given: object, allowed: Iterable[str], what_to_do: str = "") -> InputError:
    """Builds the error for a name that is not in a list.

    Args:
        kind: what the name stands for, in the singular, such as "method".
        given: the name that was given.
        allowed: all names that would have been accepted.
        what_to_do: a sentence that ends the message.
    """
    names = sorted(map(str, allowed))
    match = closest_match(str(given), names)
    hint = f" Did you mean {match!r}?" if match else ""
    listed = ", ".join(names) if names else "none"
    advice = f". {what_to_do}" if what_to_do else ""
    return InputError(f"unknown {kind} {given!r}.{hint} Allowed: {listed}{advice}")


def shown(given: object) -> str:
    """A value as messages show it; of a long one the beginning."""
    try:
        text = repr(given)
    except ValueError:  # Python writes no integer of more than 4,300 digits.
        return "a number of more than 4,300 digits"
    return text if len(text) <= LETTERS_SHOWN else f"{text[:LETTERS_SHOWN]}..."


def named_row(kind: str, table: Mapping[str, Row], name: str) -> Row:
    """Returns the row of that name in a table that `tta-grid list` shows.

    Args:
        kind: what the rows are, in the singular, such as "method".
        table: rows by name.
        name: the name that was given.

    Raises:
        InputError: with the closest match, if there is no such row.
    """
    if not isinstance(name, str) or name not in table:
        raise unknown_name(kind, name, table, f"See them with: tta-grid list {kind}s")
    return table[name]


def first_names(names: Sequence[str], count: int | None = None) -> str:
    """The first of many names for a message, and how many more there are.

    Args:
        names: the names, or the first of them.
        count: how many there are, if `names` has not all.
    """
    count = len(names) if count is None else count
    more = f" and {count - NAMES_SHOWN:,} more" if count > NAMES_SHOWN else ""
    first = (name if len(name) <= LETTERS_SHOWN else f"{name[:LETTERS_SHOWN]}..." for name in names[:NAMES_SHOWN])
    return ", ".join(first) + more
