"""Which norms MoETTA adapts, on every kind of backbone (moetta §1.2)."""

from functools import partial

import pytest
import timm
import torch
from timm.layers import GroupNorm, LayerNorm2d, LayerNormAct2d
from timm.models.convnext import ConvNeXt
from timm.models.resnet import BasicBlock, ResNet
from timm.models.swin_transformer import SwinTransformer

from tta_core import build_method
from tta_core.errors import InputError
from tta_core.methods.moetta.layers import counted_norms
from tta_core.methods.moetta.moe_norm import MoEBatchNorm2d, MoEGroupNorm, MoELayerNorm
from tta_core.methods.moetta.spec import parse_indices

SMALL = {
    "convnext": lambda: ConvNeXt(depths=(1, 1, 2, 1), dims=(8, 16, 24, 32), num_classes=10),
    "swin": lambda: SwinTransformer(
        img_size=32, patch_size=2, window_size=4, embed_dim=12, depths=(1, 2), num_heads=(1, 2), num_classes=10
    ),
    "resnet": lambda: ResNet(BasicBlock, (1, 1, 1, 1), num_classes=10, channels=(8, 12, 16, 20)),
    "resnet-groups": lambda: ResNet(
        BasicBlock, (1, 1, 1, 1), num_classes=10, channels=(8, 12, 16, 20), norm_layer=partial(GroupNorm, num_groups=4)
    ),
}


def published(architecture):
    """The network without memory: only its names and shapes matter."""
    with torch.device("meta"):
        return timm.create_model(architecture, pretrained=False)


def small(backbone):
    torch.manual_seed(0)
    network = SMALL[backbone]()
    head = network.get_classifier()
    torch.nn.init.normal_(head.weight, std=0.5)
    return network


@pytest.mark.parametrize(
    ("architecture", "norms", "first", "last", "trainable"),
    [
        ("vit_base_patch16_224", 24, "blocks.0.norm2", "norm", 497_880),
        ("vit_large_patch16_224", 34, "blocks.7.norm2", "norm", 940_338),
        ("convnext_base", 32, "stages.1.blocks.1.norm", "stages.3.blocks.2.norm", 470_304),
    ],
)
def test_layers_and_parameters_of_the_published_backbones(architecture, norms, first, last, trainable):
    method = build_method("moetta", published(architecture), num_classes=1000)
    names = list(method.layers)
    assert (len(names), names[0], names[-1]) == (norms, first, last)
    assert sum(p.numel() for p in method.trainable_parameters().values()) == trainable


def test_one_sample_activates_its_experts_and_all_routers():
    method = build_method("moetta", published("vit_base_patch16_224"), num_classes=1000, top_k=2)
    assert method.activated_parameters() == 24 * (9 * 768 + 9 + 2 * 2 * 768)


@pytest.mark.parametrize(
    ("architecture", "count", "some"),
    [
        ("vit_base_patch16_224", 25, {0: "blocks.0.norm1", 1: "blocks.0.norm2", 23: "blocks.11.norm2", 24: "norm"}),
        ("vit_large_patch16_224", 49, {14: "blocks.7.norm1", 48: "norm"}),
        ("swin_base_patch4_window7_224", 53, {0: "patch_embed.norm", 1: "layers.0.blocks.0.norm1", 52: "norm"}),
        ("resnet18", 20, {0: "bn1", 1: "layer1.0.bn1", 19: "layer4.1.bn2"}),
        ("resnet50_gn", 53, {0: "bn1", 52: "layer4.2.bn3"}),
        (
            "convnext_base",
            36,
            {
                0: "stages.0.blocks.0.norm",
                3: "stages.1.blocks.0.norm",
                6: "stages.2.blocks.0.norm",
                33: "stages.3.blocks.0.norm",
            },
        ),
    ],
)
def test_index_maps(architecture, count, some):
    names = [name for name, _ in counted_norms(published(architecture))]
    assert len(names) == count
    assert {number: names[number] for number in some} == some


def test_layer_norms_with_their_channels_first_take_no_number():
    norms = [torch.nn.LayerNorm(8), LayerNorm2d(8), LayerNormAct2d(8), torch.nn.GroupNorm(2, 8)]
    assert [name for name, _ in counted_norms(torch.nn.Sequential(*norms))] == ["0", "3"]


@pytest.mark.parametrize(
    ("backbone", "kind", "layers"),
    [
        ("convnext", MoELayerNorm, 4),
        ("swin", MoELayerNorm, 8),
        ("resnet", MoEBatchNorm2d, 12),
        ("resnet-groups", MoEGroupNorm, 12),
    ],
)
def test_every_kind_of_backbone_adapts_and_resets(backbone, kind, layers, images):
    network = small(backbone)
    source = network.eval()(images())
    untouched = {name: module for name, module in network.named_modules() if isinstance(module, LayerNorm2d)}
    method = build_method("moetta", network, num_classes=10, lr=0.05)
    assert len(method.layers) == layers
    assert all(type(layer) is kind for layer in method.layers.values())
    for name, module in untouched.items():
        assert method.network.get_submodule(name) is module
    first = method(images())
    if backbone != "resnet":  # There the statistics of the batch take the place of the running ones.
        assert torch.allclose(first, source, atol=1e-5)
    for size in (16, 5, 1):
        assert method(images(size, size)).isfinite().all()
    assert all(layer.experts_weight.any() for layer in method.layers.values())
    method.reset()
    assert torch.equal(method(images()), first)


def test_a_batch_norm_that_is_not_replaced_keeps_its_running_statistics(images):
    network = small("resnet")
    running = network.bn1.running_mean
    method = build_method("moetta", network, num_classes=10)
    running.fill_(0.5)
    before = running.clone()
    method(images())
    assert isinstance(method.network.bn1, torch.nn.BatchNorm2d)
    assert torch.equal(method.network.bn1.running_mean, before)


def test_average_pooling_and_pre_norm_networks_adapt(tiny_vit, images):
    for changes, present in (({"global_pool": "avg"}, "fc_norm"), ({"pre_norm": True}, "blocks.0.norm1")):
        method = build_method("moetta", tiny_vit(**changes), num_classes=10)
        assert present in method.layers
        for seed in range(2):
            assert method(images(8, seed)).isfinite().all()
        assert method.layers[present].experts_weight.any()


def test_an_average_pooled_row_is_its_own_router_input(tiny_vit, images):
    method = build_method("moetta", tiny_vit(global_pool="avg"), num_classes=10)
    seen = []
    method.layers["fc_norm"].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    method(images(8))
    assert seen[0].shape == (8, 48)
    assert torch.equal(method.layers["fc_norm"].router_input, seen[0])


def test_disabled_norms_stay_plain(tiny_vit):
    method = build_method("moetta", tiny_vit(), num_classes=10, disabled_norms="0-2")
    assert next(iter(method.layers)) == "blocks.1.norm2"
    assert not any(p.requires_grad for p in method.network.blocks[1].norm1.parameters())
    everything = build_method("moetta", tiny_vit(), num_classes=10, disabled_norms=[])
    assert len(everything.layers) == 7


def test_normal_norms_train_their_own_pair(tiny_vit, images):
    method = build_method("moetta", tiny_vit(), num_classes=10, normal_norms="1,6", lr=0.05)
    assert list(method.layers) == ["blocks.1.norm1", "blocks.1.norm2", "blocks.2.norm1", "blocks.2.norm2"]
    before = {name: p.clone() for name, p in method.trainable_parameters().items()}
    assert {"blocks.0.norm2.weight", "blocks.0.norm2.bias", "norm.weight", "norm.bias"} <= set(before)
    method(images())
    assert all(not torch.equal(p, before[name]) for name, p in method.trainable_parameters().items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"disabled_norms": "0,7"}, "disabled_norms = '0,7' names norm 7, but this network has norms 0 to 6"),
        ({"normal_norms": "9"}, "normal_norms = '9' names norm 9"),
        ({"normal_norms": "0-2"}, "'0-2' names norm 0, which is in disabled_norms = '0'"),
        ({"disabled_norms": "3-6", "normal_norms": "2,4"}, "names norm 4, which is in disabled_norms"),
        ({"disabled_norms": "0-6"}, "are all of the norms 0 to 6: leave one to adapt"),
        ({"disabled_norms": "first"}, "'first' is neither auto, nor a range such as 0-3"),
        ({"normal_norms": "all"}, "'all' is neither rest, nor a range such as 0-3"),
        ({"router": "global", "global_router_norm": 7}, "global_router_norm = '7' names norm 7"),
        ({"router": "global", "global_router_norm": 3, "normal_norms": "2"}, "or comes before the global router"),
    ],
)
def test_roles_that_a_norm_cannot_have_are_refused(settings, message, tiny_vit):
    with pytest.raises(InputError, match=message):
        build_method("moetta", tiny_vit(), num_classes=10, **settings)


def test_a_norm_without_an_affine_pair_is_named(tiny_vit):
    network = tiny_vit()
    network.blocks[1].norm1 = torch.nn.LayerNorm(48, elementwise_affine=False)
    with pytest.raises(InputError, match=r"norm 2 of this network, blocks\.1\.norm1, is .*: name it in disabled_norms"):
        build_method("moetta", network, num_classes=10)
    build_method("moetta", network, num_classes=10, disabled_norms="0,2")


def test_a_norm_that_the_network_does_not_run_is_named(tiny_vit, images):
    network = tiny_vit()
    network.spare = torch.nn.LayerNorm(4)
    method = build_method("moetta", network, num_classes=10)
    with pytest.raises(InputError, match="does not use its norm spare: name it in disabled_norms"):
        method(images())


def test_parse_indices():
    assert parse_indices("0-3") == (0, 1, 2, 3)
    assert parse_indices("1,4") == (1, 4)
    assert parse_indices("") == ()
    assert parse_indices("auto", keyword="auto") == ()
