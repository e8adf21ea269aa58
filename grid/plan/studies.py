"""The studies of a sweep with `search:`: what is looked for where, on which cells, and how many. Imports no optuna."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from grid.plan.search import Search
from grid.plan.search_fit import check_seeds, check_select, check_trials, given_spaces, study_keys
from grid.plan.space import Dimension, read_dimensions
from grid.plan.sweep import Sweep
from tta_core.errors import InputError
from tta_core.methods.spec import HELD_OUT_IMAGES
from tta_core.run.config import RunConfig, canonical_hash

RACED_SHARE = 0.75
"""Cells that racing leaves of all, measured over 84 settings with three seeds."""

SHORT = 0.9
"""Below this share of the reported length a setting that collapses late cannot be seen."""

DEFAULT = "the sweep's settings"
"""Where the settings come from that the sweep gives a method without a search."""

Settings = dict[str, Any]


@dataclass(frozen=True)
class Instance:
    """One replicate of a trial: a cell.

    Attributes:
        seed: the seed.
        point: number of the point in the study.
        config: the cell.
        cell: its id.
    """

    seed: int
    point: int
    config: RunConfig

    @cached_property
    def cell(self) -> str:
        """The cell's id."""
        return self.config.cell_id()


@dataclass(frozen=True)
class StudyPlan:
    """One study: cells of a sweep that share their chosen settings.

    Attributes:
        sweep: name of the sweep.
        search: how settings are chosen.
        method: the method.
        per: what sets the study apart: axis -> value.
        points: the reported cells under the seed 0, with the sweep's own settings.
        choosing: the cells that choose in their place, likewise.
        seeds: the reported seeds.
        space: the ranges, those that others depend on first.
        first: settings that are tried first: where they come from -> values of the searched settings.
        notes: what a user should know of the ranges.
    """

    sweep: str
    search: Search
    method: str
    per: Mapping[str, Any]
    points: tuple[RunConfig, ...]
    choosing: tuple[RunConfig, ...]
    seeds: tuple[int, ...]
    space: tuple[Dimension, ...]
    first: Mapping[str, Settings]
    notes: tuple[str, ...] = field(default=())

    @cached_property
    def definition(self) -> dict[str, Any]:
        """What decides which settings are tried and how they are judged. Budgets are no part of it."""
        search = self.search
        return {
            "method": self.method,
            "choosing": [config.cell_id() for config in self.choosing],
            "space": [json.loads(each.model_dump_json(exclude_defaults=True)) for each in self.space],
            "first": dict(self.first),
            **json.loads(search.model_dump_json(include=set(DEFINING))),
        }

    @cached_property
    def name(self) -> str:
        """Sweep, what sets the study apart, and twelve digits of a hash of its definition."""
        words = [self.sweep, *(str(value) for value in self.per.values())]
        head = ".".join(re.sub(r"[^A-Za-z0-9_-]+", "-", word) for word in words)[:100]
        return f"{head}.{canonical_hash(self.definition)}"

    @cached_property
    def trials(self) -> int:
        """Settings that are tried: those asked for, or all combinations where there are fewer."""
        trials = self.search.trials
        asked = trials[self.method] if isinstance(trials, dict) else trials
        return asked if self.combinations is None else min(asked, len(self.first) + self.combinations)

    @cached_property
    def combinations(self) -> int | None:
        """How many settings the sampler `grid` tries; None for other samplers."""
        if self.search.sampler != "grid":
            return None
        return math.prod(len(each.grid() or ()) for each in self.space)

    @cached_property
    def length_ratio(self) -> float:
        """Samples of the choosing streams for each of the reported ones."""
        return sum(each.num_samples for each in self.choosing) / sum(each.num_samples for each in self.points)

    @cached_property
    def rule(self) -> str:
        """How the settings are chosen, in a word."""
        return "oracle" if self.search.oracle else "held-out"

    def instances(self, settings: Mapping[str, Any]) -> list[Instance]:
        """The cells that judge settings, in the order in which they are raced: seeds slowest.

        Raises:
            InputError: if the method does not take these settings.
        """
        made = [_with_settings(config, settings) for config in self.choosing]
        return [
            Instance(seed, number, config.model_copy(update={"seed": seed}))
            for seed in self.search.seeds
            for number, config in enumerate(made)
        ]

    def reported(self, settings: Mapping[str, Any]) -> list[RunConfig]:
        """The cells that report settings."""
        made = [_with_settings(config, settings) for config in self.points]
        return [config.model_copy(update={"seed": seed}) for seed in self.seeds for config in made]

    @property
    def most_cells(self) -> int:
        """Cells that all trials need if none is raced out."""
        return self.trials * len(self.search.seeds) * len(self.choosing)

    @property
    def expected_cells(self) -> int:
        """Cells that the trials will need, about."""
        raced = isinstance(self.search.race, str) or len(self.search.seeds) * len(self.choosing) < 2
        return self.most_cells if raced else math.ceil(self.most_cells * RACED_SHARE)

    def lines(self) -> list[str]:
        """For people."""
        domains = list(dict.fromkeys(name for config in self.choosing for name in config.domains))
        shown = ", ".join(domains) if len(domains) <= 4 else f"{len(domains)} domains"
        samples = sum(config.num_samples for config in self.choosing)
        facts = [
            ("space", f"{len(self.space)} settings: {'; '.join(each.text() for each in self.space)}"),
            ("chosen on", f"{shown}{' (ORACLE)' if self.search.oracle else ''}: {samples:,} samples, "
             f"{self.length_ratio:.2f} of the reported length; seeds {', '.join(map(str, self.search.seeds))}"),
            ("trials", f"{self.trials} x {len(self.search.seeds) * len(self.choosing)} cells, about "
             f"{self.expected_cells} after racing; first: {', '.join(self.first) or 'none'}"),
        ]  # fmt: skip
        return [
            f"study {self.name}",
            *(f"  {name:<10}{what}" for name, what in facts),
            *(f"  {'note':<10}{note}" for note in self.notes),
        ]

    def values(self) -> dict[str, Any]:
        """For machines."""
        return {
            "study": self.name,
            "per": dict(self.per),
            "trials": self.trials,
            "most_cells": self.most_cells,
            "expected_cells": self.expected_cells,
            "length_ratio": round(self.length_ratio, 4),
            "notes": list(self.notes),
            "definition": self.definition,
        }


DEFINING = ("oracle", "objective", "seeds", "race", "sampler", "ahead", "diverged")
"""Keys of `search:` that are part of a study's definition as they stand."""


def plan_studies(sweep: Sweep, cells: Iterable[RunConfig]) -> tuple[StudyPlan, ...]:
    """The studies of a sweep; none if it has no `search:`.

    Args:
        sweep: the sweep.
        cells: its cells.

    Raises:
        InputError: for anything in `search:` that does not fit the sweep, its methods or their settings.
    """
    search = sweep.search
    if search is None:
        return ()
    where = f"sweep {sweep.sweep!r}: search"
    configs = list(cells)
    methods = list(dict.fromkeys(config.method for config in configs))
    given = given_spaces(search, methods, sweep, where=where)
    check_select(search, where=where)
    check_trials(search, given, where=where)
    check_seeds(search, sweep, where=where)
    per = study_keys(search, sweep, where=where)
    studies = []
    for values, points in _groups(configs, per).items():
        method = points[0].method
        if given.get(method):
            studies.append(_study(sweep, search, dict(zip(per, values, strict=True)), points, given[method], where))
    return tuple(studies)


def _study(
    sweep: Sweep,
    search: Search,
    per: Mapping[str, Any],
    configs: Sequence[RunConfig],
    given: Mapping[str, Any],
    where: str,
) -> StudyPlan:
    points = list({config.model_copy(update={"seed": 0}).cell_id(): config for config in configs}.values())
    points = [config.model_copy(update={"seed": 0}) for config in points]
    spec, fixed, notes = points[0].method_spec, points[0].settings, list[str]()
    space = read_dimensions(given, spec, fixed, where=f"{where}: space")
    if search.sampler == "grid":
        for each in space:
            if each.grid() is None or each.when:
                raise InputError(
                    f"{where}: space: {spec.name}.{each.name}: the sampler grid tries all values, and here is "
                    f"{each.text()}: give a list, or a step, without when; or another sampler"
                )
    first, space = _first(search, spec.name, points[0], space, notes, where)
    choosing = [_choosing(config, search, where) for config in points]
    made = StudyPlan(
        sweep=sweep.sweep,
        search=search,
        method=spec.name,
        per=per,
        points=tuple(points),
        choosing=tuple(choosing),
        seeds=tuple(dict.fromkeys(config.seed for config in configs)),
        space=space,
        first=first,
        notes=tuple(notes),
    )
    if len(first) >= made.trials:
        notes.append(
            f"{len(first)} settings come first, so the sampler has nothing to do: raise trials, or give first: none"
        )
    if made.length_ratio < SHORT:
        notes.append("the choosing stream is shorter than the reported one: a setting that collapses late is not seen")
    if not search.oracle and any(HELD_OUT_IMAGES in config.needs() for config in choosing):
        notes.append(f"{spec.name} is itself prepared from held-out corruptions: it is chosen on what it has seen")
    return replace(made, notes=tuple(notes))


def _choosing(config: RunConfig, search: Search, where: str) -> RunConfig:
    """The cell that chooses in place of a reported one."""
    honest = {} if search.oracle else {"domains": "held-out", "samples_per_domain": "match"}
    select = honest | search.select
    match = select.get("samples_per_domain") == "match"
    values = config.model_dump() | {name: value for name, value in select.items() if value != "match"}
    if match or (search.oracle and "domains" in search.select and "samples_per_domain" not in search.select):
        values.pop("samples_per_domain")
    try:
        found = RunConfig.from_values(values)
        longest = found.num_samples
    except InputError as error:
        raise InputError(f"{where}: the cells that choose are not allowed: {error}. Change `select`") from None
    if not search.oracle and (shared := set(found.domains) & set(config.domains)):
        raise InputError(
            f"{where}: select has domains that are also reported: {', '.join(sorted(shared))}. A setting chosen there "
            "is chosen with the labels that it is judged by: give others, such as held-out, or oracle: true"
        )
    if not match or longest <= config.num_samples:
        return found
    low, high = 1, found.samples_per_domain
    while low < high:
        middle = (low + high) // 2
        enough = found.model_copy(update={"samples_per_domain": middle}).num_samples >= config.num_samples
        low, high = (low, middle) if enough else (middle + 1, high)
    return found.model_copy(update={"samples_per_domain": low})


def _first(
    search: Search, method: str, point: RunConfig, space: tuple[Dimension, ...], notes: list[str], where: str
) -> tuple[dict[str, Settings], tuple[Dimension, ...]]:
    """Settings that are tried first, each once, and the ranges with what these add to them."""
    if search.first == "none":
        return {}, space
    spec, dimensions = point.method_spec, dict[str, Dimension]()
    dimensions |= {each.name: each for each in space}
    candidates = dict[str, Mapping[str, Any]]()
    if search.first == "presets":
        candidates[DEFAULT] = point.settings
        for preset in spec.preset_names():
            own = spec.resolve(preset, {}).model_dump(mode="json")
            candidates[f"preset {preset}"] = point.settings | {name: own[name] for name in dimensions}
    else:
        for number, entry in enumerate(search.first):
            own = {key.partition(".")[2]: value for key, value in entry.items() if key.startswith(f"{method}.")}
            for name in own:
                if name not in dimensions:
                    raise InputError(f"{where}: first: {method}.{name} is not in the space: put it in, or leave it out")
            if own:
                candidates[f"given {number}"] = point.settings | own
    found = dict[str, Settings]()
    for origin, settings in candidates.items():
        wider = _containing(dimensions, settings)
        if wider is None:
            if search.first != "presets":
                raise InputError(f"{where}: first: entry {origin.split()[-1]} is outside the space: widen it")
            notes.append(f"{origin} is left out: it has values that are not in the space")
            continue
        for name, each in wider.items():
            if each != dimensions[name]:
                notes.append(f"the range of {name} is extended to {settings[name]:g}, for {origin}")
        dimensions = wider
        values: Settings = {}
        for each in dimensions.values():
            if each.holds({**point.settings, **values}):
                values[each.name] = settings[each.name]
        if values not in found.values():
            found[origin] = values
    return found, tuple(dimensions.values())


def _containing(dimensions: Mapping[str, Dimension], settings: Mapping[str, Any]) -> dict[str, Dimension] | None:
    """The ranges, extended so that they contain settings; None if they cannot be."""
    found = {}
    for name, each in dimensions.items():
        wider = each if each.contains(settings[name]) or not each.holds(settings) else each.extended(settings[name])
        if wider is None:
            return None
        found[name] = wider
    return found


def _groups(configs: Sequence[RunConfig], per: Sequence[str]) -> dict[tuple[Any, ...], list[RunConfig]]:
    groups: dict[tuple[Any, ...], list[RunConfig]] = {}
    for config in configs:
        groups.setdefault(tuple(_plain(_axis_value(config, key)) for key in per), []).append(config)
    return groups


def _axis_value(config: RunConfig, key: str) -> Any:
    method, dot, setting = key.partition(".")
    if dot:
        return config.settings[setting] if method == config.method else None
    return config.weights_tag() if key == "weights" else getattr(config, key)


def _plain(value: Any) -> Any:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else value


def _with_settings(config: RunConfig, settings: Mapping[str, Any]) -> RunConfig:
    if not settings:
        return config
    return RunConfig.from_values(config.model_dump() | {"settings": config.settings | dict(settings)})


def settings_text(settings: Mapping[str, Any]) -> str:
    """Settings for a label."""
    words = {name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in settings.items()}
    return " ".join(f"{name}={word}" for name, word in words.items())
