"""DPAL: a step by hand, what it trains, empty selections, the recovery."""

import math

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from tta_core import build_method
from tta_core.errors import InputError
from tta_core.methods.common.losses import softmax_entropy
from tta_core.methods.dpal.layers import noise_similarity
from tta_core.methods.dpal.spec import SPEC


@pytest.fixture
def build(tiny_vit):
    """Builds DPAL around the small network, in float64, for full batches of 16."""

    def make(network=None, **settings):
        network = tiny_vit() if network is None else network
        settings = {"entropy_margin": 0.6, "reset_threshold": 0.0, "batch_size": 16, **settings}
        return build_method("dpal", network.double(), num_classes=10, **settings)

    return make


@pytest.fixture
def batch(images):
    """Normalised images in float64."""
    return lambda size=16, seed=0: images(size, seed).double()


def values(method, parameters=None):
    chosen = method.trainable_parameters().values() if parameters is None else parameters
    return torch.cat([p.detach().flatten() for p in chosen])


def momentum(method, parameters):
    return torch.cat([method.optimizer.state[p]["momentum_buffer"].flatten() for p in parameters])


@pytest.mark.parametrize("second_filter", ["within_first", "whole_batch"])
def test_a_step_by_hand(second_filter, build, batch):
    """Predictors step between the passes, by the first loss; the rest by the second, perturbed (continual §4.5)."""
    settings = {"lr": 0.03, "predictor_lr": 0.07, "rho": 0.5, "lambda_similarity": 1.5, "second_filter": second_filter}
    settings["predictor_init"] = "zero_output"
    method, reference = build(**settings), build(**settings)
    update, predictors = reference.update_path, reference.predictors
    speed = {id(p): torch.zeros_like(p) for p in (*update, *predictors)}
    margin, average = 0.6 * math.log(10), None

    def sgd(parameters, gradients, lr):
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                speed[id(parameter)].mul_(0.9).add_(gradient)
                parameter -= lr * speed[id(parameter)]

    for step, size in enumerate((16, 16, 5)):
        images = batch(size, step)
        scored = method(images)
        entropy = softmax_entropy(reference.network(images))
        reliable = entropy < margin
        similarity = noise_similarity(reference.blocks.take_noises())
        # The weight of the similarity counts reliable samples in units of a full batch.
        first = entropy[reliable].mean() - 1.5 * int(reliable.sum()) / 16 * similarity
        gradients = torch.autograd.grad(first, [*update, *predictors])
        ascent, descent = gradients[: len(update)], gradients[len(update) :]
        sgd(predictors, descent, 0.07)
        norm = torch.cat([g.flatten() for g in ascent]).norm()
        before = [p.detach().clone() for p in update]
        with torch.no_grad():
            for parameter, g in zip(update, ascent, strict=True):
                parameter += 0.5 * g / norm
        logits = reference.network(images)
        reference.blocks.take_noises()
        entropy = softmax_entropy(logits)
        selected = (entropy < margin) & (reliable if second_filter == "within_first" else True)
        loss = entropy[selected].mean()
        gradients = torch.autograd.grad(loss, update)
        with torch.no_grad():
            for parameter, value in zip(update, before, strict=True):
                parameter.copy_(value)
        sgd(update, gradients, 0.03)
        average = loss.detach() if average is None else 0.9 * average + 0.1 * loss.detach()
        torch.testing.assert_close(scored, logits.detach())
        for name, expected in (
            ("first_loss", first.detach()),
            ("loss", loss.detach()),
            ("similarity", similarity.detach()),
            ("ema", average),
        ):
            torch.testing.assert_close(method.record[name], expected)
        assert int(method.record["reliable"]) == int(reliable.sum()) > 0
        assert int(method.record["selected"]) == int(selected.sum()) > 0
    torch.testing.assert_close(values(method), values(reference))


def test_counts_of_the_published_backbone():
    """Predictors 14,174,208, domain tokens 9,216, norms of blocks 0 to 8 27,648 (imse §1.1)."""
    for preset in ("official", "recommended"):
        with torch.device("meta"):
            network = VisionTransformer()
        method = build_method("dpal", network, num_classes=1000, preset=preset)
        assert sum(p.numel() for p in method.predictors) == 14_174_208
        assert sum(p.numel() for p in method.blocks.domain_tokens()) == 9_216
        assert sum(p.numel() for p in method.update_path) == 9_216 + 27_648
        assert sum(p.numel() for p in method.trainable_parameters().values()) == 14_211_072


def test_what_is_trained(build, tiny_vit):
    method = build(tiny_vit(depth=4))
    norms = {f"blocks.{b}.norm{n}.{part}" for b in range(3) for n in (1, 2) for part in ("weight", "bias")}
    names = set(method.trainable_parameters())
    assert norms == {name for name in names if "norm" in name}
    assert {name.split(".")[2] for name in names - norms} == {"domain_token", "noise_predictor"}
    assert {int(name.split(".")[1]) for name in names - norms} == {0, 1, 2, 3}
    assert len(names) == len(norms) + 4 * 5


def test_the_first_logits_differ_from_the_source_by_the_domain_tokens(build, tiny_vit, batch):
    source = tiny_vit().double()(batch())
    method = build()
    assert not torch.allclose(method.predict(batch()), source, atol=1e-3)
    scored = method(batch())
    # The scored logits are those of the second pass: neither the initial network's nor the updated one's.
    assert not torch.allclose(scored, method.predict(batch()))
    assert SPEC.scores_of(method.settings) == "perturbed"


def test_all_zero_predictors_learn_their_last_bias_alone(build, batch):
    """The released start is a saddle: see `PredictorInit`."""
    for init, parts in (("zero", {"output.bias"}), ("zero_output", {"hidden.weight", "output.weight", "output.bias"})):
        method = build(predictor_init=init, predictor_lr=0.1)
        before = {name: p.detach().clone() for name, p in method.trainable_parameters().items()}
        for seed in range(4):
            method(batch(seed=seed))
        moved = {
            name.split("noise_predictor.")[1]
            for name, p in method.trainable_parameters().items()
            if "noise_predictor" in name and not torch.equal(p, before[name])
        }
        assert parts <= moved
        assert (moved == parts) == (init == "zero")
        # Equal noise for all images is as similar as can be.
        assert (float(method.record["similarity"]) == pytest.approx(1, abs=1e-12)) == (init == "zero")


@pytest.mark.parametrize(("on_empty", "moves"), [("skip_step", False), ("momentum_step", True)])
def test_a_batch_without_reliable_samples(on_empty, moves, build, batch):
    method = build(on_empty=on_empty)
    method(batch())
    paths = (method.update_path, method.predictors)
    before = [values(method, path) for path in paths]
    speed = [momentum(method, path) for path in paths]
    average = method.recovery.average.clone()
    method.margin = 0.0
    assert method(batch(seed=1)).isfinite().all()
    assert (int(method.record["reliable"]), int(method.record["selected"])) == (0, 0)
    assert bool(method.record["updated"]) == moves
    assert all(value.isfinite() for value in method.record.values())
    assert float(method.record["loss"]) == float(method.record["first_loss"]) == 0
    assert torch.equal(method.recovery.average, average)
    for path, start, v in zip(paths, before, speed, strict=True):
        if moves:
            torch.testing.assert_close(values(method, path), start - 0.01 * 0.9 * v)
        else:
            assert torch.equal(values(method, path), start)
            assert torch.equal(momentum(method, path), v)


def test_a_second_pass_that_selects_nothing_moves_the_predictors_alone(build, batch, monkeypatch):
    method = build()
    method(batch())
    update, predictors = values(method, method.update_path), values(method, method.predictors)
    original = method._update

    def beyond_the_margin(chosen):
        method.margin = 0.0
        original(chosen)

    monkeypatch.setattr(method, "_update", beyond_the_margin)
    method(batch(seed=1))
    assert int(method.record["reliable"]) > int(method.record["selected"]) == 0
    assert method.record["updated"]
    assert torch.equal(values(method, method.update_path), update)
    assert not torch.equal(values(method, method.predictors), predictors)


def test_without_a_nominal_batch_size_the_batch_is_the_measure(build, batch):
    losses = {}
    for size in (16, 32, None):
        method = build(batch_size=size, lambda_similarity=5.0)
        # At the first batch there is no noise yet, and nothing to weigh.
        method(batch())
        method(batch())
        losses[size] = method.record["first_loss"]
    assert losses[16] == losses[None]
    assert losses[32] != losses[16]


def test_the_similarity_makes_noise_alike(build, batch):
    found = {}
    for weight in (0.0, 10.0):
        method = build(lambda_similarity=weight, predictor_lr=0.1, predictor_init="zero_output")
        for seed in range(6):
            method(batch(seed=seed))
        found[weight] = float(method.record["similarity"])
    assert 0 < found[0.0] < found[10.0] <= 1


@pytest.mark.parametrize("init", ["zero", "zero_output"])
def test_a_recovery_returns_to_the_drawn_values_even_after_a_resume(init, build, batch):
    """They do not come with the backbone: a method of another seed has others."""
    method, resumed = (build(reset_threshold=0.01, predictor_init=init, seed=seed) for seed in (0, 7))
    start = values(method)
    assert not torch.equal(values(resumed), start)
    for seed in range(2):
        method(batch(seed=seed))
    resumed.load_state_dict(method.state_dict())
    assert torch.equal(values(resumed), values(method))
    assert not torch.equal(values(resumed), start)
    for one in (method, resumed):
        one.recovery.threshold = 10.0
        one(batch(seed=2))
        assert one.record["reset"]
        assert torch.equal(values(one), start)
        assert not momentum(one, one.update_path).any()
        assert not momentum(one, one.predictors).any()
        assert not one.recovery.started


def test_predicting_leaves_nothing_behind(build, batch):
    method = build()
    method.predict(batch())
    assert method.blocks.take_noises() == []


def test_other_networks_are_refused(tiny_vit):
    with pytest.raises(InputError, match="dpal adapts the blocks of timm's VisionTransformer"):
        build_method("dpal", nn.Sequential(nn.Linear(2, 2)), num_classes=2)
    network = tiny_vit(class_token=False, global_pool="avg")
    with pytest.raises(InputError, match="has none: choose a network with one"):
        build_method("dpal", network, num_classes=10)
