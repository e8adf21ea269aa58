"""Routing tables and what follows from them."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from tta_core.diagnostics.observer import Observer
from tta_core.diagnostics.routing import collapsed, mutual_information, relative_entropy


def test_independent_routing_carries_no_information():
    assert mutual_information(np.outer([1.0, 3.0, 2.0], [4.0, 0.0, 1.0])) == pytest.approx(0, abs=1e-12)


def test_deterministic_routing_carries_the_whole_entropy():
    assert mutual_information(np.diag([5.0, 5.0, 5.0])) == pytest.approx(math.log(3))
    shares = np.array([0.5, 0.25, 0.25])
    assert mutual_information(np.diag(8 * shares)) == pytest.approx(-(shares * np.log(shares)).sum())


def test_information_of_a_table_computed_by_hand():
    # Joint 3/8, 1/8 / 1/8, 3/8 with uniform margins: ln 2 minus the entropy of (3/4, 1/4).
    expected = math.log(2) + 0.75 * math.log(0.75) + 0.25 * math.log(0.25)
    assert mutual_information(np.array([[3.0, 1.0], [1.0, 3.0]])) == pytest.approx(expected)


def test_relative_entropy_is_one_at_balance_and_zero_for_one_expert():
    assert relative_entropy(np.full(5, 0.2)) == pytest.approx(1)
    assert relative_entropy(np.array([1.0, 0.0])) == 0
    assert math.isnan(relative_entropy(np.array([1.0])))


@pytest.mark.parametrize(
    ("shares", "alarm"),
    [
        ([1 / 9] * 9, False),
        ([0.5] + [0.0625] * 8, False),  # The limit of moetta §7.3, for nine experts.
        ([0.504] + [0.062] * 8, True),
        ([0.4, 0.4, 0.2] + [0.0] * 6, True),  # No expert has half, but the entropy is below half of ln 9.
        ([0.5, 0.5], False),
        ([0.7, 0.3], False),
        ([0.75, 0.25], True),
        ([1.0, 0.0], True),
        ([1.0], False),
    ],
    ids=str,
)
def test_collapse(shares, alarm):
    assert collapsed(np.array(shares)) is alarm


def test_tables_count_the_samples_of_each_domain(make_scene, watch):
    scene = make_scene("moetta", "mixed", preset="digits-c", num_experts=3)
    watched = watch(scene, ("routing",), every=3)
    table = watched.values("routing", by=("layer", "domain", "item"))
    layers = list(scene.method.layers)
    for layer in layers:
        for domain in scene.order.domains:
            assert sum(table[layer, domain, expert] for expert in range(3)) == pytest.approx(20)
        usage = scene.method.diagnostics()["expert_usage"][layer]
        for expert in range(3):
            served = sum(table[layer, domain, expert] for domain in scene.order.domains)
            assert served / 60 == pytest.approx(usage[expert])
        whole = np.array([[table[layer, domain, expert] for expert in range(3)] for domain in scene.order.domains])
        information = watched.values("routing_information", by=("layer",))[layer,]
        assert information == pytest.approx(mutual_information(whole))
        assert watched.values("routing_entropy", by=("layer",))[layer,] == pytest.approx(
            relative_entropy(whole.sum(0) / 60)
        )
        assert watched.values("routing_collapse", by=("layer",))[layer,] in (0, 1)


def test_scalars_of_a_step_are_those_of_the_layer(make_scene, watch):
    scene = make_scene("moetta", preset="digits-c", num_experts=3)
    watched = watch(scene, ("routing",), every=1)
    for name, layer in scene.method.layers.items():
        # What the layer keeps is of the last forward.
        probabilities = layer.probabilities
        key = (8, name)
        top1 = watched.values("top1_probability", by=("step", "layer"))[key]
        assert top1 == pytest.approx(float(probabilities.max(dim=1).values.mean()))
        chosen = torch.bincount(probabilities.argmax(dim=1), minlength=3) / len(probabilities)
        balance = 3 * float((chosen * probabilities.mean(dim=0)).sum())
        assert watched.values("load_balance", by=("step", "layer"))[key] == pytest.approx(balance)
    changes = watched.values("routing_change", by=("step", "layer"))
    assert {changes[0, name] for name in scene.method.layers} == {0.0}, "nothing has moved before the first update"


def test_change_is_against_the_router_before_the_stream(make_scene, watch):
    scene = make_scene("moetta", preset="digits-c", num_experts=3)
    name, layer = next(iter(scene.method.layers.items()))
    initial = layer.router.weight.detach().clone(), layer.router.bias.detach().clone()
    changes = watch(scene, ("routing",), every=1).values("routing_change", by=("step", "layer"))
    first_choice = nn.functional.linear(layer.router_input, *initial).argmax(dim=1)
    expected = float((layer.routing.argmax(dim=1) != first_choice).float().mean())
    assert changes[8, name] == pytest.approx(expected)


def test_a_router_that_is_turned_around_sends_everybody_elsewhere(make_scene, watch):
    scene = make_scene("moetta", preset="digits-c", num_experts=2, lr=1e-12)

    class TurnsRouters(Observer):
        applies_to = classmethod(lambda cls, method: True)

        def before_step(self, moment):
            if moment.step == 1:
                for layer in scene.method.layers.values():
                    layer.router.weight.data.neg_()

        def measurements(self):
            return []

    changes = watch(scene, ["routing"], every=1, others=[TurnsRouters(scene)]).values("routing_change")
    assert {value for (step, *_), value in changes.items() if step == 0} == {0}
    assert {value for (step, *_), value in changes.items() if step == 1} == {1}


def test_repeated_forwards_of_a_step_are_counted_once(make_scene, watch):
    """Only the first forward of a step is of the batch as it came."""
    scene = make_scene("moetta", preset="digits-c", num_experts=3)
    once, step = scene.method.step, []

    def twice(images):
        logits = once(images)
        scene.method.predict(images.flip(0))
        with torch.no_grad():
            scene.method.network(images[:1])
        step.append(len(images))
        return logits

    scene.method.step = twice
    table = watch(scene, ("routing",)).values("routing", by=("layer", "domain", "item"))
    assert len(step) == 9
    layer = next(iter(scene.method.layers))
    assert sum(table[layer, "fog", expert] for expert in range(3)) == 20


def test_layers_that_share_a_router_are_compared_with_its_first_state(make_scene, watch):
    scene = make_scene("moetta", preset="digits-c", num_experts=3, router="global")
    watched = watch(scene, ("routing",), every=4)
    changes = watched.values("routing_change", by=("step", "layer"))
    assert {layer for _, layer in changes} == set(scene.method.layers)
    assert {changes[0, layer] for layer in scene.method.layers} == {0.0}
    assert len({changes[8, layer] for layer in scene.method.layers}) == 1
