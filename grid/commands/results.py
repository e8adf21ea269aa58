"""What `tta-grid status`, `check` and `query` show of a results folder. Imports no torch, ray, mlflow or optuna."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from analysis.results.damage import Inspection, inspect
from analysis.results.load import check_layout, open_results, results_folder, rows
from analysis.results.query import query_results
from analysis.texts import counted
from grid.launch.status_file import read_progress, shown
from grid.store.mirror import folder_here
from grid.store.objects import shown_place
from tta_core.text_table import text_table


def status_of(results: str) -> dict[str, Any]:
    """Counts by sweep and method, the failures of a results folder, and what is damaged at first sight."""
    folder = folder_here(results)
    connection = open_results(folder)
    counts = rows(
        connection,
        "select sweep, method, count(*) filter (status = 'done'), count(*) filter (status = 'failed'), "
        "avg(score) filter (role = 'reported'), sum(seconds) from cells "
        "group by sweep, method order by sweep, method",
    )
    failures = rows(connection, "select cell, reason from cells where status = 'failed' order by cell")
    last = rows(connection, "select max(started_at)::varchar from cells")[0][0]
    names = ("sweep", "method", "done", "failed", "mean_accuracy", "loop_seconds")
    return {
        "results": shown_place(results),
        "done": sum(row[2] for row in counts),
        "failed": len(failures),
        "last_started": last,
        "methods": [dict(zip(names, row, strict=True)) for row in counts],
        "failures": [{"cell": cell, "reason": reason} for cell, reason in failures],
        "damages": _damages(folder, inspect(folder, thorough=False)),
        "launch": read_progress(results_folder(folder)),
    }


def _damages(results: str, found: Inspection) -> list[dict[str, str]]:
    folder = results_folder(results, layout=False)
    return [
        {"path": str(each.path.absolute().resolve().relative_to(folder)), "message": each.message}
        for each in found.damages
    ]


def status_text(status: Mapping[str, Any]) -> str:
    """`status_of` for people."""
    head = f"{status['results']}: {counted(status['done'], 'cell')} done, {status['failed']} failed"
    lines = [head, f"last cell started {status['last_started']}", *_launch_lines(status), ""]
    if status["methods"]:
        table = [
            [row["sweep"], row["method"], row["done"], row["failed"], _percent(row["mean_accuracy"]), _seconds(row)]
            for row in status["methods"]
        ]
        lines.append(_table(["sweep", "method", "done", "failed", "mean score", "loop time"], table))
    else:
        lines = [f"{head}. Run a sweep into it: tta-grid run SWEEP --results {status['results']}"]
        lines += _launch_lines(status)
    lines += [f"failed: {failure['cell']}: {failure['reason']}" for failure in status["failures"]]
    return "\n".join([*lines, *_damage_lines(status)])


def _launch_lines(status: Mapping[str, Any]) -> list[str]:
    """How far the launch is that writes to the folder, or was cut off; nothing of one that ended."""
    launch = status["launch"]
    return [f"launch   {launch['state']}: {shown(launch)}"] if launch and launch["state"] != "ended" else []


def _damage_lines(told: Mapping[str, Any]) -> list[str]:
    lines = [f"damaged: {damage['path']}: {damage['message']}" for damage in told["damages"]]
    advice = f"tta-grid check {told['results']} --repair moves what is damaged away, and the next run makes it anew"
    return [*lines, advice] if lines else []


def check_of(results: str, *, repair: bool) -> dict[str, Any]:
    """Reads all files of a results folder and says what is damaged.

    Args:
        results: the folder.
        repair: whether to move what is damaged into the folder `damaged` in it.

    Raises:
        ResultsError: if it is no results folder.
        InputError: if a run is writing to a folder that is to be repaired, or it cannot be written.
    """
    from grid.store.repair import move_damaged

    folder = results_folder(folder_here(results), layout=False)
    found = inspect(folder, thorough=True)
    if not found.damages:
        check_layout(folder)
    return {
        "results": shown_place(results),
        "cells": found.cells,
        "without_manifest": found.without_manifest,
        "damages": _damages(str(folder), found),
        "moved": [str(path.relative_to(folder)) for path in move_damaged(results, found.damages)] if repair else [],
    }


def check_text(told: dict[str, Any]) -> str:
    """`check_of` for people."""
    lines = [f"{told['results']}: {counted(told['cells'], 'cell')} looked at, {len(told['damages'])} damaged"]
    if told["without_manifest"]:
        lines.append(
            f"{told['without_manifest']} have no manifest, as an older version wrote them: a changed value is not seen"
        )
    lines += [] if told["moved"] else _damage_lines(told)
    lines += [
        f"made anew: {place}: {damage['message']}"
        if damage["path"] == place
        else f"moved: {damage['path']} to {place}: {damage['message']}"
        for damage, place in zip(told["damages"], told["moved"], strict=False)
    ]
    return "\n".join(lines)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def _seconds(row: Mapping[str, Any]) -> str:
    return "" if row["loop_seconds"] is None else f"{row['loop_seconds']:.1f} s"


def run_query(results: str, sql: str, form: str) -> str:
    """Runs SQL on a results folder and returns the answer as a table, CSV or JSON, ending in a newline.

    Raises:
        ResultsError: see `analysis.results.query.query_results`.
    """
    names, found = query_results(folder_here(results), sql)
    if form == "json":
        return json.dumps([dict(zip(names, row, strict=True)) for row in found], default=str, indent=2) + "\n"
    if form == "csv":
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([names, *found])
        return text.getvalue()
    return _table(names, found) + "\n"


def _table(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """The table of some values, numbers to the right."""
    right = [any(isinstance(row[column], int | float) for row in rows) for column in range(len(names))]
    return text_table(names, [[_cell(value) for value in row] for row in rows], right)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
