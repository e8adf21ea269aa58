"""What a cell is worth to a study, read from the files of the store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.aggregate.rules import RULES, Unlabelled
from analysis.aggregate.unlabelled import read_columns, read_unlabelled
from grid.plan.objectives import OBJECTIVES, Reads
from grid.store.samples import stored_samples
from grid.store.store import ResultStore
from tta_core.run.config import RunConfig
from tta_core.tasks.base import Task
from tta_core.tasks.table import TASKS

BINS = 15
"""Bins of equal width of the calibration error."""

References = Mapping[Reads, RunConfig]


@dataclass(frozen=True)
class Score:
    """What a cell is worth.

    Attributes:
        values: measure -> value over the whole stream, the first objective first.
        parts: what is compared in pairs, by domain where the first objective is a mean over samples of domains.
        seconds: wall time of the cell's loop in s; 0 of one that diverged.
    """

    values: Mapping[str, float]
    parts: Mapping[str, float]
    seconds: float

    @property
    def value(self) -> float:
        """Of the first objective."""
        return next(iter(self.values.values()))


class Seen:
    """A finished cell as measures see it: what is stored of it, read once and only if asked for."""

    def __init__(self, store: ResultStore, cell: str, config: RunConfig, references: References) -> None:
        self._store = store
        self._folder = store.cell_folder(cell)
        self._config = config
        self._references = references

    @cached_property
    def row(self) -> dict[str, Any]:
        """Of `cells`."""
        columns = ("seed", "seconds", "n_samples", "peak_memory_mib")
        found: dict[str, Any] = read_columns(self._folder, "cell", columns).to_pylist()[0]
        return found

    @property
    def task(self) -> Task:
        """What the cell does."""
        return TASKS[self._config.task]

    @cached_property
    def samples(self) -> dict[str, NDArray[Any]]:
        """Stored outcomes: columns `(samples, ...)`, in stream order."""
        return stored_samples(self._folder)

    @property
    def domain(self) -> NDArray[np.str_]:
        """`(samples,)`, in stream order, as the next two."""
        return self.samples["domain"]

    @cached_property
    def correct(self) -> NDArray[np.bool_]:
        """Whether the prediction is right; of classification only."""
        return np.asarray(self.samples["label"] == self.samples["prediction"])

    @property
    def confidence(self) -> NDArray[np.float32]:
        """The largest probability."""
        return self.samples["confidence"]

    @cached_property
    def score(self) -> float:
        """Score of all samples."""
        return self.task.scores(self.samples).score

    @cached_property
    def late(self) -> float:
        """Score of the last third."""
        start = len(self.samples["position"]) * 2 // 3
        return self.task.scores({name: values[start:] for name, values in self.samples.items()}).score

    @cached_property
    def by_domain(self) -> dict[str, float]:
        """Score in each domain."""
        return {name: scores.score for name, scores in self.task.scores_by_domain(self.samples).items()}

    @cached_property
    def source(self) -> dict[str, Any]:
        """The row of `cells` of the network that nobody adapts."""
        found: dict[str, Any] = read_columns(self._path("source"), "cell", ("seconds",)).to_pylist()[0]
        return found

    @cached_property
    def source_score(self) -> float:
        """The score of that network."""
        return self.task.scores(stored_samples(self._path("source"))).score

    @cached_property
    def unlabelled(self) -> Unlabelled:
        """The cell as rules without labels see it."""
        return read_unlabelled(
            self._folder,
            classes=self._config.num_classes,
            samples=self.row["n_samples"],
            source=self._path("source") if "source" in self._references else None,
            clean=self._path("clean") if "clean" in self._references else None,
        )

    def _path(self, reference: Reads) -> Path:
        return self._store.cell_folder(self._references[reference].cell_id())


def _calibration_error(seen: Seen) -> float:
    """Expected calibration error: the mean distance of confidence and accuracy in bins of confidence."""
    bins = np.minimum((seen.confidence * BINS).astype(int), BINS - 1)
    gaps = [
        np.abs(seen.confidence[bins == each].mean() - seen.correct[bins == each].mean()) * (bins == each).mean()
        for each in np.unique(bins)
    ]
    return float(np.sum(gaps))


MEASURES: Mapping[str, Callable[[Seen], float]] = {
    "accuracy": lambda seen: seen.score,
    "mean_domain_accuracy": lambda seen: float(np.mean(list(seen.by_domain.values()))),
    "worst_domain_accuracy": lambda seen: min(seen.by_domain.values()),
    "late_accuracy": lambda seen: seen.late,
    "accuracy_gain": lambda seen: seen.score - seen.source_score,
    "calibration_error": _calibration_error,
    "seconds_per_source": lambda seen: float(seen.row["seconds"]) / float(seen.source["seconds"]),
    "peak_memory_mib": lambda seen: float(seen.row["peak_memory_mib"]),
}
"""Measures that are no rules without labels; those are `RULES`. Of segmentation an accuracy is the mean IoU."""


class ForeignCellError(RuntimeError):
    """A study was about to read a cell that is none of those that it may choose by: a mistake in this program."""


class StoredScores:
    """Reads scores from a store, each once."""

    def __init__(self, store: ResultStore, measures: Sequence[str]) -> None:
        """Makes the reader.

        Args:
            store: the results folder.
            measures: what is measured, the first objective first.
        """
        self._store = store
        self._measures = tuple(measures)
        self._by_domain = OBJECTIVES[self._measures[0]].by_domain
        self._known: dict[str, Score] = {}

    def of(self, cell: str, config: RunConfig, references: References | None = None) -> Score:
        """The score of a finished cell.

        Args:
            cell: its id.
            config: its configuration.
            references: finished cells without adaptation that measures compare it with.

        Raises:
            ForeignCellError: if what is stored has other domains or another seed than the cell.
        """
        if cell not in self._known:
            seen = Seen(self._store, cell, config, references or {})
            if seen.row["seed"] != config.seed or not set(seen.domain) <= set(config.visited):
                raise ForeignCellError(f"{cell} has other domains or another seed than the study's cell")
            values = {
                name: RULES[name].score(seen.unlabelled) if name in RULES else MEASURES[name](seen)
                for name in self._measures
            }
            parts = seen.by_domain if self._by_domain else {"": values[self._measures[0]]}
            self._known[cell] = Score(values, parts, float(seen.row["seconds"]))
        return self._known[cell]

    def of_chance(self, config: RunConfig, references: References | None = None) -> Score | None:
        """What a cell counts that diverged: as much as guessing. None if a measure has no such value."""
        if not all(OBJECTIVES[name].has_chance for name in self._measures):
            return None
        guess = 1 / config.num_classes
        values = dict[str, float]()
        for name in self._measures:
            if name in RULES:
                values[name] = RULES[name].chance(config.num_classes)
            elif name == "accuracy_gain":
                values[name] = guess - Seen(self._store, "", config, references or {}).source_score
            else:
                # A guess is as sure as it is right in no bin.
                values[name] = 1.0 if name == "calibration_error" else guess
        first = values[self._measures[0]]
        parts = dict.fromkeys(config.visited, first) if self._by_domain else {"": first}
        return Score(values, parts, 0.0)
