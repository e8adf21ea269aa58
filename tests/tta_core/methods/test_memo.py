"""MEMO by hand: one image at a time, nothing kept."""

import copy
import math

import pytest
import torch
from torch import nn

from tta_core import build_method
from tta_core.errors import InputError
from tta_core.methods.memo import method as memo_method
from tta_core.methods.memo.augmix import draw_views, make_views
from tta_core.methods.memo.method import marginal_entropy
from tta_core.methods.registry import method_spec

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
SMALL = {"views": 4, "lr": 0.05, "optimizer": "sgd", "crop": "none", "flip": False, "severity": 5.0}


def memo(network, **settings):
    return build_method("memo", network, num_classes=10, mean=MEAN, std=STD, seed=5, **(SMALL | settings))


@pytest.fixture
def norms_vit(tiny_vit):
    """The small vision transformer with affine pairs that differ from 1 and 0."""

    def make():
        network = tiny_vit()
        torch.manual_seed(1)
        for module in network.modules():
            if isinstance(module, nn.LayerNorm):
                nn.init.normal_(module.weight, 1, 0.2)
                nn.init.normal_(module.bias, 0, 0.2)
        return network

    return make


@pytest.fixture
def pictures(images):
    """Normalised images whose pixels are in [0, 1]."""
    pixels = images(5).mul(0.2).add(0.5).clamp(0, 1)
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def published(network, images, parameters, settings):
    """The algorithm as the paper writes it: copy, views, steps, prediction, the next image. Returns logits, losses."""
    generator = torch.Generator().manual_seed(5)
    options = {name: settings[name] for name in ("severity", "crop", "flip")}
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    logits, losses = [], []
    for image in images:
        own = copy.deepcopy(network).requires_grad_(True)
        trained = [p for name, p in own.named_parameters() if parameters(name)]
        optimizer = torch.optim.SGD(trained, lr=settings["lr"])
        if settings["optimizer"] == "adamw":
            optimizer = torch.optim.AdamW(trained, lr=settings["lr"], weight_decay=settings["weight_decay"])
        steps, views = settings["steps"], settings["views"]
        draws = draw_views(1, steps * views, (32, 32), generator, **options)
        made = make_views((image * std + mean)[None], draws)[0]
        for step in range(steps):
            batch = (made[step * views : (step + 1) * views] - mean) / std
            marginal = own(batch).softmax(dim=-1).mean(dim=0)
            loss = -(marginal * marginal.log()).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step == 0:
                losses.append(loss.detach())
        with torch.no_grad():
            logits.append(own(image[None])[0])
    return torch.stack(logits), torch.stack(losses)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"steps": 2},
        {"optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.3},
        {"optimizer": "adamw", "lr": 1e-3, "steps": 2},
        {"views": 1},
        {"crop": "resized", "flip": True},
        {"crop": "padded", "severity": 1.0},
    ],
    ids=str,
)
@pytest.mark.parametrize("scope", ["norms", "all"])
def test_it_is_the_published_algorithm(scope, changes, norms_vit, pictures):
    settings = SMALL | {"steps": 1, "weight_decay": 0.01} | changes
    method = memo(norms_vit(), train_scope=scope, **changes)
    own = (lambda name: "norm" in name) if scope == "norms" else (lambda name: True)
    expected, losses = published(norms_vit(), pictures, own, settings)
    source = norms_vit()(pictures)
    found = method(pictures)
    assert torch.allclose(found, expected, atol=2e-4)
    assert (expected - source).abs().max() > 2e-3
    assert torch.allclose(method.record["loss"], losses.mean(), atol=1e-5)


def test_nothing_is_carried_from_image_to_image(norms_vit, pictures):
    for scope in ("norms", "all"):
        together, apart = (memo(norms_vit(), train_scope=scope) for _ in range(2))
        before = {name: value.clone() for name, value in together.network.state_dict().items()}
        logits = together(pictures)
        # Batches of other sizes draw the same views, image by image.
        again = torch.cat([apart(part) for part in pictures.split([1, 3, 1])])
        assert torch.allclose(logits, again, atol=1e-5)
        assert all(torch.equal(value, before[name]) for name, value in together.network.state_dict().items())


def test_the_source_is_what_is_predicted_without_adapting(norms_vit, pictures):
    method = memo(norms_vit())
    method(pictures)
    assert torch.allclose(method.predict(pictures), norms_vit()(pictures), atol=1e-5)


@pytest.mark.parametrize("largest", [1, 8, 1000])
def test_how_many_views_are_taken_at_once_does_not_matter(largest, norms_vit, pictures, monkeypatch):
    expected = memo(norms_vit(), train_scope="norms")(pictures)
    monkeypatch.setitem(memo_method.VIEWS_AT_ONCE, "cpu", largest)
    assert torch.allclose(memo(norms_vit(), train_scope="norms")(pictures), expected, atol=1e-5)


def test_marginal_entropy_by_hand():
    logits = torch.tensor([[[2.0, 0.0], [0.0, 2.0]], [[20.0, 0.0], [20.0, 0.0]], [[0.0, 0.0], [math.log(3), 0.0]]])
    quarter = 0.625 * math.log(1 / 0.625) + 0.375 * math.log(1 / 0.375)
    assert marginal_entropy(logits).tolist() == pytest.approx([math.log(2), 0.0, quarter], abs=1e-6)
    assert marginal_entropy(logits.bfloat16()).dtype == torch.float32
    assert marginal_entropy(torch.tensor([[[1e4, 0.0]]])).tolist() == [0.0]


def test_records(norms_vit, pictures):
    method = memo(norms_vit(), train_scope="norms")
    method(pictures)
    record = method.record
    assert int(record["selected"]) == len(pictures)
    # The mean of distributions has at least the mean of their entropies.
    assert record["view_entropy"] <= record["loss"] <= math.log(10)
    assert 1 / 10 <= record["agreement"] <= 1
    method.settings = method.settings.model_copy(update={"views": 1})
    method(pictures)
    assert float(method.record["agreement"]) == 1
    assert torch.allclose(method.record["view_entropy"], method.record["loss"])


def test_the_step_lowers_the_marginal_entropy(norms_vit, pictures):
    one, two = memo(norms_vit(), steps=1), memo(norms_vit(), steps=4, lr=0.02)
    one(pictures)
    before = two(pictures).softmax(-1)
    source = norms_vit()(pictures).softmax(-1)
    entropy = [-(p * p.log()).sum(-1).mean() for p in (source, before)]
    assert entropy[1] < entropy[0]


@torch.no_grad()
def with_own_statistics(network, image):
    """Logits of one image if each BatchNorm takes 16 parts of its statistics from the source and one from the image."""
    hidden = image
    for layer in network:
        if isinstance(layer, nn.BatchNorm2d):
            mean, variance = hidden.mean((0, 2, 3)), hidden.var((0, 2, 3), unbiased=False)
            layer.running_mean.mul_(16 / 17).add_(mean / 17)
            layer.running_var.mul_(16 / 17).add_(variance / 17)
        hidden = layer(hidden)
    return hidden


def test_batch_norm_mixes_the_statistics_of_each_image(tiny_convnet, pictures):
    expected = torch.cat([with_own_statistics(tiny_convnet(), image) for image in pictures.split(1)])
    for scope in ("norms", "all"):
        mixed = memo(tiny_convnet(), train_scope=scope, prior_strength=16.0)
        assert torch.allclose(mixed.predict(pictures), expected, atol=1e-4)
        alone = memo(tiny_convnet(), train_scope=scope, prior_strength=None)
        assert torch.allclose(alone.predict(pictures), tiny_convnet()(pictures), atol=1e-5)
    assert (expected - tiny_convnet()(pictures)).abs().max() > 1e-2


def test_batch_norm_adapts_many_images_as_it_does_one(tiny_convnet, pictures):
    for settings in ({"prior_strength": 16.0}, {"prior_strength": None}):
        together, apart = (memo(tiny_convnet(), train_scope="norms", **settings) for _ in range(2))
        logits = together(pictures)
        assert torch.allclose(logits, torch.cat([apart(image) for image in pictures.split(1)]), atol=1e-5)
        assert (logits - together.predict(pictures)).abs().max() > 1e-4


def test_low_precision_predicts_with_the_weights_after_the_step(norms_vit, pictures):
    for scope in ("norms", "all"):
        expected = memo(norms_vit(), train_scope=scope, lr=0.1)(pictures)
        method = memo(norms_vit(), train_scope=scope, lr=0.1)
        with torch.autocast("cpu", torch.bfloat16):
            found = method(pictures)
            source = method.predict(pictures)
        # Weights from before the step, kept in low precision, would be wrong by a quarter of it.
        assert (found - expected).abs().max() < 0.05 * (source - expected).abs().max()


def test_scopes_train_what_they_say(norms_vit):
    norms = memo(norms_vit(), train_scope="norms").trainable_parameters()
    every = memo(norms_vit(), train_scope="all").trainable_parameters()
    assert set(norms) == {name for name, _ in norms_vit().named_parameters() if "norm" in name}
    assert set(every) == set(dict(norms_vit().named_parameters()))


def test_norms_of_unknown_kinds_are_trained_one_image_at_a_time(pictures):
    class Own(nn.LayerNorm):
        pass

    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3072, 8), Own(8), nn.LayerNorm(8), nn.Linear(8, 10)).eval()
    method = memo(copy.deepcopy(network), train_scope="norms")
    assert set(method.trainable_parameters()) == {"2.weight", "2.bias", "3.weight", "3.bias"}
    own = ("2.", "3.").__contains__
    settings = SMALL | {"steps": 1}
    expected, _ = published(network, pictures, lambda name: own(name[:2]), settings)
    assert torch.allclose(method(pictures), expected, atol=1e-4)


def test_a_network_without_norms_is_refused_where_these_are_trained():
    network = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    with pytest.raises(
        InputError, match=r"memo trains norms.*Sequential has none: choose a backbone.*train_scope: all"
    ):
        memo(network, train_scope="norms")
    memo(network, train_scope="all")(torch.zeros(2, 3, 32, 32))


def test_presets_and_what_is_scored():
    spec = method_spec("memo")
    presets = {name: spec.resolve(name, {}) for name in spec.preset_names()}
    assert {spec.scores_of(settings) for settings in presets.values()} == {"post-update"}
    assert (presets["official"].optimizer, presets["official"].lr, presets["official"].views) == ("sgd", 2.5e-4, 64)
    assert (presets["recommended"].optimizer, presets["recommended"].lr) == ("adamw", 1e-5)
    assert (presets["official-cifar10"].views, presets["official-cifar10"].lr) == (32, 5e-3)
    assert presets["digits-c"].train_scope == "norms"
