"""A whole cell on the stand-in: loop, prefetch, checkpoints, diagnostics."""

import numpy as np
import pytest

import tta_core
from tests.accelerator.device import DEVICE, waits

CELL = {
    "method": "tent",
    "backbone": "digits-vit-supervised",
    "benchmark": "digits-c",
    "stream": "continual",
    "domains": ["fog", "contrast"],
    "samples_per_domain": 24,
    "batch_size": 8,
}


def test_a_cell_has_the_predictions_of_the_cpu():
    here, there = (tta_core.run(CELL | {"diagnostics": "auto"}, device=device) for device in ("cpu", DEVICE.type))
    assert there.device == "stand-in accelerator"
    assert np.array_equal(here.samples["prediction"], there.samples["prediction"])
    assert len(here.measurements) == len(there.measurements)


def test_the_loop_waits_for_no_step():
    found = []
    for count in (24, 48):
        with waits() as some:
            tta_core.run(CELL | {"samples_per_domain": count}, device=DEVICE.type)
        found.append(len(some))
    assert found[0] == found[1]


@pytest.mark.parametrize("method", ["tent"])
def test_a_run_that_was_killed_goes_on_with_the_same_bits(method, tmp_path):
    cell, file = CELL | {"method": method}, tmp_path / "checkpoint"
    whole = tta_core.run(cell, device=DEVICE.type)
    tta_core.run(cell, device=DEVICE.type, checkpoint_file=file, checkpoint_every=2)
    assert file.exists()
    again = tta_core.run(cell, device=DEVICE.type, checkpoint_file=file, checkpoint_every=2)
    assert np.array_equal(whole.samples["entropy"], again.samples["entropy"])
