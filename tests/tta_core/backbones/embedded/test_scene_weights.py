"""The shipped weights of `digit-scenes` do what they say, and the script that makes them runs."""

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tta_core.backbones.embedded.network import WEIGHTS_FOLDER
from tta_core.backbones.embedded.scenes import build_scenes_network
from tta_core.backbones.embedded.train_scenes import RECIPE_VERSION, SceneRecipe, mean_iou, train_scenes
from tta_core.backbones.networks import load_backbone
from tta_core.backbones.table import backbone_spec
from tta_core.data.sources.scene_weather import WEATHER, weathered
from tta_core.data.sources.scenes import make_scenes

FILE = WEIGHTS_FOLDER / "segformer_scenes.safetensors"
SEVERITY_3 = {"fog": 0.724, "night": 0.663, "rain": 0.628, "snow": 0.698}


@pytest.fixture(scope="module")
def network():
    return load_backbone(backbone_spec("segformer-scenes"))


@pytest.fixture(scope="module")
def scenes():
    return make_scenes("test", 60)


def test_the_file_is_that_of_the_recipe():
    with safe_open(FILE, "pt") as file:
        assert file.metadata()["recipe_version"] == str(RECIPE_VERSION)
    assert FILE.stat().st_size < 600_000
    assert all(tensor.isfinite().all() for tensor in load_file(FILE).values())
    assert sum(parameter.numel() for parameter in build_scenes_network().parameters()) == 274_427


def test_clean_scenes_are_segmented_as_stated(network, scenes):
    # The row states that of 400 scenes; the first 60 are a little easier.
    assert mean_iou(network, *scenes) == pytest.approx(0.860, abs=0.003)
    assert backbone_spec("segformer-scenes").clean_accuracy == pytest.approx(0.849)


def test_weather_of_severity_3_costs_what_was_measured(network, scenes):
    images, labels = scenes
    found = {name: mean_iou(network, weathered(images, name, 3), labels) for name in WEATHER}
    assert found == pytest.approx(SEVERITY_3, abs=0.005)
    # The prototype of the recipe had 0.61 on as many scenes, and 0.63 on 200.
    assert 0.6 < np.mean(list(found.values())) < 0.7


def test_the_script_is_reproducible():
    short = SceneRecipe(scenes=16, epochs=1, batch_size=8, sides=(48,))
    one, other = (train_scenes(3, short).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)
