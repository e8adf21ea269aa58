"""Holds `plan --simulate` against launches on this machine: `python -m tests.simulation [--slots 1,2,3,4] [--seeds 6]`.

Each launch runs a small sweep in a folder of its own. Its finished cells say how long loops were and what cells took
beside them; replayed on as many slots, these must give the wall time from its first cell to its last. On few cores
workers do not all begin at once, for each imports torch: how late they did on average is measured too.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from analysis.results.load import open_results, rows
from grid.plan.simulate import seconds_beside_loops, simulate

SWEEP = {
    "sweep": "simulated",
    "base": {
        "benchmark": "digits-c",
        "backbone": "digits-vit-supervised",
        "preset": "digits-c",
        "severity": 4,
        "domains": ["fog", "contrast", "snow"],
        "samples_per_domain": 150,
        "batch_size": 16,
    },
    "grid": {"method": ["source", "tent", "eata", "sar", "cotta"]},
    "tracking": {"enabled": False},
}


def wall_late_paper(folder: Path, slots: int) -> tuple[int, float, float, float]:
    """Cells of a results folder; seconds from the first to the end of the last, of late workers, and on paper."""
    order = "select epoch(started_at), seconds from cells where status = 'done' order by started_at"
    cells = rows(open_results(folder), order)
    beside = seconds_beside_loops(cells)
    assert beside is not None, "cells follow each other"
    first = cells[0][0]
    wall = max(start + seconds for start, seconds in cells) - first
    late = sum(start - first for start, _ in cells[:slots]) / slots
    loops = [seconds for _, seconds in cells]
    return len(cells), wall, late, simulate(loops, slots, startup=late, beside=beside).wall_seconds


def main() -> None:
    """Launches, and prints a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slots", default="1,2,3,4")
    parser.add_argument("--seeds", type=int, default=6)
    given = parser.parse_args()
    print("slots  cells  wall s  late s  on paper s  difference")
    for slots in map(int, given.slots.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            sweep, results = Path(folder) / "sweep.yaml", Path(folder) / "results"
            resources = {"cpu": 0.25, "max_concurrent": slots}
            sweep.write_text(yaml.safe_dump(SWEEP | {"seeds": list(range(given.seeds)), "resources": resources}))
            command = [sys.executable, "-m", "grid", "run", str(sweep), "--results", str(results)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            cells, wall, late, paper = wall_late_paper(results, slots)
        print(f"{slots:5}  {cells:5}  {wall:6.1f}  {late:6.1f}  {paper:10.1f}  {paper / wall - 1:+10.1%}", flush=True)


if __name__ == "__main__":
    main()
