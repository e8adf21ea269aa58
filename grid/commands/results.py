"""What `tta-grid status` and `query` show of a results folder. Imports no torch, ray, mlflow or optuna."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from analysis.results.load import open_results
from analysis.results.query import query_results
from tta_core.text_table import text_table


def status_of(results: str) -> dict[str, Any]:
    """Counts by sweep and method, and the failures of a results folder."""
    connection = open_results(results)
    counts = connection.sql(
        "select sweep, method, count(*) filter (status = 'done'), count(*) filter (status = 'failed'), "
        "avg(accuracy) filter (role = 'reported'), sum(seconds) "
        "from cells group by sweep, method order by sweep, method"
    ).fetchall()
    failures = connection.sql("select cell, reason from cells where status = 'failed' order by cell").fetchall()
    last = connection.sql("select max(started_at)::varchar from cells").fetchall()[0][0]
    names = ("sweep", "method", "done", "failed", "mean_accuracy", "loop_seconds")
    return {
        "results": str(results),
        "done": sum(row[2] for row in counts),
        "failed": len(failures),
        "last_started": last,
        "methods": [dict(zip(names, row, strict=True)) for row in counts],
        "failures": [{"cell": cell, "reason": reason} for cell, reason in failures],
    }


def status_text(status: Mapping[str, Any]) -> str:
    """`status_of` for people."""
    head = f"{status['results']}: {status['done']} cells done, {status['failed']} failed"
    if not status["methods"]:
        return f"{head}. Run a sweep into it: tta-grid run SWEEP --results {status['results']}"
    rows = [
        [row["sweep"], row["method"], row["done"], row["failed"], _percent(row["mean_accuracy"]), _seconds(row)]
        for row in status["methods"]
    ]
    lines = [head, f"last cell started {status['last_started']}", ""]
    lines.append(_table(["sweep", "method", "done", "failed", "mean accuracy", "loop time"], rows))
    lines += [f"failed: {failure['cell']}: {failure['reason']}" for failure in status["failures"]]
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
    names, rows = query_results(results, sql)
    if form == "json":
        return json.dumps([dict(zip(names, row, strict=True)) for row in rows], default=str, indent=2) + "\n"
    if form == "csv":
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([names, *rows])
        return text.getvalue()
    return _table(names, rows) + "\n"


def _table(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """The table of some values, numbers to the right."""
    right = [any(isinstance(row[column], int | float) for row in rows) for column in range(len(names))]
    return text_table(names, [[_cell(value) for value in row] for row in rows], right)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
