"""The studies of a results folder: what they chose, what came of it, and what speaks against it."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
from scipy.stats import kendalltau

from analysis import schema
from analysis.aggregate.estimates import Estimate, estimate
from analysis.results.load import FINISHED, rows
from analysis.vocabulary import DEFAULT

NEAR_END = 0.05
"""A best value within this share of an end of its range says that the range is too narrow."""

LEAST_TRIALS = 10
"""Trials for each searched setting below which a search has hardly looked."""

SHORT = 0.9
"""Choosing streams shorter than this share of the reported ones do not see settings that collapse late."""

Accuracies = Mapping[tuple[str, int], float]


COMPLETE = "complete"
"""State of a trial with a value for each of its cells."""


@dataclass(frozen=True, slots=True)
class TrialRow:
    """A trial.

    Attributes:
        trial: its number.
        state: how it ended.
        settings: values of the searched settings.
        value: the first objective, mean over cells with the whole stream; None if there is none.
        measures: measure -> mean likewise.
        values: (samples per domain, seed, point) -> first objective of a cell that has run.
    """

    trial: int
    state: str
    settings: Mapping[str, Any]
    value: float | None
    measures: Mapping[str, float]
    values: Mapping[tuple[int, int, int], float]

    def by_length(self) -> dict[int, float]:
        """Samples per domain -> mean over the cells with these."""
        found: dict[int, list[float]] = {}
        for (samples, _, _), value in self.values.items():
            found.setdefault(samples, []).append(value)
        return {samples: math.fsum(values) / len(values) for samples, values in sorted(found.items())}


@dataclass(frozen=True, slots=True)
class Choice:
    """Settings that a study chose, or those of the sweep.

    Attributes:
        rule: `held-out`, `oracle`, or `default`.
        trial: the trial; None of a default that was not tried.
        settings: values of the searched settings.
        estimate: objective on the choosing cells; None if it was not tried.
        accuracies: (fingerprint, seed) -> accuracy of a reported cell, in [0, 1].
    """

    rule: str
    trial: int | None
    settings: Mapping[str, Any]
    estimate: float | None
    accuracies: Accuracies


@dataclass(frozen=True, slots=True)
class StudyResult:
    """A study.

    Attributes:
        study: its name.
        method: its method.
        per: what sets it apart from the sweep's others.
        definition: what decides what is tried, and how it is judged.
        oracle: whether it chose on the reported domains.
        state: see `analysis.schema.STUDY`.
        length_ratio: samples of the choosing streams for each of the reported ones.
        importance: setting -> share; empty if it is unknown.
        cells: cells that the trials took.
        cell_seconds: wall time of their loops in s.
        trials: by number.
        best_trial: number of the chosen one, or the best so far.
        front: of several objectives the trials that none is better than.
        maximise: whether larger values of the first objective are better.
        choices: those that stand, the default first; without those of `tried`.
        tried: settings that are reported though they were not chosen.
    """

    study: str
    method: str
    per: Mapping[str, Any]
    definition: Mapping[str, Any]
    oracle: bool
    state: str
    length_ratio: float
    importance: Mapping[str, float]
    cells: int
    cell_seconds: float
    trials: tuple[TrialRow, ...]
    best_trial: int | None
    front: tuple[int, ...]
    maximise: bool
    choices: tuple[Choice, ...]
    tried: tuple[Choice, ...] = ()

    @property
    def objectives(self) -> tuple[str, ...]:
        """The objectives, the one first that decides."""
        given = self.definition["objective"]
        return (given,) if isinstance(given, str) else tuple(given)

    @property
    def states(self) -> dict[str, int]:
        """State of a trial -> how many."""
        return dict(sorted(Counter(each.state for each in self.trials).items()))

    @property
    def chosen(self) -> Choice | None:
        """What the study chose; None if it has not ended, or all failed."""
        return next((each for each in self.choices if each.rule != DEFAULT), None)

    @property
    def best_tried(self) -> float | None:
        """The best mean accuracy of all settings that were reported: an oracle's. None if only chosen ones were."""
        if not self.tried:
            return None
        reported = [list(each.accuracies.values()) for each in (*self.choices, *self.tried)]
        return max((math.fsum(values) / len(values) for values in reported if values), default=None)

    @property
    def default(self) -> Choice | None:
        """The sweep's own settings; None if they are not reported."""
        return next((each for each in self.choices if each.rule == DEFAULT), None)

    @property
    def gains(self) -> list[float]:
        """Accuracy of what was chosen minus that of the default, by seed: the mean over the streams of the study."""
        if self.chosen is None or self.default is None:
            return []
        by_seed: dict[int, list[float]] = {}
        for key, value in self.chosen.accuracies.items():
            if key in self.default.accuracies:
                by_seed.setdefault(key[1], []).append(value - self.default.accuracies[key])
        return [math.fsum(values) / len(values) for _, values in sorted(by_seed.items())]

    @property
    def estimated_gain(self) -> Estimate | None:
        """What the choosing cells say of the chosen setting against the default: the mean over pairs of these."""
        if self.chosen is None or self.default is None or self.default.trial is None or self.chosen.trial is None:
            return None
        rows = {each.trial: each.values for each in self.trials}
        own, other = rows[self.chosen.trial], rows[self.default.trial]
        sign = 1 if self.maximise else -1
        pairs = [sign * (own[key] - other[key]) for key in own if key in other]
        return estimate(pairs) if pairs else None

    def rank_agreement(self) -> dict[int, tuple[float, int]]:
        """Rung of a ladder -> Kendall's tau of its ranking with that of the whole stream, and of how many settings."""
        found: dict[int, list[tuple[float, float]]] = {}
        for each in self.trials:
            if each.state == COMPLETE:
                *rungs, (_, whole) = each.by_length().items()
                for samples, value in rungs:
                    found.setdefault(samples, []).append((value, whole))
        return {
            samples: (float(kendalltau(*zip(*pairs, strict=True)).statistic), len(pairs))
            for samples, pairs in found.items()
            if len(pairs) > 2
        }

    def warnings(self) -> list[str]:
        """What speaks against the choice."""
        said, total = [], sum(self.states.values())
        space: Sequence[Mapping[str, Any]] = self.definition["space"]
        if self.oracle:
            said.append("chosen on the reported domains with their labels: no honest result")
        if self.length_ratio < SHORT:
            said.append(
                f"the choosing stream has {self.length_ratio:.2f} of the reported length: settings that collapse late "
                "are not seen"
            )
        if total < LEAST_TRIALS * len(space):
            said.append(f"{total} trials for {len(space)} settings: fewer than {LEAST_TRIALS} each")
        for state in ("diverged", "collapsed"):
            if lost := self.states.get(state, 0):
                said.append(f"{lost} of {total} trials {state}")
        if self.chosen is None and self.state not in ("open", "failed") and self.states.get(COMPLETE):
            said.append("no setting keeps the constraints: nothing was chosen")
        if self.chosen is not None:
            said += [words for each in space for words in _near_end(each, self.chosen.settings)]
            if self.default is not None and self.default.settings == self.chosen.settings:
                said.append("no setting was better than the default")
            elif (gain := self.estimated_gain) is not None and not (gain.excludes_zero and gain.mean > 0):
                said.append("on the choosing cells the chosen settings are not significantly better than the default")
        return said


def _near_end(space: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    name = space["name"]
    if space["kind"] == "choice" or name not in settings:
        return []
    low, high, value = space["low"], space["high"], settings[name]
    if space.get("log"):
        low, high, value = math.log(low), math.log(high), math.log(value)
    place = (value - low) / (high - low)
    if NEAR_END <= place <= 1 - NEAR_END:
        return []
    return [
        f"{name} = {settings[name]:.4g} lies at the {'lower' if place < 0.5 else 'upper'} end of its range: widen it"
    ]


def read_studies(con: duckdb.DuckDBPyConnection, *, superseded: bool = False) -> list[StudyResult]:
    """The studies of a results folder, by name.

    Args:
        con: connection from `open_results`.
        superseded: whether those are there too that another definition has replaced.
    """
    accuracies = {
        cell: (fingerprint, seed, accuracy)
        for cell, fingerprint, seed, accuracy in rows(
            con, f"select cell, fingerprint, seed, score from cells where {FINISHED}"
        )
    }
    choices: dict[str, list[Choice]] = {}
    for study, rule, trial, settings, guess, cells in rows(
        con,
        "select study, rule, trial, settings, estimate, cells from selections where current order by rule, trial",
    ):
        found = [accuracies[cell] for cell in cells if cell in accuracies]
        choice = Choice(
            rule=rule,
            trial=trial,
            settings=json.loads(settings),
            estimate=guess,
            accuracies={(fingerprint, seed): accuracy for fingerprint, seed, accuracy in found},
        )
        choices.setdefault(study, []).append(choice)
    trials: dict[str, list[TrialRow]] = {}
    for study, number, state, settings, value, measures, cells in rows(
        con, "select study, trial, state, settings, value, measures, by_instance from trials order by study, trial"
    ):
        values = {
            (each["samples_per_domain"], each["seed"], each["point"]): each["value"]
            for each in cells
            if each["value"] is not None
        }
        made_trial = TrialRow(number, state, json.loads(settings), value, json.loads(measures), values)
        trials.setdefault(study, []).append(made_trial)
    made = [
        StudyResult(
            study=study,
            method=method,
            per=json.loads(per),
            definition=json.loads(definition),
            oracle=oracle,
            state=state,
            length_ratio=ratio,
            importance=json.loads(importance) if importance else {},
            cells=cells,
            cell_seconds=seconds,
            trials=tuple(trials.get(study, [])),
            best_trial=best,
            front=tuple(front),
            maximise=maximise,
            choices=tuple(
                sorted(
                    (each for each in choices.get(study, []) if each.rule != schema.CANDIDATE),
                    key=lambda each: each.rule != DEFAULT,
                )
            ),
            tried=tuple(each for each in choices.get(study, []) if each.rule == schema.CANDIDATE),
        )
        for (
            study,
            method,
            per,
            definition,
            oracle,
            state,
            ratio,
            importance,
            cells,
            seconds,
            best,
            front,
            maximise,
        ) in rows(
            con,
            "select study, method, per, definition, oracle, state, length_ratio, importance, cells, cell_seconds, "
            "best_trial, front, maximise from studies order by study",
        )
    ]
    return [each for each in made if superseded or each.state != schema.SUPERSEDED]
