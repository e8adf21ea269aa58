"""IMSE's own acceptance tests (imse §8): surgery, losses, SAM; `test_imse_domains.py` has the bank."""

import math

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from tta_core import build_method
from tta_core.errors import InputError
from tta_core.methods.common.losses import softmax_entropy
from tta_core.methods.common.spectral_cache import Decomposition
from tta_core.methods.common.transformer import embed, predict
from tta_core.methods.imse import layers as spectral
from tta_core.methods.imse.diversity import mean_spread


@pytest.fixture
def build(tiny_vit, images):
    """Builds IMSE without retrieval around a small network, in float64."""

    def make(network=None, *, dtype=torch.float64, **settings):
        network = tiny_vit() if network is None else network
        return build_method("imse", network.to(dtype), num_classes=10, **{"retrieval": "none", **settings})

    return make


@pytest.fixture
def batch(images):
    """Normalised images in float64."""
    return lambda size=16, seed=0: images(size, seed).double()


def code_of(method):
    return torch.cat([sigma.clone() for sigma in method.spectral_code().values()])


def fake_decomposition(weight):
    rank = min(weight.shape)
    return Decomposition(
        *(weight.new_empty(shape) for shape in ((len(weight), rank), (rank,), (rank, weight.shape[1])))
    )


def test_counts_of_the_published_backbone(monkeypatch):
    """36,864 singular values, of which the 27,648 of blocks 0 to 8 are trained (imse §1.1)."""
    # Only shapes matter, and 48 real decompositions take half a minute.
    monkeypatch.setattr(spectral, "cached_decomposition", fake_decomposition)
    for frozen, trained in (("auto", 27_648), ("official", 27_648), (0, 36_864)):
        with torch.device("meta"):
            network = VisionTransformer()
        method = build_method("imse", network, num_classes=1000, retrieval="none", frozen_last_blocks=frozen)
        assert sum(sigma.numel() for sigma in method.spectral_code().values()) == 36_864
        assert sum(p.numel() for p in method.trainable_parameters().values()) == trained


def test_trained_names_and_measured_blocks(build, tiny_vit):
    method = build(tiny_vit(depth=4), diversity_blocks=2, components=["mlp.fc1", "attn.qkv"])
    expected = [f"blocks.{b}.{c}.sigma" for b in range(3) for c in ("attn.qkv", "mlp.fc1")]
    assert list(method.trainable_parameters()) == expected
    measuring = {name.split(".")[1] for name, layer in method.layers.items() if layer.measures_alignment}
    assert measuring == {"2", "3"}
    assert "blocks.0.mlp.fc2" not in method.layers


@pytest.mark.parametrize("rho", [0.0, 0.05])
def test_norms_outside_of_the_frozen_blocks_learn_at_a_rate_of_their_own(rho, build, tiny_vit, batch):
    settings = {"rho": rho, "lr": 0.02, "frozen_last_blocks": 1, "diversity_blocks": 1, "entropy_margin": 1.0}
    with_norms, without = (build(tiny_vit(depth=3), norm_lr=lr, **settings) for lr in (1e-3, 0.0))
    added = with_norms.trainable_parameters().keys() - without.trainable_parameters().keys()
    wanted = [*(f"blocks.{block}.norm{number}" for block in (0, 1) for number in (1, 2)), "norm"]
    assert added == {f"{norm}.{part}" for norm in wanted for part in ("weight", "bias")}
    with_norms(batch())
    # The first step of Adam is the learning rate, whatever the gradient.
    for name, parameter in with_norms.trainable_parameters().items():
        moved = (parameter.detach() - with_norms.source_parameters[name]).abs()
        rate = 1e-3 if name in added else 0.02
        assert moved.max() == pytest.approx(rate, rel=1e-3), name
        assert moved.max() <= rate * 1.0001
    if rho == 0:
        # One gradient: that of the loss at the source, by plain differentiation.
        other = build(tiny_vit(depth=3), norm_lr=1e-3, **settings)
        loss = other._objective(other._embed(batch())).loss
        norms = [other.trainable_parameters()[name] for name in sorted(added)]
        for name, gradient in zip(sorted(added), torch.autograd.grad(loss, norms), strict=True):
            moved = with_norms.trainable_parameters()[name] - with_norms.source_parameters[name]
            assert torch.equal(moved.sign()[gradient.abs() > 1e-6], -gradient.sign()[gradient.abs() > 1e-6])


@pytest.mark.parametrize(
    ("depth", "setting", "trained"), [(3, "auto", 2), (3, "official", 3), (4, 2, 2), (11, "official", 9)]
)
def test_the_last_blocks_keep_their_code(depth, setting, trained, build, tiny_vit):
    method = build(tiny_vit(depth=depth, embed_dim=12), frozen_last_blocks=setting, diversity_blocks=1)
    assert {int(name.split(".")[1]) for name in method.trainable_parameters()} == set(range(trained))


def test_embedding_and_prediction_are_the_network_in_two_parts(tiny_vit, images):
    for changes in ({}, {"global_pool": "avg"}, {"pre_norm": True}, {"reg_tokens": 2}):
        network = tiny_vit(**changes)
        assert torch.equal(predict(network, embed(network, images())), network(images()))


def test_a_learning_rate_of_zero_changes_no_bit_of_the_code(build, tiny_vit, batch):
    """SAM leaves nothing behind (imse §8, tests 3 and 4)."""
    method = build(lr=0.0)
    before, source = code_of(method), tiny_vit().double()
    for seed in range(3):
        assert torch.allclose(method(batch(seed=seed)), source(batch(seed=seed)))
    assert torch.equal(code_of(method), before)


def test_the_scored_logits_are_those_before_the_update(build, tiny_vit, batch):
    method = build(lr=0.1)
    assert torch.allclose(method(batch()), tiny_vit().double()(batch()))
    assert not torch.allclose(method.predict(batch()), tiny_vit().double()(batch()), atol=1e-2)


def test_a_step_is_adam_along_the_gradient_of_the_second_pass(build, batch):
    """Both passes of imse §1.4, written out."""
    method, reference = build(), build()
    method(batch())
    parameters = reference.trained
    tokens = embed(reference.transformer, batch())
    first = reference._objective(tokens)
    gradient = torch.autograd.grad(first.loss, parameters)
    norm = torch.cat(gradient).norm()
    before = [p.clone() for p in parameters]
    with torch.no_grad():
        for parameter, g in zip(parameters, gradient, strict=True):
            parameter += 0.05 * g / norm
    second = reference._objective(tokens, first.selected)
    gradient = torch.autograd.grad(second.loss, parameters)
    for parameter, start, g in zip(method.trained, before, gradient, strict=True):
        # The first step of Adam has length lr for every scalar.
        assert torch.allclose(parameter, start - 7e-3 * g / (g.abs() + 1e-8), atol=1e-9)
    assert torch.allclose(method.record["first_loss"], first.loss)
    assert torch.allclose(method.record["loss"], second.loss)


def test_no_ascent_is_the_same_as_an_ascent_of_no_length(build, batch):
    one, two = build(rho=0.0), build(rho=1e-300)
    for seed in range(2):
        one(batch(seed=seed)), two(batch(seed=seed))
    assert torch.allclose(code_of(one), code_of(two), atol=1e-12)
    assert one.record["loss"] == one.record["first_loss"]


def test_the_gradient_of_the_diversity_agrees_with_finite_differences(build, tiny_vit, batch):
    """It reaches every trained block although it is measured in the last, which is not trained (imse §8, test 7)."""
    method = build(tiny_vit(depth=4), diversity_blocks=1)
    tokens = embed(method.transformer, batch(4))

    def diversity():
        return method._objective(tokens).diversity

    gradients = torch.autograd.grad(diversity(), method.trained)
    assert all(gradient.abs().max() > 0 for gradient in gradients)
    for sigma, gradient in zip(method.trained, gradients, strict=True):
        with torch.no_grad():
            sigma[1] += 1e-5
            above = diversity()
            sigma[1] -= 2e-5
            below = diversity()
            sigma[1] += 1e-5
        assert gradient[1] == pytest.approx(float(above - below) / 2e-5, rel=1e-4, abs=1e-9)


def test_the_diversity_raises_the_spread_that_entropy_alone_lowers(build, batch):
    """Feature collapse (imse §1.2 and §7.1)."""
    spreads = {}
    for weight in (0.0, 50.0):
        method = build(lambda_diversity=weight, lr=0.02, entropy_margin=1.0)
        for _ in range(15):
            method(batch())
        spreads[weight] = float(method.record["diversity"])
    start = build(rho=0.0)
    start(batch())
    assert spreads[0.0] < float(start.record["diversity"]) < spreads[50.0]


def test_mean_spread_selections():
    spread = torch.tensor([3.0, 1.0, 2.0, 10.0])
    assert mean_spread(spread, 1.0, exclude_max=False) == 4
    assert mean_spread(spread, 1.0, exclude_max=True) == 2
    assert mean_spread(spread, 0.5, exclude_max=False) == 1.5
    assert mean_spread(spread, 0.5, exclude_max=True) == 1.5
    assert mean_spread(spread, 0.1, exclude_max=True) == 0
    assert mean_spread(spread, 0.1, exclude_max=False) == 1


def test_the_released_norm_of_the_diversity_is_per_block(build, batch):
    values = {}
    for norm in ("sum", "sum_per_block"):
        method = build(diversity_norm=norm, rho=0.0)
        method(batch())
        values[norm] = float(method.record["diversity"])
    assert values["sum"] == pytest.approx(3 * values["sum_per_block"])


@pytest.mark.parametrize("on_empty", ["diversity_only", "skip_step"])
def test_a_batch_without_reliable_samples(on_empty, build, batch):
    """Finite everywhere; the diversity goes on alone, or nothing happens (imse §1.4 and §8, test 9)."""
    method = build(entropy_margin=1e-9, on_empty=on_empty)
    before = code_of(method)
    for seed in range(2):
        assert method(batch(seed=seed)).isfinite().all()
    assert (int(method.record["selected"]), int(method.record["reliable"])) == (0, 0)
    assert float(method.record["entropy"]) == 0
    assert all(value.isfinite() for value in method.record.values())
    assert code_of(method).isfinite().all()
    assert torch.equal(code_of(method), before) == (on_empty == "skip_step")
    assert bool(method.optimizer.state) == (on_empty == "diversity_only")


def test_the_second_pass_selects_from_the_first(build, batch):
    method = build(entropy_margin=0.6)
    reliable = softmax_entropy(method.predict(batch())) < 0.6 * math.log(10)
    tokens = embed(method.transformer, batch())
    assert torch.equal(method._objective(tokens).selected, reliable)
    first_half = torch.arange(16) < 8
    assert torch.equal(method._objective(tokens, first_half).selected, reliable & first_half)
    assert 0 < (reliable & first_half).sum() < reliable.sum()
    method(batch())
    assert int(method.record["reliable"]) == int(reliable.sum())


def test_merging_gives_a_plain_network_with_the_same_logits(build, tiny_vit, images):
    for settings in ({}, {"decompose_qkv": True}):
        method = build(dtype=torch.float32, lr=0.02, **settings)
        for seed in range(3):
            method(images(16, seed))
        merged = method.merge()
        assert merged.state_dict().keys() == tiny_vit().state_dict().keys()
        assert torch.allclose(merged(images()), method.predict(images()), atol=1e-5)
        method(images())  # The method goes on after the merge.


def test_queries_keys_and_values_on_their_own(build, batch):
    method = build(decompose_qkv=True)
    assert {"blocks.0.attn.qkv.q", "blocks.0.attn.qkv.k", "blocks.0.attn.qkv.v"} < set(method.layers)
    assert list(method.source_code()) == list(method.spectral_code()) == list(method.layers)
    method(batch())
    assert not torch.equal(method.spectral_code()["blocks.0.attn.qkv.k"], method.source_code()["blocks.0.attn.qkv.k"])


def test_states_leave_out_what_never_changes(build):
    state = build().state_dict()
    assert set(state["parameters"]["student"]) == set(build().trainable_parameters())
    assert state["buffers"] == {"student": {}}


def test_other_networks_and_settings_are_refused(build, tiny_vit):
    with pytest.raises(InputError, match=r"VisionTransformer, and this network is a Sequential: choose"):
        build(nn.Sequential(nn.Linear(2, 2)))
    unusual = tiny_vit()
    unusual.blocks[1].mlp = nn.Identity()
    with pytest.raises(InputError, match=r"needs a linear layer 'blocks.1.mlp.fc1' in a module of class Attention"):
        build(unusual)
    with pytest.raises(InputError, match="frozen_last_blocks = 3 leaves none"):
        build(frozen_last_blocks=3)
    with pytest.raises(InputError, match="diversity_blocks = 4, but this network has only 3"):
        build(diversity_blocks=4)
    with pytest.raises(InputError, match="needs source images"):
        build(retrieval="mix")
    with pytest.raises(InputError, match="components"):
        build(components=["head"])
