"""Counts and names the images of domains that are folders, archives or tables of images by class. Imports no torch."""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tta_core.data.files.encoded import EncodedImages, ImageFiles, decoded, is_image
from tta_core.data.files.find import check_folders, find_images, packed
from tta_core.data.files.image_list import listed_names
from tta_core.data.spec import BenchmarkSpec
from tta_core.data.survey import Beside, Checked, Survey, made_by
from tta_core.errors import InputError

READABLE_BY_ALL = 0o444

VALIDATION_NAME, VALIDATION_IMAGES = "ILSVRC2012_val_{:08d}.JPEG", 50_000
"""Name of a validation image of ImageNet, numbered from 1, and how many there are; ImageNet-C has the same names."""

SCANNING_THREADS = 4
"""Domains that are looked at at once: a file server answers many questions in the time of one."""

DECODED_AT_ONCE = 64

Classes = Mapping[str, set[str]]
"""Class -> the names of the files of its images."""


@dataclass
class Scan:
    """What lies in a domain's folder, or in what stands for it.

    Attributes:
        place: the folder or file.
        present: whether it is there at all.
        found: class -> its images.
        hidden: folders of classes that may not be listed.
        unreadable, empty: files.
        images: the images, to decode them; None if there are none.
        error: why there are none.
        packed: for people, an archive beside it that would have to be unpacked; empty if there is none.
        damaged: whether that is because a file that should hold them is damaged.
    """

    place: str
    present: bool = True
    found: dict[str, set[str]] = field(default_factory=dict)
    hidden: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    images: EncodedImages | None = None
    error: str = ""
    packed: str = ""
    damaged: bool = False


def _scanned(row: BenchmarkSpec, root: Path, folder: Path) -> Scan:
    """Lists the images of a domain in whatever form they are here."""
    scan = Scan(str(folder))
    try:
        by_class = check_folders(row, folder) is None
    except OSError:
        scan.hidden.append(str(folder))
        return scan
    if by_class:
        for name in row.class_names:
            _scan_class(folder, name, scan)
        names = [f"{name}/{file}" for name, files in scan.found.items() for file in sorted(files)]
        scan.images = ImageFiles(folder, names, "none", 1)
        scan.unreadable.sort()
        scan.empty.sort()
        return scan
    try:
        scan.images = find_images(row, root, folder)
    except InputError as error:
        scan.error = str(error).partition(". The images of ")[0]
        scan.packed = packed(root, folder)
        # Else an archive is here, and something is wrong with it.
        scan.damaged = not scan.error.startswith(f"the folder {folder} ")
        scan.present = scan.damaged or folder.exists()
        return scan
    scan.place = str(scan.images.folder)
    for name in scan.images.names:
        label, _, file = name.partition("/")
        scan.found.setdefault(label, set()).add(file)
    return scan


def _scan_class(folder: Path, name: str, scan: Scan) -> None:
    """Lists the image files of one class. Broken links are no files."""
    try:
        descriptor = os.open(folder / name, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError:
        scan.hidden.append(str(folder / name))
        return
    files = scan.found.setdefault(name, set())
    try:
        with os.scandir(descriptor) as entries:
            for entry in entries:
                if not is_image(entry.name):
                    continue
                try:
                    # Relative to the open folder: half the time of a path.
                    state = os.stat(entry.name, dir_fd=descriptor)
                except PermissionError:
                    scan.unreadable.append(f"{name}/{entry.name}")
                    continue
                except OSError:
                    continue
                if not stat.S_ISREG(state.st_mode):
                    continue
                files.add(entry.name)
                if not state.st_size:
                    scan.empty.append(f"{name}/{entry.name}")
                if state.st_mode & READABLE_BY_ALL != READABLE_BY_ALL and not os.access(
                    entry.name, os.R_OK, dir_fd=descriptor
                ):
                    scan.unreadable.append(f"{name}/{entry.name}")
    except OSError:
        scan.hidden.append(str(folder / name))
    finally:
        os.close(descriptor)


@dataclass
class _Names:
    """Names of images by class, for rows whose domains all hold the same images: what one lacks, another may have.

    Attributes:
        seen: all names.
        whole: those of the first domain that has as many as it should.
    """

    seen: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    whole: dict[str, set[str]] = field(default_factory=dict)

    def add(self, name: str, files: set[str], expected: int | None) -> None:
        """Takes in the names in a class of a domain."""
        if len(files) == expected:
            self.whole.setdefault(name, files)
        if self.whole.get(name) != files:
            self.seen[name] |= files

    def missing(self, name: str, files: set[str]) -> list[str]:
        """Names that a class of a domain lacks, as far as they are known."""
        return [f"{name}/{file}" for file in sorted(self.whole.get(name, self.seen[name]) - files)]

    def extra(self, name: str, files: set[str]) -> list[str]:
        """Names that do not belong into a class of a domain, as far as they are known."""
        return [f"{name}/{file}" for file in sorted(files - self.whole.get(name, files))]

    def unseen_numbers(self) -> list[str]:
        """Names of validation images of ImageNet that are nowhere; none if images have other names."""
        names = set().union(*self.whole.values(), *self.seen.values())
        every = {VALIDATION_NAME.format(number) for number in range(1, VALIDATION_IMAGES + 1)}
        return sorted(every - names) if names and names <= every else []


class FolderSurvey(Survey):
    """Looks at rows with a folder for each class; what is missing is named once all domains were seen.

    Args:
        root: the data root.
        folder_of: the folder of a domain: row, root, domain and severity -> folder.
        decode: whether to decode each image.
    """

    def __init__(self, root: Path, folder_of: Callable[[BenchmarkSpec, Path, str, int], Path], *, decode: bool) -> None:
        self._root = root
        self._folder_of = folder_of
        self._decode = decode
        self._pool = ThreadPoolExecutor(SCANNING_THREADS)
        self._names: dict[tuple[str, ...], _Names] = defaultdict(_Names)
        self._lists: dict[str, dict[str, set[str]]] = {}
        self._differing: list[tuple[Checked, _Names, dict[str, set[str]], bool, str]] = []

    def begin(self, row: BenchmarkSpec, one: Checked) -> Callable[[], Beside]:
        """Begins to list the files of a domain."""
        folder = self._folder_of(row, self._root, one.domain, one.severity or 0)
        scan = self._pool.submit(_scanned, row, self._root, folder)

        def end() -> Beside:
            found = scan.result()
            beside = self._look_at_list(row)
            self._look(row, one, found)
            return beside

        return end

    def _look(self, row: BenchmarkSpec, one: Checked, scan: Scan) -> None:
        """Compares the images of one domain with those that it should have."""
        listed = self._lists.get(row.name)
        classes = tuple(row.class_names if listed is None else listed)
        one.place, one.expected_classes, one.present = scan.place, len(classes), scan.present
        unreadable, empty = ([n for n in names if _is_listed(n, listed)] for names in (scan.unreadable, scan.empty))
        one.add("unreadable", scan.hidden + unreadable, f"Let yourself read them: chmod -R u+rX {scan.place}")
        one.add("corrupt", empty, "These files are empty: get them again.")
        if scan.error:
            told = f"{scan.error[0].upper()}{scan.error[1:]}."
            if scan.damaged:
                one.add("unreadable", [scan.place], told if " again" in told else f"{told} Get it again.")
            elif scan.present:
                one.add("missing classes", list(classes), f"{told} Lay the images out as the layout says.")
            else:
                remedy = made_by(row) or "Put the images, or archives of them, as the layout says"
                one.add("missing folder", [scan.place], f"{remedy}{scan.packed}.")
        if scan.images is None:
            return
        one.proven = scan.images.proven
        if listed == {}:  # Nothing is known of the images that there should be.
            one.found = min(one.expected, len(scan.images))
            return
        names = self._names[row.class_names] if row.images_per_class and not listed else _Names(whole=listed or {})
        hidden = {Path(path).name for path in scan.hidden}
        differing = {}
        for name in classes:
            files = scan.found.get(name, set()) & listed[name] if listed else scan.found.get(name, set())
            expected = len(listed[name]) if listed else row.images_per_class or None
            names.add(name, files, expected)
            one.found += len(files)
            one.found_classes += bool(files)
            if name not in hidden and (not files if expected is None else len(files) != expected):
                one.classes[name] = (expected, len(files))
                differing[name] = files
        # What may not be looked at is not missing.
        by_class = bool(listed or row.images_per_class or hidden)
        self._differing.append((one, names, differing, by_class, made_by(row) or "Get them again"))
        if self._decode:
            _decode_all(scan.images, listed, {*empty, *unreadable}, one)

    def _look_at_list(self, row: BenchmarkSpec) -> Beside:
        """What was found of the list of the images that a row uses; nothing if it has none or was seen before."""
        if not row.image_list or row.name in self._lists:
            return []
        file = self._root / row.image_list
        one = Checked("list", None, row.name, row.images_per_domain, place=str(file), present=file.exists())
        listed: dict[str, set[str]] = defaultdict(set)
        try:
            for name in listed_names(row, file):
                listed[name.partition("/")[0]].add(name.partition("/")[2])
            one.found = one.expected
        except InputError as error:
            listed.clear()
            told = str(error).partition(". ")[0]
            kind = "wrong file" if one.present else "missing file"
            one.add(kind, [str(file)], f"{told[0].upper()}{told[1:]}. Put the list there.")
        self._lists[row.name] = dict(listed)
        return [one]

    def finish(self) -> None:
        """Says of each domain what it lacks and what it has too much of."""
        self._pool.shutdown()
        numbered: dict[int, list[str]] = {}
        for one, names, differing, by_class, again in self._differing:
            absent = [name for name, (_, found) in one.classes.items() if not found]
            one.add("missing classes", absent, "Each class needs its folder, with its images in it.")
            counts = [(one.expected, one.found)]
            if by_class:
                counts = [(expected, found) for expected, found in one.classes.values() if expected is not None]
            lacking = sum(max(0, expected - found) for expected, found in counts)
            missing = [file for name, files in differing.items() for file in names.missing(name, files)]
            if by_class and len(missing) < lacking:
                # Where all lack the same image, its number tells its name, but not its class.
                missing += numbered.setdefault(id(names), names.unseen_numbers())
            remedy = f"{again}." if missing else f"{again}; which ones cannot be told from what is here."
            one.add("missing images", missing, remedy, count=lacking)
            extra = [file for name, files in differing.items() for file in names.extra(name, files)]
            surplus = sum(max(0, found - expected) for expected, found in counts)
            one.add("too many images", extra, "Take out what does not belong there.", count=surplus)


def _decode_all(images: EncodedImages, listed: Classes | None, known: set[str], one: Checked) -> None:
    """Decodes the images of a domain, but for those that are known to be wrong, and adds those that are damaged."""

    def damages(numbers: Sequence[int]) -> list[tuple[int, str]]:
        found = []
        for number in numbers:
            try:
                decoded(next(iter(images.encoded([number]))))
            except (OSError, ValueError) as error:
                found.append((number, getattr(error, "strerror", None) or str(error)))
        return found

    wanted = [number for number, name in enumerate(images.names) if name not in known and _is_listed(name, listed)]
    parts = [wanted[start : start + DECODED_AT_ONCE] for start in range(0, len(wanted), DECODED_AT_ONCE)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = [damage for part in pool.map(damages, parts) for damage in part]
    one.add("corrupt", [f"{images.names[number]}: {reason}" for number, reason in found], "Get them again.")


def _is_listed(name: str, listed: Classes | None) -> bool:
    label, _, file = name.partition("/")
    return listed is None or file in listed.get(label, ())
