"""Searches without Ray: cells get made-up results, in any order."""

import random
from datetime import UTC, datetime

import numpy as np
import pytest

from grid.launch.queue import CellQueue
from grid.plan.plan import make_plan
from grid.plan.sweep import read_sweep
from grid.search.search import Search
from grid.store.store import ResultStore
from tta_core.methods.registry import method_spec
from tta_core.run.cell import RunResult
from tta_core.tasks.base import Scores

SEARCHED = """
sweep: tuned
base:
  {preset: digits-c, severity: 5, samples_per_domain: 20, domains: [fog, contrast], batch_size: 8, diagnostics: none}
grid: {method: [source, tent]}
seeds: [0, 1]
search:
  trials: 12
  first: none
  space: {tent.lr: {low: 1e-4, high: 1.0, log: true}, tent.momentum: {low: 0.0, high: 0.9}}
"""


def made_up(config, shift=0.0):
    """A result that depends on settings and seed alone: best near lr = 0.01."""
    names = np.repeat(np.array(config.domains), config.num_samples // len(config.domains))
    rng = np.random.default_rng(config.seed)
    lr = config.settings.get("lr", 1.0)
    right = (
        rng.random(len(names)) < 0.9 - 0.2 * abs(np.log10(lr) + 2) - 0.1 * config.settings.get("momentum", 0) + shift
    )
    samples = {
        "position": np.arange(len(names)),
        "domain": names,
        "index": np.arange(len(names), dtype=np.int32),
        "label": np.zeros(len(names), np.int32),
        "prediction": (~right).astype(np.int32),
        "confidence": np.full(len(names), 0.8, np.float32),
        "entropy": np.full(len(names), 0.5, np.float32),
        "segment": np.zeros(len(names), np.int32),
    }
    batches = {"step": np.zeros(1), "samples_seen": np.array([len(names)]), "selected": np.zeros(1)}
    batches |= {name: np.zeros(1) for name in method_spec(config.method).scalars}
    return RunResult(
        config=config,
        cell=config.cell_id(),
        metric="accuracy",
        scores=Scores(float(right.mean()), float(right.mean()), accuracy5=1.0),
        domain_scores={},
        samples=samples,
        batches=batches,
        diagnostics={},
        measurements=[],
        stream_order="order",
        seconds=1.0,
        images_per_second=1.0,
        peak_memory_mib=1.0,
        trainable_parameters=1,
        layers={},
        artefact="",
        device="cpu",
        versions={},
        started_at=datetime.now(UTC),
    )


class Driver:
    """Runs what a search asks for: `slots` cells at once, of which any may end first."""

    def __init__(self, folder, text, overrides=(), result=made_up):
        file = folder.parent / f"{folder.name}.yaml"
        file.write_text(text)
        self.store = ResultStore(folder)
        self.store.create()
        self.plan = make_plan(read_sweep(str(file), overrides), self.store)
        self.search = Search(self.plan, self.store)
        self.result = result
        self.ran = []

    def run(self, seed=0, slots=3, stop_after=None):
        """Returns the search; it is left as a killed driver leaves it after `stop_after` cells."""
        queue, running, rng = CellQueue(self.search, self.store.states()), [], random.Random(seed)
        while True:
            while len(running) < slots and (taken := queue.take()) is not None:
                running.append(taken)
            if not running or (stop_after is not None and len(self.ran) >= stop_after):
                return self.search
            cell, config = running.pop(rng.randrange(len(running)))
            self.ran.append(cell)
            try:
                self.store.write_result(self.result(config), sweep=self.plan.sweep.sweep, git_commit="")
                queue.end(cell, "done")
            except FloatingPointError as error:
                self.store.write_failure(config, str(error), sweep="tuned", git_commit="")
                queue.end(cell, "failed")


def history(search):
    """What a search tried, and what came out."""
    return [
        [(trial.settings, trial.state, trial.value, [each.cell for each, _ in trial.seen]) for trial in study.trials]
        for study in search.studies
    ]


@pytest.fixture
def driver(tmp_path):
    made = []

    def make(text=SEARCHED, overrides=(), folder=None, result=made_up):
        made.append(folder)
        return Driver(tmp_path / (folder or f"results-{len(made)}"), text, overrides, result)

    return make
