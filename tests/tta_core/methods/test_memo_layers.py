"""Normalisation layers with a weight and a bias for each image."""

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d, GroupNormAct, LayerNorm2d
from torch import nn
from torch.func import functional_call

from tta_core.errors import InputError
from tta_core.methods.memo.layers import PerImageBatchNorm, PerImageNorm, replace_norms

LAYERS = {
    "layer norm of tokens": (lambda: nn.LayerNorm(6), (5, 6)),
    "layer norm of a vector": (lambda: nn.LayerNorm(6), (6,)),
    "layer norm of two dimensions": (lambda: nn.LayerNorm((4, 6)), (3, 4, 6)),
    "layer norm without bias": (lambda: nn.LayerNorm(6, bias=False), (5, 6)),
    "layer norm of channels": (lambda: LayerNorm2d(6), (6, 4, 3)),
    "group norm": (lambda: nn.GroupNorm(2, 6), (6, 4, 3)),
    "group norm with activation": (lambda: GroupNormAct(6, num_groups=2), (6, 4, 3)),
    "batch norm": (lambda: nn.BatchNorm2d(6), (6, 4, 3)),
    "batch norm with activation": (lambda: BatchNormAct2d(6), (6, 4, 3)),
}


@pytest.fixture(params=list(LAYERS))
def layer(request):
    """A layer with random parameters and statistics, in a network of one layer, and the shape of a sample."""
    make, shape = LAYERS[request.param]
    torch.manual_seed(0)
    network = nn.Sequential(make()).eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    for name, buffer in network.named_buffers():
        if "running" in name:
            nn.init.uniform_(buffer, 0.5, 1.5)
    return network, shape


def test_with_its_own_weights_a_layer_is_what_it_replaces(layer):
    network, shape = layer
    inputs = torch.randn(4, *shape)
    expected = network(inputs)
    names = set(dict(network.named_parameters()))
    assert replace_norms(network, "memo", None)
    assert isinstance(network[0], PerImageNorm)
    assert set(dict(network.named_parameters())) == names
    assert torch.allclose(network(inputs), expected, atol=1e-6)


def test_each_image_has_its_own_weights_for_all_its_copies(layer):
    network, shape = layer
    replace_norms(network, "memo", None)
    images, copies = 3, 2
    own = {name: torch.randn(images, *p.shape) for name, p in network.named_parameters()}
    inputs = torch.randn(images * copies, *shape)
    together = functional_call(network, own, (inputs,))
    for image in range(images):
        alone = {name: value[image] for name, value in own.items()}
        part = slice(image * copies, (image + 1) * copies)
        assert torch.allclose(together[part], functional_call(network, alone, (inputs[part],)), atol=1e-5)


@pytest.mark.parametrize("prior", [0.0, 3.0])
def test_batch_norm_mixes_the_source_with_each_image(prior):
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(5).eval()
    for value in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(value)
    nn.init.uniform_(norm.running_var, 0.5, 1.5)
    made = PerImageBatchNorm(norm, prior)
    made.copies = 2
    inputs = torch.randn(6, 5, 4, 3)
    found = made(inputs)
    for own, ours in zip(inputs.split(2), found.split(2), strict=True):
        mean = (prior * norm.running_mean + own.mean((0, 2, 3))) / (prior + 1)
        variance = (prior * norm.running_var + own.var((0, 2, 3))) / (prior + 1)
        expected = nn.functional.batch_norm(own, mean, variance, norm.weight, norm.bias)
        assert torch.allclose(ours, expected, atol=1e-5)


def test_no_gradient_goes_through_the_statistics():
    made = PerImageBatchNorm(nn.BatchNorm2d(2).eval(), 0.0)
    inputs = torch.randn(1, 2, 4, 4, requires_grad=True)
    made(inputs).sum().backward()
    # With the statistics held still, the gradient is the scale, the same at all places.
    assert torch.allclose(inputs.grad, inputs.grad[:, :, :1, :1].expand_as(inputs))
    assert inputs.grad.abs().min() > 0.1


def test_a_single_value_of_a_channel_has_no_variance_so_the_source_stands_alone():
    norm = nn.BatchNorm2d(4).eval()
    inputs = torch.randn(3, 4, 1, 1)
    made = PerImageBatchNorm(norm, 0.0)
    assert torch.allclose(made(inputs), norm(inputs))
    made.copies = 3
    assert not torch.allclose(made(inputs), norm(inputs))


def test_networks_of_timm_say_the_same_with_replaced_norms():
    for name in ("test_vit", "resnet10t", "convnext_atto"):
        network = timm.create_model(name, num_classes=7).eval()
        side = 160 if name == "test_vit" else 64
        inputs = torch.randn(2, 3, side, side)
        with torch.no_grad():
            expected = network(inputs)
            assert replace_norms(network, "memo", None)
            assert torch.allclose(network(inputs), expected, atol=1e-5)


def test_layers_of_unknown_kinds_stay_and_are_told():
    class Own(nn.LayerNorm):
        pass

    network = nn.Sequential(Own(4), nn.LayerNorm(4))
    assert not replace_norms(network, "memo", 16.0)
    assert isinstance(network[0], Own)
    assert isinstance(network[1], PerImageNorm)


def test_batch_norm_without_statistics_has_no_prior():
    network = nn.Sequential(nn.BatchNorm2d(4, track_running_stats=False))
    with pytest.raises(InputError, match=r"memo mixes .* layer '0' \(BatchNorm2d\) keeps none.*prior_strength: null"):
        replace_norms(network, "memo", 16.0)
    assert not replace_norms(network, "memo", None)
