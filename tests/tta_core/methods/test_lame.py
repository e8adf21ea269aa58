import math
from itertools import pairwise

import pytest
import torch

from tta_core import build_method
from tta_core.errors import InputError
from tta_core.methods.lame.laplacian import affinity, assign, knn_affinity, linear_affinity, rbf_affinity


def unit(rows):
    return torch.nn.functional.normalize(torch.tensor(rows, dtype=torch.float64), dim=-1)


def on_circle(*degrees):
    return unit([[math.cos(math.radians(d)), math.sin(math.radians(d))] for d in degrees])


def slow_assignments(predicted, weights, steps):
    """The step as the paper writes it, number by number."""
    z = [list(row) for row in predicted]
    for _ in range(steps):
        new = []
        for i, row in enumerate(predicted):
            score = [
                q * math.exp(sum(weights[i][j] * z[j][c] for j in range(len(predicted)))) for c, q in enumerate(row)
            ]
            new.append([s / sum(score) for s in score])
        z = new
    return torch.tensor(z, dtype=torch.float64)


def objective(log_z, q, weights):
    z = log_z.exp()
    return (z * (log_z - q.log())).sum() - (weights * (z @ z.T)).sum()


@pytest.fixture
def build(tiny_vit):
    def make(dtype=torch.float32, **settings):
        return build_method("lame", tiny_vit().to(dtype), num_classes=10, **settings)

    return make


def test_nearest_neighbours_by_hand():
    found = knn_affinity(on_circle(0, 10, 25, 100), 2)
    assert found.tolist() == [[0, 1, 1, 0], [1, 0, 1, 0], [1, 1, 0, 0], [0, 1, 1, 0]]
    assert knn_affinity(on_circle(0, 10, 25, 100), 1).tolist()[3] == [0, 0, 1, 0]


def test_a_batch_with_few_samples_has_few_neighbours():
    assert knn_affinity(on_circle(0, 10), 5).tolist() == [[0, 1], [1, 0]]
    for kind in ("rbf", "linear"):
        assert affinity(torch.randn(1, 3), kind, 5, False).item() == pytest.approx(1)
    assert affinity(torch.randn(1, 3), "knn", 5, False).tolist() == [[0]]


def test_gaussian_by_hand():
    points = on_circle(0, 60, 180)
    distances = [1, math.sqrt(3), 2]  # 0-60, 60-180, 0-180
    width = (1 + 1 + math.sqrt(3)) / 3  # Mean distance to the nearest other, the second if the sample itself counts.
    near, far, opposite = (math.exp(-(d**2) / (2 * width**2)) for d in distances)
    expected = torch.tensor([[1, near, opposite], [near, 1, far], [opposite, far, 1]], dtype=torch.float64)
    assert torch.allclose(rbf_affinity(points, 2), expected)
    width = (2 + math.sqrt(3) + 2) / 3  # To the second nearest, and so to the last if more are asked for.
    assert rbf_affinity(points, 3)[0, 1].item() == pytest.approx(math.exp(-1 / (2 * width**2)))
    assert torch.equal(rbf_affinity(points, 9), rbf_affinity(points, 3))
    # The first neighbour is the sample itself: the Gaussian is infinitely narrow.
    assert torch.equal(rbf_affinity(points, 1), torch.eye(3, dtype=torch.float64))


def test_equal_images_have_finite_affinities():
    for kind in ("knn", "rbf", "linear"):
        assert affinity(torch.ones(4, 3), kind, 2, False).isfinite().all()
    assert torch.allclose(rbf_affinity(on_circle(5, 5, 5), 1), torch.ones(3, 3, dtype=torch.float64))


def test_inner_products_by_hand():
    expected = torch.tensor([[1, 0.5, -1], [0.5, 1, -0.5], [-1, -0.5, 1]], dtype=torch.float64)
    assert torch.allclose(linear_affinity(on_circle(0, 60, 180)), expected)


def test_the_length_of_features_does_not_matter_and_symmetry_is_the_mean_of_both_directions():
    features = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    for kind in ("knn", "rbf", "linear"):
        assert torch.allclose(affinity(features, kind, 2, False), affinity(3 * features, kind, 2, False), atol=1e-5)
    one = affinity(features, "knn", 2, False)
    assert not torch.equal(one, one.T)
    assert torch.equal(affinity(features, "knn", 2, True), (one + one.T) / 2)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_steps_follow_the_formula(steps):
    generator = torch.Generator().manual_seed(0)
    predicted = torch.randn(5, 3, generator=generator, dtype=torch.float64).softmax(dim=-1)
    weights = torch.rand(5, 5, generator=generator, dtype=torch.float64)
    found = assign(predicted, weights, max_steps=steps, tolerance=0)
    assert torch.allclose(found.log_probabilities.exp(), slow_assignments(predicted.tolist(), weights.tolist(), steps))
    assert found.iterations == steps


def test_it_stops_when_nothing_moves_at_a_better_objective():
    generator = torch.Generator().manual_seed(1)
    q = torch.randn(8, 4, generator=generator, dtype=torch.float64).softmax(dim=-1)
    features = torch.randn(8, 5, generator=generator, dtype=torch.float64)
    weights = affinity(features, "rbf", 3, False)  # Positive definite: every step is a descent.
    values = [
        objective(assign(q, weights, max_steps=steps, tolerance=0).log_probabilities, q, weights)
        for steps in range(1, 30)
    ]
    assert all(after <= before + 1e-12 for before, after in pairwise(values))
    found = assign(q, weights, max_steps=500, tolerance=1e-12)
    assert 3 < found.iterations < 500
    again = torch.log_softmax(q.log() + weights @ found.log_probabilities.exp(), dim=-1)
    assert (again.exp() - found.log_probabilities.exp()).abs().max() <= 1e-6


def test_stopping_early_changes_nothing():
    generator = torch.Generator().manual_seed(1)
    q = torch.randn(8, 4, generator=generator).softmax(dim=-1)
    weights = affinity(torch.randn(8, 5, generator=generator), "knn", 3, False)
    early = assign(q, weights, max_steps=60, tolerance=1e-3, stop_early=True)
    late = assign(q, weights, max_steps=60, tolerance=1e-3)
    assert early.iterations < 60
    assert late.iterations == early.iterations
    assert torch.equal(late.log_probabilities, early.log_probabilities)
    # Further steps would have moved it.
    assert not torch.equal(assign(q, weights, max_steps=60, tolerance=0).log_probabilities, late.log_probabilities)


def test_the_method_scores_log_probabilities_of_the_batch(build, tiny_vit, images):
    method = build(torch.float64, tolerance=0.0, max_steps=4, lambda_laplacian=0.5)
    network, batch = tiny_vit().double(), images(12).double()
    features = network.forward_head(network.forward_features(batch), pre_logits=True)
    weights = 0.5 * affinity(features, "knn", 5, True)
    expected = slow_assignments(network(batch).softmax(dim=-1).tolist(), weights.tolist(), 4)
    found = method(batch)
    assert torch.allclose(found.exp(), expected)
    assert torch.allclose(found.exp().sum(dim=-1), torch.ones(12).double())
    assert method.record["iterations"] == 4
    changed = (expected.argmax(dim=-1) != network(batch).argmax(dim=-1)).sum()
    assert method.record["changed"] == changed
    assert "loss" not in method.record


@pytest.mark.parametrize("kind", ["knn", "rbf", "linear"])
def test_one_image_alone_gets_the_class_of_the_source(kind, build, tiny_vit, images):
    found, source = build(affinity=kind)(images(1)).exp(), tiny_vit()(images(1)).softmax(dim=-1)
    if kind == "knn":
        assert torch.allclose(found, source, atol=1e-6)
    else:  # It agrees with itself, and so becomes more certain.
        assert found.argmax() == source.argmax()
        assert found.max() > source.max()


def test_no_weight_leaves_the_predictions(build, tiny_vit, images):
    method = build(lambda_laplacian=0.0)
    assert torch.allclose(method(images()).exp(), tiny_vit()(images()).softmax(dim=-1), atol=1e-6)
    assert (method.record["changed"], method.record["iterations"]) == (0, 3)


def test_a_batch_leaves_nothing_behind(build, images):
    method = build()
    first = method(images())
    method(images(seed=1))
    assert torch.equal(method(images()), first)
    assert torch.equal(method.predict(images()), first)
    assert method.parts() == {}


def test_neighbours_decide_together(images):
    # Four samples of one place, one of them predicted otherwise, and one far away.
    q = torch.tensor([[0.8, 0.2], [0.8, 0.2], [0.8, 0.2], [0.4, 0.6], [0.1, 0.9]])
    weights = knn_affinity(on_circle(0, 1, 2, 3, 180), 3).float()
    weights[4] = 0
    found = assign(q, weights, max_steps=100, tolerance=1e-8).log_probabilities
    assert found.argmax(dim=-1).tolist() == [0, 0, 0, 0, 1]


def test_presets_are_published_configurations(build):
    def of(preset):
        settings = build(preset=preset).settings
        return settings.affinity, settings.neighbours, settings.symmetric

    assert of("official") == of("paper") == ("rbf", 5, False)
    assert of("foa") == of("recommended") == ("knn", 5, True)
    assert of("benchmark-tta") == ("knn", 1, False)


def test_values_that_mean_nothing_are_refused(build):
    with pytest.raises(InputError, match="neighbours = 0 is not allowed"):
        build(neighbours=0)
    with pytest.raises(InputError, match="affinity = 'cosine' is not allowed"):
        build(affinity="cosine")
