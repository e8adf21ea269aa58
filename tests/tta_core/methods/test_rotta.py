"""RoTTA's memory against a slow one of lists, its losses by hand, and updates written out (Yuan et al. 2023)."""

import math
import random

import pytest
import torch

from tests.states import equal
from tta_core import build_method
from tta_core.methods.common.batch_norm import RunningBatchNorm
from tta_core.methods.rotta import method as module
from tta_core.methods.rotta.memory import BalancedMemory
from tta_core.methods.rotta.method import timeliness_weights


class ListMemory:
    """Algorithm 1 of the paper as one reads it: a list of items for each class, ages that are counted up."""

    def __init__(self, capacity, classes, lambda_timeliness=1.0, lambda_uncertainty=1.0):
        self.capacity, self.classes = capacity, classes
        self.lambdas = lambda_timeliness, lambda_uncertainty
        self.items = {category: [] for category in range(classes)}

    def score(self, age, uncertainty):
        timeliness = 1 / (1 + math.exp(-age / self.capacity))
        return self.lambdas[0] * timeliness + self.lambdas[1] * uncertainty / math.log(self.classes)

    def add(self, name, category, uncertainty):
        sizes = {key: len(items) for key, items in self.items.items()}
        if sizes[category] < self.capacity / self.classes:
            full = sum(sizes.values()) >= self.capacity
            search = [key for key in sizes if sizes[key] == max(sizes.values())] if full else []
        else:
            search = [category]
        candidates = [
            (self.score(item["age"], item["uncertainty"]), key, item["name"])
            for key in search
            for item in self.items[key]
        ]
        accepted = True
        if search:
            worst = max(candidates)
            accepted = worst[0] > self.score(0, uncertainty)
            if accepted:
                self.items[worst[1]] = [item for item in self.items[worst[1]] if item["name"] != worst[2]]
        if accepted:
            self.items[category].append({"name": name, "uncertainty": uncertainty, "age": 0})
        for items in self.items.values():
            for item in items:
                item["age"] += 1

    def content(self):
        return sorted((item["name"], key, item["age"]) for key, items in self.items.items() for item in items)


def images_named(names):
    return torch.tensor(names, dtype=torch.float64).view(-1, 1, 1, 1)


def content(memory):
    names = memory.content().flatten().tolist()
    return sorted(
        (name, kept.category, age) for name, kept, age in zip(names, memory.entries, memory.ages(), strict=True)
    )


@pytest.mark.parametrize(("capacity", "classes"), [(8, 4), (6, 4), (5, 10), (1, 3), (64, 10)])
@pytest.mark.parametrize("lambdas", [(1.0, 1.0), (0.0, 1.0), (1.0, 0.0)])
@pytest.mark.parametrize("skewed", [False, True])
def test_the_memory_holds_what_the_slow_one_holds(capacity, classes, lambdas, skewed):
    rng = random.Random(capacity)
    slow, fast = ListMemory(capacity, classes, *lambdas), BalancedMemory(capacity, classes, *lambdas)
    name = 0
    for size in (1, 7, 3, 20, 40, 64, 64):
        batch = list(range(name, name + size))
        name += size
        for position, number in enumerate(batch):
            category = min(rng.randrange(classes), rng.randrange(classes)) if skewed else rng.randrange(classes)
            uncertainty = rng.random() * math.log(classes)
            slow.add(number, category, uncertainty)
            fast.offer(category, uncertainty, position)
        fast.fetch(images_named(batch))
        assert content(fast) == slow.content()
    assert 0 < len(fast) <= capacity


def test_classes_share_the_memory_whatever_the_stream():
    memory = BalancedMemory(8, 4, 1.0, 1.0)
    for position, category in enumerate([0] * 20 + [1, 2, 3] * 3):
        memory.offer(category, 0.1, position)
    counts = [sum(kept.category == category for kept in memory.entries) for category in range(4)]
    assert counts == [2, 2, 2, 2]


def test_an_uncertain_newcomer_stays_outside():
    memory = BalancedMemory(2, 2, 1.0, 1.0)
    assert memory.offer(0, 0.01, 0)
    assert not memory.offer(0, 0.6, 1)
    assert memory.offer(0, 0.0, 2)
    assert [kept.uncertainty for kept in memory.entries] == [0.0]


def test_one_class_and_full_certainty_are_no_problem():
    memory = BalancedMemory(3, 1, 1.0, 1.0)
    for position in range(5):
        memory.offer(0, 0.0, position)
    assert len(memory) == 3


def test_weights_fall_with_age():
    found = timeliness_weights([0, 1, 64, 640], 64, torch.zeros(1, dtype=torch.float64))
    expected = [math.exp(-age / 64) / (1 + math.exp(-age / 64)) for age in (0, 1, 64, 640)]
    assert found.tolist() == pytest.approx(expected)
    assert found[0] == 0.5


@pytest.fixture
def build(tiny_convnet):
    def make(network=None, **settings):
        return build_method("rotta", (network or tiny_convnet)().double(), num_classes=10, **settings)

    return make


@pytest.fixture
def batch(images):
    return lambda size, seed=0: images(size, seed).double()


class SlowNetwork:
    """A copy of the small convolutional network, run layer by layer with statistics and affine pairs in lists."""

    def __init__(self, network):
        self.layers = list(network)
        norms = [layer for layer in network if isinstance(layer, torch.nn.BatchNorm2d)]
        self.means = [norm.running_mean.clone() for norm in norms]
        self.variances = [norm.running_var.clone() for norm in norms]
        self.affine = [value.detach().clone() for norm in norms for value in (norm.weight, norm.bias)]

    def __call__(self, hidden, momentum=0.0):
        number = 0
        for layer in self.layers:
            if not isinstance(layer, torch.nn.BatchNorm2d):
                hidden = layer(hidden)
                continue
            found = hidden.mean((0, 2, 3)), hidden.var((0, 2, 3), correction=0)
            mean = (1 - momentum) * self.means[number] + momentum * found[0]
            variance = (1 - momentum) * self.variances[number] + momentum * found[1]
            self.means[number], self.variances[number] = mean.detach(), variance.detach()
            weight, bias = self.affine[2 * number : 2 * number + 2]
            shape = (1, -1, 1, 1)
            hidden = (hidden - mean.view(shape)) / (variance.view(shape) + layer.eps) ** 0.5
            hidden = hidden * weight.view(shape) + bias.view(shape)
            number += 1
        return hidden


def test_updates_are_those_written_out(build, batch, tiny_convnet, monkeypatch):
    """Three updates over batches of another size than the update frequency, with a view that mirrors."""
    monkeypatch.setattr(module, "normalised_view", lambda images, context, generator, augment: images.flip(-1))
    method = build(update_frequency=6, capacity=5, lr=0.01, teacher_update=0.2, norm_momentum=0.1)
    student, teacher = (SlowNetwork(tiny_convnet().double().requires_grad_(False)) for _ in range(2))
    for parameter in student.affine:
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(student.affine, lr=0.01)
    memory, seen, updates = ListMemory(5, 10), [], 0
    for seed in range(3):
        images = batch(7, seed)
        scored = teacher(images).detach()
        found = method(images)
        assert torch.allclose(found, scored)
        losses = []
        for image, row in zip(images, scored, strict=True):
            p = row.softmax(0)
            seen.append(image)
            memory.add(len(seen) - 1, int(p.argmax()), -float((p * p.log()).sum()))
            if len(seen) % 6:
                continue
            names, _, ages = zip(*memory.content(), strict=True)
            kept = torch.stack([seen[name] for name in names])
            target = teacher(kept, momentum=0.1).detach().softmax(-1)
            log_probabilities = student(kept.flip(-1), momentum=0.1).log_softmax(-1)
            loss = 0.0
            for number, age in enumerate(ages):
                weight = math.exp(-age / 5) / (1 + math.exp(-age / 5))
                loss = loss - weight * (target[number] * log_probabilities[number]).sum() / len(ages)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            for own, other in zip(teacher.affine, student.affine, strict=True):
                own.copy_(0.8 * own + 0.2 * other.detach())
            losses.append(float(loss.detach()))
        updates += len(losses)
        assert int(method.record["updates"]) == len(losses)
        assert float(method.record["loss"]) == pytest.approx(sum(losses) / len(losses))
    assert updates == 3
    for own, expected in zip(method.trainable_parameters().values(), student.affine, strict=True):
        assert torch.allclose(own, expected, atol=1e-9)
    for network, slow in ((method.network, student), (method.teacher.network, teacher)):
        layers = [m for m in network.modules() if isinstance(m, RunningBatchNorm)]
        for layer, mean, variance in zip(layers, slow.means, slow.variances, strict=True):
            assert torch.allclose(layer.mean, mean)
            assert torch.allclose(layer.variance, variance)


def test_several_updates_in_one_batch(build, batch):
    method = build(update_frequency=4)
    method(batch(11))
    assert int(method.record["updates"]) == 2
    method(batch(1, 1))
    assert int(method.record["updates"]) == 1
    method(batch(1, 2))
    assert int(method.record["updates"]) == 0
    assert "loss" not in method.record


def test_only_updates_move_statistics_and_parameters(build, batch):
    method = build()
    before = method.state_dict()
    method(batch(16))
    after = method.state_dict()
    for part in ("parameters", "buffers"):
        assert before[part].keys() == {"student", "teacher"}
        assert equal(before[part], after[part])
    assert int(method.record["selected"]) >= int(method.record["memory_size"]) > 0
    assert 0 < float(method.record["memory_age"]) <= 16


def test_the_first_batch_gets_the_logits_of_the_source(build, batch, tiny_convnet):
    with torch.no_grad():
        source = tiny_convnet().double()(batch(8))
    assert torch.allclose(build()(batch(8)), source)


def test_the_affine_pair_of_batch_norm_is_trained_and_nothing_else(build, tiny_vit):
    assert set(build().trainable_parameters()) == {"1.weight", "1.bias", "4.weight", "4.bias"}
    on_transformer = build(tiny_vit)
    assert all("norm" in name for name in on_transformer.trainable_parameters())
    assert len(on_transformer.trainable_parameters()) == 14
    assert on_transformer.layers == []


def test_a_memory_with_its_images_survives_saving(build, batch):
    one, other = build(update_frequency=10, lr=0.05), build(update_frequency=10, lr=0.05, seed=9)
    for seed in range(3):
        one(batch(8, seed))
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.memory.content(), other.memory.content())
    assert one.memory.entries == other.memory.entries
    for seed in range(3, 6):
        assert torch.equal(one(batch(8, seed)), other(batch(8, seed)))
    other.reset()
    assert len(other.memory) == 0


def test_settings_say_what_the_student_sees_and_what_counts(build, batch, monkeypatch):
    views = []
    monkeypatch.setattr(
        module, "normalised_view", lambda images, context, generator, augment: views.append(images) or images
    )
    losses = {}
    for name, settings in (
        ("plain", {}),
        ("unweighted", {"timeliness_weighting": False}),
        ("mean", {"mean_over_classes": True}),
        ("no view", {"strong_view": False}),
    ):
        method = build(update_frequency=8, **settings)
        method(batch(8))
        losses[name] = float(method.record["loss"])
    assert len(views) == 3
    assert losses["mean"] == pytest.approx(losses["plain"] / 10)
    assert losses["no view"] == pytest.approx(losses["plain"])
    assert losses["unweighted"] > 2 * losses["plain"]


def test_a_teacher_that_does_not_move_keeps_its_parameters(build, batch):
    method = build(update_frequency=8, teacher_update=0.0, norm_momentum=0.0)
    first = method(batch(8))
    for seed in range(3):
        method(batch(8, seed))
    assert torch.allclose(method.predict(batch(8)), first)
    assert not torch.allclose(method.network(batch(8)), first)
