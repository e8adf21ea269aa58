"""What a launch costs beyond its cells: cells of one image, beside trials of plain Ray Tune that do nothing.

`python -m grid.launch.overhead N` is the plain half.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tta_core.errors import InputError

MOST_CELLS = 100_000


@dataclass(frozen=True)
class Overhead:
    """Wall times of two processes, from start to end, Ray's start and all imports included.

    Attributes:
        cells: cells, and plain trials.
        launch_seconds: a launch of so many cells of one image, with store and tracking.
        plain_seconds: so many trials of plain Ray Tune with reused workers.
    """

    cells: int
    launch_seconds: float
    plain_seconds: float

    @property
    def ratio(self) -> float:
        """How many times as long as plain Ray Tune the launch took."""
        return self.launch_seconds / self.plain_seconds

    def as_text(self) -> str:
        """A few lines for people."""
        each = 1000 / self.cells
        return (
            f"launch of {self.cells} cells of one image, with store and tracking   {self.launch_seconds:7.1f} s "
            f"({self.launch_seconds * each:.0f} ms a cell)\n"
            f"plain Ray Tune, {self.cells} trials that do nothing, workers reused   {self.plain_seconds:7.1f} s "
            f"({self.plain_seconds * each:.0f} ms a trial)\n"
            f"ratio {self.ratio:.2f}; both times hold the start of Ray and all imports"
        )

    def as_json(self) -> str:
        """The same for programs."""
        return json.dumps(asdict(self) | {"ratio": self.ratio})


def measure_overhead(cells: int, tell: Callable[[str], object]) -> Overhead:
    """Times a launch, then plain Ray Tune, on this machine.

    Args:
        cells: how many cells, and trials.
        tell: takes each line of progress.

    Raises:
        InputError: if that is no sensible number, or one of the two ends with an error.
    """
    if not 1 <= cells <= MOST_CELLS:
        raise InputError(f"--grid {cells}: give a number of cells from 1 to {MOST_CELLS}, such as 500")
    with TemporaryDirectory() as folder:
        sweep = Path(folder) / "overhead.yaml"
        base = {"method": "source", "benchmark": "digits-c", "domains": ["fog"], "first_samples": 1}
        sweep.write_text(json.dumps({"sweep": "overhead", "base": base, "seeds": list(range(cells))}))
        tell(f"launching {cells} cells")
        launch = _seconds(["-m", "grid", "run", str(sweep), "--results", str(Path(folder) / "results")])
        tell(f"running {cells} trials of plain Ray Tune")
        plain = _seconds(["-m", __name__, str(cells)])
    return Overhead(cells, launch, plain)


def _seconds(arguments: list[str]) -> float:
    start = time.perf_counter()
    ended = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    if ended.returncode:
        said = (ended.stderr.strip() or ended.stdout.strip()).splitlines()
        raise InputError(f"a half of the measurement ended with status {ended.returncode}: {said[-1] if said else ''}")
    return time.perf_counter() - start


def run_plain_trials(trials: int) -> None:
    """Runs trials of Ray Tune that report at once, one CPU each, and keeps nothing."""
    from grid.launch.environment import set_switches
    from grid.launch.own_ray import own_ray

    set_switches()
    with own_ray() as folder:
        from ray import tune

        tuner = tune.Tuner(
            tune.with_resources(_nothing, {"cpu": 1}),
            param_space={"trial": tune.grid_search(list(range(trials)))},
            tune_config=tune.TuneConfig(reuse_actors=True),
            run_config=tune.RunConfig(name="plain", storage_path=str(folder), verbose=0),
        )
        tuner.fit()


def _nothing(config: dict[str, int]) -> None:
    from ray import tune

    tune.report({"accuracy": 0.0})


if __name__ == "__main__":
    run_plain_trials(int(sys.argv[1]))
