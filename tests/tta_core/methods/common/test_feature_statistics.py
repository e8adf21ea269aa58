import pytest
import torch
from torch import nn

from tta_core.errors import InputError
from tta_core.methods.common.feature_statistics import (
    FeatureStatistics,
    class_token_features,
    discrepancy,
    source_statistics,
    with_class_token,
)
from tta_core.methods.common.transformer import embed


def features_of(network, images):
    return class_token_features(network, embed(network, images))


def test_each_block_is_read_through_the_norm_that_follows(tiny_vit, images):
    network = tiny_vit()
    seen = {}
    for name in ("blocks.1.norm1", "blocks.2.norm1", "norm"):
        network.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: seen.__setitem__(name, output[:, 0].clone())
        )
    logits = network(images(4))
    expected = torch.cat(list(seen.values()), dim=1)
    found, found_logits = features_of(network, images(4))
    assert found.shape == (4, 3 * 48)
    assert torch.allclose(found, expected, atol=1e-6)
    assert torch.allclose(found_logits, logits, atol=1e-6)
    assert torch.allclose(network.head(found[:, -48:]), found_logits, atol=1e-6)


def test_the_last_feature_of_an_averaging_network_is_what_its_classifier_reads(tiny_vit, images):
    network = tiny_vit(global_pool="avg")
    found, logits = features_of(network, images(4))
    assert torch.allclose(network.head(found[:, -48:]), network(images(4)), atol=1e-6)
    assert torch.allclose(logits, network(images(4)), atol=1e-6)


def test_prompts_after_the_class_token_change_its_features(tiny_vit, images):
    network = tiny_vit()
    tokens = embed(network, images(4))
    prompts = torch.randn(4, 2, 48, generator=torch.Generator().manual_seed(0))
    found, _ = class_token_features(network, torch.cat([tokens[:, :1], prompts, tokens[:, 1:]], dim=1))
    plain, _ = class_token_features(network, tokens)
    assert found.shape == plain.shape
    assert not torch.allclose(found, plain)


def test_a_classifier_that_averages_leaves_the_prompts_out(tiny_vit, images):
    network = tiny_vit(global_pool="avg")
    for block in network.blocks:  # Tokens do not see each other: prompts could only enter through the average.
        nn.init.zeros_(block.attn.proj.weight)
    tokens = embed(network, images(4))
    prompted = torch.cat([tokens[:, :1], torch.ones(4, 2, 48), tokens[:, 1:]], dim=1)
    _, logits = class_token_features(network, prompted, prompts=2)
    assert torch.allclose(logits, network(images(4)), atol=1e-6)


def test_statistics_do_not_depend_on_how_images_are_batched(tiny_vit, images):
    network = tiny_vit()
    pool = images(21)
    features, _ = features_of(network, pool)
    for sizes in ([21], [16, 5], [1] * 21, [2, 19]):
        found = source_statistics(network, pool.split(sizes))
        assert torch.allclose(found.std, features.std(dim=0), atol=1e-6)
        assert torch.allclose(found.mean, features.mean(dim=0), atol=1e-6)
        assert found.std.dtype == torch.float32


def test_no_more_images_are_looked_at_than_asked_for(tiny_vit, images):
    network, pool = tiny_vit(), images(21)
    found = source_statistics(network, pool.split(8), samples=11)
    expected = source_statistics(network, [pool[:11]])
    assert torch.allclose(found.std, expected.std, atol=1e-6)


def test_one_source_image_is_not_enough(tiny_vit, images):
    with pytest.raises(InputError, match="at least two images, and there were 1"):
        source_statistics(tiny_vit(), [images(1)])
    with pytest.raises(InputError, match="there were 0"):
        source_statistics(tiny_vit(), [])


def test_discrepancy_by_hand():
    features = torch.tensor([[1.0, 2.0], [3.0, 6.0]])  # Means 2 and 4, standard deviations sqrt(2) and sqrt(8).
    source = FeatureStatistics(torch.tensor([2.0**0.5, 0.0]), torch.tensor([1.0, 4.0]))
    assert discrepancy(features, source).item() == pytest.approx(1 + 8)
    assert discrepancy(features[:1], source).item() == pytest.approx(4)  # (1 - 1)^2 + (2 - 4)^2
    assert discrepancy(torch.stack([features, features + 1]), source).tolist() == pytest.approx([9, 13])


def test_equal_images_have_a_finite_gradient():
    features = torch.ones(3, 2, requires_grad=True)
    discrepancy(features, FeatureStatistics(torch.ones(2), torch.zeros(2))).backward()
    assert features.grad.isfinite().all()


def test_networks_without_a_class_token_are_refused(tiny_vit):
    with pytest.raises(InputError, match="mgtta reads the class token"):
        with_class_token(tiny_vit(class_token=False, global_pool="avg"), "mgtta")
    with pytest.raises(InputError, match="vision transformer"):
        with_class_token(nn.Linear(2, 2), "mgtta")
    network = tiny_vit()
    del network.blocks[1].norm1
    with pytest.raises(InputError, match="have none"):
        with_class_token(network, "mgtta")
