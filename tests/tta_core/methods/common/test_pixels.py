"""Views, windows and maps of segmentation."""

import math

import pytest
import torch

from tests.tta_core.methods.pixel_networks import tiny_network
from tta_core.methods.common.pixel_settings import RATIOS, ViewSettings
from tta_core.methods.common.pixels import window_starts, windowed
from tta_core.methods.registry import build_method


@pytest.mark.parametrize(
    ("ratio", "windows"), [(0.5, 1), (0.75, 1), (1.0, 1), (1.25, 2), (1.5, 2), (1.75, 2), (2.0, 6)]
)
def test_windows_of_the_published_sizes(ratio, windows):
    height, width = int(540 * ratio), int(960 * ratio)
    rows, columns = window_starts(height, 1024, 768), window_starts(width, 1024, 768)
    assert len(rows) * len(columns) == windows
    for starts, length in ((rows, height), (columns, width)):
        covered = {place for start in starts for place in range(start, min(start + 1024, length))}
        assert covered == set(range(length))
        assert all(start + min(1024, length) <= length for start in starts)


def test_overlapping_windows_are_averaged():
    settings = ViewSettings(window=(4, 4), stride=(3, 3))
    # Each window is told apart by its mean.
    found = windowed(
        lambda x: x.mean(dim=(2, 3), keepdim=True).expand(-1, -1, 2, 2),
        images := torch.rand(1, 3, 6, 4),
        settings,
        10**6,
    )
    top, bottom = images[:, :, :4].mean(dim=(2, 3)), images[:, :, 2:].mean(dim=(2, 3))
    assert torch.allclose(found[0, :, 0, 0], top[0])
    assert torch.allclose(found[0, :, 5, 0], bottom[0])
    assert torch.allclose(found[0, :, 3, 0], (top[0] + bottom[0]) / 2)


@pytest.mark.parametrize("at_once", [1, 10**6])
def test_windows_give_the_same_however_many_run_together(at_once):
    network, settings = tiny_network(), ViewSettings(window=(32, 32), stride=(16, 16))
    images = torch.randn(2, 3, 40, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        one, other = (windowed(network, images, settings, n) for n in (1, at_once))
    assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("views", [1, 6, 14])
def test_the_mean_over_views_is_that_of_probabilities(views):
    method = build_method(
        "source", tiny_network(), num_classes=5, task="segmentation", views=views, output_size=(48, 80)
    )
    images = torch.randn(1, 3, 24, 40, generator=torch.Generator().manual_seed(0))
    network, total = method.network, 0
    with torch.no_grad():
        for ratio in RATIOS[views]:
            for flipped in (False, True) if views > 1 else (False,):
                size = (int(24 * ratio), int(40 * ratio))
                view = torch.nn.functional.interpolate(images, size=size, mode="bilinear") if ratio != 1 else images
                logits = network(view.flip(-1) if flipped else view)
                for target in (size, (48, 80)):
                    logits = torch.nn.functional.interpolate(logits, size=target, mode="bilinear")
                total = total + (logits.flip(-1) if flipped else logits).softmax(dim=1)
    assert torch.allclose(method(images).softmax(dim=1), total / views, atol=1e-5)


def test_a_flipped_image_is_predicted_flipped():
    method = build_method("source", tiny_network(), num_classes=5, task="segmentation", views=6)
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(method(images), method(images.flip(-1)).flip(-1), atol=1e-4)


def test_half_the_size_is_what_the_network_gets():
    method = build_method("source", tiny_network(), num_classes=5, task="segmentation", base_scale=0.5)
    sizes = []
    method.network.register_forward_hook(lambda module, given, found: sizes.append(tuple(given[0].shape)))
    assert method(torch.zeros(1, 3, 64, 96)).shape == (1, 5, 64, 96)
    assert sizes == [(1, 3, 32, 48)]
    assert math.isclose(method.context.base_scale, 0.5)
