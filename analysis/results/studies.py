"""The studies of a results folder: what they chose, what came of it, and what speaks against it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from analysis import schema
from analysis.results.load import FINISHED, rows
from analysis.vocabulary import DEFAULT

NEAR_END = 0.05
"""A best value within this share of an end of its range says that the range is too narrow."""

LEAST_TRIALS = 10
"""Trials for each searched setting below which a search has hardly looked."""

SHORT = 0.9
"""Choosing streams shorter than this share of the reported ones do not see settings that collapse late."""

Accuracies = Mapping[tuple[str, int], float]


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
        states: state of a trial -> how many.
        choices: those that stand, the default first.
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
    states: Mapping[str, int]
    choices: tuple[Choice, ...]

    @property
    def chosen(self) -> Choice | None:
        """What the study chose; None if it has not ended, or all failed."""
        return next((each for each in self.choices if each.rule != DEFAULT), None)

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
        if lost := self.states.get("diverged", 0):
            said.append(f"{lost} of {total} trials diverged")
        if self.chosen is not None:
            said += [words for each in space for words in _near_end(each, self.chosen.settings)]
            if self.default is not None and self.default.settings == self.chosen.settings:
                said.append("no setting was better than the default")
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
    for study, rule, trial, settings, estimate, cells in rows(
        con, "select study, rule, trial, settings, estimate, cells from selections where current order by rule"
    ):
        found = [accuracies[cell] for cell in cells if cell in accuracies]
        choice = Choice(
            rule=rule,
            trial=trial,
            settings=json.loads(settings),
            estimate=estimate,
            accuracies={(fingerprint, seed): accuracy for fingerprint, seed, accuracy in found},
        )
        choices.setdefault(study, []).append(choice)
    states: dict[str, dict[str, int]] = {}
    for study, state, count in rows(con, "select study, state, count(*) from trials group by all order by all"):
        states.setdefault(study, {})[state] = count
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
            states=states.get(study, {}),
            choices=tuple(sorted(choices.get(study, []), key=lambda each: each.rule != DEFAULT)),
        )
        for study, method, per, definition, oracle, state, ratio, importance, cells, seconds in rows(
            con,
            "select study, method, per, definition, oracle, state, length_ratio, importance, cells, cell_seconds "
            "from studies order by study",
        )
    ]
    return [each for each in made if superseded or each.state != schema.SUPERSEDED]
