"""One study of a sweep with `search:`: what is looked for where, on which cells, and how many. Imports no optuna."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from analysis.texts import counted
from grid.plan.objectives import OBJECTIVES, Reads
from grid.plan.search import Search
from grid.plan.space import PRESET, Dimension
from tta_core.data.benchmarks import CLEAN
from tta_core.run.config import RunConfig, canonical_hash

RACED_SHARE = 0.75
"""Cells that racing leaves of all, measured over 84 settings with three seeds."""

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
        whole: whether its stream is the whole choosing one, and no shorter one of a ladder.
        cell: its id.
    """

    seed: int
    point: int
    config: RunConfig
    whole: bool = True

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
        rungs: the choosing cells on the shorter streams of a ladder, the shortest first.
        warm: results folder -> cells that are copied from there, of settings that are tried first.
        known: how many settings these are.
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
    rungs: tuple[tuple[RunConfig, ...], ...] = ()
    warm: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    known: int = 0
    notes: tuple[str, ...] = ()

    @cached_property
    def definition(self) -> dict[str, Any]:
        """What decides which settings are tried and how they are judged. Budgets are no part of it."""
        search = self.search
        unused = {name for name in ("constraints", "ladder") if not getattr(search, name)}
        return {
            "method": self.method,
            "choosing": [config.cell_id() for config in self.choosing],
            "space": [json.loads(each.model_dump_json(exclude_defaults=True)) for each in self.space],
            "first": dict(self.first),
            **json.loads(search.model_dump_json(include=set(DEFINING) - unused)),
        }

    @cached_property
    def name(self) -> str:
        """Sweep, what sets the study apart, and twelve digits of a hash of its definition."""
        words = [self.sweep, *(str(value) for value in self.per.values())]
        head = ".".join(re.sub(r"[^A-Za-z0-9_-]+", "-", word) for word in words)[:100]
        return f"{head}.{canonical_hash(self.definition)}"

    @cached_property
    def trials(self) -> int:
        """Settings that are tried: those asked for, or all combinations where there are fewer, and those known."""
        asked = self.known + self.search.trials_of(self.method)
        return asked if self.combinations is None else min(asked, len(self.first) + self.combinations)

    @cached_property
    def combinations(self) -> int | None:
        """How many settings the sampler `grid` tries; None for other samplers."""
        if self.search.sampler_name != "grid":
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

    @cached_property
    def own_settings(self) -> Settings:
        """What the sweep gives the searched settings."""
        point = self.points[0]
        return {each.name: point.preset if each.name == PRESET else point.settings[each.name] for each in self.space}

    @cached_property
    def reads(self) -> frozenset[Reads]:
        """What its measures need beside the cells that choose."""
        found = {OBJECTIVES[name].reads for name in self.search.measures}
        return frozenset(each for each in found if each is not None)

    def instances(self, settings: Mapping[str, Any]) -> list[Instance]:
        """The cells that judge settings, in the order in which they are raced: shorter streams first, seeds slowest.

        Raises:
            InputError: if the method does not take these settings.
        """
        return [
            Instance(seed, number, config.model_copy(update={"seed": seed}), whole=configs is self.choosing)
            for configs in (*self.rungs, self.choosing)
            for made in [[_with_settings(config, settings) for config in configs]]
            for seed in self.search.seeds
            for number, config in enumerate(made)
        ]

    def references(self, config: RunConfig) -> dict[Reads, RunConfig]:
        """The cells without adaptation that a choosing cell is compared with."""
        wanted: set[Reads] = {each for each in self.reads if each != "outputs"}
        if self.search.stop_collapsed:
            wanted.add("source")
        found: dict[Reads, RunConfig] = {}
        for name in sorted(wanted):
            key = (name, config.seed, config.stream, config.domains, config.samples_per_domain)
            if key not in self._references:
                self._references[key] = unadapted(config, clean=name == "clean")
            found[name] = self._references[key]
        return found

    @cached_property
    def _references(self) -> dict[tuple[object, ...], RunConfig]:
        return {}

    @cached_property
    def all_references(self) -> dict[str, RunConfig]:
        """The cells without adaptation that this study needs: id -> configuration."""
        configs = [config for each in (*self.rungs, self.choosing) for config in each]
        return {
            made.cell_id(): made
            for seed in self.search.seeds
            for config in configs
            for made in self.references(config.model_copy(update={"seed": seed})).values()
        }

    def reported(self, settings: Mapping[str, Any]) -> list[RunConfig]:
        """The cells that report settings."""
        made = [_with_settings(config, settings) for config in self.points]
        return [config.model_copy(update={"seed": seed}) for seed in self.seeds for config in made]

    @property
    def cells_of_a_trial(self) -> int:
        """Cells that judge one setting, if it is not raced out."""
        return len(self.search.seeds) * len(self.choosing) * (1 + len(self.rungs))

    @property
    def reported_cells(self) -> int:
        """Cells that report what comes out, about: of all trials, or of one chosen setting."""
        return len(self.points) * len(self.seeds) * (self.trials if self.search.reported == "all" else 1)

    @property
    def most_cells(self) -> int:
        """Cells that all trials need if none is raced out."""
        return self.trials * self.cells_of_a_trial

    @property
    def expected_cells(self) -> int:
        """Cells that the trials will need, about."""
        raced = self.search.racing is not None and self.cells_of_a_trial > 1
        return math.ceil(self.most_cells * RACED_SHARE) if raced else self.most_cells

    def lines(self) -> list[str]:
        """For people."""
        search = self.search
        domains = list(dict.fromkeys(name for config in self.choosing for name in config.domains))
        shown = ", ".join(domains) if len(domains) <= 4 else f"{len(domains)} domains"
        samples = sum(config.num_samples for config in self.choosing)
        facts = [
            ("space", "; ".join(each.text() for each in self.space)),
            ("chosen on", f"{shown}{' (ORACLE)' if search.oracle else ''}: {samples:,} samples, "
             f"{self.length_ratio:.2f} of the reported length; seeds {', '.join(map(str, search.seeds))}"),
            ("chosen by", ", ".join([*search.objectives, *(each.text for each in search.constraints)])),
            ("trials", f"{self.trials} x {counted(self.cells_of_a_trial, 'cell')}"
             + (f", about {self.expected_cells} after racing" if self.expected_cells < self.most_cells else "")
             + f"; first: {', '.join(self.first) or 'none'}"),
        ]  # fmt: skip
        if search.ladder:
            facts.append(("ladder", f"{', '.join(map(str, search.ladder))} samples per domain before the whole stream"))
        if search.hours is not None:
            facts.append(("hours", f"{search.hours:g} of a launch: how many trials that are depends on the machine"))
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


DEFINING = (
    *("oracle", "objective", "constraints", "seeds", "race", "ladder", "sampler", "ahead", "diverged"),
    "stop_collapsed",
)
"""Keys of `search:` that are part of a study's definition as they stand."""


def unadapted(config: RunConfig, *, clean: bool = False) -> RunConfig:
    """The cell that adapts nothing on the stream of another, or on all clean images.

    Raises:
        InputError: if the benchmark has no clean images.
    """
    values = config.model_dump() | {"method": "source", "preset": "recommended", "settings": {}, "diagnostics": "none"}
    if clean:
        values |= {"domains": [CLEAN], "stream": "mixed", "seed": 0}
        values.pop("samples_per_domain")
    return RunConfig.from_values(values)


def _with_settings(config: RunConfig, settings: Mapping[str, Any]) -> RunConfig:
    if not settings:
        return config
    own, preset = dict(settings), config.preset
    base: Mapping[str, Any] = config.settings
    if PRESET in own:
        # What the sweep itself set stays.
        spec, preset = config.method_spec, own.pop(PRESET)
        plain = spec.resolve(config.preset, {}).model_dump(mode="json")
        given = {name: value for name, value in config.settings.items() if value != plain[name]}
        base = spec.resolve(preset, given).model_dump(mode="json")
    return RunConfig.from_values(config.model_dump() | {"preset": preset, "settings": {**base, **own}})


def settings_text(settings: Mapping[str, Any]) -> str:
    """Settings for a label."""
    words = {name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in settings.items()}
    return " ".join(f"{name}={word}" for name, word in words.items())
