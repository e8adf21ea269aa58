"""What a sweep would run: its cells, which of them the store has, how long the rest may take. Imports no torch."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from grid.plan.backbones import backbone_uses
from grid.plan.expand import expand
from grid.plan.sweep import Resources, Sweep
from grid.store.store import CellState, ResultStore
from tta_core.backbones.table import backbone_spec
from tta_core.methods.registry import method_spec
from tta_core.methods.spec import NEEDS
from tta_core.run.config import RunConfig

STARTUP_SECONDS = 20.0
"""Starting Ray and importing torch in the first workers: until the first cell of the quickstart, on two cores."""


@dataclass(frozen=True)
class Estimate:
    """Time for the cells that are left.

    Attributes:
        seconds: wall time on this machine, in s.
        basis: what the estimate rests on.
    """

    seconds: float
    basis: str


@dataclass(frozen=True)
class Plan:
    """A sweep, expanded and held against a store.

    Attributes:
        sweep: the sweep.
        cells: cell id -> configuration, in order.
        states: state of those cells that the store has.
        labels: cell id -> short text of what sets the cell apart.
        seconds: cell id -> estimated seconds of its loop, for all cells.
        estimate: time for the cells that are left.
        duplicates, excluded: see `grid.plan.expand.Expansion`.
        needs: what cells need beyond the stream -> the methods that need it.
    """

    sweep: Sweep
    cells: dict[str, RunConfig]
    states: dict[str, CellState]
    labels: dict[str, str]
    seconds: dict[str, float]
    estimate: Estimate
    duplicates: int
    excluded: int
    needs: dict[str, list[str]]

    @property
    def to_run(self) -> dict[str, RunConfig]:
        """The cells that are not finished; those that failed are tried again."""
        return {cell: config for cell, config in self.cells.items() if self.states.get(cell) != "done"}

    def as_text(self) -> str:
        """The plan for people: a line a cell, the backbones, then the totals."""
        width = max(map(len, self.cells))
        lines = [f"{'cell':<{width}}  {'state':<6}  {'time':>7}  what sets it apart"]
        for cell, label in self.labels.items():
            state, time = self.states.get(cell, "new"), duration(self.seconds[cell])
            lines.append(f"{cell:<{width}}  {state:<6}  {time:>7}  {label}")
        done, left = len(self.cells) - len(self.to_run), len(self.to_run)
        totals = [f"sweep {self.sweep.sweep}: {len(self.cells)} cells, {done} done, {left} to run"]
        totals += [f"{self.duplicates} combinations are the same cell as another"] if self.duplicates else []
        totals += [f"{self.excluded} combinations are excluded"] if self.excluded else []
        estimate = f"about {duration(self.estimate.seconds)} ({self.estimate.basis})"
        needed = "; ".join(f"{need} ({', '.join(who)})" for need, who in self.needs.items())
        beyond = [f"beyond the stream: {needed}"] if needed else []
        backbones = [line for use in backbone_uses(self.cells.values()) for line in use.lines()]
        return "\n".join([*lines, "", *backbones, "", "; ".join(totals), *beyond, estimate])

    def as_json(self) -> str:
        """The plan for machines."""
        cells = [
            {
                "cell": cell,
                "state": self.states.get(cell, "new"),
                "exists": self.states.get(cell) == "done",
                "estimated_seconds": round(self.seconds[cell], 2),
                "needs": list(config.needs()),
                "config": config.model_dump(mode="json"),
            }
            for cell, config in self.cells.items()
        ]
        return json.dumps(
            {
                "sweep": self.sweep.sweep,
                "total": len(self.cells),
                "to_run": len(self.to_run),
                "duplicates": self.duplicates,
                "excluded": self.excluded,
                "needs": self.needs,
                "backbones": [use.values() for use in backbone_uses(self.cells.values())],
                "estimated_seconds": round(self.estimate.seconds, 1),
                "estimate_basis": self.estimate.basis,
                "cells": cells,
            },
            indent=2,
        )


def duration(seconds: float) -> str:
    """Seconds as `0:42`, `12:05` or `3:07:00`."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def make_plan(sweep: Sweep, store: ResultStore) -> Plan:
    """Expands a sweep, looks up its cells in the store and estimates the time for the rest."""
    expansion = expand(sweep)
    known = store.states()
    states = {cell: known[cell] for cell in expansion.cells if cell in known}
    measured = _measured_costs(store) if "done" in known.values() else {}
    seconds = {cell: _cell_seconds(config, measured) for cell, config in expansion.cells.items()}
    left = [seconds[cell] for cell in expansion.cells if states.get(cell) != "done"]
    basis = "from finished cells" if measured else "nominal for CPU cores, nothing measured yet"
    slots = _slots(sweep.resources)
    wall = max(sum(left) / slots, max(left, default=0.0)) + (STARTUP_SECONDS if left else 0.0)
    return Plan(
        sweep=sweep,
        cells=expansion.cells,
        states=states,
        labels=cell_labels(expansion.cells),
        seconds=seconds,
        estimate=Estimate(wall, f"{basis}; {slots} at once on this machine"),
        duplicates=expansion.duplicates,
        excluded=expansion.excluded,
        needs=_needs(expansion.cells.values()),
    )


def _needs(cells: Iterable[RunConfig]) -> dict[str, list[str]]:
    """What cells need beyond the stream, in the order of `NEEDS` -> the methods that need it."""
    found = [(config.method, config.needs()) for config in cells]
    who = {need: list(dict.fromkeys(method for method, needs in found if need in needs)) for need in NEEDS}
    return {need: methods for need, methods in who.items() if methods}


def cell_labels(cells: Mapping[str, RunConfig]) -> dict[str, str]:
    """For each cell its method and whatever varies in the sweep: its method's settings, other fields, the seed."""
    flat = {cell: _flat(config) for cell, config in cells.items()}
    seen: dict[tuple[str, str], set[str]] = {}
    for values in flat.values():
        for key, value in values.items():
            for scope in (values["method"], ""):
                seen.setdefault((scope, key), set()).add(value)
    labels = {}
    for cell, values in flat.items():
        varying = [
            key
            for key in values
            if key != "method" and len(seen["" if key in RunConfig.model_fields else values["method"], key]) > 1
        ]
        labels[cell] = " ".join([values["method"], *(f"{key}={values[key]}" for key in varying)])
    return labels


def _flat(config: RunConfig) -> dict[str, str]:
    values: dict[str, Any] = config.model_dump(mode="json", exclude={"settings", "seed"})
    values["weights"] = config.own_weights.tag() if config.own_weights else "default"
    values = {"method": values.pop("method")} | config.settings | values | {"seed": config.seed}
    return {key: f"{value:g}" if isinstance(value, float) else str(value) for key, value in values.items()}


def _measured_costs(store: ResultStore) -> dict[tuple[str, str], float]:
    """(method, backbone) -> seconds per image, and ("", backbone) -> seconds per image and source forward."""
    from analysis.results.load import open_results

    rows = (
        open_results(store.folder)
        .sql("select method, backbone, sum(seconds) / sum(n_samples) from cells where status = 'done' group by all")
        .fetchall()
    )
    costs = {(method, backbone): seconds for method, backbone, seconds in rows}
    for backbone in {backbone for _, backbone, _ in rows}:
        units = [s / method_spec(m).relative_cost for m, b, s in rows if b == backbone]
        costs["", backbone] = sum(units) / len(units)
    return costs


def _cell_seconds(config: RunConfig, measured: Mapping[tuple[str, str], float]) -> float:
    images = config.num_samples
    if (config.method, config.backbone) in measured:
        return images * measured[config.method, config.backbone]
    forward = measured.get(("", config.backbone), backbone_spec(config.backbone).forward_ms / 1000)
    return images * forward * method_spec(config.method).relative_cost


def _slots(resources: Resources) -> int:
    slots = max(1, int((os.cpu_count() or 1) / resources.cpu))
    return min(slots, resources.max_concurrent or slots)
