"""One launch of a plan: checks first, then runs what is missing, and says how it ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from grid.events import CellListener
from grid.launch.queue import CellQueue, CellSource
from grid.plan.plan import Plan
from grid.store.store import ResultStore
from tta_core.run.config import RunConfig


@dataclass(frozen=True)
class Outcome:
    """How a launch ended.

    Attributes:
        plan: what was to be done.
        cells: the cells whose results count, also those that a search chose.
        failed: cell id -> reason, of the cells that failed.
        not_run: cells that neither finished nor failed, because the launch was interrupted.
    """

    plan: Plan
    cells: Mapping[str, RunConfig]
    failed: dict[str, str]
    not_run: list[str]


def launch_plan(
    plan: Plan,
    store: ResultStore,
    *,
    source: CellSource | None = None,
    address: str | None = None,
    listeners: Sequence[CellListener] = (),
    most_waiting: float | None = None,
) -> Outcome:
    """Runs the cells of a plan that the store lacks.

    Args:
        plan: the plan.
        store: where results go; made if it is missing.
        source: where cells come from, asked while the store is held; by default the plan.
        address: a Ray head to connect to; by default Ray is started on this machine.
        listeners: hear what happens to cells, while the store is held.
        most_waiting: seconds after which a launch ends for which no node has room; None for never.

    Raises:
        InputError: if the store or the cluster cannot be used, or images or weights are missing on this machine, or
            on a node that is there when the launch begins.
        LaunchError: if Ray does not start, or no node had room for too long.
    """
    from grid.launch.cluster import check_reachable
    from grid.launch.environment import set_switches
    from tta_core.run.available import check_available

    # What is wrong is said before anything is made.
    source = source or plan
    if address is not None:
        check_reachable(address)
    else:
        check_available(read_by(plan))
    set_switches()
    store.create()
    with store.locked():
        with ExitStack() as context:
            for listener in listeners:
                context.enter_context(listener)
            resources = plan.resources
            queue = CellQueue(
                source, store.states(), max_retries=resources.max_retries, max_concurrent=resources.max_concurrent
            )
            if not queue.idle:
                _run(plan, source, queue, store, address, listeners, most_waiting)
        states = store.states()
        return Outcome(
            plan=plan,
            cells=source.cells,
            failed=store.failures([cell for cell in source.cells if states.get(cell) == "failed"]),
            not_run=[cell for cell in source.cells if cell not in states],
        )


def read_by(plan: Plan) -> list[RunConfig]:
    """Cells that stand for what all cells of a plan read."""
    return plan.all_kinds


def _run(
    plan: Plan,
    source: CellSource,
    queue: CellQueue,
    store: ResultStore,
    address: str | None,
    listeners: Sequence[CellListener],
    most_waiting: float | None,
) -> None:
    from grid.launch.cluster import ray_cluster
    from grid.launch.mark import put_mark
    from grid.launch.nodes import check_nodes
    from grid.launch.progress import LaunchProgress
    from grid.launch.provenance import git_commit
    from grid.launch.status_file import StatusFile
    from grid.launch.trial import TrialContext

    resources = plan.resources
    trial_context = TrialContext(
        sweep=plan.sweep.sweep,
        results=store.address,
        device=resources.device,
        git_commit=git_commit(),
        checkpoint_every=resources.checkpoint_every,
        corrupt_images=resources.corrupt_images,
    )
    with ExitStack() as context:
        progress = context.enter_context(
            LaunchProgress(source, "starting Ray" if address is None else "connecting to Ray")
        )
        status = context.enter_context(StatusFile(store.folder, plan.sweep.sweep, source, share=store.share))
        # On this machine Tune's own files need no place in the results folder, which may be slow, or full.
        own = context.enter_context(ray_cluster(address, resources)) or store.tune_folder
        if address is not None:
            mark = context.enter_context(put_mark(store.address))
            for warning in check_nodes(mark, resources, read_by(plan)):
                progress.warn(warning)
            trial_context = replace(trial_context, mark=mark)
        from grid.launch.tune import run_cells

        listeners = [progress, status, *listeners]
        run_cells(queue, trial_context, store, resources, listeners, snapshots=own, most_waiting=most_waiting)
        status.complete = queue.done
