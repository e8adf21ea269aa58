"""Spectral linear layers (imse §1.1, §1.2 and §8, tests 1 and 7)."""

import pytest
import torch
from torch import nn

from tta_core.device import code_of_accelerators
from tta_core.errors import InputError
from tta_core.methods.imse.alignment import Alignment, alignment_spread, groups_alike
from tta_core.methods.imse.layers import FactoredLinear, SpectralLinear, merged, replace_by_spectral


def layer_of(columns=12, rows=20, *, bias=True, trained=True, dtype=torch.float64):
    torch.manual_seed(0)
    linear = nn.Linear(columns, rows, bias, dtype=dtype)
    layer = SpectralLinear(linear)
    layer.sigma.requires_grad_(trained)
    return linear, layer


def tokens(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("images", [1, 300])
def test_source_values_give_the_original_layer(images, bias):
    linear, layer = layer_of(bias=bias, dtype=torch.float32)
    x = tokens(images, 5, 12, dtype=torch.float32)
    assert torch.allclose(layer(x), linear(x), atol=1e-5)
    assert torch.equal(layer.composed_weight(), linear.weight)


def test_both_forms_give_the_same_values_and_gradients():
    _, layer = layer_of(12, 12)
    with torch.no_grad():
        layer.sigma.mul_(torch.linspace(-1, 3, 12, dtype=torch.float64))
    few, many = tokens(2, 3, 12), tokens(2, 3, 12).repeat(50, 1, 1)
    # A square layer is factored below twice as many tokens as channels.
    assert layer.factored_is_cheaper(6)
    assert not layer.factored_is_cheaper(300)
    outcomes = []
    for x in (few, many):
        x.requires_grad_(True)
        y = layer(x)
        (of_sigma, of_x) = torch.autograd.grad(y.square().sum() * len(few) / len(x), (layer.sigma, x))
        outcomes.append((y[:2], of_sigma, of_x[:2] * len(x) / len(few)))
    for factored, composed in zip(*outcomes, strict=True):
        assert torch.allclose(factored, composed)


def test_the_gradient_of_a_singular_value_is_that_of_its_rank_one_term():
    """dL/dsigma_i = u_i^T (dL/dW) v_i (imse §1.1)."""
    linear, layer = layer_of()
    x = tokens(40, 12)
    layer(x).sin().sum().backward()
    linear.weight.requires_grad_(True)
    (of_weight,) = torch.autograd.grad(linear(x).sin().sum(), linear.weight)
    expected = torch.einsum("or,oi,ri->r", layer.u, of_weight, layer.vh)
    assert torch.allclose(layer.sigma.grad, expected)
    assert all(p.grad is None for name, p in layer.named_parameters() if name != "sigma")


def taken_spread(layer, norm_epsilon=0.0):
    return alignment_spread([layer.take_alignment()], norm_epsilon)[0]


def spread_by_definition(x, layer):
    unit = nn.functional.normalize(x.flatten(0, -2), dim=-1)
    return (unit @ layer.vh.T).std(dim=0)


def test_the_spread_is_the_standard_deviation_of_unit_tokens_along_v():
    _, layer = layer_of()
    layer.measures_alignment = True
    x = tokens(4, 5, 12)
    layer(x)
    assert torch.allclose(taken_spread(layer), spread_by_definition(x, layer))
    assert layer.alignment is None


@pytest.mark.parametrize("norm_epsilon", [None, 0.0, 0.3])
def test_gradients_agree_with_finite_differences(norm_epsilon):
    _, layer = layer_of(6, 9)
    x, sigma = tokens(3, 4, 6).requires_grad_(True), layer.sigma

    def outputs(x, sigma):
        y, *seen = FactoredLinear.apply(x, sigma, layer.u, layer.vh, layer.bias, norm_epsilon is not None)
        return y if norm_epsilon is None else (y, alignment_spread([Alignment(*seen)], norm_epsilon))

    assert torch.autograd.gradcheck(outputs, (x, sigma))


def test_layers_together_have_the_spreads_and_gradients_of_each_alone():
    _, layer = layer_of()
    layer.measures_alignment = True
    inputs = [tokens(4, 5, 12).mul(scale).requires_grad_(True) for scale in (1, 2, 3)]
    inputs[1].data[0, 0] = 0  # A token without a length.
    weights = torch.linspace(1, 2, 12, dtype=torch.float64)
    outcomes = []
    for together in (True, False):
        seen = [layer(x.cos() - 1) is not None and layer.take_alignment() for x in inputs]
        spreads = alignment_spread(seen, 0.1) if together else torch.cat([alignment_spread([s], 0.1) for s in seen])
        outcomes.append([spreads, *torch.autograd.grad((spreads * weights).sum(), inputs)])
    for one, other in zip(*outcomes, strict=True):
        assert torch.allclose(one, other)
        assert one.isfinite().all()


def test_layers_of_one_shape_are_worked_on_together_but_on_a_cpu():
    few, many = (Alignment(torch.zeros(count, 5, 3), torch.zeros(count, 5, 1)) for count in (2, 4))
    assert [len(group) for group in groups_alike([few, many, few])] == [1, 1, 1]
    with code_of_accelerators():
        assert [len(group) for group in groups_alike([few, many, few])] == [2, 1]


def test_equal_tokens_have_no_spread_and_finite_gradients():
    _, layer = layer_of()
    layer.measures_alignment = True
    x = tokens(1, 12).repeat(8, 1).round().requires_grad_(True)
    layer(x)
    spread = taken_spread(layer)
    spread.sum().backward()
    assert spread.max() < 1e-12
    assert x.grad.isfinite().all()


def test_a_wide_layer_is_factored_for_any_number_of_tokens_and_a_square_one_for_few():
    _, wide = layer_of(16, 64)
    _, square = layer_of(64, 64)
    assert wide.factored_is_cheaper(10**6)
    assert square.factored_is_cheaper(100)
    assert not square.factored_is_cheaper(200)
    square.sigma.requires_grad_(False)
    assert not square.factored_is_cheaper(100)


def test_only_the_singular_values_are_in_reach_of_an_optimizer():
    _, layer = layer_of()
    assert [name for name, p in layer.named_parameters() if p.requires_grad] == ["sigma"]
    assert not list(layer.buffers())


def test_autocast_keeps_the_spread_and_gradients_in_float32():
    _, layer = layer_of(dtype=torch.float32)
    layer.measures_alignment = True
    x = tokens(6, 7, 12, dtype=torch.float32).requires_grad_(True)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    spread = taken_spread(layer)
    assert (y.dtype, spread.dtype) == (torch.bfloat16, torch.float32)
    assert torch.allclose(spread, spread_by_definition(x, layer), rtol=0.02)
    (y.float().sum() + spread.sum()).backward()
    assert layer.sigma.grad.dtype == x.grad.dtype == torch.float32
    layer(x).sum().backward()


@pytest.mark.parametrize("split", [False, True])
def test_merging_gives_the_architecture_back_with_the_trained_weights(split, tiny_vit, images):
    network, plain = tiny_vit(), tiny_vit()
    names = [f"blocks.{block}.attn.qkv" for block in range(3)]
    replace_by_spectral(network, names, split=split)
    assert torch.allclose(network(images()), plain(images()), atol=1e-4)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith(".sigma"):
                parameter.mul_(1.5)
    result = merged(network)
    assert result.state_dict().keys() == plain.state_dict().keys()
    assert type(result.blocks[0].attn.qkv) is nn.Linear
    assert torch.allclose(result(images()), network(images()), atol=1e-5)
    assert not torch.allclose(result(images()), plain(images()), atol=1e-2)


def test_nothing_to_replace_is_an_error(tiny_vit):
    with pytest.raises(InputError, match="no linear layers to decompose"):
        replace_by_spectral(tiny_vit(), [])
