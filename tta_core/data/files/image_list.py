"""Files that list images, such as the 5,000 of RobustBench. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from tta_core.data.root import not_here
from tta_core.data.spec import BenchmarkSpec
from tta_core.errors import first_names


def read_entries(file: Path) -> list[str]:
    """What a file lists: a name of an image, which may have spaces, or a number in each line.

    Several may stand in a line where that can be told.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is no text, or its path is none.
    """
    entries: list[str] = []
    for line in file.read_text(encoding="utf-8-sig").split("\n"):
        words = line.split()
        apart = all("/" in word for word in words) or all(word.isascii() and word.isdigit() for word in words)
        entries += words if apart else [line.strip()]
    return entries


def listed_names(spec: BenchmarkSpec, file: Path) -> list[str]:
    """The images that a list names, in its order."""
    try:
        names = read_entries(file)
    except (OSError, ValueError) as error:
        raise not_here(spec, f"the list {file} cannot be read ({error})") from None
    classes = set(spec.class_names)
    wrong = [name for name in names if name.count("/") != 1 or name.partition("/")[0] not in classes]
    if wrong:
        raise not_here(spec, f"the list {file} has {len(wrong)} lines that are no <class>/<file>: {first_names(wrong)}")
    if len(set(names)) != spec.images_per_domain or len(names) != spec.images_per_domain:
        raise not_here(
            spec,
            f"the list {file} names {len(set(names))} different images, not {spec.images_per_domain} once each; for "
            f"a list of another length take its whole benchmark, such as imagenet-c, and give subset_file = {file}",
        )
    return names
