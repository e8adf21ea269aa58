"""Kills at random moments cost time and nothing else; `python -m tests.chaos` does many.

Drivers and workers are killed in `test_launch.py`.
"""

from pathlib import Path

import pytest

from tests.chaos import Chaos

SMALL = """
sweep: chaos
base: {preset: digits-c, severity: 4, domains: [fog, contrast], samples_per_domain: 40, batch_size: 8}
grid: {method: [source, moetta]}
seeds: [0, 1]
resources: {checkpoint_every: 2, max_concurrent: 1}
tracking: {enabled: false}
"""


@pytest.mark.launch
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="processes are found through /proc")
@pytest.mark.timeout(600)
def test_kills_leave_the_bits_of_an_undisturbed_run(tmp_path):
    chaos = Chaos(tmp_path, SMALL, seed=7)
    end = chaos.kill("gcs")
    assert end.status is not None, f"the launch hung after its GCS was killed:\n{end.output}"
    assert "Traceback" not in end.output, end.output
    end = chaos.finish()
    assert end.status == 0, end.output
    assert chaos.problems() == []
