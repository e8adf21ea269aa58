"""What a look at a benchmark's files found: expected and found, by domain, and what is wrong. Imports no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tta_core.errors import first_names

NAMES_KEPT = 10
"""How many of the names of a problem a report holds."""


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
        shown = f" ({first_names(self.first, self.count)})" if self.first else ""
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
            state = "ok" if one.ok else "WRONG" if one.present else "MISSING"
            lines.append(f"  {one.name:<{width}}  {one.found:>7,} of {one.expected:,} images{classes}  {state}")
            if not one.ok and one.present:
                lines += [f"    {problem.text()}" for problem in one.problems]
                counted = [
                    f"{name} {found} of {expected}" for name, (expected, found) in one.classes.items() if expected
                ]
                lines += [f"    images by class: {first_names(counted)}"] if counted else []
        lines += _together([one for one in shown if not (one.ok or one.present)])
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


def _together(missing: Sequence[Checked]) -> list[str]:
    """A line for each thing that several domains lack altogether."""
    names: dict[tuple[str, str], dict[str, None]] = {}
    for one in missing:
        for problem in one.problems:
            names.setdefault((problem.kind, problem.remedy), {}).update(dict.fromkeys(problem.first))
    return [Problem(kind, len(first), tuple(first), remedy).text() for (kind, remedy), first in names.items()]
