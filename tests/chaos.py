"""Kills parts of running launches at random and compares what they leave with an undisturbed run, bit for bit.

::

    python -m tests.chaos --kills 100 --seed 1
    python -m tests.chaos --kills 20 --search

A sweep is launched again and again into one folder. Each launch loses its driver, a worker, the raylet or the GCS, by
`SIGKILL`. Launches without kills then finish the sweep, and the next round begins with an empty folder. Only processes
that descend from a launch of this program are killed. They are found through `/proc`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

import tta_core
from analysis.results.checks import check_results
from analysis.results.damage import inspect
from analysis.results.load import open_results
from grid.plan.expand import expand
from grid.plan.sweep import read_sweep
from grid.store.tables import result_tables

SWEEP = """
sweep: chaos
base: {preset: digits-c, severity: 4, domains: [fog, contrast, snow], samples_per_domain: 150, batch_size: 16}
grid: {method: [source, tent, moetta]}
seeds: [0, 1, 2, 3]
resources: {checkpoint_every: 3, max_retries: 5}
tracking: {enabled: false}
"""

SEARCH = """
sweep: chaos
base: {preset: digits-c, severity: 4, domains: [fog, contrast], samples_per_domain: 100, batch_size: 16}
grid: {method: [source, tent, moetta]}
seeds: [0, 1]
search: {trials: 8, first: none, space: {tent.lr: spec, moetta.lr: spec, moetta.lambda_balance: [0.0, 0.3, 1.0]}}
resources: {checkpoint_every: 3, max_retries: 5}
tracking: {enabled: false}
"""

TRIED = (
    "select study, trial, state, settings, value, measures from trials order by all",
    "select study, trial, seed, point, cell, value from trial_cells order by all",
    "select study, rule, trials, trial, settings, estimate from selections where current order by all",
)
"""What a search must find whoever is killed."""

TITLES = {"worker": "ray::ImplicitFunc", "raylet": "/raylet/raylet", "gcs": "gcs_server"}
"""Part of a launch -> what its command line has in it. The driver is the process that was started."""

START_SECONDS = 120.0
"""For so long a launch may take to show the process that is to be killed."""

END_SECONDS = 300.0
"""For so long a launch may go on after a kill."""

COMMAND = [sys.executable, "-c", "from grid.commands.main import main; main()"]


@dataclass(frozen=True)
class Kill:
    """One kill.

    Attributes:
        part: `driver`, `worker`, `raylet` or `gcs`; `none` if the launch ended before.
        status: exit status of the launch; None if it hung.
        output: what it printed.
    """

    part: str
    status: int | None
    output: str


def descendants(root: int) -> dict[int, str]:
    """The processes that descend from one: pid -> command line."""
    parents: dict[int, int] = {}
    titles: dict[int, str] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, TypeError):  # It ended meanwhile.
            found = re.search(r"PPid:\s+(\d+)", (folder / "status").read_text())
            titles[int(folder.name)] = (folder / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
            parents[int(folder.name)] = int(found[1]) if found else 0
    below, level = set(), {root}
    while level:
        level = {pid for pid, parent in parents.items() if parent in level} - below
        below |= level
    return {pid: titles[pid] for pid in below}


class Chaos:
    """Launches of one sweep that lose a part each."""

    def __init__(self, folder: Path, sweep: str, seed: int) -> None:
        """Runs the sweep undisturbed, to know what is right: here and without Ray, but for a search.

        Args:
            folder: an empty folder.
            sweep: text of the sweep.
            seed: decides what is killed, and when.
        """
        self._file = folder / "chaos.yaml"
        self._file.write_text(sweep)
        self._folder = folder
        self._random = random.Random(seed)
        self._round = 0
        read = read_sweep(str(self._file))
        self._searched = read.search is not None
        if self._searched:
            self.finish()
            self._right = {cell: _samples(path) for cell, path in self._found().items()}
            self._tried = self._rows()
            self.next_round()
        else:
            self._right = {
                cell: result_tables(tta_core.run(config, device="cpu"), sweep="chaos", git_commit="")["samples"]
                for cell, config in expand(read).cells.items()
            }

    @property
    def results(self) -> Path:
        """The folder of this round."""
        return self._folder / f"round-{self._round}"

    def next_round(self) -> None:
        """Goes on with an empty folder."""
        self._round += 1

    def kill(self, part: str) -> Kill:
        """Launches the sweep, kills a part of it at some moment, and waits for the end."""
        log = self._folder / "output.txt"
        with log.open("w") as output:
            process = subprocess.Popen(
                [*COMMAND, "run", str(self._file), "--results", str(self.results)],
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            family = descendants(process.pid)
            try:
                if self._wait_for(process, part):
                    family = descendants(process.pid)
                    killed = part if self._hit(process, part, family) else "none"
                else:
                    killed = "none"
                status = self._end(process)
            finally:
                # What a dead driver left would disturb the next launch. None of these is anyone else's.
                family |= descendants(process.pid)
                for pid, title in family.items():
                    _kill_if_same(pid, title)
                process.kill()
                process.wait()
        return Kill(killed, status, log.read_text(errors="replace"))

    def finish(self) -> Kill:
        """Launches the sweep and disturbs nothing."""
        return self.kill("none")

    def problems(self) -> list[str]:
        """What is wrong with the results of this round, which has finished; empty if nothing is."""
        found = self._found()
        problems = [f"{cell} is missing" for cell in self._right.keys() - found.keys()]
        problems += [f"{cell} is not of the sweep" for cell in found.keys() - self._right.keys()]
        problems += [
            f"{cell} has other samples"
            for cell in self._right.keys() & found.keys()
            if not _samples(found[cell]).equals(self._right[cell])
        ]
        if self._searched and self._rows() != self._tried:
            problems.append(f"the search tried {self._rows()}, undisturbed {self._tried}")
        problems += [f"{each.path}: {each.message}" for each in inspect(self.results, thorough=True).damages]
        return problems + [each.message for each in check_results(open_results(self.results))]

    def _found(self) -> dict[str, Path]:
        return {path.name: path for path in (self.results / "cells").iterdir()}

    def _rows(self) -> list[list[tuple[object, ...]]]:
        return [open_results(self.results).sql(query).fetchall() for query in TRIED]

    def _wait_for(self, process: subprocess.Popen[bytes], part: str) -> bool:
        """Waits until the part runs, and some time more; False if there is nothing to kill."""
        if part == "none":
            return False
        deadline = time.monotonic() + START_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            # A driver is killed when it has something to lose.
            wanted = TITLES["worker" if part == "driver" else part]
            if any(wanted in title for title in descendants(process.pid).values()):
                time.sleep(self._random.uniform(0, 4))
                return process.poll() is None
            time.sleep(0.2)
        return False

    def _hit(self, process: subprocess.Popen[bytes], part: str, family: dict[int, str]) -> bool:
        if part == "driver":
            process.kill()
            return True
        victims = sorted(pid for pid, title in family.items() if TITLES[part] in title)
        if not victims:
            return False
        victim = self._random.choice(victims)
        return _kill_if_same(victim, family[victim])

    def _end(self, process: subprocess.Popen[bytes]) -> int | None:
        try:
            return process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            return None


def _samples(cell: Path) -> pa.Table:
    return pq.read_table(cell / "samples.parquet", partitioning=None)


def _kill_if_same(pid: int, title: str) -> bool:
    """Kills a process if it is still the one that was seen: its number may belong to another by now."""
    with suppress(OSError):
        now = (Path("/proc") / str(pid) / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
        # Workers of Ray change their title with what they do.
        if now == title or (now.startswith("ray::") and title.startswith("ray::")):
            os.kill(pid, signal.SIGKILL)
            return True
    return False


def play(chaos: Chaos, kills: int, tell: Callable[[str], None], *, seed: int = 0) -> list[str]:
    """Kills so many times, and returns what was wrong.

    Args:
        chaos: the launches.
        kills: how often.
        tell: gets a line a kill.
        seed: decides which parts are killed.
    """
    parts = random.Random(seed)
    problems: list[str] = []
    done = 0
    while done < kills:
        wanted = parts.choice(["driver", *TITLES])
        end = chaos.kill(wanted)
        tell(f"{done + 1:>4}/{kills} {wanted:<7} killed {end.part:<7} status {end.status}")
        if end.status is None:
            problems.append(f"kill {done + 1} ({end.part}): the launch hung")
        if "Traceback" in end.output:
            problems.append(f"kill {done + 1} ({end.part}): a traceback: {end.output[-2000:]}")
        done += end.part != "none"
        if end.status == 0 or done == kills:
            problems += _finished(chaos, tell)
    return problems


def _finished(chaos: Chaos, tell: Callable[[str], None]) -> list[str]:
    end = chaos.finish()
    problems = [] if end.status == 0 else [f"a launch that nobody disturbed ended with {end.status}: {end.output}"]
    problems += chaos.problems()
    tell(f"     {'the same bits' if not problems else 'PROBLEMS'} in {chaos.results.name}")
    chaos.next_round()
    return problems


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--search", action="store_true", help="kill a sweep that searches")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tta-grid-chaos-") as folder:
        chaos = Chaos(Path(folder), SEARCH if given.search else SWEEP, given.seed)
        problems = play(chaos, given.kills, lambda line: print(line, flush=True), seed=given.seed)
    print(json.dumps({"kills": given.kills, "seed": given.seed, "problems": problems}, indent=2))
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
