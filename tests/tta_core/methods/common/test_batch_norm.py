"""BatchNorm layers with other statistics, against loops over channels and against PyTorch's own layer."""

import copy

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from tta_core.errors import InputError
from tta_core.methods.common.batch_norm import (
    BlendedBatchNorm,
    RunningBatchNorm,
    Statistics,
    TwoPassBatchNorm,
    batch_statistics,
    normalise,
    replace_batch_norms,
)

EPSILON = 1e-5


@pytest.fixture
def norm():
    """A BatchNorm of three channels with everything different from its start."""
    layer = nn.BatchNorm2d(3).double().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (layer.weight, layer.bias, layer.running_mean):
            tensor.copy_(torch.randn(3, generator=generator))
        layer.running_var.copy_(torch.rand(3, generator=generator) + 0.5)
    return layer


@pytest.fixture
def inputs():
    return torch.randn(5, 3, 4, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2 + 1


def by_hand(inputs, means, variances, layer):
    """Channel by channel, number by number."""
    outputs = torch.empty_like(inputs)
    for channel in range(inputs.shape[1]):
        scale = float(layer.weight[channel].detach()) / (variances[channel] + EPSILON) ** 0.5
        shift = float(layer.bias[channel].detach())
        for image in range(len(inputs)):
            outputs[image, channel] = (inputs[image, channel] - means[channel]) * scale + shift
    return outputs


def moments_by_hand(inputs, correction=0):
    values = [[float(v) for image in inputs for v in image[channel].flatten()] for channel in range(inputs.shape[1])]
    means = [sum(v) / len(v) for v in values]
    return means, [sum((x - m) ** 2 for x in v) / (len(v) - correction) for v, m in zip(values, means, strict=True)]


@pytest.mark.parametrize("source_weight", [0.0, 3.0, 16.0])
def test_blended_statistics_weigh_the_source_like_so_many_images(source_weight, norm, inputs):
    means, variances = moments_by_hand(inputs, correction=1 if source_weight else 0)
    source_means, source_variances = norm.running_mean.tolist(), norm.running_var.tolist()
    total = source_weight + 5
    blend = [
        [(source_weight * one + 5 * other) / total for one, other in zip(own, found, strict=True)]
        for own, found in ((source_means, means), (source_variances, variances))
    ]
    outputs = BlendedBatchNorm(norm, source_weight)(inputs)
    assert torch.allclose(outputs, by_hand(inputs, *blend, norm), atol=1e-12)


def test_the_batch_alone_is_what_train_mode_does(norm, inputs):
    replaced = BlendedBatchNorm(norm, 0.0)(inputs)
    assert torch.allclose(replaced, norm.train()(inputs), atol=1e-12)


def test_blending_keeps_nothing(norm, inputs):
    layer = BlendedBatchNorm(norm, 4.0)
    first = layer(inputs)
    layer(inputs * 3)
    assert torch.equal(layer(inputs), first)
    assert torch.equal(layer.mean, norm.running_mean)


def test_running_statistics_take_each_batch_in_before_they_are_used(norm, inputs):
    layer = RunningBatchNorm(norm, 0.25)
    means, variances = norm.running_mean.tolist(), norm.running_var.tolist()
    for batch in (inputs, inputs * 2 + 1):
        found = moments_by_hand(batch)
        means = [0.75 * one + 0.25 * other for one, other in zip(means, found[0], strict=True)]
        variances = [0.75 * one + 0.25 * other for one, other in zip(variances, found[1], strict=True)]
        assert torch.allclose(layer(batch), by_hand(batch, means, variances, norm), atol=1e-12)
    layer.updating = False
    before = layer.mean.clone()
    assert torch.allclose(layer(inputs), by_hand(inputs, means, variances, norm), atol=1e-12)
    assert torch.equal(layer.mean, before)


def test_two_passes_move_as_train_mode_does_and_predict_with_what_it_leaves(norm, inputs):
    layer = TwoPassBatchNorm(norm, 0.3)
    plain = copy.deepcopy(norm).train()
    plain.momentum = 0.3
    for batch in (inputs, inputs * 2 + 1):
        with torch.no_grad():
            layer.updating = True
            assert torch.allclose(layer(batch), plain(batch), atol=1e-12)
            layer.updating = False
            assert torch.allclose(layer(batch), copy.deepcopy(plain).eval()(batch), atol=1e-12)


def test_the_gradient_goes_through_the_part_that_the_batch_has_in_the_statistics(norm, inputs):
    inputs = inputs.requires_grad_()
    weights = torch.randn(inputs.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def loss(values, momentum):
        return (RunningBatchNorm(norm, momentum)(values) * weights).sum()

    assert torch.autograd.gradcheck(lambda values: loss(values, 0.3), inputs)
    moving = torch.autograd.grad(loss(inputs, 0.3), inputs)[0]
    frozen = torch.autograd.grad((norm.eval()(inputs) * weights).sum(), inputs)[0]
    assert not torch.allclose(moving, frozen)


@pytest.mark.parametrize("make", [lambda n: BlendedBatchNorm(n, 0.0), lambda n: RunningBatchNorm(n, 0.5)])
def test_a_single_value_of_a_channel_keeps_the_statistics_of_the_source(make, norm):
    single = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64).view(1, 3, 1, 1)
    layer = make(norm)
    assert torch.allclose(layer(single), norm(single))
    assert torch.equal(layer.mean, norm.running_mean)


def test_constant_channels_give_the_bias_and_no_nan(norm):
    outputs = BlendedBatchNorm(norm, 0.0)(torch.full((2, 3, 4, 4), 7.0, dtype=torch.float64))
    assert torch.allclose(outputs, norm.bias.view(1, 3, 1, 1).expand_as(outputs))


def test_a_large_mean_costs_no_digits():
    inputs = torch.randn(64, 2, 8, 8, generator=torch.Generator().manual_seed(0)) + 3000
    exact = inputs.double().transpose(0, 1).flatten(1).var(dim=1, correction=0)
    assert torch.allclose(batch_statistics(inputs).variance.double(), exact, rtol=1e-4)


def test_half_precision_inputs_have_wide_statistics(norm):
    inputs = torch.randn(4, 3, 2, 2).bfloat16()
    assert batch_statistics(inputs).mean.dtype == torch.float32
    layer = RunningBatchNorm(norm.float(), 0.5)
    assert layer(inputs).dtype == torch.bfloat16
    assert layer.mean.dtype == torch.float32


def test_layers_without_affine_pair_and_of_one_dimension_work():
    plain = nn.BatchNorm1d(3, affine=False).eval()
    inputs = torch.randn(6, 3)
    layer = RunningBatchNorm(plain, 1.0)
    assert torch.allclose(layer(inputs), nn.BatchNorm1d(3, affine=False)(inputs), atol=1e-5)
    statistics = Statistics(torch.zeros(3, requires_grad=True), torch.ones(3))
    assert torch.allclose(normalise(inputs, statistics, None, None, 0.0), inputs)


def test_what_timm_does_after_the_norm_is_kept():
    norm = BatchNormAct2d(3).eval()
    inputs = torch.randn(4, 3, 2, 2)
    layer = BlendedBatchNorm(norm, 1e12)
    assert torch.allclose(layer(inputs), norm(inputs), atol=1e-5)
    assert layer(inputs).min() == 0


def test_replacing_finds_nested_layers_and_shares_their_parameters():
    network = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), nn.BatchNorm2d(4))
    weight = network[0][1].weight
    layers = replace_batch_norms(network, "m", lambda norm: RunningBatchNorm(norm, 0.1))
    assert list(layers) == ["0.1", "1"]
    assert network[0][1] is layers["0.1"]
    assert layers["0.1"].weight is weight


def test_networks_without_batch_norm_or_statistics_are_refused():
    def make(norm):
        return BlendedBatchNorm(norm, 0.0)

    with pytest.raises(InputError, match=r"bn-adapt .* Linear has no BatchNorm: choose a backbone with BatchNorm"):
        replace_batch_norms(nn.Linear(2, 2), "bn-adapt", make)
    with pytest.raises(InputError, match="layer '0' of Sequential keeps none: choose a network trained with"):
        replace_batch_norms(nn.Sequential(nn.BatchNorm2d(2, track_running_stats=False)), "bn-adapt", make)
