"""The experts of MoASE by themselves (moase §2.1 to §2.3 and §8, tests 2 and 8)."""

import dataclasses

import pytest
import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn

from tta_core.errors import InputError
from tta_core.methods.moase.sparsity import AdaptedBlock, SparseExperts, add_experts
from tta_core.methods.moase.student import expert_options
from tta_core.methods.registry import method_spec

DIM = 16


def options(preset="recommended", **changes):
    return dataclasses.replace(expert_options(method_spec("moase").resolve(preset, {})), **changes)


def experts(preset="recommended", dim=DIM, seed=0, **changes):
    generator = torch.Generator().manual_seed(seed)
    return SparseExperts(dim, options(preset, **changes), generator, torch.device("cpu"), torch.float64)


@pytest.fixture
def tokens():
    return torch.randn(3, 7, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def randomise(adapter):
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.normal_(std=0.5, generator=generator)
    return adapter


def by_formula(adapter, tokens):
    """moase §2.1 and §2.2 for `token_channel`, one token and one expert after the other."""
    o = adapter.options
    gate = adapter.gate(tokens).softmax(dim=-1)
    gate = gate.mean(dim=1) if o.gate_scope == "sample" else gate.mean(dim=(0, 1)).expand(len(tokens), -1)
    result = torch.zeros_like(tokens)
    for image, token in [(i, t) for i in range(tokens.shape[0]) for t in range(tokens.shape[1])]:
        u = tokens[image, token]
        half = u.topk(DIM // 2, largest=o.router_input == "highest").indices
        routing = adapter.router(torch.zeros_like(u).index_copy(0, half, u[half])).softmax(dim=-1)
        for expert in range(o.num_experts):
            hidden = (adapter.down_weight[expert] @ u + adapter.down_bias[expert]).relu()
            low = expert < o.num_experts // 2
            share = (expert % (o.num_experts // 2) + 1) / o.num_experts + o.gate_strength * gate[image, expert]
            candidates = torch.arange(o.bottleneck)
            if low and o.low_select == "smallest_active":
                candidates = hidden.nonzero().flatten()
            count = int(len(candidates) * share)
            if low and o.low_select == "smallest_active":
                count = min(max(1, count), len(candidates))
            chosen = candidates[hidden[candidates].topk(count, largest=not low and o.high_select == "largest").indices]
            kept = torch.zeros_like(hidden).index_copy(0, chosen, hidden[chosen])
            added = adapter.up_weight[expert].T @ kept + adapter.up_bias[expert]
            result[image, token] += routing[expert] * o.adapter_scale * added
    return result


@pytest.mark.parametrize("changes", [{}, {"num_experts": 2}, {"num_experts": 8, "bottleneck": 20}])
@pytest.mark.parametrize("preset", ["recommended", "official"])
def test_the_experts_add_what_the_formulas_say(preset, changes, tokens):
    adapter = randomise(experts(preset, **{"bottleneck": 12, **changes}))
    found, expected = adapter(tokens), by_formula(adapter, tokens)
    assert torch.allclose(found, expected)
    names = [name for name, _ in adapter.named_parameters() if not name.startswith("gate")]
    parameters = [adapter.get_parameter(name) for name in names]
    weights = torch.randn_like(tokens)
    for one, other in zip(
        torch.autograd.grad((found * weights).sum(), parameters),
        torch.autograd.grad((expected * weights).sum(), parameters),
        strict=True,
    ):
        assert torch.allclose(one, other)


def test_without_selection_and_domain_awareness_the_experts_are_a_plain_mixture(tokens):
    adapter = randomise(experts(sdd=False, dar=False))
    hidden = (torch.einsum("btd,erd->bter", tokens, adapter.down_weight) + adapter.down_bias).relu()
    added = torch.einsum("bter,erd->bted", hidden, adapter.up_weight) + adapter.up_bias
    expected = 0.8 * (adapter.router(tokens).softmax(dim=-1).unsqueeze(-1) * added).sum(dim=2)
    assert torch.allclose(adapter(tokens), expected)


@pytest.mark.parametrize("gate_scope", ["sample", "batch"])
@pytest.mark.parametrize("sdd_scope", ["token_channel", "sample", "channel_token"])
@pytest.mark.parametrize("num_experts", [2, 4, 8, 16])
def test_every_scope_runs_with_every_number_of_experts(num_experts, sdd_scope, gate_scope, tokens):
    adapter = randomise(experts(num_experts=num_experts, sdd_scope=sdd_scope, gate_scope=gate_scope))
    adapter(tokens).square().sum().backward()
    assert adapter.up_weight.grad.isfinite().all()
    assert adapter.keep_ratio.shape == (len(tokens) if gate_scope == "sample" else 1, num_experts)
    half = [(j + 1) / num_experts for j in range(num_experts // 2)]
    expected = torch.tensor(half * 2, dtype=torch.float64) + 0.1 * adapter.gate_mean
    assert torch.allclose(adapter.keep_ratio, expected)


@pytest.mark.parametrize("sdd_scope", ["token_channel", "sample"])
def test_a_sample_is_served_the_same_in_any_batch_unless_the_gate_is_shared(sdd_scope, tokens):
    own = randomise(experts(sdd_scope=sdd_scope))
    shared = randomise(experts(sdd_scope=sdd_scope, gate_scope="batch", gate_strength=0.5))
    with torch.no_grad():
        shared.gate.weight.mul_(20)
    assert torch.allclose(own(tokens)[:1], own(tokens[:1]))
    assert not torch.allclose(shared(tokens)[:1], shared(tokens[:1]))


def test_kept_energy_at_the_start():
    """The release keeps next to nothing; the paper's high half nearly everything (moase §8, test 8)."""
    inputs = torch.randn(8, 50, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    energies = {}
    for preset in ("official", "paper"):
        adapter = experts(preset, dim=64, bottleneck=192)
        adapter.inspect = True
        adapter(inputs)
        energies[preset] = adapter.inspection["kept_energy"]
    assert (energies["official"] < 0.01).all()
    assert (energies["official"][[0, 2]] == 0).all()
    assert (energies["paper"][2:] > 0.9).all()
    assert (energies["paper"][:2] < 0.01).all()


def test_the_gate_has_a_gradient_only_straight_through(tokens):
    released = randomise(experts("official"))
    released(tokens).sum().backward()
    assert released.gate.weight.grad is None
    assert released.router.weight.grad is not None
    adapter = randomise(experts(asg_gradient="straight_through"))
    plain = randomise(experts())
    output = adapter(tokens)
    assert torch.equal(output, plain(tokens))
    output.sum().backward()
    # With the factor 1 + p - stopgrad(p), d output / d p is what the expert adds without its bias.
    with torch.no_grad():
        plain.up_bias.zero_()
    shares = []
    for expert in range(4):
        only = randomise(experts())
        with torch.no_grad():
            only.up_bias.zero_()
            only.up_weight[[e for e in range(4) if e != expert]] = 0
        shares.append(only(tokens).sum(dim=(1, 2)))
    gate = adapter.gate(tokens).softmax(dim=-1).mean(dim=1)
    expected = torch.autograd.grad((0.1 * gate * torch.stack(shares, dim=1).detach()).sum(), adapter.gate.weight)
    assert torch.allclose(adapter.gate.weight.grad, expected[0])


def test_what_the_experts_show(tokens):
    adapter = randomise(experts())
    adapter.inspect = True
    output = adapter(tokens)
    assert torch.allclose(adapter.routing.sum(dim=1), torch.ones(3, dtype=torch.float64))
    shown = adapter.inspection
    assert shown["hidden"].shape == (3, 7, 4, 48)
    assert float(shown["zero_share"]) == float((shown["hidden"] == 0).double().mean())
    assert torch.allclose(shown["gate_mean"], adapter.gate_mean.mean(dim=0))
    assert ((shown["kept_energy"] > 0) & (shown["kept_energy"] <= 1)).all()
    assert not any(tensor.requires_grad for tensor in (*shown.values(), adapter.routing, adapter.gate_mean))
    adapter.observed = False
    assert torch.allclose(adapter(tokens[:1]), output[:1])
    assert adapter.routing.shape[0] == 3


@pytest.mark.parametrize(("preset", "silent"), [("recommended", True), ("official", False)])
def test_initial_values(preset, silent):
    adapter = experts(preset, dim=256)
    inputs = torch.randn(2, 3, 256, dtype=torch.float64)
    assert bool((adapter(inputs) == 0).all()) == silent
    spread = 1 / (3 * 256) ** 0.5 if silent else 0.02
    assert float(adapter.down_weight.detach().std()) == pytest.approx(spread, rel=0.15)
    assert not adapter.down_bias.any()
    assert not adapter.up_bias.any()
    assert not torch.equal(adapter.router.weight, adapter.gate.weight)
    assert torch.equal(experts(preset, dim=256).down_weight, adapter.down_weight)
    assert not torch.equal(experts(preset, dim=256, seed=1).down_weight, adapter.down_weight)


@pytest.mark.parametrize(("bottleneck", "expected"), [(192, 14_275_680), (48, 3_651_936)])
def test_published_number_of_parameters_on_vit_b(bottleneck, expected):
    with torch.device("meta"):
        network = VisionTransformer(num_classes=10)
    adapters = add_experts(network, options("official", bottleneck=bottleneck), torch.Generator())
    assert sum(p.numel() for adapter in adapters.values() for p in adapter.parameters()) == expected


def test_the_experts_read_the_residual_stream_after_attention():
    torch.manual_seed(0)
    block = Block(DIM, num_heads=2, init_values=0.1, drop_path=0.5).eval().double()
    adapter = randomise(experts())
    x = torch.randn(2, 5, DIM, dtype=torch.float64)
    u = x + block.ls1(block.attn(block.norm1(x)))
    expected = u + block.ls2(block.mlp(block.norm2(u))) + adapter(u)
    adapted = AdaptedBlock(block, adapter)
    assert torch.allclose(adapted(x), expected)
    assert {name for name, _ in block.named_parameters()} < {name for name, _ in adapted.named_parameters()}


def test_a_network_without_transformer_blocks_is_refused():
    with pytest.raises(InputError, match=r"Sequential has none: choose a vision transformer"):
        add_experts(nn.Sequential(nn.Linear(2, 2)), options(), torch.Generator())
