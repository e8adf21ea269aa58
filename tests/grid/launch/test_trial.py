"""What a worker does with one cell that somebody kills."""

import errno
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from analysis.results.load import open_results
from grid.events import CellEnd, StoppedError
from grid.launch import trial as worker
from grid.launch.environment import SWITCHES
from grid.launch.queue import CellQueue
from grid.launch.trial import TrialContext, run_cell
from grid.plan.studies import unadapted
from grid.plan.sweep import Resources
from grid.store.store import ResultStore
from tta_core.errors import COLLAPSED
from tta_core.run import cell as runner
from tta_core.run.config import RunConfig

FULL_DISK = OSError(errno.ENOSPC, "No space left on device")


class FullFile(io.BytesIO):
    """A file on a disk that takes a hundred bytes."""

    def write(self, content):
        if self.tell() + len(content) > 100:
            raise FULL_DISK
        return super().write(content)


@pytest.fixture
def tiny(tmp_path):
    """A cell that takes a second, its store, and the context of its trials, which save it after each batch."""
    config = RunConfig.from_values({"method": "tent", "preset": "digits-c", "domains": ["fog"], "first_samples": 200})
    store = ResultStore(tmp_path / "out")
    store.create()
    return config, store, TrialContext("a", str(store.folder), "cpu", "", 1)


@pytest.mark.parametrize("place", ["result", "checkpoint"])
def test_a_full_disk_is_no_failure_of_the_cell_and_the_next_launch_goes_on(place, tiny, monkeypatch):
    config, store, context = tiny
    with monkeypatch.context() as patch:
        if place == "result":
            patch.setattr("pyarrow.parquet.write_table", raising(FULL_DISK))
        else:
            opened = Path.open
            patch.setattr(
                Path, "open", lambda path, *a, **k: FullFile() if path.suffix == ".partial" else opened(path, *a, **k)
            )
        end = run_cell(config, context)
    told = f"the results folder {store.folder} cannot be written (No space left on device): make room"
    assert (end.status, end.reason) == ("unwritten", told)
    assert store.states() == {}
    assert run_cell(config, context).status == "done"


def test_cells_need_not_collect_what_the_worker_imported(tiny, monkeypatch):
    config, _, context = tiny
    frozen = []
    monkeypatch.setattr("gc.freeze", lambda: frozen.append(len(sys.modules)))
    monkeypatch.setattr("grid.launch.trial._IMPORTS", type(worker._IMPORTS)())
    for seed in (1, 2):
        assert run_cell(config.model_copy(update={"seed": seed, "first_samples": 8}), context).status == "done"
    assert len(frozen) == 1
    monkeypatch.setitem(sys.modules, "imported_by_the_third_cell", worker)
    run_cell(config.model_copy(update={"seed": 3, "first_samples": 8}), context)
    assert len(frozen) == 2


def test_a_cell_that_may_stop_ends_without_a_result_once_it_collapses(tiny, monkeypatch):
    config, store, context = tiny
    monkeypatch.setattr("tta_core.diagnostics.collapse.SHARE", 10.0)  # All predictions are of few classes.
    monkeypatch.setattr("tta_core.diagnostics.collapse.LEAST_WINDOW", 50)
    source = unadapted(config)
    assert run_cell(source, context).status == "done"
    end = run_cell(config, context, stop_collapsed=True)
    assert end.status == "failed"
    assert f" {COLLAPSED}at 128 of 200 samples" in end.reason
    assert store.states() == {source.cell_id(): "done", config.cell_id(): "failed"}
    # Without the source there is nothing to compare with, and a cell that reports is never stopped.
    shutil.rmtree(store.cell_folder(source.cell_id()))
    assert run_cell(config, context, stop_collapsed=True).status == "done"


@pytest.fixture
def tune(monkeypatch):
    """`grid.launch.tune`, imported as a launch does."""
    for name, value in SWITCHES.items():
        monkeypatch.setenv(name, value)
    from grid.launch import tune

    return tune


@pytest.fixture
def started(tiny):
    """The queue of that cell, when a worker has taken it and it may be tried thrice more."""
    config, _, _ = tiny
    queue = CellQueue(Given({config.cell_id(): config}), {}, max_retries=3)
    assert queue.take() == (config.cell_id(), config)
    return queue


class Given(dict):
    """A source of some cells."""

    def next(self, states):
        return self

    def may_stop(self, cell):
        return False


def test_a_launch_ends_when_the_results_folder_takes_no_more(tune, tiny, started, monkeypatch):
    config, store, context = tiny
    fitted = []

    class Tuner:
        def __init__(self, trainable, tune_config, run_config):
            (self.events,), self.stop = run_config.callbacks, run_config.stop

        def fit(self):
            self.events.on_trial_complete(0, [], trial(config, CellEnd("unwritten", reason="the disk is full")))
            assert self.stop.stop_all()
            fitted.append(self)

    monkeypatch.setattr(tune.tune, "Tuner", Tuner)
    monkeypatch.setattr(tune.ray, "cluster_resources", lambda: {"CPU": 2.0})
    monkeypatch.setenv("TUNE_MAX_PENDING_TRIALS_PG", "2")
    with pytest.raises(StoppedError, match=r"disk is full\. Finished cells are kept; then go on with the same command"):
        tune.run_cells(started, context, store, Resources(max_retries=3), [], snapshots=store.folder)
    assert len(fitted) == 1

    def full(self):
        raise FULL_DISK

    monkeypatch.setattr(Tuner, "fit", full)
    with pytest.raises(StoppedError, match=r"no room for its files in .*TMPDIR\. Finished cells are kept"):
        tune.run_cells(started, context, store, Resources(), [], snapshots=store.folder)


def test_a_failure_that_cannot_be_written_ends_the_launch_too(tune, tiny, started, monkeypatch):
    config, store, context = tiny
    events = tune.CellEvents(started, context, store, [])
    monkeypatch.setattr(started, "retry", lambda cell, **how: False)
    monkeypatch.setattr(store, "_publish", raising(PermissionError(errno.EACCES, "Permission denied")))
    events.on_trial_error(0, [], trial(config))
    assert events.problem.endswith("cannot be written (Permission denied): mend its permissions")


@pytest.mark.parametrize("error", [OverflowError("too large"), UnicodeEncodeError("a", "", 0, 1, "b"), KeyError()])
def test_a_failure_that_has_no_place_in_the_store_ends_the_launch_with_one_message(
    error, tune, tiny, started, monkeypatch
):
    config, store, context = tiny
    events = tune.CellEvents(started, context, store, [])
    monkeypatch.setattr(started, "retry", lambda cell, **how: False)
    monkeypatch.setattr("grid.store.tables.failure_table", raising(error))
    events.on_trial_error(0, [], trial(config))
    assert "failed (its worker process died" in events.problem
    assert f"cannot be recorded ({type(error).__name__}" in events.problem


def test_a_result_that_has_no_place_in_the_store_is_a_failure_and_not_tried_again(tiny, monkeypatch):
    config, store, context = tiny
    monkeypatch.setattr("grid.store.tables.result_tables", raising(OverflowError("too large for 32 bits")))
    end = run_cell(config, context)
    assert (end.status, end.reason) == ("failed", "the result has no place in the store (too large for 32 bits)")
    assert store.failures([config.cell_id()]) == {config.cell_id(): end.reason}


def test_a_trial_that_died_is_put_back_until_it_was_tried_often_enough(tune, tiny, started):
    config, store, context = tiny
    heard = []
    listener = SimpleNamespace(cell_ended=lambda cell, end: heard.append((cell, end.status)))
    events, searcher = tune.CellEvents(started, context, store, [listener]), tune._CellSearcher(started, Resources())
    for _ in range(3):
        assert searcher.suggest("meanwhile") is None
        events.on_trial_error(0, [], trial(config))
        assert searcher.suggest("again") == {"cell": config.cell_id(), "config": config, "stop_collapsed": False}
    events.on_trial_error(0, [], trial(config))
    assert heard == [(config.cell_id(), status) for status in ("retry", "retry", "retry", "failed")]
    assert searcher.suggest("no more") == "FINISHED"
    assert store.failures([config.cell_id()]) == {
        config.cell_id(): "its worker process died (killed, out of memory, or crashed)"
    }


def trial(config, end=None):
    """What Ray Tune hands to callbacks."""
    given = {"cell": config.cell_id(), "config": config}
    return SimpleNamespace(config=given, last_result=end and asdict(end), error_file=None)


def raising(error):
    def fail(*arguments, **options):
        raise error

    return fail


WORKER = """
import sys
from grid.launch.trial import TrialContext, run_cell
from grid.plan.studies import unadapted
from tta_core.run.config import RunConfig
run_cell(RunConfig.model_validate_json(sys.argv[2]), TrialContext("a", sys.argv[1], "cpu", "", 1))
"""


def test_a_cell_that_was_killed_in_mid_stream_goes_on_where_it_was(tmp_path):
    values = {"method": "moetta", "preset": "digits-c", "severity": 4, "stream": "continual", "batch_size": 4}
    config = RunConfig.from_values(values | {"domains": ["fog", "contrast", "snow"], "samples_per_domain": 120})
    cell, store = config.cell_id(), ResultStore(tmp_path / "out")
    store.create()
    file = store.checkpoint_file(cell)
    # With another number of threads, sums are rounded in another order.
    threads = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    worker = subprocess.Popen([sys.executable, "-c", WORKER, str(store.folder), config.model_dump_json()], env=threads)
    while not file.exists():
        assert worker.poll() is None, "the worker ended without a checkpoint"
        time.sleep(0.01)
    time.sleep(0.3)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    assert store.states() == {}
    assert run_cell(config, TrialContext("a", str(store.folder), "cpu", "", 10_000)).status == "done"
    assert not list(file.parent.iterdir())
    found = open_results(store.folder).sql("select prediction, entropy from samples order by position").fetchall()
    samples = runner.run(config, device="cpu").samples
    assert found == list(zip(samples["prediction"].tolist(), samples["entropy"].tolist(), strict=True))
