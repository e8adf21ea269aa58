"""Whether the files of a benchmark are all here and can be read: what is expected, what is found. Imports no torch.

Files are counted, not decoded, unless that is asked for. What tables report must be here; domains for choosing settings
and clean images may be left out, but what is there of them must be whole.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from tta_core.data.benchmarks import CLEAN, owner
from tta_core.data.files.find import IN_PART
from tta_core.data.generated import RECORD, check_made_here
from tta_core.data.opened import unproven_labels
from tta_core.data.root import data_root
from tta_core.data.sources.base import Storage
from tta_core.data.sources.table import storage_of
from tta_core.data.spec import BenchmarkSpec
from tta_core.data.survey import Beside, Checked, Survey
from tta_core.data.verify.report import Report
from tta_core.errors import InputError, first_names, unknown_name

BEGUN_AHEAD = 4
"""Domains that are looked at ahead, on other threads where their storage can do that."""

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
    if not any(storage_of(row).below_root for _, row in wanted):
        _look(Path(), wanted, decode=False)
        return Report(spec.name, "", False, [one for one, _ in wanted], ["no files: its images are made here"])
    root = data_root(spec)
    rows = {row.name: row for _, row in wanted}.values()
    checked = [found for row in rows if (found := _record(row)) is not None]
    checked += _look(root, wanted, decode=decode, tell=tell)
    return Report(spec.name, str(root), decode, checked, _notes(spec, root, checked))


def _look(
    root: Path,
    wanted: Sequence[tuple[Checked, BenchmarkSpec]],
    *,
    decode: bool,
    tell: Callable[[str], None] | None = None,
) -> list[Checked]:
    """Looks at the domains in their order, each with what stands beside it; some are begun ahead.

    Only a few are in memory at once: a domain may have 50,000 names.
    """
    surveys: dict[Storage, Survey] = {}
    begun: deque[tuple[Checked, Callable[[], Beside]]] = deque()
    checked: list[Checked] = []

    def end() -> None:
        one, look = begun.popleft()
        checked.extend([*look(), one])
        if tell is not None:
            tell(f"looked at {sum(each.domain not in SHARED for each in checked)} of {len(wanted)} domains")

    for one, row in wanted:
        storage = storage_of(row)
        if storage not in surveys:
            surveys[storage] = storage.survey(root, decode=decode)
        begun.append((one, surveys[storage].begin(row, one)))
        if len(begun) > BEGUN_AHEAD:
            end()
    while begun:
        end()
    for survey in surveys.values():
        survey.finish()
    return checked


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
    named = {row.name: storage_of(row).named for row in (owner(spec, name) for name in spec.domains)}
    if any(named.get(one.benchmark) and not one.ok and one.found for one in checked):
        notes.append(IN_PART)
    if unproven := [one.name for one in checked if one.present and not one.proven]:
        notes.append(unproven_labels(unproven))
    row = owner(spec, CLEAN)
    if row.training_folder:
        try:
            storage_of(row).check_training(row)
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


def _record(row: BenchmarkSpec) -> Checked | None:
    """The record of images that were made here; None where there is and should be none."""
    one = Checked("record", None, row.name, int(bool(row.generated_from)), place=RECORD)
    try:
        check_made_here(row, storage_of(row).folder(row), None)
    except InputError as error:
        one.add("wrong file", [RECORD], f"{str(error).partition('. The images of ')[0]}.")
        return one
    one.found = one.expected
    return one if row.generated_from else None
