"""SAR: both variants by hand, empty selections, the recovery, what costs a pass."""

import math

import pytest
import torch
from torch import nn

from tta_core import build_method
from tta_core.errors import InputError
from tta_core.methods.common.losses import softmax_entropy
from tta_core.methods.common.optim import ascend
from tta_core.methods.sar.spec import SPEC


@pytest.fixture
def build(tiny_vit):
    """Builds SAR around the small network, in float64."""

    def make(network=None, **settings):
        network = tiny_vit() if network is None else network
        return build_method("sar", network.double(), num_classes=10, **settings)

    return make


@pytest.fixture
def batch(images):
    """Normalised images in float64."""
    return lambda size=16, seed=0: images(size, seed).double()


def values(method):
    return torch.cat([p.detach().flatten() for p in method.trainable_parameters().values()])


def momentum(method):
    return torch.cat([s["momentum_buffer"].flatten() for s in method.optimizer.state.values()])


@pytest.mark.parametrize("variant", ["original", "foa"])
def test_a_step_by_hand(variant, build, batch):
    """Both passes of mixed §2.4, written out with gradients of the whole batch."""
    settings = {"variant": variant, "entropy_margin": 0.6, "lr": 0.05, "rho": 0.3, "reset_threshold": 0.0}
    method, reference = build(**settings), build(**settings)
    parameters, margin = reference.trained, 0.6 * math.log(10)
    speed = [torch.zeros_like(p) for p in parameters]
    average = None
    for seed in range(4):
        images = batch(seed=seed)
        scored = method(images)
        first = reference.network(images)
        entropy = softmax_entropy(first)
        reliable = entropy < margin
        gradient = torch.autograd.grad(entropy[reliable].mean(), parameters)
        norm = torch.cat([g.flatten() for g in gradient]).norm()
        before = [p.detach().clone() for p in parameters]
        with torch.no_grad():
            for parameter, g in zip(parameters, gradient, strict=True):
                parameter += 0.3 * g / norm
        second = reference.network(images)
        entropy = softmax_entropy(second)
        selected = (entropy < margin) & (reliable if variant == "original" else True)
        loss = entropy[selected].mean()
        gradient = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for parameter, start, v, g in zip(parameters, before, speed, gradient, strict=True):
                v.mul_(0.9).add_(g)
                parameter.copy_(start - 0.05 * v)
        average = loss.detach() if average is None else 0.9 * average + 0.1 * loss.detach()
        torch.testing.assert_close(scored, (first if variant == "original" else second).detach())
        assert torch.equal(method.reliable, reliable)
        assert torch.equal(method.selected, selected)
        assert float(method.record["ema"]) == pytest.approx(float(average))
        assert 0 < int(method.record["selected"]) < int(method.record["reliable"]) + (variant == "foa") * 16
    torch.testing.assert_close(values(method), torch.cat([p.detach().flatten() for p in parameters]))


def test_the_variants_differ_in_what_the_second_pass_selects_from(build, batch):
    """An ascent that lowers the entropy of some rejected sample below the margin adds it under `foa` alone."""
    counts = {}
    for variant in ("original", "foa"):
        method = build(variant=variant, entropy_margin=0.6, rho=2.0)
        method(batch())
        counts[variant] = int(method.record["selected"])
        outside = int((method.selected & ~method.reliable).sum())
        assert (outside > 0) == (variant == "foa")
    assert counts["foa"] > counts["original"]


@pytest.mark.parametrize(("variant", "scored"), [("original", "pre-update"), ("foa", "perturbed")])
def test_the_scored_logits_are_the_declared_ones(variant, scored, build, tiny_vit, batch):
    method = build(variant=variant, entropy_margin=0.6)
    assert SPEC.scores_of(method.settings) == scored
    assert torch.allclose(method(batch()), tiny_vit().double()(batch())) == (scored == "pre-update")


def test_selecting_before_or_after_the_forward_gives_the_same_steps(build, batch):
    """What the first pass costs follows the share of reliable samples; what it computes does not."""
    one, two = build(entropy_margin=0.5, lr=0.05), build(entropy_margin=0.5, lr=0.05)
    two.forward.independent = False
    kept = []
    for seed in range(4):
        torch.testing.assert_close(one(batch(seed=seed)), two(batch(seed=seed)))
        kept.append(one.forward.keeps_graph)
        assert two.forward.keeps_graph
    torch.testing.assert_close(values(one), values(two))
    assert not all(kept)


def test_only_reliable_samples_take_a_second_pass(build, batch, monkeypatch):
    sizes = []
    for variant in ("original", "foa"):
        method = build(variant=variant, entropy_margin=0.5)
        method(batch())
        forward, seen = method.network.forward, []
        monkeypatch.setattr(method.network, "forward", lambda x, f=forward, s=seen: s.append(len(x)) or f(x))
        method(batch(seed=1))
        sizes.append(seen)
    reliable = int(method.record["reliable"])
    assert 0 < reliable < 9
    assert sizes == [[16, reliable, reliable], [16, reliable, 16]]


def test_without_an_ascent_there_is_one_pass_and_no_other_difference(build, batch):
    for variant in ("original", "foa"):
        one, two = (build(variant=variant, rho=rho, entropy_margin=0.6) for rho in (0.0, 1e-300))
        for seed in range(2):
            torch.testing.assert_close(one(batch(seed=seed)), two(batch(seed=seed)))
        torch.testing.assert_close(values(one), values(two))
        assert one.record["loss"] == one.record["first_loss"]
        assert SPEC.scores_of(one.settings) == "pre-update"


def test_a_learning_rate_close_to_zero_leaves_no_ascent_behind(build, batch):
    method = build(lr=1e-300, rho=1.0, entropy_margin=0.6)
    before = values(method)
    for seed in range(2):
        method(batch(seed=seed))
    torch.testing.assert_close(values(method), before, rtol=0, atol=1e-290)


@pytest.mark.parametrize(
    ("variant", "on_empty", "moves"),
    [
        ("original", "skip_step", False),
        ("original", "momentum_step", True),
        ("foa", "skip_step", False),
        ("foa", "momentum_step", False),
    ],
)
def test_a_batch_without_reliable_samples(variant, on_empty, moves, build, batch):
    """mixed §4.1: the released original steps on its momentum, the others do nothing; nothing is NaN."""
    method = build(variant=variant, on_empty=on_empty, entropy_margin=0.6, lr=0.05)
    method(batch())
    before, speed, average = values(method), momentum(method), method.recovery.average.clone()
    method.margin = 0.0
    logits = method(batch(seed=1))
    assert torch.equal(method.recovery.average, average)
    assert all(value.isfinite() for value in method.record.values())
    assert (int(method.record["selected"]), int(method.record["reliable"])) == (0, 0)
    assert bool(method.record["updated"]) == moves == ("loss" in method.record)
    torch.testing.assert_close(values(method), before - 0.05 * 0.9 * speed if moves else before, rtol=0, atol=1e-15)
    torch.testing.assert_close(momentum(method), (0.9 if moves else 1) * speed)
    assert logits.isfinite().all()


@pytest.mark.parametrize("variant", ["original", "foa"])
@pytest.mark.parametrize("on_empty", ["skip_step", "momentum_step"])
def test_a_second_pass_that_selects_nothing(variant, on_empty, build, batch, monkeypatch):
    """The weights come back from the ascent; the release then lets momentum move them."""
    method = build(variant=variant, on_empty=on_empty, entropy_margin=0.6, lr=0.05)
    method(batch())
    before, speed, average = values(method), momentum(method), method.recovery.average.clone()

    def ascend_beyond_the_margin(parameters, rho):
        method.margin = 0.0
        return ascend(parameters, rho)

    monkeypatch.setattr("tta_core.methods.sar.method.ascend", ascend_beyond_the_margin)
    method(batch(seed=1))
    assert int(method.record["reliable"]) > int(method.record["selected"]) == 0
    moves = on_empty == "momentum_step"
    assert bool(method.record["updated"]) == moves
    assert float(method.record["loss"]) == 0
    assert torch.equal(method.recovery.average, average)
    if moves:
        torch.testing.assert_close(values(method), before - 0.05 * 0.9 * speed)
    else:
        assert torch.equal(values(method), before)
        assert torch.equal(momentum(method), speed)


def test_a_first_batch_without_reliable_samples(build, batch):
    for preset in ("recommended", "official", "moetta"):
        method = build(preset=preset, entropy_margin=1e-9)
        before = values(method)
        assert method(batch()).isfinite().all()
        assert torch.equal(values(method), before)
        assert (float(method.record["ema"]), bool(method.record["reset"])) == (0.0, False)
        # The first batch that selects something starts the average.
        method.margin = 2.0
        method(batch(seed=1))
        torch.testing.assert_close(method.record["ema"], method.record["loss"])


def test_a_recovery_returns_to_the_source_and_starts_anew(build, tiny_vit, batch):
    method, fresh = build(entropy_margin=0.6, lr=0.05), build(entropy_margin=0.6, lr=0.05)
    method(batch())
    assert not torch.allclose(method.predict(batch()), tiny_vit().double()(batch()), atol=1e-3)
    method.recovery.threshold = 10.0
    method(batch(seed=1))
    assert method.record["reset"]
    assert 0.1 < float(method.record["ema"]) < 10
    method.recovery.threshold = 0.0
    for seed in range(2, 5):
        # The share of reliable samples is known from before, so the forwards round differently.
        torch.testing.assert_close(method(batch(seed=seed)), fresh(batch(seed=seed)))
    torch.testing.assert_close(values(method), values(fresh))


def test_the_released_recovery_clears_neither_momentum_nor_average(build, batch):
    method = build(preset="official", entropy_margin=0.6, lr=0.05)
    source = values(method)
    method(batch())
    method.recovery.threshold = 10.0
    for seed in range(1, 4):
        method(batch(seed=seed))
        assert method.record["reset"]
        assert method.record["ema"] == method.recovery.average
        assert torch.equal(values(method), source)
    speed = momentum(method)
    assert speed.abs().max() > 0
    method.recovery.threshold = 0.0
    method.margin = 0.0
    method(batch(seed=4))
    torch.testing.assert_close(values(method), source - 0.05 * 0.9 * speed, rtol=0, atol=1e-15)


def test_the_threshold_is_heeded(build, batch):
    """The released argument was ignored for 0.2 (mixed §2.4)."""
    for threshold, expected in ((0.0, False), (5.0, True)):
        method = build(reset_threshold=threshold, entropy_margin=0.6)
        method(batch())
        assert bool(method.record["reset"]) == expected


def test_the_average_survives_a_resume(build, batch):
    method, resumed = (build(entropy_margin=0.6, lr=0.05) for _ in range(2))
    for seed in range(3):
        method(batch(seed=seed))
    resumed.load_state_dict(method.state_dict())
    for seed in range(3, 5):
        assert torch.equal(resumed(batch(seed=seed)), method(batch(seed=seed)))
        assert resumed.record["ema"] == method.record["ema"]
    method.reset()
    assert not method.recovery.started
    assert method.forward.share == 1.0


@pytest.mark.parametrize(("norms", "blocks", "final"), [("all", 12, True), ("not_last_quarter", 9, False)])
def test_which_norms_are_trained(norms, blocks, final, build, tiny_vit):
    names = set(build(tiny_vit(depth=12, embed_dim=12), norms=norms).trainable_parameters())
    expected = {f"blocks.{b}.norm{n}.{part}" for b in range(blocks) for n in (1, 2) for part in ("weight", "bias")}
    assert names == expected | ({"norm.weight", "norm.bias"} if final else set())


def test_the_presets_are_the_versions_in_circulation():
    resolved = {name: SPEC.resolve(name, {}) for name in SPEC.preset_names()}
    assert (resolved["recommended"].lr, resolved["recommended"].variant) == (5e-4, "original")
    assert (resolved["official"].lr, resolved["official"].on_empty) == (1e-3, "momentum_step")
    assert (resolved["moetta"].lr, resolved["moetta"].variant) == (5e-4, "foa")
    # Batches of one (mixed §5.6): twice 0.001 / 64 for a ViT, twice 0.00025 / 64 x 2 for a ResNet.
    assert resolved["official-bs1"].lr == pytest.approx(3.125e-5)
    assert resolved["official-resnet-bs1"].lr == pytest.approx(1.5625e-5)
    for name in ("official", "official-bs1", "official-resnet", "official-resnet-bs1", "foa", "moetta"):
        released = resolved[name]
        assert (released.norms, released.reset_clears, released.reset_threshold) == ("legacy_names", "parameters", 0.2)
        assert (released.rho, released.entropy_margin) == (0.05, 0.4)


def test_batch_statistics_come_from_the_whole_batch_in_both_passes(tiny_convnet, batch):
    """A network with BatchNorm: the second pass of the reliable samples alone would normalise by other statistics."""
    settings = {"norms": "all", "rho": 0.0, "reset_threshold": 0.0}
    plain = build_method("sar", tiny_convnet().double(), num_classes=10, **settings)
    sharp = build_method("sar", tiny_convnet().double(), num_classes=10, **{**settings, "rho": 1e-300})
    plain.margin = sharp.margin = float(softmax_entropy(plain.predict(batch())).median())
    for seed in range(3):
        torch.testing.assert_close(sharp(batch(seed=seed)), plain(batch(seed=seed)))
        assert 0 < int(plain.record["selected"]) < 16
        assert sharp.record["selected"] == plain.record["selected"]
    torch.testing.assert_close(values(sharp), values(plain))


def test_networks_without_norms_are_refused():
    with pytest.raises(InputError, match="sar adapts normalisation layers"):
        build_method("sar", nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), num_classes=3)
