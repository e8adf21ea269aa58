"""What methods are given before the stream, as short words for tables and a note that explains them.

Numbers of methods that were given more are no fair race with those that were not, so every table says it. The texts
that `cells.needs` holds come from whoever wrote the results; what is not known here is shown as it stands.
"""

from __future__ import annotations

from collections.abc import Iterable

from analysis import schema

SOURCE_IMAGES = "source images"
LABELLED_SOURCE_IMAGES = "labelled source images"
HELD_OUT_IMAGES = "held-out corruptions"
HELD_OUT_LABELS = "labels of held-out corruptions"

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
    held_out = {HELD_OUT_IMAGES, HELD_OUT_LABELS}
    words = {
        "clean": SOURCE_IMAGES in given,
        "clean+": LABELLED_SOURCE_IMAGES in given,
        "held-out": given & held_out == {HELD_OUT_IMAGES},
        "held-out+": HELD_OUT_LABELS in given,
    }
    others = sorted(given - held_out - {SOURCE_IMAGES, LABELLED_SOURCE_IMAGES})
    return [word for word, there in words.items() if there] + others


def needs_note(shown: Iterable[Needs]) -> str:
    """One paragraph that explains the words that stand for these needs; empty if there are none."""
    used = {word for needs in shown for word in need_words(needs or ())}
    told = [f"{word}: {meaning}" for word, meaning in _MEANINGS.items() if word in used]
    told += sorted(used - _MEANINGS.keys())
    if not told:
        return ""
    return f"Needs: what a method is given before the stream, beside the source network. {'; '.join(told)}."
