import math

import pytest
import torch

from tta_core import build_method
from tta_core.errors import InputError
from tta_core.methods.common.losses import softmax_entropy
from tta_core.methods.registry import method_spec


def becotta(network, dtype=torch.float32, **settings):
    return build_method("becotta", network.to(dtype), num_classes=10, **settings)


def test_the_default_adapts_adapters_and_gates_of_every_block(tiny_vit):
    method = becotta(tiny_vit())
    per_block = 12 * 48 + 6 * (48 + 1 + 48 + 48)
    assert sum(p.numel() for p in method.trainable_parameters().values()) == 3 * per_block
    assert all(".adapters." in name for name in method.trainable_parameters())
    assert method.activated_parameters() == 3 * (12 * 48 + 48 + 1 + 48 + 48)


def test_biases_start_at_zero_and_weights_small(tiny_vit):
    for name, parameter in becotta(tiny_vit(), init_std=0.01).trainable_parameters().items():
        if name.endswith("bias"):
            assert parameter.abs().max() == 0
        else:
            assert 0.005 < parameter.std() < 0.015


def test_the_loss_is_the_mean_entropy_of_reliable_samples(tiny_vit, images):
    method = becotta(tiny_vit(), torch.float64, entropy_margin=0.55, lr=0.1, optimizer="sgd", momentum=0.0)
    before = {name: p.detach().clone() for name, p in method.trainable_parameters().items()}
    state = method.generator.get_state()
    logits = method(images().double())
    entropy = softmax_entropy(logits)
    reliable = entropy < 0.55 * math.log(10)
    assert 0 < reliable.sum() < 16
    assert int(method.record["selected"]) == int(reliable.sum())
    assert method.record["loss"].item() == pytest.approx(entropy[reliable].mean().item())
    # The same by hand, through one graph.
    other = becotta(tiny_vit(), torch.float64)
    other.generator.set_state(state)
    loss = softmax_entropy(other.network(images().double()))[reliable].mean()
    loss.backward()
    for name, parameter in other.trainable_parameters().items():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        assert torch.allclose(method.trainable_parameters()[name], before[name] - 0.1 * gradient, atol=1e-10)


@pytest.mark.parametrize("top_k", [1, 3])
def test_both_ways_to_the_gradient_agree(top_k, tiny_vit, images):
    one, other = (becotta(tiny_vit(), torch.float64, entropy_margin=0.55, lr=1e-3, top_k=top_k) for _ in range(2))
    one.forward.share, other.forward.share = 1.0, 0.0
    assert one.forward.keeps_graph
    assert not other.forward.keeps_graph
    assert torch.allclose(one(images().double()), other(images().double()))
    assert 0 < int(one.record["selected"]) < 16
    for name, parameter in one.trainable_parameters().items():
        if top_k == 1 or "gate" not in name:  # Adam amplifies the rounding in the gates' gradient.
            assert torch.allclose(parameter, other.trainable_parameters()[name], atol=1e-8), name


def test_gates_learn_with_several_adapters_only(tiny_vit, images):
    for top_k, learns in ((1, False), (3, True)):
        method = becotta(tiny_vit(), lr=1e-2, top_k=top_k, entropy_margin=1.0)
        gate = method.network.get_parameter("blocks.1.adapters.gate")
        before = gate.detach().clone()
        for seed in range(3):
            method(images(seed=seed))
        assert torch.equal(gate, before) != learns


def test_without_reliable_samples_nothing_moves(tiny_vit, images):
    method = becotta(tiny_vit(), lr=1e-2, entropy_margin=1.0)
    method(images())
    method.margin = 0.0
    before = {name: p.detach().clone() for name, p in method.trainable_parameters().items()}
    assert method(images(seed=1)).isfinite().all()
    assert int(method.record["selected"]) == 0
    assert "loss" not in method.record
    assert all(torch.equal(p, before[name]) for name, p in method.trainable_parameters().items())


def test_the_release_goes_on_on_its_moments(tiny_vit, images):
    method = becotta(tiny_vit(), lr=1e-2, entropy_margin=1.0, on_empty="moments")
    method(images())
    method.margin = 0.0
    up = method.network.get_parameter("blocks.2.adapters.up_bias")
    before = up.detach().clone()
    state = method.optimizer.state[up]
    mean, square = 0.9 * state["exp_avg"].clone(), 0.999 * state["exp_avg_sq"].clone()
    method(images(seed=1))
    moved = 1e-2 * (mean / (1 - 0.9**2)) / ((square / (1 - 0.999**2)).sqrt() + 1e-8)
    assert torch.allclose(up, before - moved, atol=1e-6)
    assert up.isfinite().all()
    assert method.record["loss"] == 0


def test_an_empty_first_step_of_the_release_moves_nothing(tiny_vit, images):
    method = becotta(tiny_vit(), on_empty="moments", top_k=2)
    method.margin = 0.0
    before = {name: p.detach().clone() for name, p in method.trainable_parameters().items()}
    method(images())
    assert all(torch.equal(p, before[name]) for name, p in method.trainable_parameters().items())


def test_the_margin_follows_the_classes_but_not_in_the_release(tiny_vit):
    assert becotta(tiny_vit()).margin == pytest.approx(0.4 * math.log(10))
    assert becotta(tiny_vit(), preset="official").margin == pytest.approx(0.4 * math.log(1000))


def test_restored_numbers_return_to_their_initial_values(tiny_vit, images):
    method = becotta(tiny_vit(), lr=1e-2, entropy_margin=1.0, restore_probability=1.0)
    before = {name: p.detach().clone() for name, p in method.trainable_parameters().items()}
    method(images())
    assert int(method.record["restored"]) == sum(p.numel() for p in before.values())
    assert all(torch.equal(p, before[name]) for name, p in method.trainable_parameters().items())
    some = becotta(tiny_vit(), lr=1e-2, entropy_margin=1.0, restore_probability=0.3)
    some(images())
    back = sum((p == before[name]).sum() for name, p in some.trainable_parameters().items() if "up_bias" in name)
    assert 0 < back < 3 * 6 * 48


def test_prediction_is_noisy_too_but_leaves_no_trace(tiny_vit, images):
    method = becotta(tiny_vit(), init_std=0.5)
    one, again = method.predict(images()), method.predict(images())
    assert torch.equal(one, again)
    method.generator.manual_seed(5)
    assert not torch.equal(one, method.predict(images()))
    assert method.diagnostics()["expert_usage"]["blocks.0.adapters"] == [0.0] * 6


def test_usage_counts_each_sample_once(tiny_vit, images):
    method = becotta(tiny_vit(), entropy_margin=0.55)
    method.forward.share = 0.0  # The second forward must not count again.
    method(images())
    assert [adapter.usage.sum().item() for adapter in method.adapters.values()] == [16.0] * 3
    assert sum(method.diagnostics()["expert_usage"]["blocks.0.adapters"]) == pytest.approx(1)


def test_presets_differ_as_published(tiny_vit):
    spec = method_spec("becotta")
    early = spec.resolve("moetta-early", {})
    assert (early.lr, early.rank, early.top_k) == (1e-3, 2, 6)
    official = spec.resolve("official", {})
    assert (official.lr, official.num_experts, official.rank, official.top_k) == (1e-5, 6, 1, 1)
    assert (official.optimizer, official.betas, official.on_empty) == ("adam", (0.9, 0.999), "moments")
    paper = spec.resolve("paper", {})
    assert (paper.top_k, paper.lr, paper.restore_probability) == (3, 6e-7, 0.01)


def test_more_adapters_a_sample_than_there_are_is_refused(tiny_vit):
    with pytest.raises(InputError, match="top_k = 7 adapters cannot be chosen among num_experts = 6"):
        becotta(tiny_vit(), top_k=7)
