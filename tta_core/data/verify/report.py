"""What `tta-grid data verify` says of a benchmark: expected and found, and what is wrong. Imports no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tta_core.data.survey import Checked, Problem
from tta_core.errors import first_names


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
