"""Which normalisation layers are trained where the last part of the network is left out."""

import pytest
import timm
from timm.models.vision_transformer import VisionTransformer

from tta_core.methods.common.layer_choice import trained_norms
from tta_core.methods.common.surgery import norm_layers


def chosen(network, rule):
    keep = trained_norms(rule, network)
    return [name for name, _ in norm_layers(network) if keep(name)]


def transformer(depth, **changes):
    shape = {"img_size": 16, "patch_size": 8, "embed_dim": 12, "depth": depth, "num_heads": 3, "num_classes": 10}
    return VisionTransformer(**shape | changes)


def norms_of_blocks(numbers):
    return [f"blocks.{number}.norm{one}" for number in numbers for one in (1, 2)]


def test_all_is_every_norm():
    network = transformer(3)
    assert chosen(network, "all") == [name for name, _ in norm_layers(network)]


@pytest.mark.parametrize("rule", ["not_last_quarter", "legacy_names"])
def test_of_twelve_blocks_nine_are_trained_and_the_final_norm_is_not(rule):
    assert chosen(transformer(12), rule) == norms_of_blocks(range(9))


@pytest.mark.parametrize(("depth", "trained"), [(1, 1), (3, 2), (4, 3), (24, 18)])
def test_the_quarter_follows_the_depth(depth, trained):
    assert chosen(transformer(depth), "not_last_quarter")[-1] == f"blocks.{trained - 1}.norm2"


def test_the_released_names_drop_the_middle_of_a_deep_transformer():
    assert chosen(transformer(24), "legacy_names") == norms_of_blocks([*range(9), *range(12, 24)])


def test_average_pooling_moves_the_final_norm_to_a_name_that_the_release_does_not_know():
    network = transformer(12, global_pool="avg")
    assert chosen(network, "not_last_quarter") == norms_of_blocks(range(9))
    assert chosen(network, "legacy_names") == [*norms_of_blocks(range(9)), "fc_norm"]


def test_a_norm_before_the_blocks_is_trained():
    assert chosen(transformer(12, pre_norm=True), "not_last_quarter")[0] == "norm_pre"


def test_stages_of_a_resnet():
    network = timm.create_model("resnet18", pretrained=False)
    names = chosen(network, "not_last_quarter")
    assert names == chosen(network, "legacy_names")
    assert names[0] == "bn1"
    assert not any(name.startswith("layer4") for name in names)
    assert any(name.startswith("layer3.1") for name in names)


def test_blocks_of_all_stages_count_in_one_row():
    network = timm.create_model("convnext_atto", pretrained=False)  # 2 + 2 + 6 + 2 blocks
    names = chosen(network, "not_last_quarter")
    assert names[-1] == "stages.2.blocks.4.norm"
    assert "stages.2.downsample.0" in names
    assert not {"stages.2.blocks.5.norm", "stages.3.downsample.0", "head.norm"} & set(names)


def test_a_network_without_blocks_is_counted_by_its_norms(tiny_convnet):
    assert chosen(tiny_convnet(), "not_last_quarter") == ["1"]
