import pytest
import timm
import torch
from torch import nn

from tta_core.backbones.embedded.network import build_digits_vit
from tta_core.errors import InputError
from tta_core.methods.common.penultimate import PenultimateForward
from tta_core.methods.t3a.class_space import class_space


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto"])
def test_convolutional_networks_are_read_too(name, images):
    network = timm.create_model(name, num_classes=7).eval()
    features, logits = PenultimateForward(network, "t3a")(images(2))
    space = class_space(network.get_classifier(), "t3a")
    assert torch.allclose(features @ space.vectors.T + network.get_classifier().bias, logits, atol=1e-5)


def test_the_space_of_a_linear_classifier_is_its_input():
    layer = nn.Linear(3, 2)
    space = class_space(layer, "t3a")
    assert torch.equal(space.project(torch.ones(1, 3)), torch.ones(1, 3))
    assert torch.equal(space.vectors, layer.weight)
    assert torch.allclose(space.logits, layer(layer.weight))
    assert class_space(nn.Linear(3, 2, bias=False), "t3a").logits.shape == (2, 2)


def test_the_space_of_a_cosine_head_is_that_of_its_text_vectors():
    torch.manual_seed(0)
    head = build_digits_vit("text-prototype").head
    space = class_space(head, "t3a")
    features = torch.randn(5, head.projection.in_features)
    cosines = nn.functional.normalize(space.project(features), dim=-1) @ space.vectors.T
    assert torch.allclose(head.log_scale.exp() * cosines, head(features), atol=1e-5)
    assert torch.allclose(space.logits.diagonal(), head.log_scale.exp().expand(10), atol=1e-4)


def test_classifiers_that_are_not_linear_are_refused():
    with pytest.raises(InputError, match="this network's classifier is a Sequential: choose a network whose last"):
        class_space(nn.Sequential(nn.Linear(2, 2)), "t3a")
    with pytest.raises(InputError, match="is a Conv2d"):
        class_space(nn.Conv2d(2, 2, 3), "t3a")
