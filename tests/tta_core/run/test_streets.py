"""Cells on folders that are laid out as Cityscapes and ACDC."""

import numpy as np
import pytest
from PIL import Image

from tests.tta_core.methods.pixel_networks import tiny_network
from tta_core.data.benchmarks import BENCHMARKS
from tta_core.methods.registry import methods
from tta_core.run import cell as runner

SIZE = (64, 96)
CONDITIONS = ("fog", "night")
IMAGES = 2


def write(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(content).save(file)


@pytest.fixture
def streets(tmp_path, monkeypatch):
    """Two images of fog and of night, and two of clean streets to train on."""
    random = np.random.default_rng(0)
    for number in range(IMAGES):
        labels = random.integers(0, 19, SIZE, dtype=np.uint8)
        labels[:4] = 255
        for condition in CONDITIONS:
            name, acdc = f"GOPR1/GOPR1_frame_{number:06}", tmp_path / "acdc"
            image = random.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
            write(acdc / "rgb_anon" / condition / "train" / f"{name}_rgb_anon.png", image)
            write(acdc / "gt" / condition / "train" / f"{name}_gt_labelTrainIds.png", labels)
        name, city = f"bonn/bonn_{number:06}_000019", tmp_path / "cityscapes"
        write(city / "leftImg8bit/train" / f"{name}_leftImg8bit.png", random.integers(0, 256, (*SIZE, 3), np.uint8))
        write(city / "gtFine/train" / f"{name}_gtFine_labelTrainIds.png", labels)
    monkeypatch.setenv("TTA_GRID_DATA", str(tmp_path))
    monkeypatch.setitem(
        BENCHMARKS,
        "acdc",
        BENCHMARKS["acdc"].model_copy(update={"images_per_domain": IMAGES, "domains": CONDITIONS}),
    )
    monkeypatch.setitem(
        BENCHMARKS, "cityscapes", BENCHMARKS["cityscapes"].model_copy(update={"counts": {"train": IMAGES}})
    )
    monkeypatch.setattr(runner, "load_backbone", lambda spec, own=None: tiny_network(classes=19))


@pytest.mark.parametrize("method", list(methods("segmentation")))
def test_every_method_that_segments_runs_on_them(streets, method):
    settings = {name: 6 for name in ("views",) if name in methods("segmentation")[method].settings.model_fields}
    values = {"method": method, "benchmark": "acdc", "backbone": "segformer-b0", "stream": "recurring-same"}
    result = runner.run(values | {"rounds": 2, "batch_size": 1, "settings": settings}, device="cpu")
    assert result.samples["labelled"].sum(axis=1).tolist() == [(SIZE[0] - 4) * SIZE[1]] * 8
    assert (result.samples["intersection"] <= result.samples["predicted"]).all()
    assert bool(result.artefact) == bool(methods("segmentation")[method].preparation and result.config.needs())
