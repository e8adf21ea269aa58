"""One launch of a sweep: plan, run what is missing, mirror to MLflow, say how it ended."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from grid.plan.expand import expand
from grid.plan.plan import Plan, make_plan
from grid.plan.sweep import Sweep
from grid.store.store import ResultStore

if TYPE_CHECKING:
    from grid.events import CellListener


@dataclass(frozen=True)
class Outcome:
    """How a launch ended.

    Attributes:
        plan: what was to be done.
        failed: cell id -> reason, of the cells that failed.
        not_run: cells that neither finished nor failed, because the launch was interrupted.
        tracking_uri: where MLflow has the runs; None without tracking.
        tracking_problem: why MLflow lacks some runs, if it does.
    """

    plan: Plan
    failed: dict[str, str]
    not_run: list[str]
    tracking_uri: str | None
    tracking_problem: str | None


def launch_sweep(
    sweep: Sweep, store: ResultStore, *, address: str | None = None, tracking_uri: str | None = None
) -> Outcome:
    """Runs the cells of a sweep that the store lacks.

    Args:
        sweep: the sweep.
        store: where results go; made if it is missing.
        address: a Ray head to connect to; by default Ray is started on this machine.
        tracking_uri: MLflow store; by default the sweep's, then an sqlite file in the results folder.

    Raises:
        InputError: if the store, the cluster or the tracking URI cannot be used, or images or weights are missing on
            this machine. What a cluster has is seen by its trials only.
    """
    from grid.launch.cluster import check_reachable
    from grid.launch.environment import set_switches
    from grid.track.mlflow import check_tracking_uri
    from tta_core.run.available import check_available

    # What is wrong is said before anything is made.
    known = store.states()
    to_run = [config for cell, config in expand(sweep).cells.items() if known.get(cell) != "done"]
    if address is not None:
        check_reachable(address)
    else:
        check_available(to_run)
    uri = tracking_uri or sweep.tracking.uri
    if uri is not None and sweep.tracking.enabled:
        check_tracking_uri(uri)
    set_switches()
    store.create()
    with store.locked(), ExitStack() as context:
        plan = make_plan(sweep, store)
        mirror = None
        if sweep.tracking.enabled:
            from grid.track.mlflow import MlflowMirror

            mirror = context.enter_context(MlflowMirror(plan, store, uri))
        if plan.to_run:
            _run(plan, store, address, [mirror] if mirror else [])
        context.close()
        states = store.states()
        return Outcome(
            plan=plan,
            failed=store.failures([cell for cell in plan.cells if states.get(cell) == "failed"]),
            not_run=[cell for cell in plan.cells if cell not in states],
            tracking_uri=mirror.uri if mirror else None,
            tracking_problem=mirror.problem if mirror else None,
        )


def _run(plan: Plan, store: ResultStore, address: str | None, listeners: Sequence[CellListener]) -> None:
    from grid.launch.cluster import ray_cluster
    from grid.launch.progress import LaunchProgress
    from grid.launch.provenance import git_commit
    from grid.launch.trial import Launch

    launch = Launch(
        sweep=plan.sweep.sweep,
        results=str(store.folder),
        device=plan.sweep.resources.device,
        git_commit=git_commit(),
        checkpoint_every=plan.sweep.resources.checkpoint_every,
        cells=plan.to_run,
        corrupt_images=plan.sweep.resources.corrupt_images,
    )
    resources = plan.sweep.resources
    with ExitStack() as context:
        progress = context.enter_context(LaunchProgress(plan))
        # On this machine Tune's own files need no place in the results folder, which may be slow, or full.
        own = context.enter_context(ray_cluster(address, resources)) or store.tune_folder
        from grid.launch.tune import run_cells

        run_cells(launch, store, resources, [progress, *listeners], snapshots=own)
