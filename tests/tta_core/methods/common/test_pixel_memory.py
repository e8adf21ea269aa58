"""Views of segmentation are added up: many of them take little more memory than one."""

import pytest
import torch

from tests.tta_core.methods.pixel_networks import tiny_network
from tta_core.bench.instruments import TensorMemory
from tta_core.methods.registry import build_method

FIFTH = {"window": (204, 204), "stride": (153, 153), "base_scale": 0.5}
"""Cityscapes to ACDC at a fifth of the size: maps of 216 x 384, and as many windows."""


def peak(method, views, shape, **settings):
    """The most numbers in tensors that one step holds at once, in MiB."""
    built = build_method(method, tiny_network(classes=19), num_classes=19, task="segmentation", views=views, **settings)
    images = torch.randn(1, 3, *shape, generator=torch.Generator().manual_seed(0))
    with TensorMemory(torch.device("cpu")) as memory:
        built(images)
        with memory.step():
            built(images)
    return memory.peak_mib


@pytest.mark.parametrize("method", ["source", "cotta"])
def test_fourteen_views_take_at_most_three_times_the_memory_of_one(method):
    one, many = (peak(method, views, (216, 384), **FIFTH) for views in (1, 14))
    whole_map = 19 * 216 * 384 * 4 / 2**20
    assert one > whole_map
    assert many < 3 * one
    assert many < 6 * whole_map


def test_six_views_of_small_images_do_not_all_run_at_once():
    one, many = (peak("source", views, (64, 64)) for views in (1, 6))
    assert many < 3 * one
