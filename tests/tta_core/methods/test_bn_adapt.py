"""BN-Adapt on a small network with BatchNorm; the layers have tests of their own."""

import copy

import pytest
import torch
from torch import nn

from tta_core import build_method
from tta_core.errors import InputError
from tta_core.methods.bn_adapt.spec import SPEC


@pytest.fixture
def build(tiny_convnet):
    def make(**settings):
        return build_method("bn-adapt", tiny_convnet().double(), num_classes=10, **settings)

    return make


@pytest.fixture
def batch(images):
    return lambda size, seed=0: images(size, seed).double()


def in_train_mode(network, images):
    """What PyTorch predicts with the statistics of the batch."""
    with torch.no_grad():
        return copy.deepcopy(network).train()(images)


def test_without_the_source_it_is_train_mode(build, batch, tiny_convnet):
    network = tiny_convnet().double()
    for size in (16, 3, 1):
        assert torch.allclose(build(preset="nado")(batch(size)), in_train_mode(network, batch(size)))


def test_the_source_counts_as_so_many_images(build, batch, tiny_convnet):
    """Each layer is given, by hand, the statistics of what comes in, blended with its own."""
    network, images = tiny_convnet().double(), batch(8)
    hidden = images
    with torch.no_grad():
        for layer in network:
            if isinstance(layer, nn.BatchNorm2d):
                mean = hidden.mean((0, 2, 3))
                variance = hidden.var((0, 2, 3))  # Unbiased.
                layer.running_mean.copy_((24 * layer.running_mean + 8 * mean) / 32)
                layer.running_var.copy_((24 * layer.running_var + 8 * variance) / 32)
            hidden = layer(hidden)
    assert torch.allclose(build(source_weight=24)(images), hidden)


def test_much_weight_is_the_source(build, batch, tiny_convnet):
    with torch.no_grad():
        source = tiny_convnet().double()(batch(4))
    assert torch.allclose(build(source_weight=1e15)(batch(4)), source)


def test_blending_forgets_and_running_remembers(build, batch):
    blend, running = build(), build(statistics="running", momentum=0.3)
    first = blend(batch(8)), running(batch(8))
    for method in (blend, running):
        method(batch(8, seed=1) * 3)
    assert torch.equal(blend(batch(8)), first[0])
    assert not torch.allclose(running(batch(8)), first[1])
    running.reset()
    assert torch.equal(running(batch(8)), first[1])


def test_a_running_average_of_momentum_one_is_the_batch_alone(build, batch):
    running, alone = build(statistics="running", momentum=1.0), build(source_weight=0)
    for seed in (0, 1):
        assert torch.allclose(running(batch(8, seed)), alone(batch(8, seed)))


def test_ema_is_a_forward_in_train_mode_and_one_in_eval_mode(build, batch, tiny_convnet):
    method, network = build(preset="ema"), tiny_convnet().double()
    for seed, size in enumerate((8, 3)):
        with torch.no_grad():
            network.train()(batch(size, seed))
            assert torch.allclose(method(batch(size, seed)), network.eval()(batch(size, seed)))


@pytest.mark.parametrize("statistics", ["running", "ema"])
def test_predicting_moves_no_average(statistics, build, batch):
    method = build(statistics=statistics)
    method(batch(8))
    before = method.state_dict()["buffers"]["student"]
    method.predict(batch(8, seed=1))
    after = method.state_dict()["buffers"]["student"]
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_what_is_scored_is_said_truthfully():
    assert SPEC.scores_of(SPEC.resolve("recommended", {})) == "pre-update"
    assert SPEC.scores_of(SPEC.resolve("running", {})) == "post-update"
    assert SPEC.scores_of(SPEC.resolve("ema", {})) == "post-update"


def test_nothing_is_trained_and_nothing_selected(build, batch):
    method = build()
    method(batch(4))
    assert method.trainable_parameters() == {}
    assert int(method.record["selected"]) == 0
    assert "loss" not in method.record


def test_a_vision_transformer_is_refused(tiny_vit):
    with pytest.raises(InputError, match="has no BatchNorm: choose a backbone with BatchNorm"):
        build_method("bn-adapt", tiny_vit(), num_classes=10)


def test_bounds_are_kept(tiny_convnet):
    for settings in ({"source_weight": -1}, {"momentum": 1.5}, {"statistics": "both"}):
        with pytest.raises(InputError, match="is not allowed"):
            build_method("bn-adapt", tiny_convnet(), num_classes=10, **settings)
