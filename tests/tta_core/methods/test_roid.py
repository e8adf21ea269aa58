"""ROID's formulas number by number, its parts, and a step against one written out (Marsden et al. 2024)."""

import copy
import math

import pytest
import torch

from tta_core import build_method
from tta_core.methods.common.surgery import norm_layers
from tta_core.methods.roid import method as module
from tta_core.methods.roid.terms import (
    correct_prior,
    sample_weights,
    smoothed_prior,
    soft_likelihood_ratio,
    symmetric_cross_entropy,
)

TREND = [0.6, 0.3, 0.1]


@pytest.fixture
def logits():
    return torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2


@pytest.fixture
def build(tiny_vit):
    def make(dtype=torch.float64, **settings):
        return build_method("roid", tiny_vit().to(dtype), num_classes=10, **settings)

    return make


def softmax(row):
    exponentials = [math.exp(float(value)) for value in row]
    return [value / sum(exponentials) for value in exponentials]


def unit_range(values):
    low, high = min(values), max(values)
    return [(value - low) / (high - low) for value in values]


def weights_by_hand(rows, trend, temperature):
    diversity, certainty = [], []
    for row in rows:
        p = softmax(row)
        dot = sum(a * b for a, b in zip(p, trend, strict=True))
        lengths = math.sqrt(sum(a * a for a in p)) * math.sqrt(sum(b * b for b in trend))
        diversity.append(1 - dot / lengths)
        certainty.append(sum(a * math.log(a) for a in p))
    diversity, certainty = unit_range(diversity), unit_range(certainty)
    mean = sum(diversity) / len(diversity)
    return [0.0 if d < mean else math.exp(d * c / temperature) for d, c in zip(diversity, certainty, strict=True)]


def ratio_by_hand(row, largest, epsilon):
    clipped = [min(p, largest) for p in softmax(row)]
    return -sum(p * math.log(p / (1 - p) + epsilon) for p in clipped)


@pytest.mark.parametrize("temperature", [1 / 3, 1.0])
def test_weights_are_those_of_certain_and_diverse_samples(temperature, logits):
    found = sample_weights(logits, torch.tensor(TREND, dtype=torch.float64), temperature)
    assert found.tolist() == pytest.approx(weights_by_hand(logits, TREND, temperature))
    assert 0 < int((found == 0).sum()) < len(logits)


@pytest.mark.parametrize("batch", [1, 4])
def test_samples_that_are_all_alike_weigh_one(batch):
    same = torch.tensor([[1.0, 0.2, -3.0]]).expand(batch, 3)
    assert sample_weights(same, torch.tensor(TREND), 1 / 3).tolist() == [1.0] * batch


def test_the_likelihood_ratio_cuts_certain_predictions_off(logits):
    found = soft_likelihood_ratio(logits, 0.9, 1e-5)
    assert found.tolist() == pytest.approx([ratio_by_hand(row, 0.9, 1e-5) for row in logits])
    certain = torch.tensor([[9.0, 0.0, 0.0], [2.0, 0.0, 0.0]], requires_grad=True)
    soft_likelihood_ratio(certain, 0.99, 1e-5).sum().backward()
    assert certain.grad[0, 0].abs() < 1e-2 < certain.grad[1, 0].abs()
    assert certain.grad[1, 0] < 0


def test_the_likelihood_ratio_has_no_infinite_values():
    extreme = torch.tensor([[1e4, 0.0, -1e4], [0.0, 0.0, 0.0]], requires_grad=True)
    loss = soft_likelihood_ratio(extreme, 0.99, 1e-5)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert extreme.grad.isfinite().all()


def test_the_symmetric_cross_entropy_is_half_of_both(logits):
    one, other = logits[:3].clone().requires_grad_(), logits[3:].clone().requires_grad_()
    found = symmetric_cross_entropy(one, other)
    for row in range(3):
        p, q = softmax(one[row].detach()), softmax(other[row].detach())
        forth = -sum(a * math.log(b) for a, b in zip(p, q, strict=True))
        back = -sum(b * math.log(a) for a, b in zip(p, q, strict=True))
        assert float(found[row].detach()) == pytest.approx((forth + back) / 2)
    found.sum().backward()
    assert one.grad.abs().sum() > 0
    assert other.grad.abs().sum() > 0


def test_the_prior_is_smoothed_by_the_size_of_the_batch(logits):
    rows = [softmax(row) for row in logits]
    prior = [sum(row[c] for row in rows) / 6 for c in range(3)]
    smooth = max(1 / 6, 1 / 3) / max(prior)
    expected = [(p + smooth) / (1 + smooth * 3) for p in prior]
    assert smoothed_prior(logits).tolist() == pytest.approx(expected)
    assert sum(expected) == pytest.approx(1)
    # Fewer samples than classes: smoother by their ratio.
    single = logits[:1].softmax(-1)[0]
    smooth = 1 / single.max()
    assert torch.allclose(smoothed_prior(logits[:1]), (single + smooth) / (1 + smooth * 3))


def test_the_correction_multiplies_probabilities_or_logits(logits):
    prior = smoothed_prior(logits)
    product = logits.softmax(-1) * prior
    expected = product / product.sum(-1, keepdim=True)
    assert torch.allclose(correct_prior(logits, "probabilities").softmax(-1), expected)
    assert torch.equal(correct_prior(logits, "logits"), logits * prior)
    assert correct_prior(logits, "none") is logits
    assert correct_prior(logits.bfloat16(), "probabilities").dtype == torch.bfloat16


def test_a_short_batch_is_divided_by_the_size_of_a_full_one(build, images):
    whole, nominal = build(consistency=False), build(consistency=False, batch_size=32)
    for method in (whole, nominal):
        method(images(8).double())
    assert float(nominal.record["loss"]) == pytest.approx(float(whole.record["loss"]) / 4)


def test_a_step_is_the_one_written_out(build, images, tiny_vit, monkeypatch):
    """Two steps of SGD with momentum, with a view that mirrors, against loops over samples."""
    monkeypatch.setattr(module, "normalised_view", lambda images, context, generator, augment: images.flip(-1))
    method = build(lr=0.02)
    network = tiny_vit().double().requires_grad_(False)
    parameters = [p for _, norm in norm_layers(network) for p in norm.parameters()]
    source = [p.clone() for p in parameters]
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.SGD(parameters, lr=0.02, momentum=0.9, nesterov=True)
    trend = [0.1] * 10
    for seed in (0, 1):
        batch = images(8, seed).double()
        logits = network(batch)
        weights = weights_by_hand(logits.detach(), trend, 1 / 3)
        loss, kept = 0.0, 0
        for row, weight in enumerate(weights):
            if weight == 0:
                continue
            kept += 1
            p = logits[row].softmax(0)
            clipped = p.clamp(max=0.99)
            ratio = -(clipped * (clipped / (1 - clipped) + 1e-5).log()).sum()
            q = network(batch[row : row + 1].flip(-1))[0].softmax(0)
            consistency = -((p * q.log()).sum() + (q * p.log()).sum()) / 2
            loss = loss + weight * (ratio + consistency) / 8
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for parameter, value in zip(parameters, source, strict=True):
                parameter.copy_(0.99 * parameter + 0.01 * value)
        mean = logits.detach().softmax(-1).mean(0).tolist()
        trend = [0.9 * old + 0.1 * new for old, new in zip(trend, mean, strict=True)]
        found = method(batch)
        assert torch.allclose(found, correct_prior(logits.detach(), "probabilities"))
        assert float(method.record["loss"]) == pytest.approx(float(loss.detach()))
        assert int(method.record["selected"]) == kept
        assert 0 < kept < 8
        assert method.trend.tolist() == pytest.approx(trend)
    for own, parameter in zip(method.trainable_parameters().values(), parameters, strict=True):
        assert torch.allclose(own, parameter, atol=1e-9)


def test_each_part_can_be_turned_off(build, images):
    batch = images(8).double()
    records = {}
    for part in ("none", "weighting", "consistency"):
        method = build(**({} if part == "none" else {part: False}))
        method(batch)
        records[part] = {name: float(value) for name, value in method.record.items()}
    assert records["weighting"]["selected"] == 8
    assert records["weighting"]["mean_weight"] == 1
    assert records["none"]["selected"] < 8
    assert records["consistency"]["consistency_loss"] == 0
    assert records["consistency"]["loss"] == records["consistency"]["likelihood_loss"]
    assert records["none"]["consistency_loss"] > 0


def test_averaging_with_the_source_keeps_the_parameters_near_it(build, images):
    distances = {}
    for name, settings in (
        ("free", {"weight_ensembling": False}),
        ("never", {"source_momentum": 1.0}),
        ("always", {"source_momentum": 0.0}),
        ("some", {"source_momentum": 0.5}),
    ):
        method = build(lr=0.05, **settings)
        before = {n: p.detach().clone() for n, p in method.trainable_parameters().items()}
        for seed in range(3):
            method(images(8, seed).double())
        distances[name] = sum(float((p.detach() - before[n]).norm()) for n, p in method.trainable_parameters().items())
    assert distances["always"] == 0 < distances["some"] < distances["free"]
    assert distances["never"] == distances["free"]


def test_the_correction_changes_what_is_scored_and_not_what_is_learned(build, images):
    plain, corrected = build(prior_correction="none"), build()
    for seed in (0, 1):
        batch = images(8, seed).double()
        raw, scored = plain(batch), corrected(batch)
        assert torch.allclose(correct_prior(raw, "probabilities"), scored)
    states = [method.state_dict()["parameters"]["student"] for method in (plain, corrected)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_predicting_corrects_too_and_leaves_the_trend(build, images):
    one, other = build(), build()
    batch = images(8).double()
    one(batch)
    other(batch)
    before = copy.deepcopy(one.trend)
    predicted = one.predict(images(8, 1).double())
    assert torch.equal(one.trend, before)
    assert torch.allclose(predicted, other(images(8, 1).double()))


def test_presets_differ_where_they_say(build, tiny_vit):
    assert build(preset="official").settings.prior_correction == "logits"
    assert isinstance(build(preset="cifar").optimizer, torch.optim.Adam)
    assert isinstance(build().optimizer, torch.optim.SGD)
    assert build().settings.lr == 2.5e-4


def test_a_network_with_batch_norm_is_adapted_with_the_statistics_of_the_batch(tiny_convnet, images):
    method = build_method("roid", tiny_convnet(), num_classes=10, prior_correction="none")
    expected = tiny_convnet().train()(images(8)).detach()
    assert torch.allclose(method(images(8)), expected, atol=1e-5)
