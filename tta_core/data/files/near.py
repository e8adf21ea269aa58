"""For people whose images are not where they belong: what lies near that place, and what to do with it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from tta_core.data.files.encoded import is_image
from tta_core.data.spec import BenchmarkSpec
from tta_core.errors import first_names

LOOKED_AT = 2000
"""Entries of a folder that are looked at: to tell what lies there, its first ones will do."""


def what_is_near(spec: BenchmarkSpec, root: Path, folder: Path) -> str:
    """Says what lies in a folder without class folders, or near where it should be; empty if nothing does."""
    return "".join(f"; {told}" for told in (_in_folder(spec, folder), _elsewhere(spec, root, folder)) if told)


def _in_folder(spec: BenchmarkSpec, folder: Path) -> str:
    """What lies in the folder itself: images without class folders, an archive a class, or other folders."""
    entries = _entries(folder)
    images = [entry.name for entry in entries if is_image(entry.name)]
    if images:
        told = f"{len(images)}{'' if len(entries) < LOOKED_AT else ' or more'} images lie in it without class folders"
        return f"{told} ({first_names(images)}): move each into the folder of its class, such as {spec.class_names[0]}"
    if packed := [entry.name for entry in entries if entry.name.partition(".")[0] in set(spec.class_names)]:
        return f"unpack each of {first_names(packed)} into a folder of its class"
    folders = [entry.name for entry in entries if entry.is_dir()]
    return f"its folders are {first_names(folders)}" if folders else ""


def _elsewhere(spec: BenchmarkSpec, root: Path, folder: Path) -> str:
    """Where class folders are: deeper in the folder, or in one of almost the same path."""
    deeper = (below for above in (folder, *_folders(folder)) for below in _folders(above))
    found = next(
        (path for path in (*deeper, *_alike(root, folder)) if path != folder and _has_classes(spec, path)), None
    )
    return f"class folders lie in {found}: move them to {folder}" if found else ""


def _alike(root: Path, folder: Path) -> Iterator[Path]:
    """Folders of the same path but for the case of letters, or for one more folder at its beginning or after it."""
    parts = folder.relative_to(root).parts
    own = _led_to(root, parts[:1])
    starts = [(start, parts) for start in (root, *_folders(root))]
    starts += [(start, parts[1:]) for start in (_folders(own) if own and parts[1:] else ())]
    for start, path in starts:
        if (found := _led_to(start, path)) is not None:
            yield found


def _led_to(start: Path, parts: tuple[str, ...]) -> Path | None:
    """The folder that a path leads to, whatever the case of its letters, and with or without hyphens."""
    for part in parts:
        found = next((folder for folder in _folders(start) if _plain(folder.name) == _plain(part)), None)
        if found is None:
            return None
        start = found
    return start


def _plain(name: str) -> str:
    return re.sub("[-_ ]", "", name).casefold()


def _has_classes(spec: BenchmarkSpec, folder: Path) -> bool:
    return any(entry.name in spec.class_names and entry.is_dir() for entry in _entries(folder))


def _folders(folder: Path) -> list[Path]:
    return [folder / entry.name for entry in _entries(folder) if entry.is_dir()]


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            found = [entry for _, entry in zip(range(LOOKED_AT), entries, strict=False)]
    except OSError:
        return []
    return sorted((entry for entry in found if not entry.name.startswith(".")), key=lambda entry: entry.name)
