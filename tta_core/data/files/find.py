"""Finds the images of a domain in whatever form they lie in the data root. Imports no torch.

For the images that belong into `FOLDER` below the data root, such as `imagenet-c/fog/5`, the first of these is taken:

1. `FOLDER/<class>/<file>`: image files;
2. `FOLDER/*.parquet`, `FOLDER/*.arrow` or `FOLDER/*.tar`: all files of the first kind that is there, in order of name;
3. `FOLDER.tar`, `FOLDER.parquet` or `FOLDER.arrow`;
4. a tar archive of a folder above, such as `imagenet-c/fog.tar` or `imagenet-c.tar`, or any archive beside the domains,
   such as the `blur.tar`, `noise.tar`, ... of ImageNet-C's publishers, that holds `.../fog/5/<class>/<file>`.

In each form images are in order of class and then of file name, so that all forms of the same files are the same
benchmark. Images without a file name (in Parquet or Arrow) keep the order of their rows within a class. Classes follow
names wherever there are any, see `tta_core.data.files.classes`.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from tta_core.data.files.arrow_images import ArrowImages, ArrowTable, data_files
from tta_core.data.files.classes import Label, numbered_classes
from tta_core.data.files.encoded import EncodedImages, ImageFiles, is_image
from tta_core.data.files.near import what_is_near
from tta_core.data.files.tar_images import Member, TarImages, find_members, tar_index
from tta_core.data.root import not_here, readable
from tta_core.data.spec import BenchmarkSpec, Crop
from tta_core.errors import first_names

IN_PART = (
    "to use only a part, name its images in subset_file, a line <class>/<file> for each; check-backbone finds them by "
    "itself with --partial"
)
"""What someone may do who has only some of the images."""

TABLES = (".parquet", ".arrow")
TAR = ".tar"
PACKED = (".gz", ".tgz", ".zip", ".bz2", ".xz", ".zst", ".7z", ".rar")


@readable()
def find_images(spec: BenchmarkSpec, root: Path, folder: Path, crop: Crop = "none", size: int = 1) -> EncodedImages:
    """Lists the images that belong into a folder, as many as there are; none is decoded.

    Args:
        spec: the benchmark.
        root: the data root.
        folder: the folder below it.
        crop: how the images are going to be brought to `size`.
        size: pixels of the decoded images.

    Raises:
        InputError: if there are none, or they cannot be read.
    """
    if (missing := check_folders(spec, folder)) is None:
        return ImageFiles(folder, _below(spec, folder), crop, size)
    if folder.is_dir():
        for suffix in (*TABLES, TAR):
            if shards := _archives(folder, suffix):
                return _opened(spec, folder, shards, crop, size)
    for suffix in (TAR, *TABLES):
        if (file := folder.with_name(folder.name + suffix)).is_file():
            return _opened(spec, file, [file], crop, size)
    for archive, below in _archives_above(root, folder):
        if members := find_members(tar_index(archive), below, spec):
            return _in_tar(spec, archive, members, crop, size)
    problem = f"{missing}, and there is no {folder}.tar, .parquet or .arrow, nor a .tar above that holds it"
    raise not_here(spec, f"{problem}{packed(root, folder)}{what_is_near(spec, root, folder)}")


def packed(root: Path, folder: Path) -> str:
    """For people: an archive in the folders above that would have to be unpacked; empty if there is none."""
    parts = folder.relative_to(root).parts
    for depth in range(len(parts) - 1, -1, -1):
        for file in _entries(root.joinpath(*parts[:depth])):
            # What lies in the root itself may be of another benchmark.
            if file.suffix in PACKED and (depth or file.name.partition(".")[0] in parts):
                return f"; unpack {file} first: only .tar archives that are not compressed are read"
    return ""


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def check_folders(spec: BenchmarkSpec, folder: Path) -> str | None:
    """Looks for class folders; returns None if there are any, else what is wrong with the folder, for people.

    Raises:
        OSError: if it may not be looked at.
    """
    try:
        found = {entry.name for entry in os.scandir(folder) if entry.is_dir()}
    except (FileNotFoundError, NotADirectoryError) as error:
        return f"the folder {folder} cannot be read ({error.strerror})"
    if found.isdisjoint(spec.class_names):
        return f"the folder {folder} has 0 of {spec.num_classes} class folders, without {first_names(spec.class_names)}"
    return None


@readable()
def check_classes(spec: BenchmarkSpec, root: Path, folder: Path) -> None:
    """Looks whether images are there, and some of each class; of image files only whether there are class folders.

    Raises:
        InputError: if not.
    """
    if check_folders(spec, folder) is None:
        found, where = {entry.name for entry in os.scandir(folder) if entry.is_dir()}, f"the folder {folder}"
    else:
        images = find_images(spec, root, folder)
        found, where = {name.partition("/")[0] for name in images.names}, str(images.folder)
    missing = [name for name in spec.class_names if name not in found]
    if missing:
        present = spec.num_classes - len(missing)
        word = "class folders" if where.startswith("the folder") else "classes"
        told = f"{where} has {present} of {spec.num_classes} {word}, without {first_names(missing)}"
        raise not_here(spec, f"{told} ({IN_PART})")


@readable()
def check_any(spec: BenchmarkSpec, root: Path, folder: Path) -> None:
    """Looks whether images of any class are there.

    Raises:
        InputError: if not.
    """
    if check_folders(spec, folder) is not None:
        find_images(spec, root, folder)


def _archives_above(root: Path, folder: Path) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """Archives that may hold a folder, with the path in them that it has then, nearest first."""
    below: tuple[str, ...] = ()
    while folder != root and root in folder.parents:
        below, folder = (folder.name, *below), folder.parent
        if folder != root and (archive := folder.with_name(folder.name + TAR)).is_file():
            yield archive, below
        if len(below) > 1 and folder != root:
            yield from ((archive, below) for archive in _archives(folder, TAR))


def _archives(folder: Path, suffix: str) -> list[Path]:
    """Files of a kind in a folder, without hidden ones."""
    return sorted(file for file in folder.glob(f"*{suffix}") if not file.name.startswith("."))


def _below(spec: BenchmarkSpec, folder: Path) -> list[str]:
    """All image files in the class folders, by class and then by name."""
    return [
        # All domains hold the same names: interned, they are in memory once.
        sys.intern(f"{name}/{file}")
        for name in spec.class_names
        if os.path.isdir(folder / name)  # noqa: PTH112 faster
        for file in sorted(entry.name for entry in os.scandir(folder / name))
        if is_image(file)
    ]


def _opened(spec: BenchmarkSpec, place: Path, files: Sequence[Path], crop: Crop, size: int) -> EncodedImages:
    if files[0].suffix == TAR:
        members = [member for file in files for member in find_members(tar_index(file), (), spec)]
        if not members:
            raise not_here(
                spec,
                f"{place} has no image of a class: images lie in folders such as {first_names(spec.class_names)}, or "
                "have a file .cls of the same name up to the first dot",
            )
        return _in_tar(spec, place, members, crop, size)
    tables = [ArrowTable(file) for file in (data_files(place, files) if place.is_dir() else files)]
    rows = [(number, row) for number, table in enumerate(tables) for row in range(len(table.labels))]
    labels = [label for table in tables for label in table.named_labels(spec)]
    paths = [path for table in tables for path in table.paths]
    names, order, proven = _in_order(spec, place, labels, paths)
    return ArrowImages(place, names, crop, size, tables=tables, rows=[rows[number] for number in order], proven=proven)


def _in_tar(spec: BenchmarkSpec, place: Path, members: Sequence[Member], crop: Crop, size: int) -> TarImages:
    labels, paths = [member.label for member in members], [member.path for member in members]
    names, order, proven = _in_order(spec, place, labels, paths)
    return TarImages(place, names, crop, size, members=[members[number] for number in order], proven=proven)


def _in_order(
    spec: BenchmarkSpec, place: Path, labels: Sequence[Label], paths: Sequence[str]
) -> tuple[list[str], list[int], bool]:
    """Names `<class>/<file>` by class and then by file, and which image each is of those given.

    Args:
        spec: the benchmark.
        place: where the images lie, for messages.
        labels: `(images,)`, name or number of the class of each.
        paths: `(images,)`, of which the last part is the file's name; empty where there is none.

    Returns:
        The names, the numbers of the images, and whether names prove the classes.

    Raises:
        InputError: if a class is none of the benchmark's.
    """
    classes, proven = numbered_classes(spec, place, labels, paths)
    files = [path.replace("\\", "/").rpartition("/")[2] for path in paths]
    named = all(files)
    order = sorted(range(len(files)), key=lambda number: (classes[number], files[number] if named else "", number))
    names = [sys.intern(f"{spec.class_names[classes[number]]}/{files[number] or f'{number:08d}'}") for number in order]
    if len(set(names)) < len(names):  # Rows of a table may have one file name: they are images of their own.
        times = Counter(names)
        names = [
            f"{name}, row {number}" if times[name] > 1 else name for name, number in zip(names, order, strict=True)
        ]
    return names, order, proven
