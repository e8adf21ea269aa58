"""MoASE's own acceptance tests (moase §2 and §8)."""

import pytest
import torch

from tta_core import build_method
from tta_core.errors import InputError
from tta_core.methods.common.losses import soft_cross_entropy
from tta_core.methods.moase.distance import distance
from tta_core.methods.registry import method_spec


@pytest.fixture
def build(tiny_vit):
    """Builds MoASE with a teacher that differs from the student, so that there is something to learn."""

    def make(preset="recommended", apart=True, **settings):
        method = build_method("moase", tiny_vit(), num_classes=10, preset=preset, **settings)
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for parameter in method.teacher.parameters.values() if apart else ():
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
        return method

    return make


def values(tensors):
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def test_the_teachers_logits_before_the_update_are_returned(build, images):
    method = build(lr=0.01, ema=0.5)
    expected = method.teacher(images())
    assert torch.equal(method(images()), expected)
    assert not torch.equal(method.teacher(images()), expected)
    assert not torch.allclose(expected, method.network(images()))
    assert torch.equal(method.predict(images()), method.teacher(images()))


def test_the_loss_is_cross_entropy_to_the_teacher_plus_distance_to_its_experts(build, images):
    method = build("official", bottleneck=8, hp_weight=0.3)
    student, teacher = values(method.trainable_parameters()), values(method.teacher.parameters)
    with torch.no_grad():
        cross_entropy = soft_cross_entropy(method.network(images()), method.teacher(images())).mean()
    method(images())
    distance = 0.0
    for name in [name for name in student if name.endswith(("down_weight", "down_bias", "up_weight", "up_bias"))]:
        difference = student[name] - teacher[name]
        distance += sum(float(difference[expert].norm()) for expert in range(4))
    assert float(method.record["teacher_loss"]) == pytest.approx(float(cross_entropy), rel=1e-5)
    assert float(method.record["proximal_loss"]) == pytest.approx(0.15 * distance, rel=1e-5)
    assert float(method.record["loss"]) == pytest.approx(float(cross_entropy) + 0.15 * distance, rel=1e-5)


def test_soft_cross_entropy_of_equal_logits_is_the_entropy_and_has_no_gradient():
    logits = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    loss = soft_cross_entropy(logits, logits.detach())
    probabilities = logits.softmax(dim=-1)
    assert torch.allclose(loss, -(probabilities * probabilities.log()).sum(dim=-1))
    loss.sum().backward()
    assert torch.allclose(logits.grad, torch.zeros_like(logits), atol=1e-15)


@pytest.mark.parametrize("power", [1, 2])
def test_the_gradient_of_the_distance_at_equality_is_zero(power):
    student = torch.randn(4, 3, 5, requires_grad=True)
    distance([student], [student.detach().clone()], power).backward()
    assert torch.equal(student.grad, torch.zeros_like(student))


def test_distances_are_per_expert():
    student, teacher = torch.tensor([[3.0, 4.0], [6.0, 8.0]]), torch.zeros(2, 2)
    assert float(distance([student], [teacher], 1)) == 15
    assert float(distance([student], [teacher], 2)) == pytest.approx(125)


@pytest.mark.parametrize("power", [1, 2])
def test_the_gradient_of_the_distance_is_that_of_the_formula(power):
    shapes = [(3, 4, 2), (3, 2)]
    students = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    teachers = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    lengths = torch.cat([(s - t).flatten(1).norm(dim=1) for s, t in zip(students, teachers, strict=True)])
    expected = torch.autograd.grad(3 * (lengths**power).sum(), students)
    found = torch.autograd.grad(3 * distance(students, teachers, power), students)
    assert all(torch.allclose(one, other) for one, other in zip(found, expected, strict=True))


def test_the_teacher_moves_after_the_student_and_before_the_restore(build, images):
    method = build(lr=0.01, ema=0.9, restore_probability=1.0)
    source, teacher = values(method.source_parameters), values(method.teacher.parameters)
    method(images())
    # Everything is restored, and the teacher has seen what the student was before that.
    assert all(torch.equal(p, source[name]) for name, p in method.trainable_parameters().items())
    moved = [not torch.allclose(p, 0.9 * teacher[n] + 0.1 * source[n]) for n, p in method.teacher.parameters.items()]
    assert any(moved)
    assert int(method.record["restored"]) == sum(p.numel() for p in source.values())


def test_about_the_given_share_is_restored(build, images):
    method = build(lr=0.01, restore_probability=0.2)
    source = values(method.source_parameters)
    method(images())
    # The bottom router tensors may have no gradient; the projections have one everywhere.
    weight = "blocks.0.attn.qkv.weight"
    back = (method.trainable_parameters()[weight] == source[weight]).float().mean()
    assert float(back) == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize(
    ("scope", "trained", "frozen"),
    [
        ("all", ["patch_embed.proj.weight", "blocks.1.attn.qkv.bias", "head.bias"], ["cls_token", "pos_embed"]),
        ("adapters", ["blocks.0.adapter.router.bias"], ["blocks.0.norm1.weight", "head.weight"]),
        ("adapters+norm", ["blocks.0.adapter.down_weight", "norm.bias"], ["blocks.0.mlp.fc1.weight", "cls_token"]),
    ],
)
def test_train_scopes(scope, trained, frozen, build, images):
    method = build(train_scope=scope, lr=0.01)
    before = values(dict(method.network.named_parameters()))
    method(images())
    names = set(method.trainable_parameters())
    adapters = {name for name in before if ".adapter." in name}
    assert adapters | set(trained) <= names
    assert not names & set(frozen)
    changed = {n for n, p in method.network.named_parameters() if not torch.equal(p, before[n])}
    assert changed <= names
    assert set(method.teacher.parameters) == names


def test_all_published_parameters_are_trained(tiny_vit):
    """All weights and biases; only class token and position embedding are left out (moase §2.4)."""
    method = build_method("moase", tiny_vit(), num_classes=10, preset="official")
    left_out = {n for n, _ in method.network.named_parameters()} - set(method.trainable_parameters())
    assert left_out == {"cls_token", "pos_embed"}


def test_equal_student_and_teacher_have_nothing_to_learn(build, images):
    """The published start: every gradient is rounding noise."""
    method = build(apart=False, optimizer="sgd", lr=0.1)
    before = values(method.trainable_parameters())
    method(images())
    # Nesterov momentum of 0.9 makes 1.9 steps of the first.
    moved = max(float((p.detach() - before[name]).abs().max()) for name, p in method.trainable_parameters().items())
    assert moved < 0.1 * 1.9 * 1e-6


def test_a_learning_rate_of_next_to_nothing_leaves_the_source(tiny_vit, images):
    source = tiny_vit()
    method = build_method("moase", tiny_vit(), num_classes=10, lr=1e-30)
    for seed in range(3):
        assert torch.allclose(method(images(seed=seed)), source(images(seed=seed)), atol=1e-5)


def test_the_total_width_can_be_shared_among_the_experts(tiny_vit):
    counts = set()
    for number in (2, 4, 8, 16):
        method = build_method(
            "moase", tiny_vit(), num_classes=10, num_experts=number, bottleneck=64, constant_total_rank=True
        )
        adapter = method.adapters["blocks.0.adapter"]
        assert adapter.down_weight.shape == (number, 64 // number, 48)
        counts.add(adapter.down_weight.numel() + adapter.up_weight.numel())
    assert len(counts) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_experts": 5}, r"num_experts = 5 is not allowed: .*give an even number, such as 4 or 6"),
        ({"num_experts": 16, "constant_total_rank": True, "bottleneck": 40}, r"40 hidden units cannot be shared"),
        ({"betas": (0.9, 1.0)}, r"both must be at least 0 and below 1"),
        ({"gate_strength": 0.6}, r"gate_strength = 0.6 is not allowed: .*less than or equal to 0.5"),
        ({"train_scope": "adapter"}, r"train_scope"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        method_spec("moase").resolve("recommended", settings)


def test_usage_is_counted_for_the_student_only(build, images):
    method = build()
    seen = []
    for batch in (images(), images(5)):
        method(batch)
        seen.append([adapter.routing.sum(dim=0) for adapter in method.adapters.values()])
    for adapter, first, second in zip(method.adapters.values(), *seen, strict=True):
        assert torch.equal(adapter.usage, first + second)
        assert float(adapter.usage.sum()) == pytest.approx(21, rel=1e-4)
    teachers = [m for n, m in method.teacher.network.named_modules() if n.endswith(".adapter")]
    assert all(m.routing is None and not m.usage.any() for m in teachers)
    for shares in method.diagnostics()["expert_usage"].values():
        assert sum(shares) == pytest.approx(1)


def test_a_resumed_run_restores_to_the_experts_it_was_started_with(tiny_vit, images):
    one, other = (
        build_method("moase", tiny_vit(), num_classes=10, seed=seed, restore_probability=1.0, lr=0.01)
        for seed in (0, 9)
    )
    name = "blocks.0.adapter.down_weight"
    assert not torch.equal(one.source_parameters[name], other.source_parameters[name])
    other.load_state_dict(one.state_dict())
    other(images())
    assert torch.equal(other.trainable_parameters()[name], one.source_parameters[name])
