"""Spread of the alignment of inputs with the source's spectral experts."""

import math

import numpy as np
import pytest
import torch
from timm.models.convnext import ConvNeXt
from timm.models.vision_transformer import VisionTransformer

from tta_core.diagnostics.alignment import alignment_std, chosen_linears
from tta_core.methods.registry import methods

LINEARS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")

WATCHED = [name for name, spec in methods().items() if spec.takes(["transformer"]) and not spec.episodic]
"""An episodic method predicts each image with weights of its own, so that there is no one network to watch."""


def test_spread_computed_by_hand():
    # Tokens along (1, 0), (0, 1), (0.6, 0.8) whatever their length; the second direction is the first axis.
    x = torch.tensor([[[2.0, 0.0], [0.0, 5.0]], [[3.0, 4.0], [0.6, 0.8]]])
    spread = alignment_std(x, torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    assert spread.tolist() == pytest.approx([np.std([0, 1, 0.8, 0.8], ddof=1), np.std([1, 0, 0.6, 0.6], ddof=1)])


def test_tokens_that_are_all_alike_have_no_spread():
    assert alignment_std(torch.ones(2, 3, 4), torch.eye(4)).tolist() == [0] * 4


def test_first_middle_and_last_three_blocks_are_chosen():
    network = VisionTransformer(img_size=16, patch_size=8, embed_dim=8, depth=12, num_heads=1, num_classes=2)
    blocks = (0, 6, 9, 10, 11)
    assert list(chosen_linears(network)) == [f"blocks.{b}.{linear}" for b in blocks for linear in LINEARS]
    shallow = VisionTransformer(img_size=16, patch_size=8, embed_dim=8, depth=2, num_heads=1, num_classes=2)
    assert list(chosen_linears(shallow)) == [f"blocks.{b}.{linear}" for b in (0, 1) for linear in LINEARS]
    convnext = ConvNeXt(depths=(1, 1, 1, 1), dims=(8,) * 4, num_classes=2)
    names = [f"stages.{stage}.blocks.0.mlp.{linear}" for stage in range(4) for linear in ("fc1", "fc2")]
    assert list(chosen_linears(convnext)) == names
    assert chosen_linears(torch.nn.Linear(2, 2)) == {}


def test_source_values_are_those_of_the_inputs_and_source_weights(make_scene, watch):
    scene = make_scene("source", batch_size=8)
    watched = watch(scene, ("alignment",), every=4)
    network, moments, inputs = scene.method.network, watched.keeper.moments, {}
    for layer in chosen_linears(network):
        network.get_submodule(layer).register_forward_hook(
            lambda module, given, _, layer=layer: inputs.update({layer: given[0]})
        )
    with torch.no_grad():
        network(moments[4].images)
    for layer, linear in chosen_linears(network).items():
        tokens = inputs[layer].flatten(0, 1).double()
        vh = torch.linalg.svd(linear.weight.detach().double(), full_matrices=False).Vh
        spread = (tokens / tokens.norm(dim=1, keepdim=True) @ vh.T).std(dim=0)
        found = {name: watched.values(name, by=("step", "layer"))[4, layer] for name in quantities()}
        assert found["alignment_std"] == pytest.approx(float(spread.mean()), rel=1e-4)
        for quantile in (10, 50, 90):
            expected = float(spread.quantile(quantile / 100))
            assert found[f"alignment_std_q{quantile}"] == pytest.approx(expected, rel=1e-4)


def quantities():
    return ("alignment_std", "alignment_std_q10", "alignment_std_q50", "alignment_std_q90")


@pytest.mark.parametrize("name", WATCHED)
def test_every_method_is_measured_in_the_same_layers(name, make_scene, watch):
    watched = watch(make_scene(name, preset="digits-c"), ("alignment",), every=4)
    layers = [f"blocks.{block}.{linear}" for block in range(3) for linear in LINEARS]
    for quantity in quantities():
        values = watched.values(quantity, by=("step", "layer"))
        assert set(values) == {(step, layer) for step in (0, 4, 8) for layer in layers}
        assert all(0 < value < 1 for value in values.values())
    of_source = watched.values("alignment_std_source", by=("layer",))
    assert set(of_source) == {(layer,) for layer in layers}
    if name == "source":
        means = watched.values("alignment_std", by=("step", "layer"))
        assert means[0, layers[0]] != of_source[layers[0],], "fog is not clean"


def test_layers_that_a_method_has_split_are_read_as_one(make_scene, watch):
    whole = watch(make_scene("imse", retrieval="none"), ("alignment",), every=9)
    split = watch(make_scene("imse", retrieval="none", decompose_qkv=True), ("alignment",), every=9)
    first = {place: value for place, value in split.values("alignment_std").items() if place[0] == 0}
    assert len(first) == 12
    for place, value in first.items():
        assert value == pytest.approx(whole.values("alignment_std")[place], rel=1e-3)
        assert not math.isnan(value)
