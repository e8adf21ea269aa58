"""Logs a results folder in MLflow without a launch: what was fetched, or what an MLflow that was down missed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from analysis.results.load import open_results, rows
from grid.plan.labels import cell_labels
from grid.plan.plan import Estimate, Plan
from grid.plan.sweep import Sweep, Tracking
from grid.store.store import ResultStore
from grid.track.mlflow import MlflowMirror
from tta_core.errors import InputError
from tta_core.run.config import RunConfig


@dataclass(frozen=True)
class Uploaded:
    """What became of the cells of one sweep.

    Attributes:
        sweep: the sweep.
        cells: finished cells of it.
        logged: how many of them MLflow lacked.
        uri: tracking store.
        problem: what went wrong; empty if nothing did.
    """

    sweep: str
    cells: int
    logged: int
    uri: str
    problem: str


def upload(folder: str, uri: str | None, experiment: str | None) -> list[Uploaded]:
    """Logs the finished cells that MLflow lacks, each sweep of the folder in its experiment.

    Args:
        folder: results folder.
        uri: tracking store; by default an sqlite file in the folder.
        experiment: experiment; by default each sweep's name.

    Raises:
        InputError: if the tracking store is of no kind that MLflow writes to, or a run is writing to the folder.
        ResultsError: if it is no results folder.
    """
    store = ResultStore(folder)
    plans = list(_plans(store, experiment))
    if not plans:
        raise InputError(f"{folder}: no cell has finished there; run a sweep first")
    # A launch logs its cells itself, and two at once would log them twice.
    with store.locked():
        return [_upload(plan, reported, store, uri) for plan, reported in plans]


def _upload(plan: Plan, reported: Plan, store: ResultStore, uri: str | None) -> Uploaded:
    chose = len(reported.cells) < len(plan.cells)
    # What only chose settings goes to an experiment of its own, as it does in a launch.
    source = replace(plan, cells=reported.cells) if chose else None
    mirror = MlflowMirror(plan, store, uri, source=source, patience=None)
    with mirror:
        pass
    return Uploaded(plan.sweep.sweep, len(plan.cells), mirror.logged, mirror.uri, mirror.problem or "")


def _plans(store: ResultStore, experiment: str | None) -> Iterator[tuple[Plan, Plan]]:
    """For each sweep its finished cells, and those of them that are reported."""
    sql = "select sweep, cell, config, role from cells where status = 'done' order by sweep, cell"
    found = rows(open_results(store.folder), sql)
    for sweep in dict.fromkeys(row[0] for row in found):
        mine = [row for row in found if row[0] == sweep]
        cells = {cell: RunConfig.model_validate_json(config) for _, cell, config, _ in mine}
        reported = {cell: cells[cell] for _, cell, _, role in mine if role == "reported"}
        plan = Plan(
            sweep=Sweep(sweep=sweep, tracking=Tracking(experiment=experiment)),
            cells=cells,
            states=dict.fromkeys(cells, "done"),
            labels=cell_labels(cells),
            seconds=dict.fromkeys(cells, 0.0),
            estimate=Estimate(0.0, "finished"),
            duplicates=0,
            excluded=0,
            needs={},
        )
        yield plan, replace(plan, cells=reported)
