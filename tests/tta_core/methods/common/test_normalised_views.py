"""Views of normalised images."""

import pytest
import torch

from tta_core.methods.base import Context
from tta_core.methods.common import normalised_views
from tta_core.methods.common.normalised_views import normalised_view
from tta_core.methods.common.views import random_view

CONTEXT = Context(10, mean=(0.5, 0.4, 0.3), std=(0.25, 0.5, 0.2))


def test_the_view_is_made_of_pixels():
    pixels = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (CONTEXT.mean, CONTEXT.std))
    expected = random_view(pixels, torch.Generator().manual_seed(5))
    found = normalised_view((pixels - mean) / std, CONTEXT, torch.Generator().manual_seed(5))
    assert torch.allclose(found * std + mean, expected, atol=1e-9)
    assert float((expected - pixels).abs().mean()) > 1e-3


def test_images_are_left_as_they_are(monkeypatch):
    monkeypatch.setattr(normalised_views, "random_view", lambda pixels, generator: pixels.clone())
    images = torch.rand(2, 3, 32, 32)
    before = images.clone()
    assert torch.allclose(normalised_view(images, CONTEXT, torch.Generator()), images, atol=1e-6)
    assert torch.equal(images, before)


@pytest.mark.parametrize("seed", [0, 1])
def test_no_graph_goes_through_a_view(seed):
    images = torch.rand(1, 3, 32, 32, requires_grad=True)
    assert not normalised_view(images, Context(10), torch.Generator().manual_seed(seed)).requires_grad
