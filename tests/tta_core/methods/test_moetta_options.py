"""MoETTA's switches (moetta §1.12): what each does, and that all of them keep the contract of a method."""

import copy
import math

import pytest
import torch

from tta_core import build_method
from tta_core.errors import InputError
from tta_core.methods.common.losses import softmax_entropy
from tta_core.methods.moetta.spec import SPEC

ABLATIONS = {
    "w/o sample selection": {"select_samples": False},
    "w/o entropy re-weight": {"weight_by_entropy": False},
    "w/o load-balancing loss": {"lambda_balance": 0.0},
    "w/o gradient to router": {"detach_coefficients": True},
    "w/o sample-wise router": {"samplewise_routing": False},
    "w/o MoE-LayerNorm": {"normal_norms": "rest"},
    "w/o layer-wise router": {"router": "global"},
}
OTHERS = {
    "fixed threshold": {"dynamic_threshold": False, "fixed_threshold": 0.5},
    "no threshold": {"dynamic_threshold": False},
    "constant balance": {"dynamic_balance": False},
    "balanced batches": {"samplewise_routing": False, "balance_batch_routing": True},
    "added experts": {"weight_by_probability": False, "top_k": 3},
    "random experts": {"expert_init_ratio": 0.1},
    "shared expert": {"train_shared_expert": True},
    "penalty": {"route_penalty": 0.01, "route_penalty_decay": 0.5},
    "some normal": {"normal_norms": "1,6"},
    "later global router": {"router": "global", "global_router_norm": 2, "normal_norms": "4"},
}
ALL = ABLATIONS | OTHERS
FASTER = {"lr": 0.05}


def moetta(network, **settings):
    return build_method("moetta", network, num_classes=10, **{**FASTER, **settings})


def run(method, images, sizes=(16, 16, 5, 1, 16)):
    return [method(images(size, seed)) for seed, size in enumerate(sizes)]


@pytest.mark.parametrize("name", ALL)
def test_every_switch_changes_the_predictions_and_keeps_the_record(name, tiny_vit, images):
    plain, switched = moetta(tiny_vit()), moetta(tiny_vit(), **ALL[name])
    expected, found = run(plain, images), run(switched, images)
    assert all(logits.isfinite().all() for logits in found)
    assert not torch.equal(expected[-1], found[-1])
    assert set(switched.record) - {"loss", "selected"} == set(SPEC.scalars)
    assert all(tensor.ndim == 0 and not tensor.requires_grad for tensor in switched.record.values())
    assert all(tensor.isfinite() for tensor in switched.record.values())


@pytest.mark.parametrize("name", ALL)
def test_every_switch_resets_and_resumes_bit_for_bit(name, tiny_vit, images):
    method = moetta(tiny_vit(), **ALL[name])
    first = run(method, images)
    method.reset()
    again = [method(images(size, seed)) for seed, size in enumerate((16, 16, 5))]
    state = copy.deepcopy(method.state_dict())
    resumed = moetta(tiny_vit(), **ALL[name], seed=7)
    resumed.load_state_dict(state)
    again += [resumed(images(1, 3)), resumed(images(16, 4))]
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


@pytest.mark.parametrize("settings", [{"select_samples": False}, {"dynamic_threshold": False}])
def test_without_a_filter_all_samples_count_and_the_balance_still_follows(settings, tiny_vit, images):
    method = moetta(tiny_vit(), **settings)
    logits = method(images())
    assert int(method.record["selected"]) == 16
    assert method.record["threshold"] == pytest.approx(math.log(10))
    mean = float(softmax_entropy(logits).mean())
    assert method.record["balance_coefficient"] == pytest.approx(0.2 * mean, rel=1e-5)


def test_a_fixed_threshold_is_in_units_of_the_largest_entropy(tiny_vit, images):
    middle = float(softmax_entropy(tiny_vit()(images())).detach().median()) + 1e-4
    method = moetta(tiny_vit(), dynamic_threshold=False, fixed_threshold=middle / math.log(10))
    logits = method(images())
    assert method.record["threshold"] == pytest.approx(middle)
    assert int(method.record["selected"]) == int((softmax_entropy(logits) <= middle).sum()) == 8


def test_a_constant_balance_does_not_follow_the_entropy(tiny_vit, images):
    method = moetta(tiny_vit(), dynamic_balance=False)
    run(method, images, (16, 16))
    assert method.record["balance_coefficient"] == pytest.approx(0.2)


def test_without_entropy_weights_the_loss_is_the_mean_entropy(tiny_vit, images):
    method = moetta(tiny_vit(), weight_by_entropy=False, lambda_balance=0.0)
    entropy = softmax_entropy(method(images()))
    kept = entropy[entropy <= method.record["threshold"]]
    assert method.record["loss"] == pytest.approx(float(kept.mean()), rel=1e-5)


def test_without_experts_the_norms_are_trained_by_the_same_loss(tiny_vit, images):
    """The paper's `w/o MoE-LayerNorm`: norms 1 and up, weighted entropy of the selected, no balance (moetta §1.12)."""
    method = moetta(tiny_vit(), normal_norms="rest")
    assert method.layers == method.routers == {}
    network = tiny_vit().requires_grad_(False)
    norms = [m for name, m in network.named_modules() if "norm" in name and isinstance(m, torch.nn.LayerNorm)][1:]
    parameters = [p for norm in norms for p in norm.requires_grad_(True).parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.05, momentum=0.9)
    seen = []
    for seed in range(3):
        logits = network(images(seed=seed))
        assert torch.allclose(method(images(seed=seed)), logits, atol=1e-5)
        entropy = softmax_entropy(logits)
        seen.append(float(entropy.detach().mean()))
        kept = entropy[entropy <= sum(seen) / len(seen)]
        optimizer.zero_grad()
        (torch.exp(0.4 * math.log(10) - kept.detach()) * kept).mean().backward()
        optimizer.step()
    assert float(method.record["balance_loss"]) == 0
    assert float(method.record["effective_experts"]) == 1
    assert method.activated_parameters() == sum(p.numel() for p in parameters)


@pytest.mark.parametrize("by_batch", [False, True])
def test_one_layer_with_the_global_router_is_one_layer_with_its_own(by_batch, tiny_vit, images):
    router = {"weight": torch.randn(9, 48) / 10, "bias": torch.randn(9) / 10}
    # Only norm 4 has experts; the global router reads the input of that very norm.
    options = {"disabled_norms": "0,1,2,3,5,6", "samplewise_routing": not by_batch}
    own = moetta(tiny_vit(), **options, initial={f"blocks.2.norm1.router.{n}": v for n, v in router.items()})
    shared = moetta(
        tiny_vit(),
        **options,
        router="global",
        global_router_norm=4,
        initial={f"global_router.{n}": v for n, v in router.items()},
    )
    assert all(torch.equal(a, b) for a, b in zip(run(own, images), run(shared, images), strict=True))
    assert own.diagnostics()["expert_usage"] == shared.diagnostics()["expert_usage"]


def test_a_global_router_decides_once_for_all_layers(tiny_vit, images):
    method = moetta(tiny_vit(), router="global", global_router_norm=2, disabled_norms="2")
    read = []
    method.network.blocks[1].norm1.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].mean(dim=1)))
    assert list(method.layers) == ["blocks.1.norm2", "blocks.2.norm1", "blocks.2.norm2", "norm"]
    trained = {name for name in method.trainable_parameters() if "experts" not in name}
    assert trained == {"global_router.weight", "global_router.bias"}
    method(images())
    (router,) = method.routers.values()
    assert set(method.routers) == {"blocks.1.norm1"}
    assert int(router.usage.sum()) == 16
    for layer in method.layers.values():
        assert torch.equal(layer.routing, next(iter(method.layers.values())).routing)
        assert torch.allclose(layer.router_input, read[0], atol=1e-6)
    assert 1 - 1e-3 <= float(method.record["balance_loss"]) <= 9


def test_a_copied_network_has_its_own_global_router(tiny_vit, images):
    method = moetta(tiny_vit(), router="global")
    copied = copy.deepcopy(method.network)
    expected = copied(images())
    run(method, images, (16, 16))
    assert torch.equal(copied(images()), expected)


def test_routing_by_batch_sends_all_to_one_expert_and_has_no_balance(tiny_vit, images):
    method = moetta(tiny_vit(), samplewise_routing=False)
    before = {n: p.clone() for n, p in method.trainable_parameters().items() if "router" in n}
    method(images())
    assert float(method.record["balance_loss"]) == 1
    assert float(method.record["effective_experts"]) == 1
    for layer in method.layers.values():
        assert torch.equal(layer.routing, layer.routing[:1].expand(16, -1))
    # Zero experts give the router no gradient, and here the balance gives none either.
    assert all(torch.equal(p, before[n]) for n, p in method.trainable_parameters().items() if n in before)


def test_batches_can_be_balanced(tiny_vit, images):
    method = moetta(tiny_vit(), samplewise_routing=False, balance_batch_routing=True)
    before = {n: p.clone() for n, p in method.trainable_parameters().items() if "router" in n}
    method(images())
    expected = torch.stack([9 * layer.probabilities[0].max() for layer in method.layers.values()]).mean()
    assert method.record["balance_loss"] == pytest.approx(float(expected), rel=1e-5)
    assert all(not torch.equal(p, before[n]) for n, p in method.trainable_parameters().items() if n in before)


def test_detached_coefficients_leave_the_router_to_the_balance(tiny_vit, images):
    for detached in (False, True):
        method = moetta(tiny_vit(), detach_coefficients=detached, lambda_balance=0.0)
        before = {n: p.clone() for n, p in method.trainable_parameters().items() if "router" in n}
        run(method, images)
        changed = [not torch.equal(p, before[n]) for n, p in method.trainable_parameters().items() if n in before]
        assert any(changed) != detached


def test_penalties_spread_the_load(tiny_vit, images):
    free, punished = (moetta(tiny_vit(), lambda_balance=0.0, route_penalty=u, num_experts=4) for u in (0.0, 0.05))
    for method in (free, punished):
        for seed in range(10):
            method(images(seed=seed))
    usages = [list(method.diagnostics()["expert_usage"].values()) for method in (free, punished)]
    assert all(max(after) < max(before) for before, after in zip(*usages, strict=True))
    assert all(float(router.penalty.min()) == 0 for router in punished.routers.values())


def test_a_trained_shared_pair_and_random_experts(tiny_vit, images):
    method = moetta(tiny_vit(), train_shared_expert=True, expert_init_ratio=0.1)
    layer = method.layers["norm"]
    assert torch.allclose(layer.experts_weight.norm(dim=1), (0.1 * layer.weight.norm()).expand(9))
    before = layer.weight.detach().clone()
    assert {"norm.weight", "norm.bias"} <= set(method.trainable_parameters())
    method(images())
    assert not torch.equal(layer.weight, before)


@pytest.mark.parametrize("name", ["penalty", "later global router", "w/o sample-wise router"])
def test_a_prediction_leaves_no_trace(name, tiny_vit, images):
    method, undisturbed = moetta(tiny_vit(), **ALL[name]), moetta(tiny_vit(), **ALL[name])
    for seed in range(3):
        method.predict(images(4, 10 + seed))
        assert torch.equal(method(images(seed=seed)), undisturbed(images(seed=seed)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top_k": 10}, "top_k = 10 is more than num_experts = 9"),
        ({"fixed_threshold": 0.4}, "fixed_threshold = 0.4 would not be used: give dynamic_threshold: false"),
        ({"fixed_threshold": 0.4, "select_samples": False, "dynamic_threshold": False}, "would not be used"),
        ({"global_router_norm": 2}, "global_router_norm = 2 would not be used: give router: global"),
        ({"router": "shared"}, "router = 'shared' is not allowed"),
        ({"expert_init_ratio": -1}, "expert_init_ratio = -1 is not allowed"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message, tiny_vit):
    with pytest.raises(InputError, match=message):
        moetta(tiny_vit(), **settings)


def test_the_unverified_potpourri_preset(tiny_vit):
    method = build_method("moetta", tiny_vit(), num_classes=10, preset="potpourri-unverified")
    assert method.settings.lambda_balance == 0.5
    assert method.layers["norm"].num_experts == 11
