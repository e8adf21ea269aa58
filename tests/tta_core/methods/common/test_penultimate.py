import pytest
import timm
import torch
from torch import nn

from tta_core.backbones.embedded.network import build_digits_vit
from tta_core.errors import InputError
from tta_core.methods.common.penultimate import PenultimateForward, class_space


@pytest.mark.parametrize("changes", [{}, {"global_pool": "avg"}, {"fc_norm": True}])
def test_the_classifier_makes_the_logits_of_the_features(changes, tiny_vit, images):
    network = tiny_vit(**changes)
    features, logits = PenultimateForward(network, "lame")(images(4))
    assert features.shape == (4, 48)
    assert torch.equal(logits, network(images(4)))
    assert torch.allclose(network.head(features), logits, atol=1e-6)
    assert torch.allclose(features, network.forward_head(network.forward_features(images(4)), pre_logits=True))
    assert not network.head._forward_pre_hooks


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


def test_networks_without_a_named_classifier_are_refused(tiny_vit):
    with pytest.raises(InputError, match=r"lame reads the features .* \(Sequential\) does not name its classifier"):
        PenultimateForward(nn.Sequential(nn.Flatten(), nn.Linear(2, 2)), "lame")
    headless = tiny_vit()
    headless.reset_classifier(0)
    with pytest.raises(InputError, match="choose a network of timm with a head"):
        PenultimateForward(headless, "lame")


def test_classifiers_that_are_not_linear_are_refused():
    with pytest.raises(InputError, match="this network's classifier is a Sequential: choose a network whose last"):
        class_space(nn.Sequential(nn.Linear(2, 2)), "t3a")
    with pytest.raises(InputError, match="is a Conv2d"):
        class_space(nn.Conv2d(2, 2, 3), "t3a")
