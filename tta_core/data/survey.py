"""What a look at the files of one domain found, and who looks. Imports no torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tta_core.data.spec import BenchmarkSpec
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
        proven: whether names say the classes; else numbers alone do.
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
    proven: bool = True
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
            "labels_proven": self.proven,
            "expected": self.expected,
            "found": self.found,
            "expected_classes": self.expected_classes,
            "found_classes": self.found_classes,
            "differing_classes": differing,
            "problems": problems,
        }


Beside = list[Checked]
"""What stands beside domains in a report: files that several of them need, such as labels."""


def made_by(row: BenchmarkSpec) -> str:
    """For people: what makes images that are missing; empty where they are downloaded."""
    return f"Make them with `tta-grid data corrupt {row.name}`: what is there stays" if row.generated_from else ""


class Survey(ABC):
    """Looks at the domains of one kind of storage, one after the other."""

    @abstractmethod
    def begin(self, row: BenchmarkSpec, one: Checked) -> Callable[[], Beside]:
        """Begins to look at a domain; what that takes may go on on other threads.

        Args:
            row: the row that the domain is read by.
            one: the domain; what is found is put in.

        Returns:
            What ends it: fills `one`, and returns what was found beside it and not told before.
        """

    def finish(self) -> None:
        """Called once all domains were looked at: says what only then is known."""
