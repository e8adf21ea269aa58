"""Low-rank bypasses of linear layers."""

import pytest
import torch
from timm.models import create_model
from torch import nn

from tta_core.errors import InputError
from tta_core.methods.common.surgery import count_parameters
from tta_core.methods.vida.layers import LowRankLinear, adapter_parameters, add_low_rank, low_rank_layers


def adapted(network, rank_low=1, rank_high=4, seed=0):
    return add_low_rank(network, rank_low, rank_high, torch.Generator().manual_seed(seed), "a test")


def disturb(layers):
    torch.manual_seed(1)
    for parameter in adapter_parameters(layers).values():
        nn.init.normal_(parameter, std=0.1)


@pytest.mark.parametrize("bias", [True, False])
def test_the_forward_and_its_gradients_are_those_of_the_formula(bias):
    torch.manual_seed(0)
    linear = nn.Linear(5, 7, bias=bias).double()
    layer = LowRankLinear(linear, torch.randn(3, 5), torch.tensor([0.7, 1.3, 1.3], dtype=torch.float64))
    nn.init.normal_(layer.up)
    layer.requires_grad_(True)
    x = torch.randn(2, 4, 5, dtype=torch.float64, requires_grad=True)

    def formula(x, weight, down, up):
        low, high = up[:, :1], up[:, 1:]
        y = x @ weight.T + 0.7 * (x @ down[:1].T @ low.T) + 1.3 * (x @ down[1:].T @ high.T)
        return y + linear.bias if bias else y

    y = layer(x)
    torch.testing.assert_close(y, formula(x, layer.weight, layer.down, layer.up))
    upstream = torch.randn_like(y)
    tensors = (x, layer.weight, layer.down, layer.up)
    expected = torch.autograd.grad(formula(*tensors), tensors, upstream)
    torch.testing.assert_close(torch.autograd.grad(y, tensors, upstream), expected)


def test_at_first_nothing_is_added_and_the_deviations_follow_the_ranks(tiny_vit, images):
    network = tiny_vit(embed_dim=384, num_heads=3)
    source = network(images())
    layers = adapted(network, rank_low=2, rank_high=8)
    assert torch.equal(network(images()), source)
    down = torch.cat([layer.down for layer in layers.values()], dim=1)
    assert float(down[:2].std()) == pytest.approx(1 / 4, rel=0.05)
    assert float(down[2:].std()) == pytest.approx(1 / 64, rel=0.05)


def test_every_linear_layer_of_attention_and_no_other_is_bypassed(tiny_vit):
    network = tiny_vit()
    names = set(dict(network.named_parameters()))
    layers = adapted(network)
    assert set(layers) == {f"blocks.{block}.attn.{linear}" for block in range(3) for linear in ("qkv", "proj")}
    assert low_rank_layers(network) == layers
    # The backbone's parameters keep their names.
    assert set(dict(network.named_parameters())) == names | set(adapter_parameters(layers))


def test_the_published_number_of_parameters():
    with torch.device("meta"):
        network = create_model("vit_base_patch16_224", num_classes=10)
    layers = adapted(network, 1, 128)
    assert count_parameters(list(adapter_parameters(layers).values())) == 7_133_184


def test_all_layers_have_the_same_scales(tiny_vit, images):
    network = tiny_vit()
    layers = adapted(network)
    disturb(layers)
    before = network(images())
    next(iter(layers.values())).scales.zero_()
    assert torch.allclose(network(images()), tiny_vit()(images()), atol=1e-6)
    assert not torch.allclose(network(images()), before, atol=1e-3)
    assert sum(name.endswith("scales") for name, _ in network.named_buffers()) == 1


def test_half_precision_does_not_swallow_small_steps(tiny_vit):
    layer = next(iter(adapted(tiny_vit()).values()))
    nn.init.normal_(layer.up, std=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        combined = layer.combined_weight()
        assert layer(torch.zeros(1, 48)).dtype == torch.bfloat16
    assert combined.dtype == torch.float32
    assert not torch.equal(combined, layer.weight)


def test_the_generator_decides(tiny_vit):
    one, same, other = (adapter_parameters(adapted(tiny_vit(), seed=seed)) for seed in (0, 0, 1))
    name = "blocks.1.attn.proj.down"
    assert torch.equal(one[name], same[name])
    assert not torch.equal(one[name], other[name])


def test_a_network_without_attention_is_refused():
    with pytest.raises(InputError, match=r"a test adapts the blocks of timm's VisionTransformer, .* choose a vision"):
        adapted(nn.Sequential(nn.Linear(3, 3)))
