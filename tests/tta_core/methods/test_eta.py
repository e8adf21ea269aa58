"""ETA and EATA: filters, running probabilities, penalty and Fisher information by hand (mixed §2.3)."""

import math

import pytest
import torch

from tta_core import build_method
from tta_core.errors import InputError
from tta_core.methods.context import Context
from tta_core.methods.eata.method import EATA, fisher_information
from tta_core.methods.registry import method_spec

LEARNS = {"lr": 0.05, "entropy_margin": 0.6, "redundancy_margin": 0.8}
"""Settings with which some of the images are reliable, and some of these redundant."""


@pytest.fixture
def images(images):
    """Random images, each with a colour of its own: on noise alone all predictions are alike, and so redundant."""

    def make(batch=16, seed=0):
        colours = torch.randn(batch, 3, 1, 1, generator=torch.Generator().manual_seed(1000 + seed))
        return images(batch, seed) + 3 * colours

    return make


@pytest.fixture
def source_images(images):
    return [images(6, 50).double(), images(6, 51).double(), images(3, 52).double()]


@pytest.fixture
def build(tiny_vit, source_images):
    def make(name="eta", **settings):
        network = tiny_vit().double()
        return build_method(name, network, num_classes=10, **{"source_images": source_images} | LEARNS | settings)

    return make


def slow_steps(network, batches, *, alpha=0.0, fisher=None, **options):
    """The formulas, sample by sample, on the graph of the whole batch; yields logits, selection, loss, average."""
    given = {"average_momentum": 0.9, "weight_by_entropy": True, "filter_entropy": True, "filter_redundancy": True}
    given |= LEARNS | options
    network.eval().requires_grad_(False)
    trained = {}
    for name, parameter in network.named_parameters():
        if "norm" in name:
            trained[name] = parameter.requires_grad_(True)
    before = {name: parameter.detach().clone() for name, parameter in trained.items()}
    optimizer = torch.optim.SGD(trained.values(), lr=given["lr"], momentum=0.9)
    margin, average = given["entropy_margin"] * math.log(10), None
    for images in batches:
        logits = network(images)
        losses, selected, seen = [], [], []
        for number, row in enumerate(logits):
            probabilities = row.softmax(0)
            entropy = -(probabilities * row.log_softmax(0)).sum()
            if given["filter_entropy"] and not entropy < margin:
                continue
            if given["filter_redundancy"] and average is not None:
                cosine = (average @ probabilities) / (average.norm() * probabilities.norm())
                if not abs(cosine) < given["redundancy_margin"]:
                    continue
            weight = math.exp(margin - entropy.item()) if given["weight_by_entropy"] else 1.0
            losses.append(weight * entropy)
            selected.append(number)
            seen.append(probabilities.detach())
        loss = None
        if selected:
            loss = torch.stack(losses).mean()
            if fisher:
                loss = loss + alpha * sum((fisher[n] * (p - before[n]) ** 2).sum() for n, p in trained.items())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            mean = torch.stack(seen).mean(0)
            keep = given["average_momentum"]
            average = mean if average is None else keep * average + (1 - keep) * mean
        yield logits.detach(), selected, loss, average


def compare(method, expected, batches):
    counts = []
    for images, (logits, selected, loss, average) in zip(batches, expected, strict=True):
        torch.testing.assert_close(method(images), logits)
        assert method.last_selection.selected.nonzero().flatten().tolist() == selected
        assert int(method.record["selected"]) == len(selected)
        assert ("loss" in method.record) == bool(selected)
        if selected:
            torch.testing.assert_close(method.record["loss"], loss.detach())
            torch.testing.assert_close(method.average, average)
        counts.append(len(selected))
    return counts


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"average_momentum": 0.5},
        {"weight_by_entropy": False},
        {"filter_entropy": False},
        {"filter_redundancy": False},
        {"entropy_margin": 0.4, "redundancy_margin": 0.8},
    ],
    ids=str,
)
def test_steps_follow_the_formulas(options, build, tiny_vit, images):
    batches = [images(size, seed).double() for seed, size in enumerate((16, 16, 16, 5, 1, 16))]
    counts = compare(build(**options), slow_steps(tiny_vit().double(), batches, **options), batches)
    assert sum(counts) > 0
    if "filter_redundancy" not in options:
        assert any(0 < count < 8 for count in counts), counts


def test_the_running_probabilities_start_with_the_first_selected_batch(build, images):
    method = build(entropy_margin=0.01)
    method(images().double())
    assert not method.average.any()
    assert method.record["similarity"] == 0
    method.margin = 10.0
    method(images().double())
    # Nothing is redundant as long as there is nothing to compare with, whatever the margin.
    assert int(method.record["selected"]) == 16
    assert float(method.average.sum()) == pytest.approx(1)


def test_without_a_selected_sample_nothing_moves(build, images):
    """Neither momentum nor the penalty (mixed §4.1)."""
    for name in ("eta", "eata"):
        method = build(name)
        method(images().double())
        before = {n: p.detach().clone() for n, p in method.trainable_parameters().items()}
        average = method.average.clone()
        assert "loss" in method.record
        method.margin = 0.0
        method(images(seed=1).double())
        assert int(method.record["selected"]) == 0
        assert "loss" not in method.record
        assert all(tensor.isfinite() for tensor in method.record.values())
        assert all(torch.equal(p, before[n]) for n, p in method.trainable_parameters().items())
        assert torch.equal(method.average, average)


def test_a_reset_forgets_the_running_probabilities(build, images):
    method = build()
    method(images().double())
    assert method.average.any()
    method.reset()
    assert not method.average.any()


def test_the_redundancy_margin_can_follow_the_classes(build):
    assert build().redundancy_margin == 0.8
    assert build(scale_redundancy=True).redundancy_margin == pytest.approx(0.8 * math.log(10) / math.log(1000))


def test_the_fisher_information_is_the_mean_of_squared_gradients_of_batch_means(build, tiny_vit, source_images):
    network = tiny_vit().double()
    norms = {name: p for name, p in network.named_parameters() if "norm" in name}
    expected = {name: torch.zeros_like(p) for name, p in norms.items()}
    for batch in source_images:
        network.zero_grad()
        logits = network(batch)
        (-logits.log_softmax(1)[torch.arange(len(batch)), logits.argmax(1)].mean()).backward()
        for name, parameter in norms.items():
            expected[name] += parameter.grad**2 / len(source_images)
    found = build("eata").artefact
    assert found.keys() == norms.keys()
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values.detach())


def test_only_the_first_source_images_are_measured(build, source_images):
    short = build("eata", fisher_samples=8).artefact
    expected = build("eata", source_images=[source_images[0], source_images[1][:2]]).artefact
    assert all(torch.equal(short[name], expected[name]) for name in expected)
    assert not torch.equal(short["norm.bias"], build("eata").artefact["norm.bias"])


def test_measuring_leaves_the_network_as_it_is_even_if_it_is_not_frozen(tiny_vit, source_images):
    spec = method_spec("eata")
    network = tiny_vit().double().requires_grad_(True)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with torch.no_grad():
        made = EATA.make_artefact(network, spec.resolve("recommended", {}), Context(10, source_images=source_images))
    assert set(made) == {name for name, _ in network.named_parameters() if "norm" in name}
    assert not any(tensor.requires_grad for tensor in made.values())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in network.parameters())


def test_the_penalty_pulls_back_to_the_source(build, tiny_vit, images, source_images):
    batches = [images(16, seed).double() for seed in range(5)]
    method = build("eata", fisher_alpha=50.0)
    expected = slow_steps(tiny_vit().double(), batches, alpha=50.0, fisher=method.artefact)
    assert sum(compare(method, expected, batches)) > 0
    distances = {n: p - method.source_parameters[n] for n, p in method.trainable_parameters().items()}
    penalty = 50 * sum((method.artefact[n] * d**2).sum() for n, d in distances.items())
    before = float(method.record["penalty"])
    method(batches[0])
    assert float(method.record["penalty"]) == pytest.approx(penalty.item())
    assert before > 0


def test_without_a_penalty_it_is_eta_and_needs_no_source_images(build, images):
    spec = method_spec("eata")
    assert spec.needs_of(spec.resolve("recommended", {"fisher_alpha": 0})) == ()
    eata, eta = build("eata", fisher_alpha=0, source_images=None), build("eta")
    for seed in range(3):
        assert torch.equal(eata(images(16, seed).double()), eta(images(16, seed).double()))
        assert eata.record["penalty"] == 0


def test_an_artefact_of_another_network_is_refused(build, tiny_vit):
    artefact = dict(build("eata").artefact)
    artefact.pop("norm.bias")
    with pytest.raises(InputError, match=r"does not fit this network \(norm.bias"):
        build_method("eata", tiny_vit(), num_classes=10, artefact=artefact)


def test_no_source_images_at_all_are_an_error(build, tiny_vit):
    with pytest.raises(InputError, match="source_images holds no batches"):
        build("eata", source_images=[])
    with pytest.raises(InputError, match="without a single batch"):
        fisher_information(tiny_vit(), [])


def test_presets_differ_as_published():
    eta, eata = method_spec("eta"), method_spec("eata")
    assert eata.resolve("moetta", {}) == eata.resolve("recommended", {})
    assert {preset: eata.resolve(preset, {}).lr for preset in ("moetta", "official", "official-vit", "cifar10")} == {
        "moetta": 6e-4,
        "official": 2.5e-4,
        "official-vit": 1e-3,
        "cifar10": 5e-3,
    }
    assert eata.resolve("official", {}).fisher_alpha == 2000
    assert eata.resolve("cifar10", {}).fisher_alpha == 1
    assert eta.resolve("cifar10", {}).redundancy_margin == 0.4
    assert set(eta.presets) == set(eata.presets)
