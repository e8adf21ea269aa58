"""Asks Optuna for the settings of one trial, as a function of those before. Imports optuna.

Optuna's own studies change with what finishes first. Here a study is made anew for each question: it holds the
settings and results of trials that the asker may know, the settings of those that run, and a sampler seeded by study
and trial. So equal histories give equal questions, in any process.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    NSGAIIISampler,
    NSGAIISampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)
from optuna.trial import FrozenTrial

from grid.plan.samplers import SamplerName
from grid.plan.space import Dimension

optuna.logging.set_verbosity(optuna.logging.ERROR)

POPULATION = 12
"""Settings of a generation of `nsgaii` and `nsgaiii`: Optuna's 50 are more than most studies have trials."""

Settings = dict[str, Any]


class _QMC(QMCSampler):
    """Takes the point of the sequence that it is told, where Optuna counts how often it was asked."""

    def __init__(
        self, seed: int, number: int, space: Mapping[str, BaseDistribution], options: Mapping[str, Any]
    ) -> None:
        super().__init__(
            seed=seed,
            **{"scramble": True, **options},
            warn_asynchronous_seeding=False,
            warn_independent_sampling=False,
        )
        self._number = number
        self._space = dict(space)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._space

    def _find_sample_id(self, study: optuna.Study, search_space: dict[str, BaseDistribution]) -> int:
        return self._number


@dataclass(frozen=True)
class Question:
    """What a sampler is made for.

    Attributes:
        seed: of the question.
        study_seed: of the study.
        number: of the trial.
        space: the ranges.
        options: those that the user gives the sampler.
    """

    seed: int
    study_seed: int
    number: int
    space: Sequence[Dimension]
    options: Mapping[str, Any]


def _tpe(of: Question) -> BaseSampler:
    conditional = any(each.when for each in of.space)
    options = {"multivariate": conditional, "group": conditional, **of.options}
    return TPESampler(seed=of.seed, **(options | {"group": options["group"] and options["multivariate"]}))


def _qmc(of: Question) -> BaseSampler:
    always = {each.name: distribution(each) for each in of.space if not each.when}
    return _QMC(of.study_seed, of.number, always, of.options)


MAKERS: Mapping[SamplerName, Callable[[Question], BaseSampler]] = {
    "tpe": _tpe,
    "random": lambda of: RandomSampler(seed=of.seed),
    "qmc": _qmc,
    "gp": lambda of: GPSampler(seed=of.seed, **of.options),
    "nsgaii": lambda of: NSGAIISampler(seed=of.seed, **{"population_size": POPULATION, **of.options}),
    "nsgaiii": lambda of: NSGAIIISampler(seed=of.seed, **{"population_size": POPULATION, **of.options}),
    "cmaes": lambda of: CmaEsSampler(seed=of.seed, **of.options),
}
"""All but `grid`, which is no sampler: the study goes through all values itself."""


def propose(
    sampler: SamplerName,
    space: Sequence[Dimension],
    known: Sequence[FrozenTrial],
    *,
    study: str,
    number: int,
    attempt: int,
    maximise: Sequence[bool],
    options: Mapping[str, Any] | None = None,
) -> tuple[Settings, dict[str, Any]]:
    """The settings of trial `number`.

    Args:
        sampler: how they are sampled.
        space: the ranges, those that others depend on first.
        known: the trials 0 to `number - 1`; those whose results may not be known are running.
        study: name of the study.
        number: of the trial.
        attempt: of the question: how many answers the method did not take.
        maximise: the direction of each objective.
        options: of the sampler.

    Returns:
        The settings, and what the sampler wants to be kept with the trial.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of what is experimental in Optuna, and pinned here by its version.
        question = Question(_seed(study, number, attempt), _seed(study), number, space, options or {})
        asked = optuna.create_study(
            directions=["maximize" if each else "minimize" for each in maximise], sampler=MAKERS[sampler](question)
        )
        asked.add_trials(known)
        trial = asked.ask()
        settings: Settings = {}
        for each in space:
            if each.holds(settings):
                settings[each.name] = decoded(each, trial._suggest(each.name, distribution(each)))
        return settings, dict(asked.trials[-1].system_attrs)


def _seed(*of: object) -> int:
    return int.from_bytes(hashlib.sha256(json.dumps(of).encode()).digest()[:4])


def distribution(each: Dimension) -> BaseDistribution:
    """A range as Optuna has it."""
    if each.kind == "choice":
        return CategoricalDistribution([encoded(each, value) for value in each.values])
    assert each.low is not None
    assert each.high is not None
    if each.kind == "int":
        return IntDistribution(int(each.low), int(each.high), log=each.log, step=int(each.step or 1))
    return FloatDistribution(each.low, each.high, log=each.log, step=each.step)


def encoded(each: Dimension, value: Any) -> Any:
    """A value as Optuna keeps it: a list is text."""
    return json.dumps(value) if each.kind == "choice" and isinstance(value, list | tuple | dict) else value


def decoded(each: Dimension, value: Any) -> Any:
    """The other way round."""
    if each.kind != "choice":
        return value
    return next(one for one in each.values if type(encoded(each, one)) is type(value) and encoded(each, one) == value)
