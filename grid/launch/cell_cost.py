"""What a cell costs beyond its loop on a worker that has run cells before."""

from __future__ import annotations

import cProfile
import json
import pstats
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from tempfile import TemporaryDirectory
from types import FunctionType
from typing import Any

from analysis.texts import counted
from grid.launch.trial import TrialContext, run_cell
from grid.store.store import ResultStore
from tta_core.errors import InputError
from tta_core.run.config import RunConfig

METHODS = ("source", "moetta")
GOAL_SECONDS = 0.15
"""Of CPU time."""
CELLS = 10
"""Of each method, without the profiler and with it."""
WARM_UP = 2
ELSE = "all else"
LOOP = "loop"

Key = tuple[str, int, str]


@dataclass(frozen=True)
class CellCost:
    """Means over cells of one method on one image of each domain of the embedded benchmark.

    Attributes:
        method: the method.
        cpu_seconds, wall_seconds: of a cell without its loop.
        parts: CPU seconds of each part; they sum up to `cpu_seconds`.
    """

    method: str
    cpu_seconds: float
    wall_seconds: float
    parts: dict[str, float]


def measure_cells(tell: Callable[[str], object]) -> list[CellCost]:
    """Runs cells in this process as a worker does, on one thread.

    Args:
        tell: takes each line of progress.

    Raises:
        InputError: if a cell fails.
    """
    import torch

    from tta_core.bench.measure import quick_collections

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        # What workers keep frozen until they end, libraries complain of at exit.
        with TemporaryDirectory() as folder, quick_collections():
            ResultStore(folder).create()
            context = TrialContext("cell", folder, "cpu", git_commit="", checkpoint_every=0)
            return [_measured(method, context, tell) for method in METHODS]
    finally:
        torch.set_num_threads(before)


def _measured(method: str, context: TrialContext, tell: Callable[[str], object]) -> CellCost:
    cells = [_cell(method, seed) for seed in range(WARM_UP + 2 * CELLS)]
    tell(f"running {counted(len(cells), 'cell')} of {method}")
    for config in cells[:WARM_UP]:
        _run(config, context)
    cpu, wall = time.process_time(), time.perf_counter()
    for config in cells[WARM_UP:-CELLS]:
        _run(config, context)
    cpu, wall = (time.process_time() - cpu) / CELLS, (time.perf_counter() - wall) / CELLS
    profile = cProfile.Profile(time.process_time)
    for config in cells[-CELLS:]:
        profile.runcall(_run, config, context)
    shares = _shares(profile)
    loop = shares.pop(LOOP)
    # The profiler slows all parts: it says how they compare, and not how long they take.
    return CellCost(method, cpu * (1 - loop), wall * (1 - loop), {name: cpu * share for name, share in shares.items()})


def _cell(method: str, seed: int) -> RunConfig:
    values = {"method": method, "preset": "digits-c", "benchmark": "digits-c", "stream": "mixed", "batch_size": 16}
    return RunConfig.from_values(values | {"samples_per_domain": 1, "seed": seed})


def _run(config: RunConfig, context: TrialContext) -> None:
    end = run_cell(config, context)
    if end.status != "done":
        raise InputError(f"a cell of {config.method} ended as {end.status}: {end.reason}")


def _shares(profile: cProfile.Profile) -> dict[str, float]:
    """Part -> its share of the time of cells. No part calls another."""
    from tta_core.backbones.networks import load_backbone
    from tta_core.diagnostics.make import make_observers
    from tta_core.methods.base import Method
    from tta_core.run.images import load_domains
    from tta_core.run.loop import run_stream

    parts: dict[str, Key] = {
        "network": _key(load_backbone),
        "method": _key(Method.__init__),
        "order of the stream": _key(RunConfig.order),
        "images": _key(load_domains),
        "observers": _key(make_observers),
        "garbage collection": ("~", 0, "<built-in method gc.collect>"),
        "store": _key(ResultStore.write_result),
        LOOP: _key(run_stream),
    }
    found: dict[Key, tuple[Any, ...]] = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    total = found[_key(_run)][3]
    shares = {name: found[key][3] / total if key in found else 0.0 for name, key in parts.items()}
    return shares | {ELSE: 1 - sum(shares.values())}


def _key(function: Any) -> Key:
    assert isinstance(function, FunctionType)
    code = function.__code__
    return code.co_filename, code.co_firstlineno, code.co_name


def as_json(costs: list[CellCost]) -> str:
    """For programs."""
    return json.dumps([asdict(cost) | {"goal_seconds": GOAL_SECONDS} for cost in costs], indent=2)


def as_text(costs: list[CellCost]) -> str:
    """A few lines a method, for people."""
    lines = []
    for cost in costs:
        lines.append(
            f"{cost.method}: {1000 * cost.cpu_seconds:.0f} ms of CPU time a cell without its loop, "
            f"{1000 * cost.wall_seconds:.0f} ms of wall time"
        )
        ordered = sorted(cost.parts.items(), key=lambda part: -part[1])
        lines += [f"  {name:<20}{1000 * seconds:6.1f} ms" for name, seconds in ordered]
    return "\n".join([*lines, f"goal: at most {1000 * GOAL_SECONDS:.0f} ms; MLflow is the driver's, see bench --grid"])
