"""What methods are given before the stream, as short words for tables and a note that explains them.

A method that is given more has an advantage, so every table says it. The texts in
`cells.needs` come from whoever wrote the results. A text that is not known here is shown as it stands.
"""

from __future__ import annotations

from collections.abc import Iterable

from analysis import schema
from analysis.vocabulary import HELD_OUT_IMAGES, HELD_OUT_LABELS, LABELLED_SOURCE_IMAGES, NEEDS, SOURCE_IMAGES

_MEANINGS = {
    "clean": "clean images of the source, without labels",
    "clean+": "training images of the source with their labels",
    "held-out": "images under corruptions that no table reports, without labels",
    "held-out+": "images under corruptions that no table reports, with their labels",
}

Needs = tuple[str, ...] | None
"""What a method needs beyond the stream; None for results of a version that did not record it."""


def read_needs(text: str | None) -> Needs:
    """The needs that a cell of the results names."""
    return None if text is None else tuple(text.split(schema.NEEDS_SEPARATOR)) if text else ()


def need_words(needs: Iterable[str]) -> list[str]:
    """Needs as short words: a plus stands for labels."""
    given = set(needs)
    words = {
        "clean": SOURCE_IMAGES in given,
        "clean+": LABELLED_SOURCE_IMAGES in given,
        "held-out": HELD_OUT_IMAGES in given and HELD_OUT_LABELS not in given,
        "held-out+": HELD_OUT_LABELS in given,
    }
    return [word for word, there in words.items() if there] + sorted(given.difference(NEEDS))


def needs_note(shown: Iterable[Needs]) -> str:
    """One paragraph that explains the words that stand for these needs; empty if there are none."""
    used = {word for needs in shown for word in need_words(needs or ())}
    told = [f"{word}: {meaning}" for word, meaning in _MEANINGS.items() if word in used]
    told += sorted(used - _MEANINGS.keys())
    if not told:
        return ""
    return f"Needs: what a method is given before the stream, beside the source network. {'; '.join(told)}."
