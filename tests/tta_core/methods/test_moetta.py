"""MoETTA's own acceptance tests (moetta §1.15): its online step, with the settings of the paper."""

import math

import pytest
import torch

from tta_core import build_method
from tta_core.methods.moetta.method import effective_number
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


def test_the_official_recursion_rewrites_the_first_entry_of_its_history():
    """The list as released: the threshold is its first element, multiplied in place (moetta §1.8)."""
    history, expected = [BATCH_ENTROPIES[0]], [BATCH_ENTROPIES[0]]
    for h in BATCH_ENTROPIES[1:]:
        before = sum(history) / len(history)
        history.append(h)
        history[0] *= sum(history) / len(history) / before
        expected.append(history[0])
    rule = OfficialThreshold()
    found = [float(rule.update(torch.tensor(h, dtype=torch.float64))) for h in BATCH_ENTROPIES]
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("mode", ["paper", "official"])
def test_the_threshold_of_a_step_includes_its_own_batch(mode, tiny_vit, images):
    method = build_method("moetta", tiny_vit(), num_classes=10, threshold_mode=mode)
    rule = OfficialThreshold() if mode == "official" else PaperThreshold()
    for seed in range(3):
        logits = method(images(16, seed))
        entropy = torch.distributions.Categorical(logits=logits).entropy()
        expected = rule.update(entropy.mean())
        assert method.record["threshold"] == pytest.approx(float(expected), rel=1e-5)
        assert int(method.record["selected"]) == int((entropy <= expected).sum())
        assert method.record["balance_coefficient"] == pytest.approx(0.2 * float(expected), rel=1e-5)


def test_the_loss_is_the_weighted_mean_over_the_selected_plus_the_balance(tiny_vit, images):
    method = build_method("moetta", tiny_vit(), num_classes=10, lr=0.1)
    for seed in range(3):
        logits = method(images(16, seed)).double()
        record = method.record
        entropy = torch.distributions.Categorical(logits=logits).entropy()
        kept = entropy[entropy <= record["threshold"]]
        weighted = (torch.exp(0.4 * math.log(10) - kept) * kept).mean()
        balance = record["balance_coefficient"] * record["balance_loss"] * len(method.layers)
        assert record["loss"] == pytest.approx(float(weighted + balance), rel=1e-4)
        assert 0 < len(kept) < 16


def test_the_entropy_gives_the_router_nothing_at_the_first_step_and_the_balance_does(tiny_vit, images):
    for lambda_balance, moves in ((0.0, False), (0.2, True)):
        method = build_method("moetta", tiny_vit(), num_classes=10, lambda_balance=lambda_balance)
        before = {n: p.clone() for n, p in method.trainable_parameters().items() if "router" in n}
        method(images())
        changed = [not torch.equal(method.trainable_parameters()[n], p) for n, p in before.items()]
        assert any(changed) == moves


def test_the_balance_trains_the_experts_of_earlier_layers(tiny_vit, images):
    method = build_method("moetta", tiny_vit(), num_classes=10)
    # Nothing passes a threshold far below this batch's entropies: only the balance is left.
    method.threshold.state = {"sum": torch.tensor(1e-6), "batches": torch.tensor(1e6)}
    method(images())
    assert int(method.record["selected"]) == 0
    *earlier, last = method.layers.values()
    assert all(layer.experts_weight.any() for layer in earlier)
    assert not last.experts_weight.any()


def test_an_empty_selection_moves_the_router_and_stays_finite(tiny_vit, images):
    method = build_method("moetta", tiny_vit(), num_classes=10, lr=0.1)
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


@pytest.mark.parametrize("mode", ["paper", "official"])
def test_a_first_batch_of_one_is_selected(mode, tiny_vit, images):
    """The filter is <=: with < the only sample, whose entropy is the threshold, would not pass (moetta §1.7)."""
    method = build_method("moetta", tiny_vit(), num_classes=10, threshold_mode=mode)
    logits = method(images(1))
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    assert method.record["threshold"] == pytest.approx(float(entropy), rel=1e-6)
    assert int(method.record["selected"]) == 1
    assert any(layer.experts_weight.any() for layer in method.layers.values())


def test_experts_that_no_sample_chose_go_on_by_momentum(tiny_vit, images):
    method = build_method("moetta", tiny_vit(), num_classes=10, lambda_balance=0.0, lr=0.1)
    layer = method.layers["norm"]
    method(images())
    moved = layer.routing.any(dim=0)
    before = layer.experts_weight.detach().clone()
    # A batch of one chooses one expert of this layer.
    method(images(1, seed=1))
    unchosen = moved & ~layer.routing.any(dim=0)
    assert unchosen.any()
    assert torch.allclose(layer.experts_weight[unchosen], 1.9 * before[unchosen], rtol=1e-4)


def test_selections_sum_to_samples_and_usage_to_one(tiny_vit, images):
    method = build_method("moetta", tiny_vit(), num_classes=10, num_experts=4, top_k=2)
    for seed in range(3):
        method(images(16, seed))
    for router in method.routers.values():
        assert int(router.usage.sum()) == 3 * 16 * 2
    assert all(sum(shares) == pytest.approx(1) for shares in method.diagnostics()["expert_usage"].values())


def test_the_shared_pair_gets_no_gradient(tiny_vit, images):
    method = build_method("moetta", tiny_vit(), num_classes=10)
    shared = {n: p.clone() for n, p in method.network.named_parameters() if n.endswith(("norm1.weight", "norm1.bias"))}
    method(images())
    for name, before in shared.items():
        parameter = method.network.get_parameter(name)
        assert parameter.grad is None
        assert torch.equal(parameter, before)


def test_a_step_leaves_no_graph_behind(tiny_vit, images):
    method = build_method("moetta", tiny_vit(), num_classes=10)
    method(images())
    for router in method.routers.values():
        assert router.decision is None
    for layer in method.layers.values():
        seen = (layer.routing, layer.probabilities, layer.router_input)
        assert not any(tensor.requires_grad for tensor in seen)


def test_effective_number_of_experts():
    counts = torch.tensor([[4.0, 4, 4, 4], [16, 0, 0, 0]])
    assert effective_number(counts).tolist() == pytest.approx([4.0, 1.0])


def test_margins_follow_the_number_of_classes(tiny_vit):
    assert build_method("moetta", tiny_vit(), num_classes=10).margin == pytest.approx(0.4 * math.log(10))
