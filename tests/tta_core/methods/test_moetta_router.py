"""Routers: what they read, whom they choose, what gradient they get (moetta §1.4 to §1.6, §1.12)."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from tta_core.methods.moetta.router import Router, RoutesBefore, RoutingRules, SharedRouter, load_balance

RULES = RoutingRules(num_experts=5)


def make_router(dim=6, seed=0, uniform=False, **rules):
    generator = torch.Generator().manual_seed(seed)
    return Router(dim, replace(RULES, **rules), generator, uniform=uniform, dtype=torch.float64)


def tokens(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_initial_weights_are_xaviers():
    normal, uniform = make_router(400, num_experts=100), make_router(400, uniform=True, num_experts=100)
    std = math.sqrt(2 / 500)
    assert float(normal.weight.detach().std()) == pytest.approx(std, rel=0.02)
    assert float(normal.weight.detach().abs().max()) > 4 * std
    assert float(uniform.weight.detach().std()) == pytest.approx(std, rel=0.02)
    assert float(uniform.weight.detach().abs().max()) <= math.sqrt(6 / 500)
    assert not normal.bias.any()
    assert not uniform.bias.any()


def test_it_reads_the_mean_over_all_axes_but_batch_and_channels():
    router = make_router()
    assert torch.allclose(router.decide(tokens(4, 7, 6)).router_input, tokens(4, 7, 6).mean(dim=1))
    assert torch.allclose(router.decide(tokens(4, 3, 2, 6)).router_input, tokens(4, 3, 2, 6).mean(dim=(1, 2)))
    assert torch.allclose(
        router.decide(tokens(4, 6, 3, 2), channel_axis=1).router_input, tokens(4, 6, 3, 2).mean(dim=(2, 3))
    )
    assert torch.equal(router.decide(tokens(4, 6)).router_input, tokens(4, 6))


def test_the_most_probable_experts_are_chosen():
    decision = make_router(top_k=2).decide(tokens(20, 3, 6))
    expected = decision.probabilities.topk(2, dim=-1).indices.sort(dim=-1).values
    assert torch.equal(decision.chosen.nonzero()[:, 1].view(20, 2), expected)
    assert not decision.chosen.requires_grad


@pytest.mark.parametrize(("by_probability", "total"), [(True, 1.0), (False, 2.0)])
def test_two_coefficients_are_convex_or_both_one(by_probability, total):
    decision = make_router(top_k=2, weight_by_probability=by_probability).decide(tokens(9, 3, 6))
    assert ((decision.coefficients > 0) == decision.chosen.bool()).all()
    assert torch.allclose(decision.coefficients.sum(dim=1), torch.full((9,), total, dtype=torch.float64))
    if not by_probability:
        assert torch.allclose(decision.coefficients, decision.chosen)


@pytest.mark.parametrize("by_probability", [True, False])
def test_one_coefficient_is_one_and_its_gradient_is_that_of_the_logarithm(by_probability):
    router = make_router(weight_by_probability=by_probability)
    decision = router.decide(tokens(9, 3, 6))
    assert torch.equal(decision.coefficients, decision.chosen)
    decision.coefficients.sum().backward()
    # d(v / sg(v)) = d ln v, and d ln p_s / dz_j = 1[j = s] - p_j.
    assert torch.allclose(router.bias.grad, (decision.chosen - decision.probabilities.detach()).sum(dim=0))


@pytest.mark.parametrize("top_k", [1, 2])
def test_experts_of_probability_zero_spoil_no_gradient(top_k):
    router = make_router(top_k=top_k)
    with torch.no_grad():
        router.bias.copy_(torch.tensor([0.0, 5.0, -2000.0, 5.0, -2000.0], dtype=torch.float64))
    decision = router.decide(tokens(9, 3, 6))
    assert (decision.probabilities == 0).any()
    decision.coefficients.sum().backward()
    assert router.bias.grad.isfinite().all()


def test_the_scale_of_two_coefficients_gets_no_gradient():
    router = make_router(top_k=2)
    decision = router.decide(tokens(1, 3, 6))
    decision.coefficients.sum().backward()
    p = decision.probabilities.detach()[0]
    kept = p * decision.chosen[0]
    # d sum(v) / sg(sum(v)): the coefficients always sum to 1, and yet their sum has a gradient.
    assert torch.allclose(router.bias.grad, (kept - p * kept.sum()) / kept.sum())
    assert router.bias.grad.abs().max() > 1e-3


def test_detached_coefficients_leave_only_the_probabilities_attached():
    decision = make_router(detach_coefficients=True).decide(tokens(4, 3, 6))
    assert not decision.coefficients.requires_grad
    assert decision.probabilities.requires_grad


def test_by_batch_the_mean_logits_choose_for_all():
    router = make_router(samplewise=False)
    decision = router.decide(tokens(8, 3, 6))
    expected = nn.functional.linear(tokens(8, 3, 6).mean(dim=1), router.weight, router.bias).mean(dim=0).softmax(dim=-1)
    assert torch.allclose(decision.probabilities, expected.expand(8, 5))
    assert torch.equal(decision.chosen, nn.functional.one_hot(expected.argmax(), 5).double().expand(8, 5))
    apart = make_router().decide(tokens(8, 3, 6)).chosen
    assert not torch.equal(apart, decision.chosen)


def test_penalties_follow_the_counts_and_decay_with_the_batches():
    router = make_router(num_experts=3, penalty=0.004, penalty_decay=0.5)
    router.count(torch.tensor([6.0, 0, 10], dtype=torch.float64))
    assert router.penalty.tolist() == pytest.approx([0.024, 0, 0.04])
    router.count(torch.tensor([0.0, 16, 0], dtype=torch.float64))
    after = [0.024, 16 * 0.004 / 1.5, 0.04]
    assert router.penalty.tolist() == pytest.approx([value - min(after) for value in after])
    assert router.usage.tolist() == [6, 16, 10]


def test_a_penalty_changes_choice_and_coefficients_but_not_the_probabilities():
    plain, punished = make_router(top_k=2), make_router(top_k=2, penalty=0.1)
    free = plain.decide(tokens(1, 3, 6))
    best = int(free.probabilities.argmax())
    punished.penalty[best] = 0.9
    decision = punished.decide(tokens(1, 3, 6))
    assert decision.chosen[0, best] == 0
    assert torch.equal(decision.probabilities, free.probabilities)
    second = free.probabilities[0].argsort(descending=True)[1]
    punished.penalty.zero_()
    punished.penalty[second] = 0.01
    decision = punished.decide(tokens(1, 3, 6))
    scores = free.probabilities[0] - punished.penalty
    chosen = decision.chosen[0].bool()
    assert torch.allclose(decision.coefficients[0, chosen], scores[chosen] / scores[chosen].sum())


def test_without_a_penalty_counts_change_usage_only():
    router = make_router()
    router.count(torch.ones(5))
    assert router.usage.tolist() == [1] * 5
    assert not router.penalty.any()


def test_a_decision_is_handed_over_once():
    router = make_router()
    router.decide(tokens(4, 3, 6))
    assert router.take_decision().probabilities.requires_grad
    assert router.decision is None


def test_a_shared_router_decides_before_its_layer_and_serves_others():
    router, layer = make_router(), nn.Identity()
    layer.register_forward_pre_hook(RoutesBefore(router, 1))
    shared = SharedRouter(router)
    layer(tokens(4, 6, 2, 2))
    decision = shared.decide(tokens(4, 9, 8))
    assert torch.allclose(decision.router_input, tokens(4, 6, 2, 2).mean(dim=(2, 3)))
    assert shared.rules is router.rules


def test_load_balance_is_one_at_balance_and_the_number_of_experts_at_collapse():
    assert load_balance(torch.full((8, 4), 0.25), torch.full((4,), 2.0)) == pytest.approx(1.0)
    collapsed = torch.tensor([[1.0, 0, 0, 0]] * 8)
    assert load_balance(collapsed, torch.tensor([8.0, 0, 0, 0])) == pytest.approx(4.0)
    # Uniform frequencies give 1 whatever the probabilities.
    assert load_balance(torch.rand(8, 4).softmax(dim=-1), torch.full((4,), 2.0)) == pytest.approx(1.0)


def test_load_balance_of_several_routers_is_that_of_each():
    probabilities, counts = torch.rand(3, 8, 4).softmax(dim=-1), torch.randint(1, 9, (3, 4)).float()
    each = torch.stack([load_balance(p, n) for p, n in zip(probabilities, counts, strict=True)])
    assert torch.allclose(load_balance(probabilities, counts), each)


def test_router_gradient_of_the_load_balance():
    """dLB/dz_bj = E/B p_bj (F_j - sum_k F_k p_bk) (moetta §1.6)."""
    logits = tokens(5, 4).requires_grad_()
    p = logits.softmax(dim=-1)
    selections = nn.functional.one_hot(p.argmax(dim=-1), 4).sum(dim=0).double()
    load_balance(p, selections).backward()
    f = selections / 5
    expected = 4 / 5 * p * (f - (p @ f).unsqueeze(-1))
    assert torch.allclose(logits.grad, expected.detach())
