"""What is kept of the probabilities, and the guard that ends runs which predict few classes."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tta_core.diagnostics import outputs
from tta_core.diagnostics.collapse import CollapsedError, CollapseGuard
from tta_core.errors import COLLAPSED


def test_outputs_are_moments_of_the_scored_probabilities(make_scene, watch, monkeypatch):
    monkeypatch.setattr(outputs, "KEPT", 7)
    watched = watch(make_scene("tent", "mixed", preset="digits-c"), ("outputs",))
    p = torch.cat(watched.keeper.logits).softmax(dim=1).detach().double().numpy()
    found = {kind: [one for one in watched.record.outputs if one.quantity == kind] for kind in ("mean", "gram")}
    assert np.allclose(found["mean"][0].values, p.mean(axis=0), atol=1e-6)
    assert np.allclose([one.values for one in found["gram"]], p.T @ p / len(p), atol=1e-6)
    kept = {one.item: one.values for one in watched.record.outputs if one.quantity == "probabilities"}
    assert list(kept) == np.linspace(0, len(p) - 1, 7).astype(int).tolist()
    assert all(np.allclose(values, p[position], atol=1e-3) for position, values in kept.items())


def moments(classes, *, batch=64):
    """Batches whose samples are predicted as the given classes."""
    for start in range(0, len(classes), batch):
        chosen = torch.tensor(classes[start : start + batch])
        logits = torch.nn.functional.one_hot(chosen, 10).float()
        yield SimpleNamespace(positions=slice(start, start + len(chosen))), logits


def guarded(classes, source, **more):
    scene = SimpleNamespace(order=range(len(classes)), method=SimpleNamespace())
    guard = CollapseGuard(scene, np.array(source, np.int32), **more)
    for moment, logits in moments(classes):
        guard.after_step(moment, logits)


EVEN = [n % 10 for n in range(2048)]


def test_a_collapse_must_last_two_windows():
    guarded(EVEN, EVEN)
    guarded(EVEN[:512] + [3] * 512 + EVEN[:1024], EVEN)
    with pytest.raises(CollapsedError, match=f"{COLLAPSED}at 1536 of 2048 samples"):
        guarded(EVEN[:512] + [3] * 1536, EVEN)


def test_a_method_that_recovers_has_twice_as_long():
    guarded(EVEN[:512] + [3] * 1536, EVEN, recovers=True)
    with pytest.raises(CollapsedError, match="at 2048"):
        guarded([3] * 2048, EVEN, recovers=True)


def test_streams_of_one_class_after_another_are_no_collapse():
    ordered = [n // 205 for n in range(2048)]
    guarded(ordered, ordered)
