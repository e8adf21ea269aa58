"""What a worker does with one cell that somebody kills."""

import os
import signal
import subprocess
import sys
import time

import torch

from analysis.load import open_results
from grid.store import ResultStore
from grid.trial import Launch, run_cell
from tta_core import runner
from tta_core.config import RunConfig

WORKER = """
import sys
from grid.trial import Launch, run_cell
from tta_core.config import RunConfig
config = RunConfig.model_validate_json(sys.argv[2])
run_cell(config.cell_id(), Launch("a", sys.argv[1], "cpu", "", 1, {config.cell_id(): config}))
"""


def test_a_cell_that_was_killed_in_mid_stream_goes_on_where_it_was(tmp_path):
    values = {"method": "moetta", "preset": "digits-c", "severity": 4, "stream": "continual", "batch_size": 8}
    config = RunConfig.from_values(values | {"samples_per_domain": 200})
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
    launch = Launch("a", str(store.folder), "cpu", "", 10_000, {cell: config})
    assert run_cell(cell, launch).status == "done"
    assert not list(file.parent.iterdir())
    found = open_results(store.folder).sql("select prediction, entropy from samples order by position").fetchall()
    samples = runner.run(config, device="cpu").samples
    assert found == list(zip(samples["prediction"].tolist(), samples["entropy"].tolist(), strict=True))
