"""Loading backbones: the right weights into the right network, or one clear message."""

import pytest
import torch

from tta_core.backbones import BACKBONES
from tta_core.embedded.network import MEAN, STD, weights_file
from tta_core.errors import InputError
from tta_core.networks import load_backbone


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_is_a_float32_network_in_eval_mode(name):
    network = load_backbone(BACKBONES[name])
    assert not network.training
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, BACKBONES[name].num_classes)


@pytest.mark.parametrize("name", BACKBONES)
def test_the_table_and_the_training_agree(name):
    spec = BACKBONES[name]
    assert (spec.mean, spec.std) == (MEAN, STD)
    assert weights_file(spec.pretraining).name == spec.weights


def test_networks_of_two_cells_share_no_weights():
    one, other = (load_backbone(BACKBONES["digits-vit-supervised"]) for _ in range(2))
    with torch.no_grad():
        one.norm.weight.zero_()
    assert other.norm.weight.abs().sum() > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": "nosuch.safetensors"}, "nosuch.safetensors cannot be read"),
        ({"sha256": "0" * 64}, "has sha256 .* the backbone table says 000000000000"),
        ({"source": "embedded:mae"}, "do not fit its network"),
    ],
)
def test_wrong_weights_are_refused(change, message):
    spec = BACKBONES["digits-vit-supervised"].model_copy(update=change)
    with pytest.raises(InputError, match=message):
        load_backbone(spec)
