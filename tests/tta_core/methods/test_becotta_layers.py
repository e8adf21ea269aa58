import copy

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional

from tta_core.errors import InputError
from tta_core.methods.becotta.layers import AdapterOptions, GatedAdapters, GateDraws, add_gated_adapters, repeating

DIM, BATCH, TOKENS = 12, 5, 7


def adapters(channel_axis=-1, seed=0, **options):
    """Adapters with weights large enough to matter, in float64."""
    generator = torch.Generator().manual_seed(seed)
    made = GatedAdapters(
        DIM,
        AdapterOptions(**options),
        GateDraws(generator),
        generator,
        channel_axis=channel_axis,
        dtype=torch.float64,
    )
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return made


def tokens(*shape, seed=1):
    return torch.randn(
        shape or (BATCH, TOKENS, DIM), generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def by_hand(module, x, noise, domains):
    """One sample and one adapter after the other, as mixed §2.7 has it."""
    options = module.options
    rows = []
    for sample, eps, domain in zip(x, noise, domains, strict=True):
        outputs = sample @ module.gate[domain].T
        clean, raw = outputs[:, : options.num_experts], outputs[:, options.num_experts :]
        scores = (clean + options.noise_strength * eps * (functional.softplus(raw) + options.noise_floor)).sum(dim=0)
        best = scores.topk(options.top_k)
        low, high = best.values.min(), best.values.max()
        weights = ((best.values - low) / (high - low + 1e-6)).softmax(dim=0)
        added = sum(
            weight
            * (
                functional.gelu(sample @ module.down_weight[e].T + module.down_bias[e]) @ module.up_weight[e]
                + module.up_bias[e]
            )
            for weight, e in zip(weights, best.indices, strict=True)
        )
        rows.append(sample + added)
    return torch.stack(rows)


@pytest.mark.parametrize("top_k", [1, 2, 4])
@pytest.mark.parametrize("num_domains", [1, 3])
def test_the_batched_adapters_are_the_formula(top_k, num_domains):
    module = adapters(num_experts=4, rank=3, top_k=top_k, num_domains=num_domains, noise_strength=0.5)
    x = tokens().requires_grad_()
    found = module(x)
    expected = by_hand(module, x, module.choice.noise, module.choice.domains)
    assert torch.allclose(found, expected)
    trained = list(module.parameters())
    ours = torch.autograd.grad(found.square().sum(), [x, *trained], allow_unused=True)
    wanted = torch.autograd.grad(expected.square().sum(), [x, *trained], allow_unused=True)
    for one, other in zip(ours, wanted, strict=True):
        assert torch.allclose(torch.zeros_like(other) if one is None else one, other, rtol=1e-6, atol=1e-6)


def test_a_single_adapter_weighs_exactly_one_and_its_gate_gets_no_gradient():
    module = adapters(num_experts=4)
    module(tokens()).sum().backward()
    assert module.routing.sum(dim=1).tolist() == [1.0] * BATCH
    assert set(module.routing.unique().tolist()) == {0.0, 1.0}
    assert module.gate.grad is None
    assert module.up_weight.grad is not None


def test_several_adapters_share_a_weight_of_one_and_teach_the_gate():
    module = adapters(num_experts=4, top_k=3)
    module(tokens()).square().sum().backward()
    assert (module.routing > 0).sum(dim=1).tolist() == [3] * BATCH
    assert torch.allclose(module.routing.sum(dim=1), torch.ones(BATCH, dtype=torch.float64))
    assert module.gate.grad.abs().max() > 0
    assert torch.equal(module.usage, module.routing.sum(dim=0))


def test_two_adapters_leave_the_gate_next_to_no_gradient():
    module = adapters(num_experts=4, top_k=2)
    module(tokens()).square().sum().backward()
    assert module.gate.grad.abs().max() < 1e-4 * module.up_weight.grad.abs().max()


def test_the_number_of_parameters_is_that_of_the_published_layers():
    options = {"num_experts": 6, "rank": 2, "num_domains": 3}
    count = sum(parameter.numel() for parameter in adapters(**options).parameters())
    assert count == 3 * 12 * DIM + 6 * (DIM * 2 + 2 + 2 * DIM + DIM)


def test_without_noise_nothing_is_random():
    module = adapters(num_experts=4, noise_strength=0.0)
    assert torch.equal(module(tokens()), module(tokens()))
    noisy = adapters(num_experts=4)
    chosen = [noisy(tokens()) for _ in range(4)]
    assert any(not torch.equal(chosen[0], other) for other in chosen[1:])


def test_noise_is_the_same_in_both_precisions_and_standard_normal():
    like = torch.empty(40, 50, 6)
    single, double = (
        GateDraws(torch.Generator().manual_seed(0)).noise(0, like.to(dtype)) for dtype in (torch.float32, torch.float64)
    )
    assert torch.equal(single.double(), double)
    assert abs(double.mean()) < 0.02
    assert double.std() == pytest.approx(1, abs=0.02)


def test_every_domain_is_drawn():
    draws = GateDraws(torch.Generator().manual_seed(0))
    drawn = draws.domains(0, 300, 3, torch.device("cpu"))
    assert drawn.bincount().min() > 70
    state = draws.generator.get_state()
    assert draws.domains(0, 5, 1, torch.device("cpu")).tolist() == [0] * 5
    assert torch.equal(draws.generator.get_state(), state)


@pytest.mark.parametrize("top_k", [1, 3])
def test_a_repeated_sample_meets_the_same_noise_and_adapters(top_k):
    module = adapters(num_experts=4, top_k=top_k, num_domains=2)
    x = tokens()
    whole, usage = module(x), module.usage.clone()
    index = torch.tensor([4, 1])
    with repeating([module], index):
        part = module(x[index])
    assert torch.allclose(part, whole[index], atol=1e-12)
    assert torch.equal(module.usage, usage)
    assert len(module.routing) == BATCH
    assert module.again is None


def test_formats_are_told_by_the_block_and_not_by_the_sizes():
    size = DIM  # As wide and high as there are channels: the shape alone says nothing.
    image = tokens(2, size, size, DIM)
    last = adapters(num_experts=3, noise_strength=0.0)
    first = adapters(num_experts=3, noise_strength=0.0, channel_axis=1)
    expected = last(image.flatten(1, 2)).view_as(image)
    assert torch.allclose(last(image), expected)
    assert torch.allclose(first(image.movedim(-1, 1)), expected.movedim(-1, 1))


@pytest.mark.parametrize(
    ("name", "size", "channel_axis"),
    [("swin_tiny_patch4_window7_224", 224, -1), ("convnext_atto", 64, 1), ("swinv2_tiny_window8_256", 256, -1)],
)
def test_blocks_of_other_networks_are_found(name, size, channel_axis):
    options = {"img_size": size} if name.startswith("swin") else {}
    changes = {"embed_dim": 24, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 2, 4)} if name.startswith("swin") else {}
    network = timm.create_model(name, num_classes=5, **options, **changes).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    added = add_gated_adapters(network, AdapterOptions(), GateDraws(generator), generator)
    assert len(added) == (4 if name.startswith("swin") else 12)
    assert {adapter.channel_axis for adapter in added.values()} == {channel_axis}
    images = torch.randn(2, 3, size, size, generator=generator)
    network(images).sum().backward()
    assert all(adapter.up_bias.grad.abs().sum() > 0 for adapter in added.values())
    assert all(adapter.routing.shape == (2, 6) for adapter in added.values())


def test_a_network_without_such_blocks_is_refused():
    generator = torch.Generator()
    with pytest.raises(InputError, match="VisionTransformer, Swin and ConvNeXt, and this network is a Linear"):
        add_gated_adapters(nn.Linear(2, 2), AdapterOptions(), GateDraws(generator), generator)


def test_bfloat16_autocast_does_not_round_the_stream():
    module = adapters(num_experts=3).float()
    x = tokens().float()
    with torch.autocast("cpu", torch.bfloat16):
        found = module(x)
    assert found.dtype == torch.float32
    with repeating([module], torch.arange(BATCH)):
        assert torch.equal(found, module(x))


def test_a_copy_of_the_network_draws_for_itself(tiny_vit, images):
    generator = torch.Generator().manual_seed(0)
    network = tiny_vit()
    add_gated_adapters(network, AdapterOptions(), GateDraws(generator), generator)
    other = copy.deepcopy(network)
    state = generator.get_state()
    other(images(2))
    assert torch.equal(generator.get_state(), state)


def test_blocks_keep_their_kind_and_the_names_of_their_layers(tiny_vit, images):
    generator = torch.Generator().manual_seed(0)
    network, plain = tiny_vit(), tiny_vit()
    names, kind = {name for name, _ in network.named_parameters()}, type(network.blocks[0])
    added = add_gated_adapters(network, AdapterOptions(), GateDraws(generator), generator)
    assert {name for name, _ in network.named_parameters() if ".adapters." not in name} == names
    # Compiled code asks for the class of a block, and so for whether it is adapted.
    assert all(isinstance(block, kind) and type(block) is not kind for block in network.blocks)
    assert all(network.get_submodule(name) is adapter for name, adapter in added.items())
    assert type(plain.blocks[0]) is kind
    with torch.no_grad():
        for adapter in added.values():
            adapter.up_weight.zero_()
    assert torch.allclose(network(images(2)), plain(images(2)), atol=1e-6)
