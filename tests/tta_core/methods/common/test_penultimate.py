import pytest
import torch
from torch import nn

from tta_core.errors import InputError
from tta_core.methods.common.penultimate import PenultimateForward


@pytest.mark.parametrize("changes", [{}, {"global_pool": "avg"}, {"fc_norm": True}])
def test_the_classifier_makes_the_logits_of_the_features(changes, tiny_vit, images):
    network = tiny_vit(**changes)
    features, logits = PenultimateForward(network, "lame")(images(4))
    assert features.shape == (4, 48)
    assert torch.equal(logits, network(images(4)))
    assert torch.allclose(network.head(features), logits, atol=1e-6)
    assert torch.allclose(features, network.forward_head(network.forward_features(images(4)), pre_logits=True))
    assert not network.head._forward_pre_hooks


def test_networks_without_a_named_classifier_are_refused(tiny_vit):
    with pytest.raises(InputError, match=r"lame reads the features .* \(Sequential\) does not name its classifier"):
        PenultimateForward(nn.Sequential(nn.Flatten(), nn.Linear(2, 2)), "lame")
    headless = tiny_vit()
    headless.reset_classifier(0)
    with pytest.raises(InputError, match="choose a network of timm with a head"):
        PenultimateForward(headless, "lame")
