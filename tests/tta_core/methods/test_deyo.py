"""DeYO: both filters, weights, what is destroyed and what is trained (mixed §2.5)."""

import math

import pytest
import torch

from tta_core import build_method
from tta_core.errors import InputError
from tta_core.methods.registry import method_spec

LEARNS = {"lr": 0.05, "entropy_margin": 0.6, "plpd_margin": 0.01}
"""Settings with which some of the images are reliable, and some of these depend on their shapes."""


@pytest.fixture
def images(images):
    """Random images of a bright and a dark half, so that shuffling their tiles changes something."""

    def make(batch=16, seed=0):
        colours = torch.randn(batch, 3, 2, 1, generator=torch.Generator().manual_seed(1000 + seed))
        return images(batch, seed) + 3 * colours.repeat_interleave(16, dim=2)

    return make


@pytest.fixture
def build(tiny_vit):
    def make(**settings):
        shape = settings.pop("shape", {})
        return build_method("deyo", tiny_vit(**shape).double(), num_classes=10, **LEARNS | settings)

    return make


def slow_steps(network, batches, *, destroy, **options):
    """The formulas, sample by sample, on the graph of the whole batch; yields logits, reliable, selected, loss."""
    given = {"weight_margin": 0.4, "filter_entropy": True, "filter_plpd": True, "weight_by_entropy": True}
    given |= {"weight_by_plpd": True} | LEARNS | options
    network.eval().requires_grad_(False)
    trained = [p for name, p in network.named_parameters() if name.startswith(("blocks.0.norm", "blocks.1.norm"))]
    optimizer = torch.optim.SGD([p.requires_grad_(True) for p in trained], lr=given["lr"], momentum=0.9)
    for images in batches:
        logits, destroyed = network(images), network(destroy(images)).detach()
        reliable, selected, losses = [], [], []
        for number, row in enumerate(logits):
            entropy = -(row.softmax(0) * row.log_softmax(0)).sum()
            if given["filter_entropy"] and not entropy < given["entropy_margin"] * math.log(10):
                continue
            reliable.append(number)
            label = row.argmax()
            plpd = row.softmax(0)[label].item() - destroyed[number].softmax(0)[label].item()
            if given["filter_plpd"] and not plpd > given["plpd_margin"]:
                continue
            selected.append(number)
            parts = []
            if given["weight_by_entropy"]:
                parts.append(1 / math.exp(entropy.item() - given["weight_margin"] * math.log(10)))
            if given["weight_by_plpd"]:
                parts.append(1 / math.exp(-plpd))
            losses.append((sum(parts) if parts else 1.0) * entropy)
        loss = torch.stack(losses).mean() if losses else None
        if loss is not None:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        yield logits.detach(), reliable, selected, loss


def upside_down(images):
    return images.flip(-2)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"filter_entropy": False},
        {"filter_plpd": False},
        {"weight_by_entropy": False},
        {"weight_by_plpd": False},
        {"weight_by_entropy": False, "weight_by_plpd": False},
        {"entropy_margin": 0.5, "weight_margin": 0.7, "plpd_margin": -0.05},
    ],
    ids=str,
)
def test_steps_follow_the_formulas(options, build, tiny_vit, images, monkeypatch):
    batches = [images(size, seed).double() for seed, size in enumerate((16, 16, 16, 5, 1, 16))]
    method = build(**options)
    monkeypatch.setattr(method, "destroy", upside_down)
    seen = []
    slow = slow_steps(tiny_vit().double(), batches, destroy=upside_down, **options)
    for batch, expected in zip(batches, slow, strict=True):
        logits, reliable, selected, loss = expected
        torch.testing.assert_close(method(batch), logits)
        assert method.last_selection.reliable.tolist() == reliable
        assert method.last_selection.selected.tolist() == selected
        assert (int(method.record["reliable"]), int(method.record["selected"])) == (len(reliable), len(selected))
        assert ("loss" in method.record) == bool(selected)
        if selected:
            torch.testing.assert_close(method.record["loss"], loss.detach())
        seen.append((len(reliable), len(selected)))
    assert any(selected for _, selected in seen), seen
    assert options.get("filter_plpd", True) == any(selected < reliable for reliable, selected in seen), seen


def test_both_ways_to_the_gradient_agree(build, images):
    one, other = build(plpd_margin=0.0), build(plpd_margin=0.0)
    one.forward.share, other.forward.share = 1.0, 0.0
    assert torch.allclose(one(images().double()), other(images().double()))
    assert 0 < int(one.record["selected"]) < 16
    for name, parameter in one.trainable_parameters().items():
        assert torch.allclose(parameter, other.trainable_parameters()[name], atol=1e-10), name


@pytest.mark.parametrize("emptied", ["margin", "plpd"])
def test_without_a_selected_sample_nothing_moves(emptied, build, images):
    method = build(plpd_margin=1.0 if emptied == "plpd" else -1.0)
    if emptied == "margin":
        method(images().double())
        assert "loss" in method.record
        method.margin = 0.0
    before = {n: p.detach().clone() for n, p in method.trainable_parameters().items()}
    method(images(seed=1).double())
    assert int(method.record["selected"]) == 0
    assert bool(method.record["reliable"] > 0) == (emptied == "plpd")
    assert "loss" not in method.record
    assert all(tensor.isfinite() for tensor in method.record.values())
    assert all(torch.equal(p, before[n]) for n, p in method.trainable_parameters().items())


def test_only_reliable_samples_are_destroyed_and_nothing_if_there_are_none(build, images, monkeypatch):
    method = build()
    given = []
    monkeypatch.setattr(method, "destroy", lambda batch: (given.append(len(batch)), batch)[1])
    method(images().double())
    assert given == [int(method.record["reliable"])]
    assert given[0] < 16
    method.margin = 0.0
    method(images().double())
    assert len(given) == 1


def test_tiles_are_shuffled_for_each_image_and_pixels_alike(build):
    patches = build(patch_len=2).draw_order(5, 64)
    assert patches.shape == (5, 4)
    assert all(sorted(row.tolist()) == [0, 1, 2, 3] for row in patches)
    assert len({tuple(row.tolist()) for row in build(patch_len=8).draw_order(5, 64)}) == 5
    pixels = build(destruction="pixel").draw_order(5, 64)
    assert sorted(pixels.tolist()) == list(range(64))


@pytest.mark.parametrize("destruction", ["patch", "pixel", "occlusion"])
def test_each_destruction_keeps_the_images_it_is_given(destruction, build, images):
    given = images(4)
    before, method = given.clone(), build(destruction=destruction)
    found = method.destroy(given)
    assert torch.equal(given, before)
    assert found.shape == given.shape
    assert not torch.equal(found, given)
    if destruction != "occlusion":
        assert torch.equal(found.flatten(1).sort().values, given.flatten(1).sort().values)


@pytest.mark.parametrize(
    ("settings", "rows", "columns"),
    [
        ({}, (8, 24), (8, 24)),
        ({"occlusion_size": 28, "occlusion_row": 0, "occlusion_column": 196}, (0, 4), (28, 32)),
        (
            {"occlusion_scaled": False, "occlusion_size": 5, "occlusion_row": 3, "occlusion_column": 30},
            (3, 8),
            (30, 32),
        ),
    ],
    ids=["published", "corner", "pixels"],
)
def test_the_window_is_given_in_pixels_of_224(settings, rows, columns, build):
    images = torch.randn(1, 3, 32, 32)
    found = build(destruction="occlusion", **settings).destroy(images)
    changed = (found != images).any(1)[0].nonzero()
    assert (changed[:, 0].min(), changed[:, 0].max() + 1) == rows
    assert (changed[:, 1].min(), changed[:, 1].max() + 1) == columns


def test_a_window_outside_of_the_image_is_refused(build):
    method = build(destruction="occlusion", occlusion_scaled=False, occlusion_row=40)
    with pytest.raises(InputError, match="covers nothing of images of 32 by 32: give a window inside"):
        method.destroy(torch.zeros(1, 3, 32, 32))


def test_the_shuffling_is_part_of_the_state(build, images):
    method, resumed = build(), build(seed=5)
    method(images().double())
    resumed.load_state_dict(method.state_dict())
    assert torch.equal(method.draw_order(4, 64), resumed.draw_order(4, 64))


def test_what_is_trained_follows_the_rule(build):
    def trained(**settings):
        return {name.rpartition(".")[0] for name in build(**settings).trainable_parameters()}

    blocks = [f"blocks.{block}.norm{number}" for block in range(3) for number in (1, 2)]
    assert trained() == set(blocks[:4])
    assert trained(norms="legacy_names") == set(blocks)
    assert trained(norms="all") == {*blocks, "norm"}


def test_presets_differ_as_published():
    def of(preset):
        settings = method_spec("deyo").resolve(preset, {})
        return (
            settings.entropy_margin,
            settings.weight_margin,
            settings.plpd_margin,
            settings.lr,
            settings.norms,
        )

    assert of("official") == (0.5, 0.4, 0.2, 1e-3, "legacy_names")
    assert of("official-mild") == (0.5, 0.4, 0.3, 2.5e-4, "legacy_names")
    assert of("paper") == (0.5, 0.4, 0.2, 1e-3, "not_last_quarter")
    assert of("moetta") == (0.4, 0.5, 0.5, 5e-5, "all")
    assert of("recommended") == (0.5, 0.4, 0.2, 5e-5, "not_last_quarter")
