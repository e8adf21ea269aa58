"""What the finished cells of a results folder say about time."""

from __future__ import annotations

from pathlib import Path

from grid.plan.simulate import Timings, seconds_beside_loops


def read_timings(folder: Path) -> Timings:
    """Reads what finished cells took; raises `InputError` for a folder whose results cannot be read."""
    from analysis.results.load import open_results, rows

    found = open_results(folder)
    costs = rows(
        found, "select method, backbone, sum(seconds) / sum(n_samples) from cells where status = 'done' group by all"
    )
    loops = rows(found, "select epoch(started_at), seconds from cells where status = 'done'")
    return Timings(
        per_image={(method, backbone): seconds for method, backbone, seconds in costs},
        beside_loops=seconds_beside_loops(loops),
    )
