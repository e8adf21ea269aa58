"""What a Ray worker does with one cell."""

from __future__ import annotations

import gc
import sys
import traceback
from dataclasses import dataclass, replace
from typing import Any, Literal

from numpy.typing import NDArray

from grid.events import CellEnd
from grid.launch.mark import Mark, node_name
from grid.plan.studies import unadapted
from grid.store.samples import stored_samples
from grid.store.store import FULL, ResultStore, UnwritableError
from tta_core.errors import InputError
from tta_core.run.config import RunConfig


@dataclass(frozen=True)
class TrialContext:
    """What all trials of one launch share.

    Attributes:
        sweep: name of the sweep.
        results: absolute path of the results folder, the same on every node, or a URL.
        device: device of the network.
        git_commit: commit of this project on the driver.
        checkpoint_every: batches from one checkpoint in mid-stream to the next; 0 for none.
        corrupt_images: what happens to images that cannot be decoded: `error` or `skip`.
        mark: what a node of a cluster is held against before its first cell; None on the driver's own machine.
    """

    sweep: str
    results: str
    device: str
    git_commit: str
    checkpoint_every: int
    corrupt_images: Literal["error", "skip"] = "error"
    mark: Mark | None = None


@dataclass(frozen=True)
class _Place:
    """The node of this worker: its name, and why it cannot run cells."""

    name: str
    problem: str


_PLACES: dict[str, _Place] = {}


def _place(mark: Mark) -> _Place:
    """Looks at this node, once a worker and launch: one that joined late was not there when the driver asked."""
    if mark.name not in _PLACES:
        _PLACES[mark.name] = _Place(node_name(), mark.problem_here())
    return _PLACES[mark.name]


def run_cell(config: RunConfig, context: TrialContext, *, stop_collapsed: bool = False) -> CellEnd:
    """Runs one cell and publishes its result, or why it failed, in the store.

    A cell that is in the store already is not run again, so a trial may be tried any number of times. Where the store
    cannot be written nothing is published.

    Args:
        config: the cell.
        context: what it shares with others.
        stop_collapsed: whether it ends once its predictions are of few classes beside those of the source, which the
            store must have; it has no result then, and counts as failed.

    Raises:
        Exception: what may pass when tried again in a fresh process, such as a GPU that ran out of memory.
    """
    node = ""
    if context.mark is not None:
        place = _place(context.mark)
        if place.problem:
            return CellEnd("unwritten", reason=f"node {place.name}: {place.problem}")
        node = place.name
    end = _run(config, context, stop_collapsed=stop_collapsed)
    _IMPORTS.freeze()
    return replace(end, node=node)


class _Imports:
    """Keeps what this process imported out of the garbage collection with which each cell starts.

    Looking through torch, timm and Ray takes four times as long as all else in a short cell.
    """

    def __init__(self) -> None:
        self._known = 0

    def freeze(self) -> None:
        """Freezes what is alive, if more has been imported since the last time."""
        if len(sys.modules) > self._known:
            self._known = len(sys.modules)
            gc.collect()
            gc.freeze()


_IMPORTS = _Imports()


def _run(config: RunConfig, context: TrialContext, *, stop_collapsed: bool) -> CellEnd:
    from tta_core.diagnostics.collapse import CollapsedError
    from tta_core.run.cell import CollapseError, run

    store, cell = ResultStore(context.results), config.cell_id()
    checkpoint = store.checkpoint_file(cell)
    try:
        if store.holds(cell):
            return CellEnd("done")
        usual = _of_source(config, store) if stop_collapsed else None
        store.bring_checkpoint(cell)
    except InputError as error:
        return CellEnd("unwritten", reason=str(error))
    try:
        result = run(
            config,
            device=context.device,
            checkpoint_file=checkpoint,
            checkpoint_every=context.checkpoint_every,
            checkpoint_saved=lambda: store.share(checkpoint.relative_to(store.folder).as_posix()),
            corrupt_images=context.corrupt_images,
            usual=usual,
        )
    except (InputError, CollapseError, CollapsedError) as error:
        # Trying again would end the same way.
        store.discard_checkpoint(cell)
        return _failed(store, config, str(error), context)
    except UnwritableError as error:
        return CellEnd("unwritten", reason=str(error))
    except OSError as error:
        if error.errno not in FULL:
            raise
        return CellEnd("unwritten", reason=store.unwritable(error))
    try:
        store.write_result(result, sweep=context.sweep, git_commit=context.git_commit)
    except UnwritableError as error:
        return CellEnd("unwritten", reason=str(error))
    # A value without a place in the columns has none when tried again.
    except (ValueError, TypeError, ArithmeticError) as error:
        store.discard_checkpoint(cell)
        return _failed(store, config, f"the result has no place in the store ({error})", context)
    store.discard_checkpoint(cell)
    return CellEnd("done", accuracy=result.score, seconds=result.seconds)


def _of_source(config: RunConfig, store: ResultStore) -> dict[str, NDArray[Any]] | None:
    """What the source predicts on the stream of a cell; None if the store does not have it."""
    source = unadapted(config).cell_id()
    if not store.holds(source):
        return None
    found = stored_samples(store.cell_folder(source))
    return {name: found[name] for name in ("position", "predicted" if "predicted" in found else "prediction")}


def _failed(store: ResultStore, config: RunConfig, reason: str, context: TrialContext) -> CellEnd:
    """Publishes why a cell failed, with the traceback of the exception that is being handled."""
    try:
        store.write_failure(
            config, reason, sweep=context.sweep, git_commit=context.git_commit, traceback=traceback.format_exc()
        )
    except UnwritableError as error:
        return CellEnd("unwritten", reason=str(error))
    return CellEnd("failed", reason=reason)
