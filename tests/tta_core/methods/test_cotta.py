"""CoTTA's own acceptance tests (mixed §2.6, continual §4.1 and §4.3)."""

import copy

import pytest
import torch

from tta_core import build_method
from tta_core.errors import InputError
from tta_core.methods.common.losses import soft_cross_entropy, symmetric_cross_entropy, teacher_loss
from tta_core.methods.registry import method_spec

ALWAYS, NEVER = 1.01, 0.0


@pytest.fixture
def build(tiny_vit):
    """Builds CoTTA on the small vision transformer."""

    def make(preset="recommended", **settings):
        return build_method("cotta", tiny_vit(), num_classes=10, preset=preset, **settings)

    return make


@pytest.fixture
def build_unsure(tiny_vit, images):
    """Builds CoTTA with the threshold between the source's confidence in two batches; the first is below it."""

    def make(**settings):
        network, batches = tiny_vit(), [images(8, seed) for seed in range(6)]
        with torch.no_grad():
            sure = [float(network(batch).softmax(dim=1).amax(dim=1).mean()) for batch in batches]
        order = sorted(range(6), key=sure.__getitem__)
        method = build_method(
            "cotta", network, num_classes=10, anchor_threshold=(sure[order[0]] + sure[order[-1]]) / 2, **settings
        )
        return method, batches[order[0]], batches[order[-1]]

    return make


def values(tensors):
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def largest_probability(network, images):
    with torch.no_grad():
        return network(images).softmax(dim=1).amax(dim=1).mean()


def test_every_weight_and_bias_is_trained_and_nothing_else(build, images):
    method = build(anchor_threshold=ALWAYS, views=2, restore_probability=0.0, lr=0.1)
    before = values(dict(method.network.named_parameters()))
    left_out = set(before) - set(method.trainable_parameters())
    assert left_out == {"cls_token", "pos_embed"}
    method(images())
    changed = {name for name, p in method.network.named_parameters() if not torch.equal(p, before[name])}
    assert changed == set(before) - left_out


def test_only_normalisation_layers_can_be_trained(build):
    trained = set(build(train_scope="norm").trainable_parameters())
    assert {"blocks.0.norm1.weight", "norm.bias"} < trained
    assert all("norm" in name for name in trained)


def test_a_network_without_weights_is_refused():
    with pytest.raises(InputError, match="cotta trains weights and biases, and Sequential has no weight or bias"):
        build_method("cotta", torch.nn.Sequential(torch.nn.Flatten()), num_classes=3)
    plain = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
    with pytest.raises(InputError, match="Sequential has no normalisation layer with a weight"):
        build_method("cotta", plain, num_classes=3, train_scope="norm")


def test_the_teachers_logits_before_the_update_are_returned(build, images):
    method = build(lr=0.1, ema=0.5)
    method(images())
    method(images(seed=1))
    expected = method.teacher(images(seed=2))
    assert torch.equal(method(images(seed=2)), expected)
    assert not torch.equal(method.teacher(images(seed=2)), expected)
    assert not torch.allclose(expected, method.network(images(seed=2)))
    assert torch.equal(method.predict(images()), method.teacher(images()))


def test_one_step_by_hand(build_unsure):
    """Student, teacher and source after one step, from the mean logits of the views and one step of SGD."""
    method, unsure, _ = build_unsure(lr=0.2, views=3, ema=0.9, restore_probability=0.0, preset="official")
    student = copy.deepcopy(method.network)
    views = torch.randn(3, 8, 10, generator=torch.Generator().manual_seed(4))
    method.view_logits = lambda _: views
    found = method(unsure)
    target = views.mean(dim=0)
    assert torch.allclose(found, target)
    log_teacher, log_student = target.log_softmax(dim=1), student(unsure).log_softmax(dim=1)
    loss = -0.5 * (log_teacher.exp() * log_student + log_student.exp() * log_teacher).sum(dim=1).mean()
    loss.backward()
    assert float(method.record["loss"]) == pytest.approx(float(loss.detach()), rel=1e-5)
    assert bool(method.record["augmented"])
    for name, parameter in student.named_parameters():
        if not parameter.requires_grad:
            continue
        # The first step of Nesterov's momentum 0.9.
        expected = parameter - 0.2 * 1.9 * parameter.grad
        assert torch.allclose(method.trainable_parameters()[name], expected, atol=1e-6)
        assert torch.allclose(method.teacher.parameters[name], 0.9 * parameter + 0.1 * expected, atol=1e-6)


@pytest.mark.parametrize("loss", ["symmetric", "one_directional"])
def test_losses(loss):
    student, teacher = torch.randn(2, 4, 10, generator=torch.Generator().manual_seed(0))
    s, t = student.softmax(dim=1), teacher.softmax(dim=1)
    forth, back = -(t * s.log()).sum(dim=1).mean(), -(s * t.log()).sum(dim=1).mean()
    expected = (forth + back) / 2 if loss == "symmetric" else forth
    assert torch.allclose(teacher_loss(student, teacher, loss), expected)


def test_the_symmetric_loss_has_gradients_of_both_terms():
    student = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(4, 5, dtype=torch.float64)
    symmetric_cross_entropy(student, teacher).sum().backward()
    both, student.grad = student.grad, None
    soft_cross_entropy(student, teacher).sum().backward()
    assert not torch.allclose(both, student.grad / 2)
    half_precision = symmetric_cross_entropy(student.detach().bfloat16(), teacher.bfloat16())
    assert half_precision.dtype == torch.float32


def test_the_anchor_stays_the_source_and_decides_for_the_whole_batch(build_unsure, tiny_vit):
    method, unsure, sure = build_unsure(lr=0.1, ema=0.5, views=2)
    source = tiny_vit()
    for batch, augmented in ((unsure, True), (sure, False), (unsure, True)):
        method(batch)
        assert float(method.record["anchor_confidence"]) == pytest.approx(float(largest_probability(source, batch)))
        assert bool(method.record["augmented"]) == augmented
    assert not torch.allclose(method.teacher(unsure), source(unsure), atol=1e-3)
    assert not torch.allclose(method.network(unsure), source(unsure), atol=1e-3)


def test_running_views_always_changes_only_how_often_they_run(build_unsure):
    def run(run_views):
        method, unsure, sure = build_unsure(run_views=run_views, views=2, lr=0.05, restore_probability=0.0)
        calls = []
        method.augment = lambda pixels, _: calls.append(len(pixels)) or pixels * (0.5 + 0.1 * (len(calls) % 2))
        return [method(batch) for batch in (unsure, sure, unsure, sure)], len(calls)

    (needed, few), (always, many) = run("needed"), run("always")
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(needed, always, strict=True))
    assert (few, many) == (4, 8)


@pytest.mark.parametrize(("threshold", "augmented"), [(NEVER, False), (0.1, False), (ALWAYS, True)])
@pytest.mark.parametrize("run_views", ["needed", "always"])
def test_where_the_threshold_leaves_no_choice_the_anchor_is_not_asked(threshold, augmented, run_views, build, images):
    method = build(anchor_threshold=threshold, views=2, run_views=run_views)
    method.anchor_confidence = None
    method(images())
    assert bool(method.record["augmented"]) == augmented
    assert float(method.record["anchor_confidence"]) == -1


def test_the_decision_is_the_only_thing_that_is_waited_for(build_unsure, monkeypatch):
    waits = []
    for name in ("__bool__", "__float__", "item", "tolist"):
        own = getattr(torch.Tensor, name)

        def watched(tensor, *arguments, own=own):
            # What the generator drew, and where it falls among the parameters, is the host's own.
            if tensor.dtype in (torch.bool, torch.float32):
                waits.append(tensor)
            return own(tensor, *arguments)

        monkeypatch.setattr(torch.Tensor, name, watched)
    for run_views, expected in (("needed", 1), ("always", 0)):
        method, unsure, _ = build_unsure(run_views=run_views, views=2)
        waits.clear()
        method(unsure)
        assert len(waits) == expected


def test_views_are_of_pixels_or_as_released_of_clipped_inputs(tiny_vit, images):
    def seen(preset, **settings):
        method = build_method(
            "cotta", tiny_vit(), num_classes=10, preset=preset, views=3, anchor_threshold=ALWAYS,
            mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), **settings,
        )  # fmt: skip
        pixels, views = [], []
        method.augment = lambda given, _: pixels.append(given) or given
        method.teacher.network.register_forward_pre_hook(lambda _, given: views.append(given[0]))
        batch = images()
        method(batch)
        return batch, pixels, torch.cat(views)

    batch, pixels, views = seen("recommended")
    expected = batch * torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1) + torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)
    assert len(pixels) == 3
    assert torch.allclose(pixels[0], expected, atol=1e-6)
    assert torch.allclose(views, batch.repeat(3, 1, 1, 1), atol=1e-5)
    for preset in ("moetta", "foa"):
        batch, pixels, views = seen(preset)
        assert torch.equal(pixels[0], batch)
        assert torch.equal(views, batch.repeat(3, 1, 1, 1))


def test_random_views_differ_and_predicting_leaves_the_generator_alone(build, images):
    method = build(anchor_threshold=ALWAYS, views=4)
    logits = method.view_logits(images())
    assert logits.shape == (4, 16, 10)
    assert not torch.equal(logits[0], logits[1])
    before = method.generator.get_state()
    assert torch.equal(method.predict(images()), method.predict(images()))
    assert torch.equal(method.generator.get_state(), before)


def test_the_teacher_moves_before_the_restore(build, images):
    method = build(lr=0.1, ema=0.9, restore_probability=1.0, anchor_threshold=ALWAYS, views=2)
    source = values(method.source_parameters)
    method(images())
    assert all(torch.equal(p, source[name]) for name, p in method.trainable_parameters().items())
    assert any(not torch.allclose(p, source[name]) for name, p in method.teacher.parameters.items())
    assert int(method.record["restored"]) == sum(p.numel() for p in source.values())


def test_about_the_given_share_is_restored(build, images):
    method = build(lr=0.1, restore_probability=0.2, anchor_threshold=ALWAYS, views=2)
    source = values(method.source_parameters)
    method(images())
    weight = "blocks.0.attn.qkv.weight"
    back = (method.trainable_parameters()[weight] == source[weight]).float().mean()
    assert float(back) == pytest.approx(0.2, abs=0.02)


def test_a_reset_before_and_after_the_first_step_brings_the_teacher_back(build, images):
    method = build(lr=0.1, ema=0.5, anchor_threshold=ALWAYS, views=2)
    fresh = method.state_dict()
    source = values(method.teacher.parameters)
    method(images())
    assert method.state_dict()["parameters"]["teacher"].keys() == source.keys()
    method.reset()
    assert all(torch.equal(p, source[name]) for name, p in method.teacher.parameters.items())
    method(images())
    method.load_state_dict(fresh)
    assert all(torch.equal(p, source[name]) for name, p in method.teacher.parameters.items())


def test_source_and_anchor_share_their_memory(build):
    """Student, teacher and one copy of the source: no third network."""
    method = build()
    held = {id(p.untyped_storage()): p for p in method.teacher.network.parameters()}
    own = {id(p.untyped_storage()) for p in method.network.parameters()}
    extra = [p for number, p in held.items() if number not in own]
    assert sum(p.numel() for p in extra) == sum(p.numel() for p in method.trainable_parameters().values())
    assert not any(isinstance(value, torch.nn.Module) for key, value in vars(method).items() if key != "network")
    # What a reset puts into the teacher is what it puts into the student.
    kept = method._source["parameters"]
    assert all(
        kept["teacher"][name] is value is method.source_parameters[name] for name, value in kept["student"].items()
    )


@pytest.mark.parametrize("batch_statistics", [True, False])
def test_batch_norm_in_all_three_networks(batch_statistics, tiny_convnet, images):
    source = tiny_convnet()
    method = build_method(
        "cotta", tiny_convnet(), num_classes=10, batch_statistics=batch_statistics, anchor_threshold=0.999, views=5
    )
    reference = source.train() if batch_statistics else source
    expected = copy.deepcopy(reference)(images())
    assert torch.allclose(method.network(images()), expected, atol=1e-5)
    assert torch.allclose(method.teacher(images()), expected, atol=1e-5)
    assert torch.allclose(method.anchor_confidence(images()), largest_probability(reference, images()), atol=1e-5)
    sizes = []
    method.teacher.network.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    method(images(4))
    # The anchor, then the views: with batch statistics each is a batch of its own.
    assert sizes == ([4] * 6 if batch_statistics else [4, 16, 4])


def test_presets_hold_what_is_published():
    spec = method_spec("cotta")

    def preset(name):
        return spec.resolve(name, {}).model_dump()

    official, cifar = preset("official"), preset("official-cifar")
    assert (official["lr"], official["nesterov"], official["optimizer"]) == (1e-2, True, "sgd")
    assert (official["views"], official["anchor_threshold"]) == (32, 0.1)
    assert (official["ema"], official["restore_probability"], official["loss"]) == (0.999, 0.001, "symmetric")
    assert (cifar["optimizer"], cifar["lr"], cifar["loss"]) == ("adam", 1e-3, "one_directional")
    assert (cifar["anchor_threshold"], cifar["restore_probability"], cifar["run_views"]) == (0.92, 0.01, "always")
    assert {preset(name)["views_of"] for name in ("moetta", "foa")} == {"inputs"}
    rates = {"recommended": 1e-3, "moetta": 1e-3, "foa": 5e-3, "imse": 1e-4, "imse-recurring": 1e-5}
    rates |= {"vida-cifar10": 1e-3, "vida-cifar100": 3e-4}
    assert {name: preset(name)["lr"] for name in rates} == rates


@pytest.mark.parametrize(
    "settings",
    [{"views": 0}, {"anchor_threshold": -0.1}, {"ema": 1.1}, {"restore_probability": 2}, {"loss": "both"}],
)
def test_settings_that_make_no_sense_are_refused(settings):
    (name,) = settings
    with pytest.raises(InputError, match=f"{name} = .* is not allowed"):
        method_spec("cotta").resolve("recommended", settings)
