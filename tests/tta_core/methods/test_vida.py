"""ViDA's own acceptance tests (continual §4.4)."""

import copy

import pytest
import torch
from torch.nn import functional

from tta_core import build_method
from tta_core.errors import InputError
from tta_core.methods.common.surgery import count_parameters
from tta_core.methods.registry import method_spec
from tta_core.methods.vida.warm_up import warmed_up_adapters


@pytest.fixture
def build(tiny_vit):
    """Builds ViDA with small adapters that already add something."""

    def make(preset="recommended", add=0.1, network=None, **settings):
        settings = {"warm_up": False, "rank_high": 8, "views": 3} | settings
        initial = {}
        if add:
            generator = torch.Generator().manual_seed(4)
            rank = settings.get("rank_low", 1) + settings["rank_high"]
            for block in range(3):
                for linear, out in (("qkv", 144), ("proj", 48)):
                    initial[f"blocks.{block}.attn.{linear}.up"] = add * torch.randn(out, rank, generator=generator)
        return build_method("vida", network or tiny_vit(), num_classes=10, preset=preset, initial=initial, **settings)

    return make


@pytest.fixture
def labelled(images):
    """A few labelled images, as batches; counts how many were taken."""

    class Batches:
        def __init__(self, number=3):
            self.number = number
            self.taken = 0

        def __iter__(self):
            for seed in range(self.number):
                self.taken += 1
                yield images(8, 50 + seed), torch.arange(8) % 10

    return Batches


def values(tensors):
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def fixed_uncertainty(method, value):
    method.uncertainty = lambda images: torch.tensor(value)


def test_the_uncertainty_is_the_variance_of_the_views_logits_at_the_scales_of_the_step_before(build, images):
    method = build(uncertainty_weight=0.3)
    views = [images(16, 7), images(16, 8), images(16, 9)]
    given = iter(views)
    method.augment = lambda pixels, generator: next(given)
    method.scales.copy_(torch.tensor([0.5] + [1.5] * 8))
    logits = torch.stack([method.teacher(view) for view in views])
    variance = ((logits - logits.mean(dim=0)) ** 2).sum(dim=0) / 2
    method(images())
    assert float(method.record["uncertainty"]) == pytest.approx(0.3 * float(variance.mean()), rel=1e-5)


def test_views_are_made_of_pixels(tiny_vit, images):
    method = build_method(
        "vida", tiny_vit(), num_classes=10, warm_up=False, views=2, mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.3)
    )
    seen = []
    method.augment = lambda pixels, generator: seen.append(pixels) or pixels
    logits = method.view_logits(images())
    channels = [(images()[:, c] * std + mean) for c, (mean, std) in enumerate(((0.5, 0.1), (0.4, 0.2), (0.3, 0.3)))]
    assert torch.allclose(seen[0], torch.stack(channels, dim=1), atol=1e-6)
    assert len(seen) == 2
    assert torch.allclose(logits, method.teacher(images()).expand(2, 16, 10), atol=1e-4)


@pytest.mark.parametrize(
    ("scaled", "uncertainty", "low", "high"),
    [
        ("both", 0.2, 0.8, 1.2),  # Reached is enough.
        ("both", 0.19, 1.19, 0.81),
        ("low", 0.2, 0.8, 1.0),
        ("low", 0.19, 1.19, 1.0),
        ("both", 0.0, 1.0, 1.0),
    ],
)
def test_the_uncertainty_scales_the_adapters_of_student_and_teacher(scaled, uncertainty, low, high, build, images):
    method = build(scaled=scaled)
    fixed_uncertainty(method, uncertainty)
    up = method.network.get_parameter("blocks.0.attn.qkv.up").clone()
    down, weight = (method.network.get_parameter(f"blocks.0.attn.qkv.{name}") for name in ("down", "weight"))
    expected = weight + low * up[:, :1] @ down[:1] + high * up[:, 1:] @ down[1:]
    method.allot(torch.tensor(uncertainty))
    for network in (method.network, method.teacher.network):
        assert torch.allclose(network.blocks[0].attn.qkv.combined_weight(), expected, atol=1e-6)
    method(images())
    assert float(method.record["low_scale"]) == pytest.approx(low)
    assert float(method.record["high_scale"]) == pytest.approx(high)


def test_the_teachers_logits_before_the_update_with_the_new_scales_are_returned(build, images):
    method = build(lr=0.1, backbone_lr=0.01, ema=0.5)
    fixed_uncertainty(method, 0.9)
    plain = method.teacher(images())
    twin = copy.deepcopy(method)
    twin.allot(torch.tensor(0.9))
    expected = twin.teacher(images())
    logits = method(images())
    assert torch.equal(logits, expected)
    assert not torch.allclose(logits, plain, atol=1e-4)
    assert torch.equal(method.predict(images()), method.teacher(images()))
    assert not torch.allclose(method.predict(images()), logits, atol=1e-4)


@pytest.mark.parametrize("loss", ["symmetric", "one_directional"])
def test_losses(loss, build, images):
    method = build(loss=loss)
    with torch.no_grad():
        for parameter in method.teacher.parameters.values():
            parameter.mul_(1.1)
    fixed_uncertainty(method, 0.1)
    twin = copy.deepcopy(method)
    twin.allot(torch.tensor(0.1))
    s, t = twin.network(images()).detach(), twin.teacher(images())
    expected = -(t.softmax(1) * s.log_softmax(1)).sum(1).mean()
    if loss == "symmetric":
        expected = 0.5 * expected - 0.5 * (s.softmax(1) * t.log_softmax(1)).sum(1).mean()
    method(images())
    assert float(method.record["loss"]) == pytest.approx(float(expected), rel=1e-5)


def test_backbone_and_adapters_have_their_own_learning_rates_and_momenta_of_the_teacher(build, images):
    method = build(lr=0.02, backbone_lr=0.005, momentum=0.0, ema=0.9, adapter_ema=0.6)
    fixed_uncertainty(method, 0.1)
    names = {"weight": "blocks.0.attn.qkv.weight", "down": "blocks.0.attn.qkv.down", "cls": "cls_token"}
    student, teacher = values(method.network.state_dict()), values(method.teacher.network.state_dict())
    gradients = {}
    step = method.optimizer.step
    method.optimizer.step = lambda: (
        gradients.update({n: p.grad.clone() for n, p in method.trainable_parameters().items()}),
        step(),
    )
    method(images())
    for kind, name in names.items():
        lr, ema = (0.02, 0.6) if kind == "down" else (0.005, 0.9)
        moved = method.network.get_parameter(name)
        assert gradients[name].abs().max() > 1e-4
        assert torch.allclose(moved, student[name] - lr * gradients[name], atol=1e-7)
        assert torch.allclose(method.teacher.parameters[name], ema * teacher[name] + (1 - ema) * moved, atol=1e-7)


def test_train_scopes(build, images):
    whole, adapters = build(), build(train_scope="adapters", lr=0.01)
    every = {name for name, _ in whole.network.named_parameters()}
    added = {name for name in every if name.rpartition(".")[2] in ("up", "down")}
    assert set(whole.trainable_parameters()) == every
    assert set(adapters.trainable_parameters()) == added
    assert len(whole.optimizer.param_groups) == 2
    assert len(adapters.optimizer.param_groups) == 1
    # The teacher of adapters alone shares the backbone.
    assert set(adapters.teacher.parameters) == added
    assert adapters.teacher.network.head.weight is adapters.network.head.weight


def test_an_even_share_is_restored_and_the_adapters_return_to_where_they_started(build, images):
    method = build(lr=0.01, backbone_lr=0.01, restore_probability=1.0)
    source = values(method.source_parameters)
    method(images())
    assert all(torch.equal(p, source[name]) for name, p in method.trainable_parameters().items())
    assert int(method.record["restored"]) == count_parameters(list(source.values()))
    # The teacher had seen what the student was before that.
    assert not torch.equal(method.teacher.parameters["blocks.0.attn.qkv.down"], source["blocks.0.attn.qkv.down"])


def test_a_resumed_run_restores_to_the_adapters_it_was_started_with(build, images):
    one, other = (build(seed=seed, restore_probability=1.0, lr=0.01) for seed in (0, 9))
    name = "blocks.0.attn.qkv.down"
    assert not torch.equal(one.source_parameters[name], other.source_parameters[name])
    other.load_state_dict(one.state_dict())
    other(images())
    assert torch.equal(other.trainable_parameters()[name], one.source_parameters[name])


def test_scales_are_part_of_the_state_and_reset_with_it(build, images):
    method = build()
    fixed_uncertainty(method, 0.5)
    method(images())
    state = method.state_dict()
    assert method.scales.tolist() == pytest.approx([0.5] + [1.5] * 8)
    method.reset()
    assert method.scales.tolist() == [1.0] * 9
    method.load_state_dict(state)
    for network in (method.network, method.teacher.network):
        assert network.blocks[2].attn.proj.scales.tolist() == pytest.approx([0.5] + [1.5] * 8)


def test_the_warm_up_trains_the_adapters_alone_to_classify_the_source(tiny_vit, images, labelled):
    network = tiny_vit()
    before = values(network.state_dict())
    settings = method_spec("vida").resolve("recommended", {"rank_high": 8, "warm_up_epochs": 8, "warm_up_lr": 1e-2})
    with torch.no_grad():
        made = warmed_up_adapters(network, labelled(), settings)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert {name.rpartition(".")[2] for name in made} == {"up", "down"}
    assert not any(tensor.requires_grad for tensor in made.values())
    method = build_method("vida", tiny_vit(), num_classes=10, rank_high=8, artefact=made)
    assert all(torch.equal(method.trainable_parameters()[name], tensor) for name, tensor in made.items())

    def loss(network):
        batch, labels = next(iter(labelled()))
        return float(functional.cross_entropy(network(batch), labels).detach())

    assert loss(method.network) < 0.7 * loss(network)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_one_step_of_the_warm_up_by_hand(optimizer, tiny_vit, labelled):
    settings = method_spec("vida").resolve(
        "recommended",
        {"rank_high": 8, "warm_up_steps": 1, "warm_up_lr": 0.01, "warm_up_optimizer": optimizer},
    )
    made = warmed_up_adapters(tiny_vit(), labelled(), settings)
    start = build_method("vida", tiny_vit(), num_classes=10, rank_high=8, warm_up=False, seed=0)
    batch, labels = next(iter(labelled()))
    functional.cross_entropy(start.network(batch), labels).backward()
    for name, tensor in made.items():
        parameter = start.trainable_parameters()[name]
        step = parameter.grad * 1.9 if optimizer == "sgd" else parameter.grad / (parameter.grad.abs() + 1e-8)
        assert torch.allclose(tensor, parameter - 0.01 * step, atol=1e-5)


@pytest.mark.parametrize(("epochs", "steps", "taken"), [(4, 100, 12), (4, 5, 6), (1, 100, 3), (2, 6, 6)])
def test_the_warm_up_ends_after_its_epochs_or_its_steps(epochs, steps, taken, tiny_vit, labelled):
    batches = labelled()
    settings = method_spec("vida").resolve(
        "recommended", {"rank_high": 8, "warm_up_epochs": epochs, "warm_up_steps": steps}
    )
    warmed_up_adapters(tiny_vit(), batches, settings)
    assert batches.taken == taken


def test_without_a_warm_up_nothing_is_needed_and_the_source_is_left_at_first(tiny_vit, images):
    spec = method_spec("vida")
    assert spec.needs_of(spec.resolve("official", {"warm_up": False})) == ()
    assert all(spec.needs_of(spec.resolve(preset, {})) == spec.needs for preset in spec.preset_names())
    method = build_method("vida", tiny_vit(), num_classes=10, warm_up=False)
    assert torch.allclose(method(images()), tiny_vit()(images()), atol=1e-5)


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("official", {"lr": 2e-7, "backbone_lr": 5e-7, "scaled": "low", "adapter_ema": 0.8, "restore_probability": 0}),
        ("official-cifar10", {"lr": 1e-5, "backbone_lr": 1e-4, "optimizer": "adam", "restore_probability": 0.1}),
        ("official-cifar100", {"lr": 1e-6, "backbone_lr": 3e-4, "loss": "one_directional", "scaled": "low"}),
        ("imse", {"train_scope": "adapters", "loss": "symmetric", "uncertainty_threshold": 0.2}),
        ("imse-recurring", {"train_scope": "adapters", "backbone_lr": 6.25e-8, "lr": 2e-7}),
        ("paper", {"scaled": "both", "train_scope": "all", "views": 10, "rank_low": 1, "rank_high": 128}),
    ],
)
def test_presets(preset, expected):
    settings = method_spec("vida").resolve(preset, {}).model_dump()
    assert {name: settings[name] for name in expected} == expected


@pytest.mark.parametrize(
    "settings", [{"views": 1}, {"rank_low": 0}, {"ema": 1.1}, {"loss": "teacher"}, {"betas": (1, 0)}]
)
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(InputError, match=next(iter(settings))):
        method_spec("vida").resolve("recommended", settings)


def test_a_network_that_is_no_transformer_is_refused(tiny_convnet):
    with pytest.raises(InputError, match="vida adapts the blocks of timm's VisionTransformer"):
        build_method("vida", tiny_convnet(), num_classes=10, warm_up=False)
