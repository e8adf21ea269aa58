"""Time and memory of a stretch of work."""

import time

import pytest
import torch

from tta_core.run.cost import CostMeter


@pytest.fixture
def meter():
    return CostMeter(torch.device("cpu"))


def test_pauses_do_not_count_also_inside_each_other(meter):
    meter.start()
    time.sleep(0.02)
    with meter.paused():
        time.sleep(0.2)
        with meter.paused():
            time.sleep(0.1)
        time.sleep(0.1)
    time.sleep(0.02)
    meter.stop()
    assert 0.04 <= meter.seconds < 0.3


def test_a_pause_ends_when_what_runs_inside_fails(meter):
    meter.start()
    with pytest.raises(ValueError, match="inside"), meter.paused():
        raise ValueError("inside")
    time.sleep(0.02)
    meter.stop()
    assert meter.seconds >= 0.02


def test_a_pause_before_the_start_changes_nothing(meter):
    with meter.paused():
        time.sleep(0.01)
    meter.start()
    meter.stop()
    assert 0 <= meter.seconds < 0.01
    assert meter.peak_memory_mib > 0
