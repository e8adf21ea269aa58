"""MoASE++'s own tests (moase §3)."""

import math

import pytest
import torch

from tests.states import equal
from tta_core import build_method
from tta_core.methods.moasepp import method as module
from tta_core.methods.moasepp.method import confidence, reverse_divergence
from tta_core.methods.moasepp.policy import Policy


@pytest.fixture
def policy():
    return Policy(1e-2, 0.9, torch.Generator().manual_seed(0), torch.device("cpu"), torch.float64)


@pytest.fixture
def build(tiny_vit):
    """Builds MoASE++ with a teacher that differs from the student, so that there is something to learn."""

    def make(**settings):
        method = build_method("moasepp", tiny_vit(), num_classes=10, mean=(0.5,) * 3, std=(0.25,) * 3, **settings)
        with torch.no_grad():
            for parameter in method.teacher.parameters.values():
                parameter.mul_(0.9)
        return method

    return make


SEEN = torch.tensor([1.2, 0.6], dtype=torch.float64)
NOISE = torch.tensor([0.3, -1.1, 0.8], dtype=torch.float64)


def test_the_density_is_that_of_the_squashed_sample(policy):
    """Integrated over a grid of samples, exp(log density) of tanh(z) is 1."""
    mean, std = policy.mean_head(policy.net(SEEN)).detach(), policy.log_std.detach().exp()
    decision = policy.decide(SEEN, NOISE, detached=True)
    z = mean + std * NOISE
    assert torch.allclose(decision.strengths, 0.5 * z.tanh() + 0.5)
    normal = torch.distributions.Normal(mean, std)
    expected = normal.log_prob(z).sum() - (1 - z.tanh() ** 2 + 1e-6).log().sum()
    assert torch.allclose(decision.log_probability, expected)
    assert torch.allclose(decision.entropy, normal.entropy().sum())
    assert float(std[0]) == pytest.approx(0.5)


def test_the_score_function_pulls_towards_the_sample_and_the_released_gradient_does_not(policy):
    def gradient_of_means(detached):
        means = policy.mean_head(policy.net(SEEN))
        hook = {}
        policy.mean_head.register_forward_hook(lambda _m, _i, out: hook.update(means=out))
        log_probability = policy.decide(SEEN, NOISE, detached=detached).log_probability
        return means.detach(), torch.autograd.grad(log_probability, hook["means"])[0]

    std = math.exp(math.log(0.5))
    _, score = gradient_of_means(True)
    assert torch.allclose(score, NOISE / std)
    means, released = gradient_of_means(False)
    squashed = (means + std * NOISE).tanh()
    # Only the term of the squashing is left: 2 tanh z (moase §3, defect).
    expected = 2 * squashed * (1 - squashed**2) / (1 - squashed**2 + 1e-6)
    assert torch.allclose(released, expected)


def test_the_policy_learns_which_action_pays(policy):
    """Rewarded for little noise, the score function lowers the mean of that strength; the release's does not care."""
    generator = torch.Generator().manual_seed(1)
    before = float(policy.mean_head(policy.net(SEEN))[2].detach())
    for _ in range(300):
        noise = torch.randn(3, dtype=torch.float64, generator=generator)
        decision = policy.decide(SEEN, noise, detached=True)
        reward = -decision.strengths[2]
        policy.learn(-(reward - policy.baseline) * decision.log_probability, reward)
    assert float(policy.mean_head(policy.net(SEEN))[2].detach()) < before - 0.5


def test_the_baseline_follows_the_reward(policy):
    for reward in (1.0, 2.0):
        loss = policy.decide(SEEN, NOISE, detached=True).log_probability
        policy.learn(loss, torch.tensor(reward, dtype=torch.float64))
    assert float(policy.baseline) == pytest.approx(0.9 * 0.1 + 0.1 * 2)


def test_reverse_divergence_is_of_the_student_at_the_temperature():
    student, teacher = torch.randn(2, 6, 5, dtype=torch.float64)
    p, q = (student / 2).softmax(dim=-1), (teacher / 2).softmax(dim=-1)
    expected = 4 * (p * (p / q).log()).sum(dim=-1)
    assert torch.allclose(reverse_divergence(student, teacher, 2.0), expected)
    assert torch.allclose(reverse_divergence(student, student, 2.0), torch.zeros(6, dtype=torch.float64))


def test_confidence_of_certain_and_uniform_predictions():
    logits = torch.tensor([[100.0, 0, 0, 0], [0, 0, 0, 0]], dtype=torch.float64)
    assert confidence(logits).tolist() == pytest.approx([math.log(4) / 2, 0.625], abs=1e-6)


def test_pixels_are_augmented_and_normalised_again(build, images, monkeypatch):
    given = {}

    def negative(pixels, strengths, generator):
        given.update(pixels=pixels, strengths=strengths)
        return 1 - pixels

    monkeypatch.setattr(module, "augment", negative)
    method = build()
    batch = images(4)
    strengths = torch.tensor([0.1, 0.2, 0.3])
    assert torch.allclose(method.augment(batch, strengths), -batch, atol=1e-5)
    assert torch.allclose(given["pixels"], batch * 0.25 + 0.5)
    assert torch.equal(given["strengths"], strengths)


def test_student_and_teacher_see_the_same_view_and_the_clean_images_are_scored(build, images):
    method = build()
    seen = {"student": [], "teacher": []}
    method.network.register_forward_pre_hook(lambda _, inputs: seen["student"].append(inputs[0]))
    method.teacher.network.register_forward_pre_hook(lambda _, inputs: seen["teacher"].append(inputs[0]))
    expected = method.teacher(images())
    seen["teacher"].clear()
    assert torch.equal(method(images()), expected)
    assert torch.equal(seen["student"][0], images())
    assert not torch.equal(seen["student"][1], images())
    assert torch.equal(seen["student"][1], seen["teacher"][1])


@pytest.mark.parametrize("views", [1, 3])
def test_each_view_has_its_own_strengths_and_an_equal_part_of_the_loss(views, build, images, monkeypatch):
    method = build(views=views, opd_weight=0.5, restore_probability=0.0, optimizer="sgd", lr=1e-3)
    chosen = []
    monkeypatch.setattr(method, "augment", lambda batch, strengths: chosen.append(strengths) or 0.9 * batch)
    with torch.no_grad():
        logits, target = method.network(0.9 * images()), method.teacher(0.9 * images())
    expected = float(reverse_divergence(logits, target, 2.0).mean())
    method(images())
    assert len(chosen) == views
    assert len({tuple(strengths.tolist()) for strengths in chosen}) == views
    # The views are the same here, so their mean is the loss of one.
    assert float(method.record["distillation_loss"]) == pytest.approx(expected, rel=1e-4)
    total = float(method.record["teacher_loss"]) + 0.5 * expected
    assert float(method.record["loss"]) == pytest.approx(total, rel=1e-4)
    assert float(method.record["colour_strength"]) == pytest.approx(float(torch.stack(chosen).mean(dim=0)[1]))


def test_what_the_experts_show_is_of_the_clean_images(build, images):
    method = build()
    with torch.no_grad():
        method.network(images())
    clean = {name: adapter.routing.clone() for name, adapter in method.adapters.items()}
    method.reset()
    method(images())
    for name, adapter in method.adapters.items():
        assert torch.equal(adapter.routing, clean[name])
        assert float(adapter.usage.sum()) == pytest.approx(16, rel=1e-4)
        assert adapter.observed


def test_a_reset_takes_the_policy_back(build, images):
    method = build(policy_lr=0.1)
    before = method.state_dict()["parts"]
    for seed in range(2):
        method(images(seed=seed))
    moved = method.state_dict()["parts"]
    assert not any(equal(moved[name], before[name]) for name in ("policy", "policy_optimizer"))
    assert float(method.policy.baseline) != 0
    method.reset()
    assert equal(method.state_dict()["parts"], before)


def test_there_is_no_proximal_loss(build, images):
    method = build()
    method(images())
    assert "proximal_loss" not in method.record
    assert "hp_weight" not in type(method.settings).model_fields
