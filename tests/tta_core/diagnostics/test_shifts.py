"""Detected against true changes."""

import math

import pytest
import torch

from tta_core.diagnostics.shifts import detection_scores


def scores(detected, true, tolerance):
    return pytest.approx(tuple(detection_scores(detected, true, tolerance).values()), nan_ok=True)


def test_exact_and_tolerant_scores_by_hand():
    true, detected = [10, 20, 30, 40], [10, 19, 33, 50]
    assert scores(detected, true, 0) == (1 / 4, 1 / 4, 1 / 4)
    assert scores(detected, true, 1) == (2 / 4, 2 / 4, 2 / 4)
    assert scores(detected, true, 3) == (3 / 4, 3 / 4, 3 / 4)
    assert scores([10], true, 0) == (1, 1 / 4, 2 / 5)


def test_each_change_and_each_detection_is_paired_once():
    assert scores([9, 10, 11], [10], 1) == (1 / 3, 1, 1 / 2)
    assert scores([10], [9, 11], 1) == (1, 1 / 2, 2 / 3)
    # The first detection must leave the second change to the second detection.
    assert scores([5, 6], [4, 6], 1) == (1, 1, 1)
    assert scores([5, 8], [6, 7], 1) == (1, 1, 1)


def test_what_cannot_be_said_is_not_a_number():
    assert scores([], [10], 1) == (math.nan, 0, 0)
    assert scores([10], [], 1) == (0, math.nan, 0)
    assert scores([], [], 1) == (math.nan,) * 3


def test_the_scores_of_the_spec_on_a_list_like_the_recorded_one():
    """imse §1.9: 99 detections, 134 changes each 79 batches; 35 hits, 56 one batch early, one of them doubled."""
    true = [79 * (number + 1) for number in range(134)]
    hits, early = true[:35], [change - 1 for change in true[34:90]]
    near = [true[100] + 3, true[101] - 2]
    astray = [change + 40 for change in true[110:116]]
    detected = sorted([*hits, *early, *near, *astray])
    assert len(detected) == 99
    expected = {0: (0.354, 0.261, 0.300), 1: (0.909, 0.672, 0.773), 3: (0.929, 0.687, 0.790)}
    for tolerance, rounded in expected.items():
        found = detection_scores(detected, true, tolerance)
        assert tuple(round(value, 3) for value in found.values()) == rounded


class Scripted:
    """Wraps a method's step and records shifts, the bank and retrievals at given steps."""

    def __init__(self, method, script):
        self.once, self.method, self.number, self.bank = method.step, method, -1, 1
        self.script = script
        method.last_retrieval = None
        method.step = self

    def __call__(self, images):
        logits = self.once(images)
        self.number += 1
        stored, weights = self.script.get(self.number, (-1, None))
        self.bank = max(self.bank, stored + 1)
        self.method.last_retrieval = None if weights is None else torch.tensor(weights)
        values = {"shift": stored >= 0, "bank_size": self.bank, "stored": stored}
        self.method.record |= {name: torch.tensor(float(value)) for name, value in values.items()}
        return logits


def test_detections_bank_and_retrieval_of_a_scripted_run(make_scene, watch):
    """Steps 0-2 are fog, 3-5 snow, 6-8 frost; the last step of each has 4 images instead of 8."""
    scene = make_scene("source")
    Scripted(scene.method, {3: (1, [0.25, 0.75]), 5: (2, None), 7: (2, [0.0, 1.0, 0.0])})
    watched = watch(scene, ("shifts",), every=4)
    assert watched.values("shift_precision", by=("item",)) == pytest.approx(
        {(0,): 1 / 3, (1,): 2 / 3, (2,): 2 / 3, (3,): 2 / 3}
    )
    assert watched.values("shift_recall", by=("item",)) == pytest.approx({(0,): 0.5, (1,): 1, (2,): 1, (3,): 1})
    assert watched.values("shift_f1", by=("item",))[0,] == pytest.approx(2 / 5)
    assert watched.values("shift_tail_triggers", by=()) == {(): 1}
    assert watched.values("bank_size", by=("step",)) == {(0,): 1, (4,): 2, (8,): 3}
    assert watched.values("retrieval") == {
        (3, "", "snow", "source", 0): 0.25,
        (3, "", "snow", "fog", 1): 0.75,
        (7, "", "frost", "source", 0): 0.0,
        (7, "", "frost", "fog", 1): 1.0,
        # Merged into entry 2 at this very step: batches 5 and 6, of which 4 images are snow and 8 frost.
        (7, "", "frost", "frost", 2): 0.0,
    }


def test_a_reset_empties_the_bank_and_is_no_change_to_detect(make_scene, watch):
    scene = make_scene("source", "single")
    Scripted(scene.method, {1: (1, None), 4: (1, [0.0, 1.0])})
    watched = watch(scene, ("shifts",))
    assert watched.values("shift_precision", by=("item",))[3,] == 0
    assert not watched.values("shift_recall", by=("item",))
    assert watched.values("retrieval", by=("step", "domain", "against", "item")) == {
        (4, "snow", "source", 0): 0.0,
        (4, "snow", "snow", 1): 1.0,
    }


def test_without_a_bank_nothing_is_measured(make_scene, watch):
    scene = make_scene("source")
    Scripted(scene.method, {}).bank = 0
    assert not watch(scene, ("shifts",)).record.measurements


def test_imse_is_watched(make_scene, watch):
    scene = make_scene("imse", preset="digits-c", shift_threshold=0.01)
    watched = watch(scene, ("shifts",), every=1)
    shifts = watched.record.batches["shift"].nonzero()[0].tolist()
    assert shifts, "nothing detected: the test says nothing"
    sizes = watched.values("bank_size", by=("step",))
    assert [sizes[step,] for step in range(9)] == watched.record.batches["bank_size"].tolist()
    retrieved = watched.values("retrieval", by=("step", "item"))
    for step in shifts:
        assert sum(value for (at, _), value in retrieved.items() if at == step) == pytest.approx(1)
    assert {"shift_precision", "shift_recall", "shift_f1"} <= {m.quantity for m in watched.record.measurements}
    without = make_scene("imse", preset="digits-c", retrieval="none")
    assert not watch(without, ("shifts",)).record.measurements
