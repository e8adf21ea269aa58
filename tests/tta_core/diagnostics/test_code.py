"""Spectral codes."""

import pytest
import torch

from tta_core.diagnostics.code import Code, largest_changes
from tta_core.diagnostics.observer import Moment, Segment

ZEROS = torch.zeros(1, 10)


class HasCode:
    """Stands in for a method with a spectral code."""

    def __init__(self):
        self.source = {"a": torch.tensor([4.0, 2.0, 1.0, 1.0]), "b": torch.tensor([3.0, 1.0])}
        self.code = {layer: code.clone() for layer, code in self.source.items()}

    def spectral_code(self):
        return self.code

    def source_code(self):
        return self.source


@pytest.fixture
def scene(make_scene):
    made = make_scene("source")
    object.__setattr__(made, "method", HasCode())
    return made


def moment(step, measuring=True):
    return Moment(step, torch.zeros(1, 3, 2, 2), None, slice(0, 1), measuring)


def by_place(observer, quantity, *places):
    return {tuple(getattr(m, p) for p in places): m.value for m in observer.measurements() if m.quantity == quantity}


def test_drift_is_the_summed_change_over_the_sum_of_the_source(scene):
    observer = Code(scene)
    observer.after_step(moment(0), ZEROS)
    scene.method.code["a"] = torch.tensor([3.5, 2.5, 1.0, 0.0])
    observer.after_step(moment(1, measuring=False), ZEROS)
    observer.after_step(moment(2), ZEROS)
    drifts = by_place(observer, "code_drift", "step", "layer")
    assert drifts == {(0, "a"): 0, (0, "b"): 0, (2, "a"): pytest.approx(2 / 8), (2, "b"): 0}


def test_largest_changes_are_taken_on_both_sides():
    change = torch.tensor([0.0, 3.0, -1.0, 1.0, 2.0, -4.0])
    assert largest_changes(change, 2) == [(1, 3.0), (4, 2.0), (5, -4.0), (2, -1.0)]
    assert largest_changes(change, 9) == [(1, 3.0), (4, 2.0), (3, 1.0), (5, -4.0), (2, -1.0)]
    assert largest_changes(torch.zeros(3), 5) == []


def test_similarity_is_between_the_changes_since_the_source(scene):
    observer = Code(scene)
    for number, (domain, change) in enumerate([("fog", (1.0, 0.0)), ("snow", (1.0, 1.0)), ("frost", (0.0, -2.0))]):
        scene.method.code["b"] = scene.method.source["b"] + torch.tensor(change)
        observer.at_segment_end(Segment(number, 0, 1, number, number, domain))
    similarity = by_place(observer, "code_similarity", "domain", "against")
    assert similarity["fog", "snow"] == pytest.approx(0.5**0.5)
    assert similarity["snow", "frost"] == pytest.approx(-(0.5**0.5))
    assert similarity["fog", "frost"] == pytest.approx(0)
    assert similarity["frost", "frost"] == pytest.approx(1)
    changes = by_place(observer, "code_change", "layer", "item")
    assert changes == {("b", 1): -2.0}


@pytest.mark.parametrize("stream", ["continual", "single"])
def test_imse_code_is_watched(stream, make_scene, watch):
    scene = make_scene("imse", stream, preset="digits-c")
    watched = watch(scene, ("code",), every=3)
    drifts = watched.values("code_drift", by=("step", "layer"))
    assert {step for step, _ in drifts} == {0, 3, 6, 8}
    code, source = scene.method.spectral_code(), scene.method.source_code()
    for layer in code:
        ratio = float((code[layer] - source[layer]).abs().sum() / source[layer].abs().sum())
        assert drifts[8, layer] == pytest.approx(ratio, rel=1e-4)
    assert len(watched.values("code_similarity", by=("domain", "against"))) == 9
    for (layer, item), value in watched.values("code_change", by=("layer", "item")).items():
        assert value == pytest.approx(float(code[layer][item] - source[layer][item]))
