"""The moving average and the stochastic restore."""

import pytest
import torch
from torch import nn

from tta_core.methods.common.teacher import MeanTeacher, random_positions, restore


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    network[0].requires_grad_(False)
    return network


def test_the_teacher_starts_equal_and_shares_what_is_not_trained(network):
    teacher = MeanTeacher(network)
    assert teacher.network[0].weight is network[0].weight
    assert teacher.network[1].weight is not network[1].weight
    assert list(teacher.parameters) == ["1.weight", "1.bias"]
    images = torch.randn(5, 3)
    assert torch.equal(teacher(images), network(images))
    assert not teacher(images).requires_grad
    assert network[1].weight.requires_grad


def test_the_teacher_follows_the_student(network):
    teacher = MeanTeacher(network)
    before, student = network[1].weight.detach().clone(), torch.ones(2, 4)
    with torch.no_grad():
        network[1].weight.copy_(student)
    teacher.update(0.9)
    teacher.update(0.9)
    assert torch.allclose(teacher.network[1].weight, 0.81 * before + 0.19 * student)


@pytest.mark.parametrize("probability", [0.001, 0.01, 0.3, 0.999])
def test_positions_are_drawn_with_their_probability(probability):
    count, generator = 10_000, torch.Generator().manual_seed(0)
    drawn = torch.zeros(count)
    runs = 200
    for _ in range(runs):
        positions = random_positions(count, probability, generator)
        assert (positions.diff() > 0).all()
        drawn[positions] += 1
    deviation = (probability * (1 - probability) / runs) ** 0.5
    # The first, the middle and the last stretch alike: nothing is lost at either end.
    for part in drawn.chunk(5):
        assert float(part.mean() / runs) == pytest.approx(probability, abs=4 * deviation / len(part) ** 0.5)


def test_neighbours_are_drawn_independently():
    count, probability = 4_000_000, 0.05
    drawn = torch.zeros(count)
    drawn[random_positions(count, probability, torch.Generator().manual_seed(0))] = 1
    pairs = count * probability**2
    for lag in (1, 2, 7):
        assert float(drawn[:-lag] @ drawn[lag:]) == pytest.approx(pairs, abs=4 * pairs**0.5)


def test_a_drawing_that_needs_a_second_chunk_goes_on(monkeypatch):
    monkeypatch.setattr(
        "tta_core.methods.common.teacher.math.sqrt", lambda expected: -expected / 12
    )  # Chunks half as long.
    positions = random_positions(5000, 0.1, torch.Generator().manual_seed(0))
    assert 400 < len(positions) < 600
    assert (positions.diff() > 0).all()
    assert 4900 < int(positions[-1]) < 5000


@pytest.mark.parametrize(("probability", "count"), [(0.0, 0), (1.0, 12)])
def test_none_or_all_positions(probability, count):
    generator = torch.Generator()
    before = generator.get_state()
    assert random_positions(12, probability, generator).tolist() == list(range(count))
    assert torch.equal(generator.get_state(), before)


def test_restore_sets_back_the_given_elements_and_no_others():
    parameters = {"a": torch.zeros(2, 3), "b": torch.zeros(4), "c": torch.zeros(1, 2)}
    source = {"c": torch.full((1, 2), 9.0), "a": torch.arange(1.0, 7).view(2, 3), "b": torch.full((4,), 7.0)}
    assert int(restore(parameters, source, torch.tensor([0, 4, 6, 9, 11]))) == 5
    expected = torch.tensor([1, 0, 0, 0, 5, 0, 7, 0, 0, 7, 0, 9.0])
    assert torch.equal(torch.cat([p.flatten() for p in parameters.values()]), expected)
    assert int(restore(parameters, source, torch.arange(0))) == 0
    assert torch.equal(torch.cat([p.flatten() for p in parameters.values()]), expected)
