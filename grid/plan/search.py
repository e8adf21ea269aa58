"""The key `search:` of a sweep: what a user writes, read and checked in itself. Imports no torch, ray or optuna."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from tta_core.errors import unknown_name
from tta_core.frozen import Frozen

Sampler = Literal["tpe", "random", "qmc", "gp", "nsgaii", "grid"]

Objective = Literal["accuracy", "mean_domain_accuracy", "worst_domain_accuracy", "late_accuracy", "calibration_error"]

NOT_BUILT: Mapping[str, str] = {
    "constraints": "leave it out, and look at the measures of the chosen settings afterwards",
    "cell_hours": "bound the search by `trials` or `cells`",
    "hours": "bound the search by `trials` or `cells`; interrupted with Ctrl-C, the same command goes on",
    "warm_start": "cells that the results folder has are used in any case; give known settings in `first`",
    "storage": "the study lies in the results folder, as an Optuna journal",
    "stop_collapsed": "a setting that collapsed is raced out after its second seed",
    "ladder": "use `race`",
}
"""Keys that are meant to come -> what to do until then."""

SCHEDULERS = ("scheduler", "pruner", "asha", "median", "hyperband")
"""What stops a run in the middle of its stream, by the names that users know."""

Seed = Annotated[int, Field(ge=0, lt=2**63)]


class Race(Frozen):
    """When a setting needs no more replicates: the paired difference to the best one so far is clearly below zero.

    Attributes:
        z: standard errors that the mean difference must lie below zero.
    """

    z: float = Field(default=1.0, ge=0)


class Search(Frozen):
    """How settings of the sweep's methods are chosen.

    Attributes:
        trials: settings that each study tries; a mapping gives a number for each method.
        space: `method.setting` -> where to look: `spec` for the range of the method, a list, or a mapping; by default
            the ranges of all methods of the sweep.
        per: axes of the sweep; each combination of their values gets a study of its own. By default all axes.
        select: fields of the cells that choose, in place of those of the reported cells.
        oracle: whether settings are chosen on the reported domains, which no honest result is.
        objective: what is maximised, or minimised if it is an error.
        seeds: replicates of each setting, in the order in which they are raced.
        race: when a setting gets no more replicates; `none` for never.
        sampler: Optuna's sampler; `grid` tries all combinations of lists, integers and steps.
        cells: a study starts no further trial once its trials took so many cells.
        plateau: a study ends after so many trials without an improvement of more than one standard error.
        ahead: trials that run at once; trial k knows the results of trials 0 to k - `ahead`.
        first: settings that are tried before the sampler is asked: `presets`, `none`, or a list.
        diverged: what a setting counts whose network became infinite: as much as guessing, or nothing (`fail`).
        reported: what runs on the reported cells: the chosen settings alone, or also those of the sweep.
        max_failed: failed trials in a row that end a study.
    """

    trials: Annotated[int, Field(ge=1)] | dict[str, Annotated[int, Field(ge=1)]]
    space: dict[str, Any] | None = None
    per: list[str] | None = None
    select: dict[str, Any] = Field(default_factory=dict)
    oracle: bool = False
    objective: Objective = "accuracy"
    seeds: list[Seed] = Field(default=[1000, 1001, 1002], min_length=1)
    race: Literal["none"] | Race = Race()
    sampler: Sampler = "tpe"
    cells: int | None = Field(default=None, ge=1)
    plateau: int | None = Field(default=None, ge=1)
    ahead: int = Field(default=4, ge=1)
    first: Literal["presets", "none"] | list[dict[str, Any]] = "presets"
    diverged: Literal["chance", "fail"] = "chance"
    reported: Literal["best", "best+default"] = "best+default"
    max_failed: int = Field(default=5, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _say_what_is_not_built(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        for key in values:
            if key in NOT_BUILT:
                raise ValueError(f"{key} is not built yet: {NOT_BUILT[key]}")
            if key in SCHEDULERS:
                raise ValueError(
                    f"{key} is not offered: the first third of a stream does not rank methods (Kendall's tau of Tent "
                    "is -0.4), so stopping there picks the wrong setting; allowed is race, which compares whole "
                    "streams: race: {z: 1.0}"
                )
        for key, kind, why in (
            ("sampler", Sampler, "cmaes needs a package that this one does not; auto loads code over the network"),
            ("objective", Objective, "a list of several, and measures without labels, are not built yet"),
        ):
            given, allowed = values.get(key), kind.__args__  # type: ignore[attr-defined]
            if given is not None and given not in allowed:
                raise ValueError(str(unknown_name(key, given, allowed, f"({why})")))
        if values.get("reported") == "all":
            raise ValueError("reported = 'all' is not built yet: give best or best+default")
        return values

    @model_validator(mode="after")
    def _seeds_differ(self) -> Search:
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds = {self.seeds}: a seed is there twice; give each once")
        return self
