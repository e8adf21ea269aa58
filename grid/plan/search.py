"""The key `search:` of a sweep: what a user writes, read and checked in itself. Imports no torch, ray or optuna."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from grid.plan.objectives import OBJECTIVES, check_measures
from grid.plan.samplers import SamplerChoice, SamplerName, read_sampler
from tta_core.frozen import Count, Frozen, Seed

SCHEDULERS = ("scheduler", "pruner", "asha", "median", "hyperband")
"""What stops a run in the middle of its stream, by the names that users know."""

STORAGES = ("sqlite", "postgresql", "mysql")
"""Databases that Optuna's studies may lie in."""

EACH = "default"
"""In `trials` by method: the number for all methods that are not named."""

Positive = Annotated[float, Field(gt=0)]


class Race(Frozen):
    """When a setting needs no more replicates: the paired difference to the best one so far is clearly below zero.

    Attributes:
        z: standard errors that the mean difference must lie below zero.
    """

    z: float = Field(default=1.0, ge=0)


class Constraint(Frozen):
    """What a setting must keep to be chosen: a bound on a measure, in the mean over the cells that choose.

    Attributes:
        measure: what is measured: any objective.
        at_most, at_least: the bound; one of the two.
    """

    measure: str
    at_most: float | None = None
    at_least: float | None = None

    @model_validator(mode="after")
    def _one_bound(self) -> Constraint:
        check_measures([self.measure], key="constraints: measure")
        if (self.at_most is None) == (self.at_least is None):
            raise ValueError(f"constraints: {self.measure} has one bound: give at_most or at_least, not both")
        return self

    def violation(self, value: float) -> float:
        """How far a value lies beyond the bound; not above 0 where it keeps it."""
        return value - self.at_most if self.at_most is not None else (self.at_least or 0.0) - value

    @property
    def text(self) -> str:
        """For people, and its name in Optuna's study."""
        bound = f"at least {self.at_least}" if self.at_most is None else f"at most {self.at_most}"
        return f"{self.measure} {bound}"


class Search(Frozen):
    """How settings of the sweep's methods are chosen.

    Attributes:
        trials: settings that each study tries; a mapping gives a number for each method, or `default`.
        space: `method.setting` -> where to look: `spec` for the range of the method, a list, or a mapping. `default`,
            which can only be `spec`, adds the other ranges of all methods of the sweep; so does an absent space.
        per: axes of the sweep; each combination of their values gets a study of its own. By default all axes.
        select: fields of the cells that choose, in place of those of the reported cells.
        oracle: whether settings are chosen on the reported domains, which no honest result is.
        objective: what is maximised, or minimised if it is an error or a cost; of several the front is reported.
        constraints: what settings must keep to be chosen.
        seeds: replicates of each setting, in the order in which they are raced.
        race: when a setting gets no more replicates; `none` for never.
        ladder: samples per domain of shorter streams that settings are raced on first, rising.
        sampler: Optuna's sampler, or a mapping with its `name` and `options`; `grid` tries all combinations of lists,
            integers and steps.
        cells: a study starts no further trial once its trials took so many cells.
        cell_hours: likewise, of hours of their loops.
        hours: no study starts a further trial after so many hours of a launch.
        plateau: a study ends after so many trials without an improvement of more than one standard error.
        ahead: trials that run at once; trial k knows the results of trials 0 to k - `ahead`.
        first: settings that are tried before the sampler is asked: `presets`, `none`, or a list.
        warm_start: results folders of this machine. Settings whose cells they have are tried first; these are copied.
        storage: URL of a database that the studies are mirrored in; by default a file in the results folder.
        diverged: what a setting counts whose network became infinite: as much as guessing, or nothing (`fail`).
        stop_collapsed: whether a cell that chooses ends once its predictions are of few classes, see `grid.launch`.
        reported: what runs on the reported cells: the chosen settings, also those of the sweep, or all that were tried.
        max_failed: failed trials in a row that end a study.
    """

    trials: Count | dict[str, Count]
    space: dict[str, Any] | None = None
    per: list[str] | None = None
    select: dict[str, Any] = Field(default_factory=dict)
    oracle: bool = False
    objective: str | list[str] = "accuracy"
    constraints: list[Constraint] = Field(default_factory=list)
    seeds: list[Seed] = Field(default=[1000, 1001, 1002], min_length=1)
    race: Literal["none"] | Race = Race()
    ladder: list[Count] = Field(default_factory=list)
    sampler: SamplerName | SamplerChoice = "tpe"
    cells: Count | None = None
    cell_hours: Positive | None = None
    hours: Positive | None = None
    plateau: Count | None = None
    ahead: Count = 4
    first: Literal["presets", "none"] | list[dict[str, Any]] = "presets"
    warm_start: list[str] = Field(default_factory=list)
    storage: str | None = None
    diverged: Literal["chance", "fail"] = "chance"
    stop_collapsed: bool = True
    reported: Literal["best", "best+default", "all"] = "best+default"
    max_failed: Count = 5

    @property
    def objectives(self) -> tuple[str, ...]:
        """The objectives; the first one decides between settings of the front."""
        return (self.objective,) if isinstance(self.objective, str) else tuple(self.objective)

    @property
    def measures(self) -> tuple[str, ...]:
        """Objectives and what constraints bound, each once."""
        return tuple(dict.fromkeys([*self.objectives, *(each.measure for each in self.constraints)]))

    @property
    def racing(self) -> Race | None:
        """The race; None if there is none."""
        steady = len(self.objectives) == 1 and OBJECTIVES[self.objectives[0]].raced
        return self.race if isinstance(self.race, Race) and steady else None

    @property
    def sampler_name(self) -> SamplerName:
        """Name of the sampler."""
        return self.sampler if isinstance(self.sampler, str) else self.sampler.name

    @property
    def sampler_options(self) -> Mapping[str, Any]:
        """Its options."""
        return {} if isinstance(self.sampler, str) else self.sampler.options

    def trials_of(self, method: str) -> int:
        """Settings that a study of a method tries."""
        return self.trials if isinstance(self.trials, int) else self.trials.get(method) or self.trials[EACH]

    @model_validator(mode="before")
    @classmethod
    def _read(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        for key in values:
            if key in SCHEDULERS:
                raise ValueError(
                    f"{key} is not offered: the first third of a stream does not rank methods (Kendall's tau of Tent "
                    "is -0.4), so stopping there picks the wrong setting; allowed is race, which compares whole "
                    "streams: race: {z: 1.0}, and ladder, which begins with shorter whole streams"
                )
        return {**values, "sampler": read_sampler(values["sampler"])} if "sampler" in values else values

    @model_validator(mode="after")
    def _fits_together(self) -> Search:
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds = {self.seeds}: a seed is there twice; give each once")
        if not self.objectives:
            raise ValueError("objective = []: give at least one, such as accuracy")
        check_measures(self.objectives, key="objective")
        if len(self.objectives) > 1:
            if self.sampler_name == "cmaes":
                raise ValueError("sampler = 'cmaes' looks for one objective, here are several: give tpe or nsgaii")
            if self.plateau is not None:
                raise ValueError("plateau = a number looks at one objective, here are several: leave it out")
        if self.racing is None and "race" in self.model_fields_set and self.race != "none":
            raise ValueError(
                f"race = a rule compares one steady objective, here is {', '.join(self.objectives)}: give race: none"
            )
        if self.ladder and self.racing is None:
            raise ValueError("ladder = a list needs a race, which decides who climbs on: leave it out, or race")
        if any(low >= high for low, high in pairwise(self.ladder)):
            raise ValueError(f"ladder = {self.ladder}: give samples per domain that rise")
        url = self.storage
        if url is not None:
            kind, _, place = url.partition("://")
            # Without a place, or with this name, sqlite keeps the studies in memory.
            if kind.partition("+")[0] not in STORAGES or place in ("", "/", "/:memory:"):
                raise ValueError(
                    f"storage = {url!r} is no URL of a lasting database: give one that begins with "
                    f"{', '.join(f'{name}://' for name in STORAGES)}, or leave it out for a file in the results folder"
                )
            if self.sampler_name == "cmaes":
                raise ValueError(
                    "storage = a database, and sampler = 'cmaes' keeps pickled objects there, which whoever can write "
                    "to it could replace: leave storage out, or give another sampler"
                )
        return self
