"""Whether the files of a benchmark are all here and can be read: what is expected, what is found. Imports no torch.

Files are counted, not decoded, unless that is asked for. What tables report must be here; domains for choosing settings
and clean images may be left out, but what is there of them must be whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tta_core.data.benchmarks import CLEAN, owner
from tta_core.data.generated import RECORD, check_made_here
from tta_core.data.opened import check_domain
from tta_core.data.root import data_root, own_folder
from tta_core.data.sources.class_folders import check_training
from tta_core.data.sources.severity_arrays import mapped
from tta_core.data.spec import BenchmarkSpec
from tta_core.data.verify.folders import FolderCounts, scans
from tta_core.data.verify.report import Checked, Report
from tta_core.errors import InputError, first_names, unknown_name

SHARED = ("labels", "list", "record")
"""What stands beside the domains in a report: files that all of them need."""


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
    folders = FolderCounts(root, decode=decode)
    checked = [found for row in {row.name: row for _, row in wanted}.values() if (found := _record(row)) is not None]
    for number, ((one, row), scan) in enumerate(zip(wanted, scans(root, wanted), strict=True)):
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
    return Report(spec.name, str(root), decode, checked, _notes(spec, root, checked))


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


def _notes(spec: BenchmarkSpec, root: Path, checked: Sequence[Checked]) -> list[str]:
    """What a user should know beside what is wrong."""
    notes = []
    required = [one for one in checked if one.required and one.domain not in SHARED]
    here = [one for one in required if one.present]
    if here and len(here) < len(required):
        notes.append(f"to look only at what is here: {_options(required, here)}")
    if required and not here:
        notes.append(f"nothing of it is here: {root} {_held(root)}")
    row = owner(spec, CLEAN)
    if row.storage == "class-folders" and row.training_folder:
        try:
            check_training(row)
        except InputError as error:
            problem = str(error).partition(". ")[0].partition(", and there is no ")[0]
            notes.append(f"training images are not here, which some methods need: {problem}")
    if any(not one.ok for one in checked):
        size = f" ({spec.size})" if spec.size else ""
        notes.append(f"source: {spec.source}{size}; licence: {spec.licence}")
        notes.append(f"layout: {spec.files}")
    return notes


def _held(root: Path) -> str:
    try:
        names = sorted(entry.name for entry in root.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return f"holds {first_names(names) or 'no files'}"


def _options(required: Sequence[Checked], here: Sequence[Checked]) -> str:
    """Options that leave out the domains and severities of which nothing is here."""
    severities = sorted({one.severity for one in here if one.severity is not None})
    domains = dict.fromkeys(one.domain for one in here)
    options = [f"--severity {severity}" for severity in severities]
    if {one.severity for one in required if one.severity is not None} == set(severities):
        options = []
    if len(domains) < len({one.domain for one in required}):
        options = [*(f"--domain {name}" for name in domains), *options]
    return " ".join(options)


def _array_labels(row: BenchmarkSpec, root: Path, checked: Iterable[Checked]) -> list[Checked]:
    """What was found of the labels that all arrays of a row share; nothing if it was found before."""
    if any(one.domain == "labels" for one in checked):
        return []
    file, count = own_folder(row, root) / "labels.npy", row.images_per_domain
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
    file = own_folder(row, root) / f"{one.domain}.npy"
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
    told = f"{file} has {len(images):,} images, not {strengths * one.expected:,}: get it again."
    one.add("missing images", [], told, count=one.expected - one.found)
    one.add("too many images", [], told, count=surplus)


def _opened(file: Path, one: Checked) -> np.ndarray[Any, Any] | None:
    """Maps an array; None, and a problem, if it is not here or is damaged."""
    try:
        return mapped(file)
    except FileNotFoundError:
        one.present = False
        one.add("missing file", [str(file)], "Put what is missing there.")
    except PermissionError:
        one.add("unreadable", [str(file)], f"Let yourself read it: chmod u+r {file}")
    except (OSError, ValueError) as error:
        one.add("corrupt", [str(file)], f"It cannot be read ({error}): get it again.")
    return None


def _record(row: BenchmarkSpec) -> Checked | None:
    """The record of images that were made here; None where there is and should be none."""
    one = Checked("record", None, row.name, int(bool(row.generated_from)), place=RECORD)
    try:
        check_made_here(row, None)
    except InputError as error:
        one.add("wrong file", [RECORD], f"{str(error).partition('. The images of ')[0]}.")
        return one
    one.found = one.expected
    return one if row.generated_from else None


def _look_by_opening(spec: BenchmarkSpec, one: Checked) -> None:
    """For storages without a count of their own: whether the reader finds what it looks for."""
    try:
        check_domain(spec, one.domain, one.severity or 0)
    except InputError as error:
        one.present = False
        one.add("missing folder", [one.domain], f"{str(error).partition('. ')[0]}.")
        return
    one.found = one.expected
