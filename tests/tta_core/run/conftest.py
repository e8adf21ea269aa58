"""Cells of segmentation that take a moment."""

import pytest

from tests.tta_core.methods.pixel_networks import tiny_network
from tta_core.data.benchmarks import BENCHMARKS
from tta_core.run import cell as runner

SMALL_SCENES = {
    "benchmark": "digit-scenes",
    "backbone": "segformer-scenes",
    "stream": "recurring-same",
    "rounds": 2,
    "samples_per_domain": 3,
    "domains": ["fog", "night"],
    "severity": 3,
    "batch_size": 1,
    "preset": "digit-scenes",
}


@pytest.fixture(scope="module")
def few_scenes():
    row = BENCHMARKS["digit-scenes"]
    BENCHMARKS["digit-scenes"] = row.model_copy(update={"images_per_domain": 4, "counts": {"clean": 4}})
    yield
    BENCHMARKS["digit-scenes"] = row


@pytest.fixture
def tiny_scenes(few_scenes, monkeypatch):
    """A tiny network, and few scenes."""
    monkeypatch.setattr(runner, "load_backbone", lambda spec, own=None: tiny_network(classes=11))
