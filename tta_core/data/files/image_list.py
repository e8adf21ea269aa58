"""Files that list the images that a benchmark uses, such as the 5,000 of RobustBench. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from tta_core.data.root import not_here
from tta_core.data.spec import BenchmarkSpec
from tta_core.errors import first_names


def listed_names(spec: BenchmarkSpec, file: Path) -> list[str]:
    """The images that a list names, in its order."""
    try:
        names = file.read_text().split()
    except (OSError, UnicodeDecodeError) as error:
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
