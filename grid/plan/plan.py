"""What a sweep would run: its cells, which of them have finished, how long the rest may take. Imports no torch."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from typing import Any, Protocol

from analysis.texts import counted
from grid.events import CellState
from grid.plan.backbones import backbone_uses
from grid.plan.expand import expand
from grid.plan.labels import cell_labels
from grid.plan.make_studies import plan_studies
from grid.plan.memory import gpu_lines, gpu_share, peak_of
from grid.plan.simulate import CELL_SECONDS, Outlook, Timings, duration, simulate
from grid.plan.studies import StudyPlan
from grid.plan.sweep import Resources, Sweep
from grid.plan.unused import unused
from tta_core.backbones.table import backbone_spec
from tta_core.errors import InputError
from tta_core.methods.registry import method_spec
from tta_core.methods.spec import NEEDS
from tta_core.run.config import RunConfig
from tta_core.streams.choice import StreamChoice

STARTUP_SECONDS = 20.0
"""Starting Ray and importing torch in the first workers: until the first cell of the quickstart, on two cores."""
CELL_BYTES, SAMPLE_BYTES = 40_000, 20
"""What a cell takes on disk, and each of its images."""
STREAM_OF = attrgetter(*StreamChoice.model_fields)
"""Takes from a cell what says which samples come when."""


class CellRecords(Protocol):
    """What is known of cells: a results folder, as far as a plan asks."""

    def states(self) -> Mapping[str, CellState]:
        """The cells that are there, and how they ended."""

    def timings(self) -> Timings:
        """What finished cells took."""


class Unread:
    """Records of nothing: of results that another machine reads."""

    def states(self) -> Mapping[str, CellState]:
        """None."""
        return {}

    def timings(self) -> Timings:
        """Nothing."""
        return Timings()


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
    """A sweep, expanded and held against a results folder.

    Attributes:
        sweep: the sweep.
        cells: cell id -> configuration, in order.
        states: how those cells ended that the folder has.
        labels: cell id -> short text of what sets the cell apart.
        seconds: cell id -> estimated seconds of its loop, for all cells.
        estimate: time for the cells that are left.
        duplicates, excluded: see `grid.plan.expand.Expansion`.
        needs: what cells need beyond the stream -> the methods that need it.
        studies: what chooses further settings, whose cells are not among these.
        search_loops: estimated seconds of the loop of each of their cells.
        beside_seconds: estimated seconds of each cell beside its loop.
        guessed: whether no finished cell says what one takes.
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
    studies: tuple[StudyPlan, ...] = ()
    search_loops: tuple[float, ...] = ()
    beside_seconds: float = CELL_SECONDS
    guessed: bool = True

    @cached_property
    def to_run(self) -> dict[str, RunConfig]:
        """The cells that are not finished; those that failed are tried again."""
        return {cell: config for cell, config in self.cells.items() if self.states.get(cell) != "done"}

    @cached_property
    def unused(self) -> list[str]:
        """What the sweep says and no cell uses, for people."""
        return unused(self.sweep, [*self.cells.values(), *(each for study in self.studies for each in study.choosing)])

    def next(self, states: Mapping[str, CellState]) -> dict[str, RunConfig]:
        """The cells that have not ended: a plan is a source of cells, see `grid.launch.queue.CellSource`.

        Whole seeds come first, so that a launch that is stopped has something to compare; in each the longest cell, so
        that none is left alone at the end.
        """
        left = {cell: config for cell, config in self.cells.items() if cell not in states}
        turn = {seed: number for number, seed in enumerate(self.sweep.seeds)}
        order = sorted(left, key=lambda cell: (turn.get(left[cell].seed, len(turn)), -self.seconds[cell]))
        return {cell: left[cell] for cell in order}

    @cached_property
    def resources(self) -> Resources:
        """What a trial gets at most: with `resources: auto` the share of the cell that needs most of a GPU."""
        given = self.sweep.resources
        if not given.auto:
            return given
        most = max((gpu_share(config, given) for config in self.all_kinds), default=1.0)
        return given.model_copy(update={"gpu": most})

    @property
    def search_seconds(self) -> float:
        """Estimated seconds of the loops of the studies' cells."""
        return sum(self.search_loops)

    @property
    def all_kinds(self) -> list[RunConfig]:
        """Cells that stand for all that a launch may run."""
        return [*self.to_run.values(), *(config for study in self.studies for config in study.choosing)]

    def outlook(self, gpus: float | None, failure_rate: float = 0.0, price: float | None = None) -> Outlook:
        """What the cells that are left would cost elsewhere.

        Args:
            gpus: GPUs on which a launch is replayed, or CPU slots if a cell takes no GPU; None for no replay.
            failure_rate: share of cells that die once.
            price: of an hour of a GPU, or of a slot.

        Raises:
            InputError: if not even one cell fits.
        """
        resources = self.sweep.resources
        ended: dict[str, CellState] = {cell: "done" for cell in self.cells if cell not in self.to_run}
        order = self.next(ended)
        loops = [self.seconds[cell] for cell in order]
        # Of cells with different shares the mean, weighed by how long they hold theirs.
        held = sum((gpu_share(config, resources) or 1.0) * self.seconds[cell] for cell, config in order.items())
        share = held / sum(loops) if order else self.resources.gpu or 1.0
        # What chooses comes first, as if none of it waited for another.
        seconds = [*self.search_loops, *loops]
        unit = "GPU" if resources.gpu or resources.auto else "slot"
        if gpus is None:
            return Outlook(None, unit, None, share * sum(seconds) / 3600, price, self.guessed)
        slots = min(int(gpus / share + 1e-9), resources.max_concurrent or sys.maxsize)
        if slots < 1:
            raise InputError(f"--simulate {gpus:g}: a cell takes {share:g} {unit}s: give at least as many")
        simulation = simulate(
            seconds, slots, startup=STARTUP_SECONDS, beside=self.beside_seconds, failure_rate=failure_rate
        )
        return Outlook(simulation, unit, gpus, gpus * simulation.wall_seconds / 3600, price, self.guessed)

    def may_stop(self, cell: str) -> bool:
        """Whether a cell may end without a result: none that reports."""
        return False

    def cost(self, cell: str) -> float:
        """Estimated seconds of a cell's loop."""
        return self.seconds[cell]

    @property
    def expected_cells(self) -> int:
        """Cells that are left."""
        return len(self.to_run)

    @property
    def expected_cost(self) -> float:
        """Estimated seconds of their loops."""
        return sum(self.seconds[cell] for cell in self.to_run)

    @property
    def expected_wall(self) -> float:
        """Estimated wall time on this machine in s."""
        return self.estimate.seconds

    def as_text(self) -> str:
        """The plan for people: a line a cell, the backbones, then the totals."""
        width = max(map(len, self.cells), default=4)
        lines = [f"{'cell':<{width}}  {'state':<6}  {'time':>7}  what sets it apart"]
        for cell, label in self.labels.items():
            state, time = self.states.get(cell, "new"), duration(self.seconds[cell])
            lines.append(f"{cell:<{width}}  {state:<6}  {time:>7}  {label}")
        done, left = len(self.cells) - len(self.to_run), len(self.to_run)
        totals = [f"sweep {self.sweep.sweep}: {counted(len(self.cells), 'cell')}, {done} done, {left} to run"]
        totals += [f"{self.duplicates} combinations are the same cell as another"] if self.duplicates else []
        totals += [f"{self.excluded} combinations are excluded"] if self.excluded else []
        estimate = f"about {duration(self.estimate.seconds)} ({self.estimate.basis})"
        needed = "; ".join(f"{need} ({', '.join(who)})" for need, who in self.needs.items())
        beyond = [f"beyond the stream: {needed}"] if needed else []
        beyond += gpu_lines(self.all_kinds, self.sweep.resources)
        beyond += [f"disk: about {self.disk_mib:.0f} MiB of results"] if self.to_run else []
        backbones = [line for use in backbone_uses(self.cells.values()) for line in use.lines()]
        idle = [f"not used: {each}" for each in self.unused]
        return "\n".join(
            [*lines, "", *backbones, "", *self._study_lines(), "; ".join(totals), *idle, *beyond, estimate]
        )

    def _study_lines(self) -> list[str]:
        if not self.studies:
            return []
        chosen = sum(study.reported_cells for study in self.studies)
        cells = sum(study.expected_cells + len(study.all_references) for study in self.studies)
        total = (
            f"search: {counted(len(self.studies), 'study')}, about {cells} cells that choose and {chosen} that report "
            f"what comes out, {duration(self.search_seconds)} of loops"
        )
        return [*(line for study in self.studies for line in [*study.lines(), ""]), total]

    @property
    def disk_mib(self) -> float:
        """What the results of the cells that are left take on disk, about, in MiB."""
        images = sum(config.num_samples for config in self.to_run.values())
        return (CELL_BYTES * len(self.to_run) + SAMPLE_BYTES * images) / 2**20

    def _gpu_values(self, config: RunConfig) -> dict[str, Any]:
        if not self.sweep.resources.auto:
            return {}
        peak = peak_of(config)
        share = gpu_share(config, self.sweep.resources)
        return {"gpu": {"share": share, "peak_mib": round(peak.mib), "basis": peak.basis}}

    def as_json(self, outlook: Outlook | None = None) -> str:
        """The plan for machines, and what it would cost elsewhere."""
        cells = [
            {
                "cell": cell,
                "state": self.states.get(cell, "new"),
                "exists": self.states.get(cell) == "done",
                "estimated_seconds": round(self.seconds[cell], 2),
                **self._gpu_values(config),
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
                "unused": self.unused,
                "needs": self.needs,
                "backbones": [use.values() for use in backbone_uses(self.cells.values())],
                "estimated_seconds": round(self.estimate.seconds, 1),
                "estimate_basis": self.estimate.basis,
                "results_mib": round(self.disk_mib, 1),
                **({"studies": [study.values() for study in self.studies]} if self.studies else {}),
                **(outlook.values() if outlook else {}),
                "cells": cells,
            },
            indent=2,
        )


def make_plan(sweep: Sweep, records: CellRecords) -> Plan:
    """Expands a sweep, looks up its cells in the records and estimates the time for the rest.

    Args:
        sweep: the sweep.
        records: what is known of cells: a results folder.
    """
    expansion = expand(sweep)
    studies = plan_studies(sweep, expansion.cells.values())
    cells = expansion.cells
    if sweep.search is not None and sweep.search.reported == "best":
        searched = {config.cell_id() for study in studies for config in study.reported({})}
        cells = {cell: config for cell, config in cells.items() if cell not in searched}
    known = records.states()
    states = {cell: known[cell] for cell in cells if cell in known}
    timings = records.timings() if "done" in known.values() else Timings()
    measured = _with_units(timings.per_image)
    beside = CELL_SECONDS if timings.beside_loops is None else timings.beside_loops
    seconds = _cell_seconds(cells, measured)
    left = [seconds[cell] for cell in cells if states.get(cell) != "done"]
    basis = "from finished cells" if measured else "nominal for CPU cores, nothing measured yet"
    slots = _slots(sweep.resources)
    searching = [seconds for study in studies for seconds in _search_loops(study, measured)]
    wall = max(sum(each + beside for each in [*left, *searching]) / slots, max(left, default=0.0))
    wall += STARTUP_SECONDS if left or searching else 0.0
    return Plan(
        sweep=sweep,
        cells=cells,
        states=states,
        labels=cell_labels(cells),
        seconds=seconds,
        estimate=Estimate(wall, f"{basis}; {slots} at once on this machine"),
        duplicates=expansion.duplicates,
        excluded=expansion.excluded,
        needs=_needs(expansion.cells.values()),
        studies=studies,
        search_loops=tuple(searching),
        beside_seconds=beside,
        guessed=not measured,
    )


def _needs(cells: Iterable[RunConfig]) -> dict[str, list[str]]:
    """What cells need beyond the stream, in the order of `NEEDS` -> the methods that need it."""
    found: dict[str, set[str]] = {}
    for config in cells:
        needed = found.setdefault(config.method, set())
        # Most cells need not be asked: their method needs nothing, or all of it was found.
        if needed != set(config.method_spec.needs):
            needed.update(config.needs())
    who = {need: [method for method, needed in found.items() if need in needed] for need in NEEDS}
    return {need: methods for need, methods in who.items() if methods}


def _with_units(costs: Mapping[tuple[str, str], float]) -> dict[tuple[str, str], float]:
    """Seconds per image by (method, backbone), and by ("", backbone) those per image and source forward."""
    units: dict[str, list[float]] = {}
    for (method, backbone), seconds in costs.items():
        spec = method_spec(method, backbone_spec(backbone).task)
        if spec.cost_with is None:  # Else the settings say what was measured.
            units.setdefault(backbone, []).append(seconds / spec.relative_cost)
    return {**costs, **{("", backbone): sum(each) / len(each) for backbone, each in units.items()}}


def _cell_seconds(cells: Mapping[str, RunConfig], measured: Mapping[tuple[str, str], float]) -> dict[str, float]:
    """Estimated seconds of each cell's loop."""
    # Many cells have one stream, and counting its samples takes longer than all else here.
    images: dict[tuple[object, ...], int] = {}
    seconds = {}
    for cell, config in cells.items():
        stream = STREAM_OF(config)
        if stream not in images:
            images[stream] = config.num_samples
        per_image = measured.get((config.method, config.backbone))
        if per_image is None:
            forward = measured.get(("", config.backbone), backbone_spec(config.backbone).forward_ms / 1000)
            spec = config.method_spec
            per_image = forward * (spec.cost_of(config.method_settings()) if spec.cost_with else spec.relative_cost)
        seconds[cell] = images[stream] * per_image
    return seconds


def _search_loops(study: StudyPlan, measured: Mapping[tuple[str, str], float]) -> list[float]:
    """Estimated seconds of the loop of each cell of a study: of those that choose, then of those that report."""
    seconds: list[float] = []
    for cells, number in ((study.choosing, study.expected_cells), (study.points, study.reported_cells)):
        each = _cell_seconds({str(place): config for place, config in enumerate(cells)}, measured).values()
        seconds += [sum(each) / len(each)] * round(number)
    return seconds


def _slots(resources: Resources) -> int:
    slots = max(1, int((os.cpu_count() or 1) / resources.cpu))
    return min(slots, resources.max_concurrent or slots)
