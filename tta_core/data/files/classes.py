"""From what files say of the classes of their images to these classes. Names count before numbers. Imports no torch.

Numbers mean nothing by themselves: another file may count the classes in another order. So a number is replaced by the
name that its file gives it, checked against what else names the class, or told as unproven.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from tta_core.data.root import not_here
from tta_core.data.spec import BenchmarkSpec
from tta_core.errors import first_names

NAME_COLUMNS = (
    "wnid",
    "wordnet_id",
    "synset",
    "synset_id",
    "class",
    "class_name",
    "class_id",
    "label_name",
    "category",
)
"""Where a class stands by its name, beside a number in an order of the file's own."""

MOSTLY = 0.9
"""So large a share of the words for classes must stand at their numbers to prove the order: published words differ."""

Label = str | int
"""Name or number of a class."""


def follow_names(
    spec: BenchmarkSpec,
    place: object,
    labels: Sequence[Label],
    class_names: Sequence[str] = (),
    texts: Mapping[str, Sequence[object]] | None = None,
) -> list[Label]:
    """Replaces numbers of classes by names, as far as a file has names.

    Args:
        spec: the benchmark.
        place: the file, for messages.
        labels: `(images,)`, what the file says.
        class_names: the file's names of its numbers, if it has any.
        texts: what else the file says of each image, by column.

    Returns:
        Names of the benchmark; numbers where nothing names the class.

    Raises:
        InputError: if two names contradict each other, or names are of no known class.
    """
    found = _by_class_names(spec, place, labels, class_names)
    exact, _ = meanings(spec.class_names)
    for column, values in (texts or {}).items():
        meant = [_only(exact, value) for value in values]
        unknown = [str(value) for value, number in zip(values, meant, strict=True) if number is None]
        if unknown and (column not in NAME_COLUMNS or len(unknown) == len(values)):
            continue  # It says something else.
        if unknown:
            raise not_here(spec, f"{place} has no class of {spec.name} in {column!r}: {first_names(unknown)}")
        names = [spec.class_names[number] for number in meant if number is not None]
        numbered = all(_is_number(label) for label in found)
        if not (numbered and column in NAME_COLUMNS):
            for label, name in zip(found, names, strict=True):
                if not _means(spec, label, name):
                    raise _contradiction(spec, place, label, f"{column} = {name}")
        found = list(names)
    return found


def numbered_classes(
    spec: BenchmarkSpec, place: object, labels: Sequence[Label], paths: Sequence[str]
) -> tuple[list[int], bool]:
    """The class of each image.

    Args:
        spec: the benchmark.
        place: where the images lie, for messages.
        labels: `(images,)`, from `follow_names`.
        paths: where each image lay when the file was made; empty where that is not known.

    Returns:
        Places `(images,)` in the benchmark's classes, and whether names prove all of them.

    Raises:
        InputError: if a label is no class of the benchmark, may mean two, or contradicts the name of an image.
    """
    numbers = _numbers(spec.class_names)
    given = set(labels)
    by_number = {label: int(label) for label in given if label not in numbers and _is_number(label)}
    own = _own_numbers(spec, place, by_number.values())
    known: dict[Label, int] = {label: numbers[label] for label in given if isinstance(label, str) and label in numbers}
    known |= {label: own[number] for label, number in by_number.items() if number in own}
    if unknown := sorted(str(label) for label in given if label not in known):
        raise not_here(
            spec,
            f"{place} has {len(unknown)} labels that are no class of {spec.name}: {first_names(unknown)}; allowed are "
            f"the numbers 0 to {spec.num_classes - 1} and names such as {first_names(spec.class_names)}",
        )
    classes, proven = [known[label] for label in labels], True
    for label, number, path in zip(labels, classes, paths, strict=True):
        if label in by_number:
            named = _in_path(spec, path)
            if named is not None and named != number:
                raise _contradiction(spec, place, label, f"the name {path}")
            proven = proven and named is not None
    return classes, proven


@lru_cache(maxsize=16)
def meanings(class_names: tuple[str, ...]) -> tuple[Mapping[str, frozenset[int]], Mapping[str, frozenset[int]]]:
    """What names mean: places in the classes, by name.

    Returns:
        Of names that stand for one class: its own, and of WordNet ids all their words as WordNet lists them. And of
        single words, which may stand for several.
    """
    exact: dict[str, set[int]] = {}
    words: dict[str, set[int]] = {}
    described = _wordnet()
    for number, name in enumerate(class_names):
        exact.setdefault(_plain(name), set()).add(number)
        if text := described.get(name):
            exact.setdefault(_plain(text), set()).add(number)
            for word in text.split(","):
                words.setdefault(_plain(word), set()).add(number)
    frozen = [{name: frozenset(numbers) for name, numbers in each.items()} for each in (exact, words)]
    return frozen[0], frozen[1]


def _by_class_names(spec: BenchmarkSpec, place: object, labels: Sequence[Label], names: Sequence[str]) -> list[Label]:
    """Replaces numbers by what a file's own list of names says of them."""
    exact, words = meanings(spec.class_names)
    texts = {label: spec.class_names[n] for label in set(labels) if (n := _only(exact, label)) is not None}
    plain = [texts[label] if isinstance(label, str) and label in texts else label for label in labels]
    used = {label for label in plain if isinstance(label, int) and 0 <= label < len(names)}
    if not used:
        return plain
    if all(name.strip().isdecimal() for name in names) and not set(names) <= set(spec.class_names):
        # Numbers sorted as text, as of numbered folders: 0, 1, 10, 100, ...
        return [int(names[label]) if label in used else label for label in plain]
    own = set(spec.class_names)
    if any(names[label] not in own for label in used):
        meant = [exact.get(_plain(name), words.get(_plain(name), frozenset())) for name in names]
        known = [number for number, each in enumerate(meant) if each]
        if not known:
            return plain
        moved = [number for number in known if number not in meant[number]]
        listed = any("," in names[number] for number in moved)
        if not listed and len(known) - len(moved) >= MOSTLY * len(known) and 2 * len(known) >= len(names):
            return [spec.class_names[label] if label in used and label < spec.num_classes else label for label in plain]
    found = {label: _only(exact, names[label]) for label in used}
    if unclear := [names[label] for label, number in found.items() if number is None]:
        raise not_here(
            spec,
            f"{place} names its classes in an order of its own, and some names are of no class of {spec.name}: "
            f"{first_names(unclear)}; give names such as {first_names(spec.class_names)}",
        )
    return [spec.class_names[found[label] or 0] if label in used else label for label in plain]


def _own_numbers(spec: BenchmarkSpec, place: object, given: Iterable[int]) -> dict[int, int]:
    """What numbers mean: places among the benchmark's classes, or numbers among all of the backbone."""
    own = {number: number for number in range(spec.num_classes)}
    if not spec.class_numbers or not (numbers := set(given)):
        return own
    among_all = {number: place_ for place_, number in enumerate(spec.class_numbers)}
    if numbers <= own.keys() and numbers <= among_all.keys() and own != among_all:
        raise not_here(
            spec,
            f"{place} labels images by numbers that may be those of the {spec.num_classes} classes of {spec.name}, or "
            f"of all: {first_names([str(number) for number in sorted(numbers)])}; give names such as "
            f"{first_names(spec.class_names)}",
        )
    return own if numbers <= own.keys() else among_all


def _means(spec: BenchmarkSpec, label: Label, name: str) -> bool:
    if not _is_number(label):
        return label == name
    number = _numbers(spec.class_names)[name]
    return int(label) in (number, *spec.class_numbers[number : number + 1])


def _in_path(spec: BenchmarkSpec, path: str) -> int | None:
    """The class that a path names, such as that of `n01440764_10026.JPEG`; None if it names none, or several."""
    numbers = _numbers(spec.class_names)
    found = {numbers[part] for part in re.split(r"[^A-Za-z0-9]+", path) if part in numbers and not part.isdecimal()}
    return found.pop() if len(found) == 1 else None


@lru_cache(maxsize=16)
def _numbers(class_names: tuple[str, ...]) -> Mapping[str, int]:
    return {name: number for number, name in enumerate(class_names)}


def _contradiction(spec: BenchmarkSpec, place: object, label: Label, other: str) -> Exception:
    return not_here(
        spec,
        f"{place} contradicts itself: an image has the label {label} and {other}. Give each the name of its class, "
        f"such as {spec.class_names[0]}, and leave out what says something else",
    )


def _only(exact: Mapping[str, frozenset[int]], text: object) -> int | None:
    """The one class that a name means."""
    found = exact.get(_plain(text), frozenset()) if isinstance(text, str) else frozenset()
    return next(iter(found)) if len(found) == 1 else None


def _is_number(label: Label) -> bool:
    return not isinstance(label, bool) and str(label).strip().isdecimal()


def _plain(text: str) -> str:
    return " ".join(text.replace("_", " ").split()).casefold()


@lru_cache(maxsize=1)
def _wordnet() -> Mapping[str, str]:
    """WordNet ids -> all words of the class, by commas, from a table that timm ships; empty without it."""
    package = find_spec("timm")
    if package is None or package.origin is None:
        return {}
    try:
        lines = (Path(package.origin).parent / "data/_info/imagenet_synset_to_lemma.txt").read_text(encoding="utf-8")
    except OSError:
        return {}
    return {name: text for name, _, text in (line.partition("\t") for line in lines.splitlines())}
