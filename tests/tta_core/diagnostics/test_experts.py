"""Similarity of experts."""

import math

import pytest
import torch

from tta_core.diagnostics.experts import mean_cosine


def test_mean_cosine_is_that_of_the_strict_lower_triangle():
    vectors = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]])
    expected = (0 + math.sqrt(0.5) + math.sqrt(0.5)) / 3
    assert float(mean_cosine(vectors)) == pytest.approx(expected)
    random = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    units = random / random.norm(dim=1, keepdim=True)
    matrix = units @ units.T
    assert float(mean_cosine(random)) == pytest.approx(float(matrix[*torch.tril_indices(7, 7, -1)].mean()), abs=1e-6)


def test_experts_that_have_not_moved_have_no_direction():
    assert math.isnan(mean_cosine(torch.zeros(3, 4)))
    assert math.isnan(mean_cosine(torch.tensor([[1.0, 0.0], [0.0, 0.0]])))
    assert float(mean_cosine(torch.tensor([[1.0, 0.0], [0.0, 0.0], [-2.0, 0.0]]))) == -1


def test_similarity_by_step_and_layer(make_scene, watch):
    scene = make_scene("moetta", preset="digits-c", num_experts=3)
    watched = watch(scene, ("experts",), every=3)
    for part in ("weight", "bias"):
        values = watched.values(f"expert_similarity_{part}", by=("step", "layer"))
        assert {step for step, _ in values} <= {0, 3, 6, 8}
        for name, layer in scene.method.layers.items():
            at_end = mean_cosine(getattr(layer, f"experts_{part}").detach())
            assert values.get((8, name), math.nan) == pytest.approx(float(at_end), nan_ok=True)
        assert all(-1 <= value <= 1 for value in values.values())
        assert len(values) > len(scene.method.layers)
