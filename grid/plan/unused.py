"""What a sweep says and none of its cells uses: a mistake, or left over from another use of the file."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from grid.plan.sweep import Sweep, Tracking
from tta_core.run.config import RunConfig
from tta_core.streams.order import STREAM_SETTINGS

OF_SOME_STREAMS = ("severity", "rounds", *STREAM_SETTINGS)
"""Fields that streams and benchmarks without them resolve to another value than the one that is given."""


def unused(sweep: Sweep, cells: Collection[RunConfig]) -> list[str]:
    """Says what is without effect, one text each.

    Args:
        sweep: the sweep.
        cells: its cells, and those of its studies.
    """
    said = list(_said(sweep))
    # What `exclude` takes out is wanted so: cells of the other values of an axis show that it is used.
    axes = {key: [value for name, value in said if name == key] for key in OF_SOME_STREAMS} if sweep.exclude else {}
    texts = {text for key, value in said for text in _without_effect(key, value, axes.get(key, [value]), cells)}
    return sorted(texts | {f"tracking.{key} = {value}: tracking is off" for key, value in _untracked(sweep.tracking)})


def _untracked(tracking: Tracking) -> Iterator[tuple[str, str]]:
    if not tracking.enabled:
        yield from ((key, value) for key, value in tracking if key != "enabled" and value is not None)


def _said(sweep: Sweep) -> Iterator[tuple[str, Any]]:
    for point in (sweep.base, *sweep.variants):
        yield from point.items()
    for axes in (sweep.grid, *sweep.zip):
        for key, values in axes.items():
            yield from ((key, value) for value in values)


def _without_effect(key: str, value: Any, axis: Collection[Any], cells: Collection[RunConfig]) -> Iterator[str]:
    method, dot, _ = key.partition(".")
    if dot and all(cell.method != method for cell in cells):
        yield f"{key}: no cell has the method {method}"
    if key in OF_SOME_STREAMS and value is not None and all(getattr(cell, key) != value for cell in cells):
        without = [cell for cell in cells if getattr(cell, key) not in axis]
        where = dict.fromkeys((cell.benchmark if key == "severity" else None, cell.stream) for cell in without)
        names = ", ".join(" in ".join(filter(None, reversed(pair))) for pair in where)
        if without:
            yield f"{key} = {value}: the streams of all cells do without it ({names})"
    if key == "diagnostics_every" and not any(cell.diagnostics for cell in cells):
        yield f"{key} = {value}: no cell has diagnostics"
    if key == "weights" and isinstance(value, dict):
        used = {cell.backbone for cell in cells}
        yield from (f"weights of {name}: no cell has this backbone" for name in value if name not in used)
