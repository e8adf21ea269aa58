"""MoETTA's own acceptance tests (spec 1.15)."""

import math

import pytest
import timm
import torch
from torch import nn

from tta_core import build_method
from tta_core.adapters.moe_norm import MoELayerNorm, load_balance
from tta_core.errors import InputError
from tta_core.methods.moetta.method import effective_number
from tta_core.methods.moetta.spec import parse_indices
from tta_core.methods.moetta.threshold import OfficialThreshold, PaperThreshold

BATCH_ENTROPIES = [2.0, 2.5, 1.5, 3.0, 2.2]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (PaperThreshold, [2.0, 2.25, 2.0, 2.25, 2.24]),
        (OfficialThreshold, [2.0, 2.25, 1.973684, 2.223655, 2.203228]),
    ],
)
def test_threshold_vectors(rule, expected):
    threshold = rule()
    found = [float(threshold.update(torch.tensor(h, dtype=torch.float64))) for h in BATCH_ENTROPIES]
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.fixture
def layer():
    return MoELayerNorm(nn.LayerNorm(6), num_experts=4, top_k=1, generator=torch.Generator().manual_seed(0)).double()


def test_zero_experts_leave_the_layer_norm_as_it_was(layer):
    x = torch.randn(5, 7, 6, dtype=torch.float64)
    assert torch.allclose(layer(x), nn.LayerNorm(6).double()(x))


def test_router_gradient_of_the_expert_path(layer):
    """dL/dz_j = g (1[j = s] - p_j), with g the directional derivative along the chosen expert (spec 1.6)."""
    with torch.no_grad():
        layer.experts_weight.normal_()
        layer.experts_bias.normal_()
    x = torch.randn(1, 3, 6, dtype=torch.float64)
    target = torch.randn(1, 3, 6, dtype=torch.float64)
    (layer(x) * target).sum().backward()
    p = layer.router(x.mean(dim=1)).softmax(dim=-1)[0]
    chosen = int(p.argmax())
    normalised = nn.functional.layer_norm(x, (6,))
    g = ((normalised * target).sum(dim=1) * layer.experts_weight[chosen]).sum()
    g = g + (target.sum(dim=1) * layer.experts_bias[chosen]).sum()
    onehot = nn.functional.one_hot(torch.tensor(chosen), 4)
    assert torch.allclose(layer.router.bias.grad, (g * (onehot - p)).detach())


def test_router_gradient_of_the_load_balance():
    """dLB/dz_bj = E/B p_bj (F_j - sum_k F_k p_bk) (spec 1.6)."""
    logits = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    p = logits.softmax(dim=-1)
    selections = nn.functional.one_hot(p.argmax(dim=-1), 4).sum(dim=0).double()
    load_balance(p, selections).backward()
    f = selections / 5
    expected = 4 / 5 * p * (f - (p @ f).unsqueeze(-1))
    assert torch.allclose(logits.grad, expected.detach())


def test_load_balance_is_one_at_balance_and_the_number_of_experts_at_collapse():
    assert load_balance(torch.full((8, 4), 0.25), torch.full((4,), 2.0)) == pytest.approx(1.0)
    collapsed = torch.tensor([[1.0, 0, 0, 0]] * 8)
    assert load_balance(collapsed, torch.tensor([8.0, 0, 0, 0])) == pytest.approx(4.0)


def test_top_2_coefficients_are_convex():
    layer = MoELayerNorm(nn.LayerNorm(6), num_experts=4, top_k=2, generator=torch.Generator().manual_seed(0))
    coefficients = layer._route(torch.randn(9, 3, 6))
    assert (coefficients > 0).sum(dim=1).tolist() == [2] * 9
    assert torch.allclose(coefficients.sum(dim=1), torch.ones(9))
    assert layer.selections.sum() == 18


def test_the_entropy_gives_the_router_nothing_at_the_first_step_and_the_balance_does(tiny_vit, images):
    for lambda_balance, moves in ((0.0, False), (0.2, True)):
        method = build_method("moetta", tiny_vit(), num_classes=10, lambda_balance=lambda_balance)
        before = {n: p.clone() for n, p in method.trainable_parameters().items() if "router" in n}
        method(images())
        changed = [not torch.equal(method.trainable_parameters()[n], p) for n, p in before.items()]
        assert any(changed) == moves


def test_an_empty_selection_moves_the_router_and_stays_finite(tiny_vit, images):
    method = build_method("moetta", tiny_vit(), num_classes=10, lr=0.1)
    # Entropies seen so far were far lower than this batch's: nothing passes the threshold.
    method.threshold.state = {"sum": torch.tensor(1e-6), "batches": torch.tensor(1e6)}
    before = {name: p.clone() for name, p in method.trainable_parameters().items()}
    method(images())
    assert int(method.record["selected"]) == 0
    after = method.trainable_parameters()
    assert all(p.isfinite().all() for p in after.values())
    assert any(not torch.equal(after[n], before[n]) for n in after if "router" in n)
    assert float(method.record["loss"]) == pytest.approx(
        float(method.record["balance_coefficient"] * method.record["balance_loss"] * len(method.layers)), rel=1e-5
    )


def test_a_first_batch_of_one_is_selected(tiny_vit, images):
    method = build_method("moetta", tiny_vit(), num_classes=10)
    method(images(1))
    assert int(method.record["selected"]) == 1


def test_selections_sum_to_samples_and_usage_to_one(tiny_vit, images):
    method = build_method("moetta", tiny_vit(), num_classes=10, num_experts=4, top_k=2)
    for seed in range(3):
        method(images(16, seed))
    for layer in method.layers.values():
        assert int(layer.usage.sum()) == 3 * 16 * 2
    assert all(sum(shares) == pytest.approx(1) for shares in method.diagnostics()["expert_usage"].values())


def test_the_shared_pair_gets_no_gradient(tiny_vit, images):
    method = build_method("moetta", tiny_vit(), num_classes=10)
    shared = {n: p.clone() for n, p in method.network.named_parameters() if n.endswith(("norm1.weight", "norm1.bias"))}
    method(images())
    for name, before in shared.items():
        parameter = method.network.get_parameter(name)
        assert parameter.grad is None
        assert torch.equal(parameter, before)


@pytest.mark.parametrize(
    ("architecture", "norms", "first", "trainable"),
    [
        ("vit_base_patch16_224", 24, "blocks.0.norm2", 497_880),
        ("vit_large_patch16_224", 34, "blocks.7.norm2", 940_338),
        ("convnext_base", 32, "stages.1.blocks.1.norm", 470_304),
    ],
)
def test_index_map_and_parameter_counts_of_the_published_backbones(architecture, norms, first, trainable):
    with torch.device("meta"):
        network = timm.create_model(architecture)
    # Only shapes matter here; the meta device has no values to seed.
    network = network.to_empty(device="cpu")
    method = build_method("moetta", network, num_classes=1000)
    assert len(method.layers) == norms
    assert next(iter(method.layers)) == first
    assert sum(p.numel() for p in method.trainable_parameters().values()) == trainable


def test_average_pooling_and_pre_norm_networks_adapt(tiny_vit, images):
    for changes in ({"global_pool": "avg"}, {"pre_norm": True}):
        method = build_method("moetta", tiny_vit(**changes), num_classes=10)
        for seed in range(2):
            assert method(images(8, seed)).isfinite().all()


def test_disabled_norms_stay_plain(tiny_vit):
    method = build_method("moetta", tiny_vit(), num_classes=10, disabled_norms="0-2")
    assert next(iter(method.layers)) == "blocks.1.norm2"
    with pytest.raises(InputError, match="names norm 7, but this network has norms 0 to 6"):
        build_method("moetta", tiny_vit(), num_classes=10, disabled_norms="0,7")
    with pytest.raises(InputError, match="neither auto, nor a range"):
        build_method("moetta", tiny_vit(), num_classes=10, disabled_norms="first")


def test_parse_indices():
    assert parse_indices("0-3") == (0, 1, 2, 3)
    assert parse_indices("1,4") == (1, 4)
    assert parse_indices("") == ()


def test_effective_number_of_experts():
    counts = torch.tensor([[4.0, 4, 4, 4], [16, 0, 0, 0]])
    assert effective_number(counts).tolist() == pytest.approx([4.0, 1.0])


def test_margins_follow_the_number_of_classes(tiny_vit):
    assert build_method("moetta", tiny_vit(), num_classes=10).margin == pytest.approx(0.4 * math.log(10))
