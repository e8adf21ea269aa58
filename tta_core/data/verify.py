"""Whether the files of a benchmark are all here and can be read: what is expected, what is found. Imports no torch.

Files are counted, not decoded, unless that is asked for. What tables report must be here; domains for choosing settings
and clean images may be left out, but what is there of them must be whole.
"""

from __future__ import annotations

import os
import stat
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tta_core.data.benchmarks import CLEAN, owner
from tta_core.data.class_folders import check_training, domain_folder, listed_names
from tta_core.data.encoded import SUFFIXES, EncodedImages, ImageFiles, decoded
from tta_core.data.readers import check_domain
from tta_core.data.root import data_root
from tta_core.data.storage import check_folders, find_images
from tta_core.errors import InputError, unknown_name
from tta_core.spec import BenchmarkSpec

NAMES_KEPT = 10
"""How many of the names of a problem a report holds."""

NAMES_SHOWN = 3
"""How many of them its text shows."""

READABLE_BY_ALL = 0o444

VALIDATION_NAME, VALIDATION_IMAGES = "ILSVRC2012_val_{:08d}.JPEG", 50_000
"""Name of a validation image of ImageNet, numbered from 1, and how many there are; ImageNet-C has the same names."""

SCANNING_THREADS = 4
"""Domains that are looked at at once: a file server answers many questions in the time of one."""

DECODED_AT_ONCE = 64

Classes = Mapping[str, set[str]]
"""Class -> the names of the files of its images."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a domain.

    Attributes:
        kind: `missing folder`, `missing file`, `missing classes`, `missing images`, `too many images`, `unreadable`,
            `corrupt` or `wrong file`.
        count: how many.
        first: names of the first of them, where they are known.
        remedy: what to do.
    """

    kind: str
    count: int
    first: tuple[str, ...]
    remedy: str

    def text(self) -> str:
        """The problem for people, in one line."""
        more = f" and {self.count - NAMES_SHOWN:,} more" if self.count > NAMES_SHOWN else ""
        shown = f" ({', '.join(self.first[:NAMES_SHOWN])}{more})" if self.first else ""
        return f"{self.kind}: {self.count:,}{shown}. {self.remedy}"


@dataclass
class Checked:
    """What was found of one domain at one severity.

    Attributes:
        domain: its name.
        severity: its strength; None where it has none.
        benchmark: the row by which it is read.
        expected, found: number of images.
        place: the folder or file.
        expected_classes, found_classes: number of classes.
        classes: classes with another number of images than they should -> (expected, found); where no one number is
            expected, None, and only classes without images are here.
        required: whether tables report it, or the user asked for it.
        present: whether anything of it is here.
        problems: what is wrong.
    """

    domain: str
    severity: int | None
    benchmark: str
    expected: int
    found: int = 0
    place: str = ""
    expected_classes: int = 0
    found_classes: int = 0
    classes: dict[str, tuple[int | None, int]] = field(default_factory=dict)
    required: bool = True
    present: bool = True
    problems: list[Problem] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Domain and severity."""
        return self.domain if self.severity is None else f"{self.domain}@{self.severity}"

    @property
    def ok(self) -> bool:
        """Whether it is whole, or neither here nor needed."""
        return not self.problems or not (self.present or self.required)

    def add(self, kind: str, names: Sequence[str], remedy: str, *, count: int | None = None) -> None:
        """Adds a problem if there is one: with names, or a count of things whose names are not known."""
        if count or (count is None and names):
            self.problems.append(Problem(kind, count or len(names), tuple(names[:NAMES_KEPT]), remedy))

    def values(self) -> dict[str, Any]:
        """As plain values."""
        differing = {name: {"expected": expected, "found": found} for name, (expected, found) in self.classes.items()}
        problems = [
            {"kind": one.kind, "count": one.count, "first": list(one.first), "what_to_do": one.remedy}
            for one in self.problems
        ]
        return {
            "domain": self.domain,
            "severity": self.severity,
            "benchmark": self.benchmark,
            "place": self.place,
            "required": self.required,
            "present": self.present,
            "ok": self.ok,
            "expected": self.expected,
            "found": self.found,
            "expected_classes": self.expected_classes,
            "found_classes": self.found_classes,
            "differing_classes": differing,
            "problems": problems,
        }


@dataclass(frozen=True)
class Report:
    """What was found of a benchmark.

    Attributes:
        benchmark: its name.
        root: the data root; empty where images are made here.
        decoded: whether each image was decoded.
        checked: its domains.
        notes: what else a user should know.
    """

    benchmark: str
    root: str
    decoded: bool
    checked: list[Checked]
    notes: list[str]

    @property
    def complete(self) -> bool:
        """Whether all that is required is here, and nothing is wrong."""
        return all(one.ok for one in self.checked)

    @property
    def _images(self) -> tuple[int, int]:
        """Images found and expected, of what is required."""
        required = [one for one in self.checked if one.required]
        return sum(one.found for one in required), sum(one.expected for one in required)

    def values(self) -> dict[str, Any]:
        """As plain values."""
        found, expected = self._images
        return {
            "benchmark": self.benchmark,
            "root": self.root,
            "complete": self.complete,
            "decoded": self.decoded,
            "expected": expected,
            "found": found,
            "domains": [one.values() for one in self.checked],
            "notes": self.notes,
        }

    def text(self) -> str:
        """The report for people."""
        shown = [one for one in self.checked if one.required or one.present]
        width = max([len(one.name) for one in shown], default=0)
        lines = [f"{self.benchmark} in {self.root}" if self.root else self.benchmark]
        for one in shown:
            classes = f"  {one.found_classes:,} of {one.expected_classes:,} classes" if one.expected_classes else ""
            state = "ok" if one.ok else "WRONG"
            lines.append(f"  {one.name:<{width}}  {one.found:>7,} of {one.expected:,} images{classes}  {state}")
            if not one.ok:
                lines += [f"    {problem.text()}" for problem in one.problems]
                counted = [
                    f"{name} {found} of {expected}" for name, (expected, found) in one.classes.items() if expected
                ]
                lines += [f"    images by class: {_first(counted)}"] if counted else []
        absent = [one for one in self.checked if not (one.required or one.present)]
        if absent:
            all_of, absent_of = (Counter(one.domain for one in each) for each in (self.checked, absent))
            names = dict.fromkeys(
                one.domain if absent_of[one.domain] == all_of[one.domain] else one.name for one in absent
            )
            lines.append(f"not here, and no table needs them: {', '.join(names)}")
        found, expected = self._images
        wrong = sum(not one.ok for one in self.checked)
        verdict = "complete" if self.complete else f"NOT complete, {wrong} of {len(self.checked)} domains are wrong"
        return "\n".join([*lines, *self.notes, f"{verdict}: {found:,} of {expected:,} images"])


def verify(
    spec: BenchmarkSpec,
    *,
    domains: Sequence[str] = (),
    severities: Sequence[int] = (),
    decode: bool = False,
    tell: Callable[[str], None] | None = None,
) -> Report:
    """Looks for all files of a benchmark below the data root.

    Args:
        spec: the benchmark.
        domains: the domains to look at, which are then required; by default all.
        severities: the severities to look at; by default all.
        decode: whether to decode each image.
        tell: told what has been looked at so far.

    Raises:
        InputError: if there is no data root, or no such domain or severity.
    """
    wanted = _wanted(spec, domains, severities)
    if spec.storage == "embedded":
        for one, _ in wanted:
            one.found, one.place = one.expected, "made here"
            one.found_classes = one.expected_classes = spec.num_classes
        return Report(spec.name, "", False, [one for one, _ in wanted], ["no files: its images are made here"])
    root = data_root(spec)
    folders = _Folders(root, decode=decode)
    checked: list[Checked] = []
    for number, ((one, row), scan) in enumerate(zip(wanted, _scans(root, wanted), strict=True)):
        if scan is not None:
            checked += folders.look_at_list(row)
            folders.look(row, one, scan)
        elif row.storage == "severity-arrays":
            checked += _array_labels(row, root, checked)
            _look_at_array(row, root, one)
        else:
            _look_by_opening(spec, one)
        checked.append(one)
        if tell is not None:
            tell(f"looked at {number + 1} of {len(wanted)} domains")
    folders.finish()
    return Report(spec.name, str(root), decode, checked, _notes(spec, checked))


def _wanted(
    spec: BenchmarkSpec, domains: Sequence[str], severities: Sequence[int]
) -> list[tuple[Checked, BenchmarkSpec]]:
    """The domains to look at, and the rows by which they are read."""
    known = tuple(dict.fromkeys((*spec.domains, *spec.held_out_domains, CLEAN)))
    for name in domains:
        if name not in known:
            raise unknown_name(f"domain of {spec.name}", name, known)
    allowed = sorted({severity for name in known if name != CLEAN for severity in owner(spec, name).severities})
    if unknown := set(severities) - set(allowed):
        raise InputError(f"severity {min(unknown)} is not one of {allowed} ({spec.name})")
    wanted = []
    for name in domains or known:
        row = owner(spec, name)
        strengths: tuple[int | None, ...] = (None,) if name == CLEAN or not row.severities else row.severities
        for severity in strengths:
            if severity is None or not severities or severity in severities:
                required = bool(domains) or name in spec.domains
                wanted.append((Checked(name, severity, row.name, spec.count(name), required=required), row))
    return wanted


def _notes(spec: BenchmarkSpec, checked: Sequence[Checked]) -> list[str]:
    """What a user should know beside what is wrong."""
    notes = []
    asked = {one.severity for one in checked if one.required and one.severity is not None}
    present = {one.severity for one in checked if one.required and one.present and one.severity is not None}
    if present and present != asked:
        options = " ".join(f"--severity {severity}" for severity in sorted(present))
        notes.append(f"to look only at the severities that are here: {options}")
    row = owner(spec, CLEAN)
    if row.storage == "class-folders" and row.training_folder:
        try:
            check_training(row)
        except InputError as error:
            problem = str(error).partition(". ")[0].partition(", and there is no ")[0]
            notes.append(f"training images are not here, which some methods need: {problem}")
    if any(not one.ok for one in checked):
        size = "" if spec.size == "see source" else f" ({spec.size})"
        notes.append(f"source: {spec.source}{size}; licence: {spec.licence}")
        notes.append(f"layout: {spec.files}")
    return notes


@dataclass
class _Scan:
    """What lies in a domain's folder, or in what stands for it.

    Attributes:
        place: the folder or file.
        present: whether it is there at all.
        found: class -> its images.
        hidden: folders of classes that may not be listed.
        unreadable, empty: files.
        images: the images, to decode them; None if there are none.
        error: why there are none.
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
    damaged: bool = False


def _scans(root: Path, wanted: Sequence[tuple[Checked, BenchmarkSpec]]) -> Iterator[_Scan | None]:
    """What lies in the folder of each domain, in their order, some scanned ahead; None for other storages.

    Only as many are in memory at once as are scanned at once: a domain may have 50,000 names.
    """
    with ThreadPoolExecutor(SCANNING_THREADS) as pool:
        ahead: deque[Future[_Scan] | None] = deque()
        for one, row in wanted:
            ahead.append(pool.submit(_scanned, row, root, one) if row.storage == "class-folders" else None)
            if len(ahead) > SCANNING_THREADS:
                yield _done(ahead.popleft())
        while ahead:
            yield _done(ahead.popleft())


def _done(future: Future[_Scan] | None) -> _Scan | None:
    return None if future is None else future.result()


def _scanned(row: BenchmarkSpec, root: Path, one: Checked) -> _Scan:
    """Lists the images of a domain in whatever form they are here."""
    folder = domain_folder(row, root, one.domain, one.severity or 0)
    scan = _Scan(str(folder))
    if check_folders(row, folder) is None:
        for name in row.class_names:
            _scan_class(folder, name, scan)
        names = [f"{name}/{file}" for name, files in scan.found.items() for file in sorted(files)]
        scan.images = ImageFiles(folder, names, "none", 1)
        scan.unreadable.sort()
        scan.empty.sort()
        return scan
    if folder.is_dir() and not os.access(folder, os.R_OK | os.X_OK):
        scan.hidden.append(str(folder))
        return scan
    try:
        scan.images = find_images(row, root, folder)
    except InputError as error:
        scan.error = str(error).partition(". ")[0]
        # Else an archive is here, and something is wrong with it.
        scan.damaged = not scan.error.startswith(f"the folder {folder} ")
        scan.present = scan.damaged or folder.exists()
        return scan
    scan.place = str(scan.images.folder)
    for name in scan.images.names:
        label, _, file = name.partition("/")
        scan.found.setdefault(label, set()).add(file)
    return scan


def _scan_class(folder: Path, name: str, scan: _Scan) -> None:
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
                if not entry.name.lower().endswith(SUFFIXES):
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


class _Folders:
    """Looks at rows with a folder for each class; what is missing is named once all domains were seen."""

    def __init__(self, root: Path, *, decode: bool) -> None:
        self._root = root
        self._decode = decode
        self._names: dict[tuple[str, ...], _Names] = defaultdict(_Names)
        self._lists: dict[str, dict[str, set[str]]] = {}
        self._differing: list[tuple[Checked, _Names, dict[str, set[str]], bool]] = []

    def look(self, row: BenchmarkSpec, one: Checked, scan: _Scan) -> None:
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
                one.add("unreadable", [scan.place], f"{told} Get it again.")
            elif scan.present:
                one.add("missing classes", list(classes), f"{told} Lay the images out as the layout says.")
            else:
                one.add("missing folder", [scan.place], f"{told} Put the images there as the layout says.")
        if scan.images is None:
            return
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
        self._differing.append((one, names, differing, by_class))
        if self._decode:
            _decode_all(scan.images, listed, {*empty, *unreadable}, one)

    def look_at_list(self, row: BenchmarkSpec) -> list[Checked]:
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
        numbered: dict[int, list[str]] = {}
        for one, names, differing, by_class in self._differing:
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
            remedy = "Get them again." if missing else "Get them again; which ones cannot be told from what is here."
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


def _array_labels(row: BenchmarkSpec, root: Path, checked: Iterable[Checked]) -> list[Checked]:
    """What was found of the labels that all arrays of a row share; nothing if it was found before."""
    if any(one.domain == "labels" for one in checked):
        return []
    file, count = root / row.folder / "labels.npy", row.images_per_domain
    one = Checked("labels", None, row.name, count, place=str(file), expected_classes=row.num_classes)
    labels = _opened(file, one)
    if labels is None:
        return [one]
    total = count * len(row.severities)
    if labels.shape not in ((count,), (total,)) or labels.dtype.kind not in "iu":
        told = f"It holds {labels.dtype} of shape {labels.shape}, not {count:,} or {total:,} integers: get it again."
        one.add("wrong file", [str(file)], told)
        return [one]
    one.found = count
    numbers, counts = np.unique(labels[:count], return_counts=True)
    one.found_classes = len(numbers)
    outside = [str(number) for number in numbers if not 0 <= number < row.num_classes]
    one.add("wrong file", outside, f"{file} has labels outside 0 to {row.num_classes - 1}: get it again.")
    found = dict(zip(numbers.tolist(), counts.tolist(), strict=True))
    one.classes = {
        str(number): (row.images_per_class or None, found.get(number, 0))
        for number in range(row.num_classes)
        if (found.get(number, 0) != row.images_per_class if row.images_per_class else number not in found)
    }
    one.add("wrong file", list(one.classes), f"{file} has another number of these labels than it should: get it again.")
    return [one]


def _look_at_array(row: BenchmarkSpec, root: Path, one: Checked) -> None:
    """Counts the images of one severity in the array of a corruption."""
    file = root / row.folder / f"{one.domain}.npy"
    one.place = str(file)
    images = _opened(file, one)
    if images is None:
        return
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        told = f"It holds {images.dtype} of shape {images.shape}, not uint8 (images, height, width, 3): get it again."
        one.add("wrong file", [str(file)], told)
        return
    strengths = 1 if one.severity is None else len(row.severities)
    place = 0 if one.severity is None else row.severities.index(one.severity)
    one.found = min(max(0, len(images) - place * one.expected), one.expected)
    surplus = max(0, len(images) - strengths * one.expected) if place == strengths - 1 else 0
    one.add("missing images", [], f"{file} is too short: get it again.", count=one.expected - one.found)
    one.add("too many images", [], f"{file} has {len(images):,} images: get it again.", count=surplus)


def _opened(file: Path, one: Checked) -> np.ndarray[Any, Any] | None:
    """Maps an array; None, and a problem, if it is not here or is damaged."""
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        one.present = False
        one.add("missing file", [str(file)], "Put it there.")
    except PermissionError:
        one.add("unreadable", [str(file)], f"Let yourself read it: chmod u+r {file}")
    except (OSError, ValueError, EOFError) as error:
        one.add("corrupt", [str(file)], f"It cannot be read ({error}): get it again.")
    return None


def _look_by_opening(spec: BenchmarkSpec, one: Checked) -> None:
    """For storages without a count of their own: whether the reader finds what it looks for."""
    try:
        check_domain(spec, one.domain, one.severity or 0)
    except InputError as error:
        one.present = False
        one.add("missing folder", [one.domain], f"{str(error).partition('. ')[0]}.")
        return
    one.found = one.expected


def _first(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMES_SHOWN:,} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more
