"""Norms with experts against the formula written out (moetta §1.4), on every kind of base."""

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn
from torch.nn import functional

from tta_core.methods.moetta.moe_norm import LARGE_SAMPLE, MoEBatchNorm2d, MoEGroupNorm, MoELayerNorm
from tta_core.methods.moetta.router import Router, RoutingRules

CHANNELS = 6
BASES = {
    "tokens": (MoELayerNorm, lambda: nn.LayerNorm(CHANNELS), (4, 5, CHANNELS)),
    "pixels": (MoELayerNorm, lambda: nn.LayerNorm(CHANNELS, eps=1e-3), (4, 3, 2, CHANNELS)),
    "pooled": (MoELayerNorm, lambda: nn.LayerNorm(CHANNELS), (4, CHANNELS)),
    "no bias": (MoELayerNorm, lambda: nn.LayerNorm(CHANNELS, bias=False), (4, 5, CHANNELS)),
    "large samples": (MoELayerNorm, lambda: nn.LayerNorm(CHANNELS), (2, LARGE_SAMPLE // CHANNELS + 1, CHANNELS)),
    "groups": (MoEGroupNorm, lambda: nn.GroupNorm(3, CHANNELS), (4, CHANNELS, 3, 2)),
    "batch": (MoEBatchNorm2d, lambda: nn.BatchNorm2d(CHANNELS), (4, CHANNELS, 3, 2)),
}


def make_layer(norm, kind=MoELayerNorm, top_k=1, **options):
    generator = torch.Generator().manual_seed(0)
    channels = norm.weight.numel()
    router = Router(
        channels, RoutingRules(4, top_k), generator, dtype=torch.promote_types(norm.weight.dtype, torch.float32)
    )
    return kind(norm, router, generator, **options)


def randomised(norm):
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    return norm.double()


def standardised(norm, x):
    if isinstance(norm, nn.GroupNorm):
        return functional.group_norm(x, norm.num_groups, eps=norm.eps)
    if isinstance(norm, nn.BatchNorm2d):
        return functional.batch_norm(x, None, None, training=True, eps=norm.eps)
    return functional.layer_norm(x, norm.normalized_shape, eps=norm.eps)


def written_out(layer, norm, x):
    """moetta §1.4 with gathered experts and no fused kernel."""
    axis = 1 if norm is not None and not isinstance(norm, nn.LayerNorm) else x.ndim - 1
    others = [a for a in range(1, x.ndim) if a != axis]
    feature = x.mean(dim=others) if others else x
    p = layer.router.weight @ feature.unsqueeze(-1)
    p = (p.squeeze(-1) + layer.router.bias).softmax(dim=-1)
    values, index = p.topk(layer.router.rules.top_k, dim=-1)
    c = values / values.sum(dim=-1, keepdim=True).detach()
    shape = [len(x), *[1] * len(others)]
    shape.insert(axis, CHANNELS)
    w = layer.weight + (c.unsqueeze(-1) * layer.experts_weight[index]).sum(dim=1)
    a = layer.bias + (c.unsqueeze(-1) * layer.experts_bias[index]).sum(dim=1)
    return standardised(norm, x) * w.view(shape) + a.view(shape)


@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("base", BASES)
def test_values_and_all_gradients_are_those_of_the_formula(base, top_k):
    torch.manual_seed(0)
    kind, make, shape = BASES[base]
    norm = randomised(make())
    layer = make_layer(norm, kind, top_k, expert_init_ratio=0.5, train_shared=True)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    target = torch.randn(shape, dtype=torch.float64)
    inputs = [x, *layer.parameters()]
    ours, expected = layer(x), written_out(layer, norm, x)
    assert torch.allclose(ours, expected)
    found = torch.autograd.grad((ours * target).sum(), inputs)
    for gradient, reference in zip(found, torch.autograd.grad((expected * target).sum(), inputs), strict=True):
        assert torch.allclose(gradient, reference)


@pytest.mark.parametrize("base", ["tokens", "large samples"])
def test_an_input_without_gradient_costs_none(base):
    kind, make, shape = BASES[base]
    layer = make_layer(randomised(make()), kind)
    layer(torch.randn(shape, dtype=torch.float64)).sum().backward()
    assert layer.experts_weight.grad.any()


@pytest.mark.parametrize("base", [name for name in BASES if name != "batch"])
def test_zero_experts_leave_the_norm_as_it_was(base):
    kind, make, shape = BASES[base]
    norm = randomised(make())
    x = torch.randn(shape, dtype=torch.float64)
    assert torch.allclose(make_layer(norm, kind)(x), norm(x))


def test_a_batch_norm_uses_the_batch_and_forgets_it():
    norm = nn.BatchNorm2d(CHANNELS).eval()
    layer = make_layer(norm, MoEBatchNorm2d)
    x = 3 + 2 * torch.randn(8, CHANNELS, 4, 4)
    assert torch.allclose(layer(x), nn.BatchNorm2d(CHANNELS).train()(x), atol=1e-5)
    assert torch.equal(norm.running_mean, torch.zeros(CHANNELS))
    assert layer(torch.randn(1, CHANNELS, 1, 1)).isfinite().all()


def test_an_activation_that_a_norm_of_timm_brings_is_kept():
    norm = BatchNormAct2d(CHANNELS)
    x = torch.randn(8, CHANNELS, 4, 4)
    assert torch.allclose(make_layer(norm, MoEBatchNorm2d)(x), norm.train()(x), atol=1e-5)


def test_router_gradient_of_the_expert_path():
    """dL/dz_j = g (1[j = s] - p_j), with g the directional derivative along the chosen expert (moetta §1.6)."""
    layer = make_layer(randomised(nn.LayerNorm(CHANNELS)), expert_init_ratio=1.0)
    x, target = torch.randn(2, 1, 3, CHANNELS, dtype=torch.float64)
    (layer(x) * target).sum().backward()
    p = layer.probabilities[0]
    chosen = int(p.argmax())
    g = ((functional.layer_norm(x, (CHANNELS,)) * target).sum(dim=1) * layer.experts_weight[chosen]).sum()
    g = g + (target.sum(dim=1) * layer.experts_bias[chosen]).sum()
    onehot = functional.one_hot(torch.tensor(chosen), 4)
    assert torch.allclose(layer.router.bias.grad, (g * (onehot - p)).detach())


def test_the_gradient_flows_through_the_router_into_the_input():
    """The routing feature is not detached: the balance moves what comes before the layer, too (moetta §1.6)."""
    layer = make_layer(nn.LayerNorm(CHANNELS))
    x = torch.randn(3, 5, CHANNELS, requires_grad=True)
    layer(x)
    layer.router.decision.probabilities[:, 0].sum().backward()
    assert x.grad.any()


def test_what_observers_see_is_detached_and_sums_to_one():
    layer = make_layer(nn.LayerNorm(CHANNELS), top_k=2)
    assert layer.routing is layer.probabilities is layer.router_input is None
    x = torch.randn(7, 5, CHANNELS, requires_grad=True)
    layer(x)
    assert layer.routing.shape == layer.probabilities.shape == (7, 4)
    assert set(layer.routing.flatten().tolist()) == {0.0, 0.5}
    for shares in (layer.routing, layer.probabilities):
        assert torch.allclose(shares.sum(dim=1), torch.ones(7))
    assert torch.allclose(layer.router_input, x.mean(dim=1))
    assert not any(seen.requires_grad for seen in (layer.routing, layer.probabilities, layer.router_input))


def test_random_experts_have_the_asked_length():
    layer = make_layer(randomised(nn.LayerNorm(CHANNELS)), expert_init_ratio=0.1)
    for experts, shared in ((layer.experts_weight, layer.weight), (layer.experts_bias, layer.bias)):
        assert torch.allclose(experts.norm(dim=1), (0.1 * shared.norm()).expand(4))
        assert functional.normalize(experts, dim=1).std(dim=0).min() > 0.1


def test_half_precision_keeps_its_experts_in_single():
    layer = make_layer(nn.LayerNorm(CHANNELS).bfloat16())
    x = torch.randn(3, 5, CHANNELS).bfloat16().requires_grad_()
    assert layer(x).dtype == torch.bfloat16
    layer(x).float().sum().backward()
    assert layer.experts_weight.dtype == layer.router.weight.dtype == torch.float32
    assert x.grad.dtype == torch.bfloat16


def test_autocast_does_not_reach_the_routing():
    layer = make_layer(randomised(nn.LayerNorm(CHANNELS)).float(), expert_init_ratio=0.5)
    x = torch.randn(9, 5, CHANNELS)
    expected = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), expected)
