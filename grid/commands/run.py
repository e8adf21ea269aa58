"""What `tta-grid run` does: a plan, its launch, the mirror in MLflow, and what is said at the end."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from analysis.texts import counted
from grid.commands.options import EXIT_INTERRUPTED, EXIT_SOME_FAILED
from grid.launch.launch import Outcome, launch_plan
from grid.launch.queue import CellSource
from grid.plan.plan import Plan, make_plan
from grid.plan.sweep import Sweep
from grid.store.store import ResultStore
from grid.track.mlflow import MlflowMirror
from grid.track.uri import ui_command

if TYPE_CHECKING:
    from grid.search.search import Search


def run_sweep(
    sweep: Sweep,
    store: ResultStore,
    *,
    address: str | None,
    tracking_uri: str | None,
    most_waiting: float | None = None,
) -> int:
    """Runs the cells of a sweep that the store lacks, and tells how it ended.

    Args:
        sweep: the sweep.
        store: where results go; made if it is missing.
        address: a Ray head to connect to; None starts Ray on this machine.
        tracking_uri: MLflow store; None for the sweep's.
        most_waiting: seconds after which a launch ends for which no node has room; None for never.

    Returns:
        The exit status.

    Raises:
        InputError: if the store, the cluster or the tracking URI cannot be used, or what cells read is missing.
    """
    plan = make_plan(sweep, store)
    for each in plan.unused:
        click.echo(f"warning: not used: {each}", err=True)
    search = _search(plan, store)
    # MLflow's file has no place in an object store.
    tracked = sweep.tracking.enabled and (store.mirror is None or (tracking_uri or sweep.tracking.uri) is not None)
    mirror = MlflowMirror(plan, store, tracking_uri, source=search) if tracked else None
    try:
        outcome = launch_plan(
            plan,
            store,
            source=search,
            address=address,
            listeners=[mirror] if mirror else [],
            most_waiting=most_waiting,
        )
    except KeyboardInterrupt:
        click.echo(f"interrupted; finished cells are kept in {store.shown}. Go on with the same command.", err=True)
        return EXIT_INTERRUPTED
    _tell_cells(outcome, store)
    if sweep.tracking.enabled and not tracked:
        click.echo("mlflow   none: an object store holds no MLflow file; name a store with --tracking-uri")
    if search is not None:
        click.echo(f"search   tta-grid search show {_shown(store)}")
    if mirror:
        click.echo(f"mlflow   {ui_command(mirror.uri)}")
        if mirror.problem:
            click.echo(f"warning: MLflow lacks some runs ({mirror.problem}); the next run logs them", err=True)
    status = _tell_failures(outcome, search or plan, store)
    if search is not None and not search.ended:
        click.echo("the search has not ended. Go on with the same command.", err=True)
        return EXIT_INTERRUPTED
    if search is not None and (failed := [study.plan.name for study in search.studies if study.state == "failed"]):
        click.echo(f"too many trials failed in a row: {', '.join(failed)}; see tta-grid search show", err=True)
        return status or EXIT_SOME_FAILED
    return status


def _search(plan: Plan, store: ResultStore) -> Search | None:
    """The studies of a plan as a source of cells; None if it has none. Only then is optuna imported."""
    if not plan.studies:
        return None
    from grid.search.search import Search

    return Search(plan, store)


def _tell_cells(outcome: Outcome, store: ResultStore) -> None:
    cells = outcome.cells
    existed = len(outcome.plan.cells) - len(outcome.plan.to_run)
    done = len(cells) - len(outcome.failed) - len(outcome.not_run)
    if done and not outcome.not_run:
        from analysis.report.leaderboard import leaderboard_markdown
        from analysis.results.load import open_results

        click.echo(f"\n{leaderboard_markdown(open_results(store.folder))}\n")
    click.echo(
        f"{counted(len(cells), 'cell')}: {done} done ({existed} were there before), {len(outcome.failed)} failed"
    )
    click.echo(f"results  {store.shown}")
    click.echo(f"report   tta-grid report {_shown(store)}")


def _tell_failures(outcome: Outcome, source: CellSource, store: ResultStore) -> int:
    """Names the cells that are not done; returns the exit status."""
    for cell, reason in outcome.failed.items():
        click.echo(f"failed: {source.labels[cell]} ({cell}): {reason}", err=True)
    if outcome.failed:
        click.echo(f"tracebacks: {store.folder}/failed/CELL/traceback.txt; failed cells run again next time", err=True)
    if outcome.not_run:
        click.echo(
            f"interrupted with {counted(len(outcome.not_run), 'cell')} to go; the rest is kept. "
            "Go on with the same command.",
            err=True,
        )
        return EXIT_INTERRUPTED
    return EXIT_SOME_FAILED if outcome.failed else 0


def _shown(store: ResultStore) -> str:
    """The results as a user would type them here; of a URL with its options quoted."""
    if store.mirror:
        return shlex.quote(store.address)
    here = Path.cwd()
    # From the root folder, where jobs run, a path would look like one from anywhere.
    below = store.folder.is_relative_to(here) and here != here.parent
    return str(store.folder.relative_to(here) if below else store.folder)
