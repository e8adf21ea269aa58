"""One trial of a study: settings, the cells that judge them, and how it ended."""

from __future__ import annotations

import statistics
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from grid.plan.studies import Instance
from grid.search.scores import Score

TrialState = Literal["running", "complete", "raced-out", "collapsed", "diverged", "failed"]
"""How a trial stands. One that diverged has a cell whose network became infinite, one that collapsed a cell that was
stopped as its predictions were of few classes.
"""


@dataclass
class Trial:
    """Settings that a study tries.

    Attributes:
        number: in the study, from 0.
        origin: where the settings come from: a preset, `given`, or the sampler.
        settings: values of the searched settings.
        instances: the cells that judge them, in order; none if the method does not take the settings.
        best: number of the best trial that was known when this one was asked for; None if there was none.
        sampler_notes: what the sampler wants to be kept.
        lost: `collapsed` or `diverged` if one of its cells did, though others follow.
        state: how it stands.
        reason: why it failed, or why its race ended.
        scores: what its first cells are worth.
        reused: those of them that this search did not run.
        started_at, ended_at: UTC.
    """

    number: int
    origin: str
    settings: dict[str, Any]
    instances: list[Instance]
    best: int | None = None
    sampler_notes: dict[str, Any] = field(default_factory=dict)
    lost: Literal["", "collapsed", "diverged"] = ""
    state: TrialState = "running"
    reason: str = ""
    scores: list[Score] = field(default_factory=list)
    reused: set[str] = field(default_factory=set)
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    ended_at: datetime | None = None

    @property
    def ended(self) -> bool:
        """Whether its outcome is known."""
        return self.state != "running"

    @property
    def whole(self) -> bool:
        """Whether all its cells have a value."""
        return bool(self.instances) and len(self.scores) == len(self.instances)

    @property
    def judged(self) -> list[Score]:
        """The scores of cells with the whole choosing stream."""
        return [score for instance, score in self.seen if instance.whole]

    @property
    def means(self) -> dict[str, float]:
        """Measure -> mean over the cells with the whole stream that have run; empty if none has."""
        scores = self.judged
        return (
            {name: statistics.fmean(each.values[name] for each in scores) for name in scores[0].values}
            if scores
            else {}
        )

    @property
    def value(self) -> float | None:
        """The first objective likewise; None if no such cell has run."""
        return next(iter(self.means.values()), None)

    @property
    def standard_error(self) -> float | None:
        """Standard error of `value` over cells; None of fewer than two."""
        values = [score.value for score in self.judged]
        return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None

    @property
    def seconds(self) -> float:
        """Wall time of the loops of its cells in s."""
        return sum(score.seconds for score in self.scores)

    @property
    def seen(self) -> list[tuple[Instance, Score]]:
        """The cells that have run, with what they are worth."""
        return list(zip(self.instances, self.scores, strict=False))

    def pairs(self, like: Instance) -> dict[Hashable, float]:
        """(seed, point, domain) -> value, of the cells that have run on streams as long as that of a cell."""
        return {
            (instance.seed, instance.point, part): value
            for instance, score in self.seen
            if instance.config.samples_per_domain == like.config.samples_per_domain
            for part, value in score.parts.items()
        }

    def running_means(self) -> list[float]:
        """After each cell the mean of the first objective over those on streams of its length."""
        found, values, length = list[float](), list[float](), None
        for instance, score in self.seen:
            if instance.config.samples_per_domain != length:
                values, length = [], instance.config.samples_per_domain
            values.append(score.value)
            found.append(statistics.fmean(values))
        return found

    def end(self, state: TrialState, reason: str = "") -> None:
        """Records how it ended."""
        self.state, self.reason, self.ended_at = state, reason, datetime.now(UTC)

    def record(self) -> dict[str, Any]:
        """What the journal keeps beside settings and value."""
        return {
            "number": self.number,
            "origin": self.origin,
            "settings": self.settings,
            "state": self.state,
            "reason": self.reason,
            "scores": [[dict(score.values), dict(score.parts), score.seconds] for score in self.scores],
            "reused": sorted(self.reused),
            "best": self.best,
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any], instances: list[Instance], notes: Mapping[str, Any]) -> Trial:
        """A trial that the journal has."""
        scores = [Score(values, parts, seconds) for values, parts, seconds in record["scores"]]
        own = {key: record[key] for key in ("number", "origin", "settings", "state", "reason", "best")}
        return cls(**own, instances=instances, scores=scores, reused=set(record["reused"]), sampler_notes=dict(notes))
