"""What a cell is worth to a study, read from the files of the store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from grid.plan.search import Objective
from grid.store.samples import stored_samples
from grid.store.store import ResultStore
from tta_core.run.config import RunConfig
from tta_core.tasks.base import Task
from tta_core.tasks.table import TASKS

BINS = 15
"""Bins of equal width of the calibration error."""


@dataclass(frozen=True)
class Score:
    """What a cell is worth.

    Attributes:
        value: the objective over the whole stream.
        parts: what is compared in pairs, by domain where the objective is a mean over samples of domains.
        seconds: wall time of the cell's loop in s; 0 of one that diverged.
    """

    value: float
    parts: Mapping[str, float]
    seconds: float


class Stream(NamedTuple):
    """The stored outcome of a stream: columns `(samples,)`, in stream order."""

    task: Task
    samples: Mapping[str, NDArray[Any]]

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Which samples are right; of classification only."""
        return np.asarray(self.samples["label"] == self.samples["prediction"])

    @property
    def confidence(self) -> NDArray[np.float32]:
        """Largest probabilities."""
        return self.samples["confidence"]

    def score(self) -> float:
        """Score of all samples."""
        return self.task.scores(self.samples).score

    def late(self) -> float:
        """Score of the last third."""
        start = len(self.samples["position"]) * 2 // 3
        return self.task.scores({name: values[start:] for name, values in self.samples.items()}).score

    def by_domain(self) -> dict[str, float]:
        """Score in each domain."""
        return {name: scores.score for name, scores in self.task.scores_by_domain(self.samples).items()}


def _calibration_error(stream: Stream) -> float:
    """Expected calibration error: the mean distance of confidence and accuracy in bins of confidence."""
    bins = np.minimum((stream.confidence * BINS).astype(int), BINS - 1)
    gaps = [
        np.abs(stream.confidence[bins == each].mean() - stream.correct[bins == each].mean()) * (bins == each).mean()
        for each in np.unique(bins)
    ]
    return float(np.sum(gaps))


MEASURES: Mapping[Objective, Callable[[Stream], float]] = {
    "accuracy": lambda stream: stream.score(),
    "mean_domain_accuracy": lambda stream: float(np.mean(list(stream.by_domain().values()))),
    "worst_domain_accuracy": lambda stream: min(stream.by_domain().values()),
    "late_accuracy": lambda stream: stream.late(),
    "calibration_error": _calibration_error,
}
"""What a study can look for; of segmentation an accuracy is the mean IoU."""

MINIMISED: tuple[Objective, ...] = ("calibration_error",)
PAIRED_BY_DOMAIN: tuple[Objective, ...] = ("accuracy", "mean_domain_accuracy", "worst_domain_accuracy")
"""Objectives of which a race compares the accuracies in each domain; of the others their values."""


class ForeignCellError(RuntimeError):
    """A study was about to read a cell that is none of those that it may choose by: a mistake in this program."""


class StoredScores:
    """Reads scores from a store, each once."""

    def __init__(self, store: ResultStore, objective: Objective) -> None:
        self._store = store
        self._objective = objective
        self._known: dict[str, Score] = {}

    def of(self, cell: str, config: RunConfig) -> Score:
        """The score of a finished cell.

        Raises:
            ForeignCellError: if what is stored has other domains or another seed than the cell.
        """
        if cell not in self._known:
            self._known[cell] = self._read(cell, config)
        return self._known[cell]

    def _read(self, cell: str, config: RunConfig) -> Score:
        folder = self._store.cell_folder(cell)
        row = pq.read_table(folder / "cell.parquet", columns=["seed", "seconds"]).to_pylist()[0]
        stream = Stream(TASKS[config.task], stored_samples(folder))
        if row["seed"] != config.seed or not set(stream.samples["domain"]) <= set(config.visited):
            raise ForeignCellError(f"{cell} has other domains or another seed than the study's cell")
        value = MEASURES[self._objective](stream)
        parts = stream.by_domain() if self._objective in PAIRED_BY_DOMAIN else {"": value}
        return Score(value=value, parts=parts, seconds=float(row["seconds"]))

    def of_chance(self, config: RunConfig) -> Score:
        """What a cell counts that diverged: as much as guessing. A guess is as sure as it is right in no bin."""
        value = 1.0 if self._objective in MINIMISED else 1 / config.num_classes
        parts = dict.fromkeys(config.visited, value) if self._objective in PAIRED_BY_DOMAIN else {"": value}
        return Score(value=value, parts=parts, seconds=0.0)
