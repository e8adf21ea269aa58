"""Features before the head."""

import math

import numpy as np
import pytest
import torch

from tta_core.diagnostics.features import js_divergence


def test_divergence_of_equal_distributions_is_zero_and_of_disjoint_ones_ln_2():
    shares = np.array([0.25, 0.75, 0.0])
    assert js_divergence(shares, shares) == 0
    assert js_divergence(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == pytest.approx(math.log(2))


def test_divergence_computed_by_hand():
    one, other = np.array([0.5, 0.5]), np.array([1.0, 0.0])
    # The middle is (3/4, 1/4).
    to_one = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    to_other = math.log(1 / 0.75)
    assert js_divergence(one, other) == pytest.approx((to_one + to_other) / 2)
    assert js_divergence(one, other) == js_divergence(other, one)


@pytest.mark.parametrize("stream", ["continual", "mixed"])
def test_both_follow_from_the_features_of_the_whole_domain(stream, make_scene, watch):
    scene = make_scene("source", stream)
    watched = watch(scene, ("features",))
    network, features, order = scene.method.network, {}, scene.order
    for number, name in enumerate(order.domains):
        index = order.index[order.domain == number]
        images = scene.open_domain(name)
        with torch.no_grad():
            pixels = scene.normalise(images.images[index])
            pooled = network.forward_head(network.forward_features(pixels), pre_logits=True)
        features[name] = pooled.double().numpy(), images.labels[index]
    scatter = watched.values("intra_class_scatter", by=("domain",))
    for name, (values, labels) in features.items():
        centroids = np.stack([values[labels == label].mean(axis=0) for label in labels])
        assert scatter[name,] == pytest.approx(((values - centroids) ** 2).sum(axis=1).mean(), rel=1e-4)
    shares = {n: torch.from_numpy(v).softmax(dim=1).mean(dim=0).numpy() for n, (v, _) in features.items()}
    divergences = watched.values("js_divergence", by=("domain", "against"))
    assert set(divergences) == {("fog", "snow"), ("snow", "frost")}
    for (one, other), value in divergences.items():
        assert value == pytest.approx(js_divergence(shares[one], shares[other]), rel=1e-3)
        assert value > 0
