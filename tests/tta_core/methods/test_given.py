"""Networks and batches as users have them: they work, or one sentence says why not."""

import re

import pytest
import timm
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrizations, prune

from tta_core import build_method
from tta_core.errors import InputError
from tta_core.methods.given import GivenBatches
from tta_core.methods.layer_counts import LayerCount


@pytest.fixture
def tent(tiny_vit):
    """Tent around a network, the small transformer unless another is given."""
    return lambda network=None, **changes: build_method(
        "tent", tiny_vit() if network is None else network, **{"num_classes": 10, "lr": 0.05, **changes}
    )


@pytest.mark.parametrize("name", ["tent", "eta", "sar", "deyo", "cotta", "roid", "rotta", "bn-adapt", "memo", "moetta"])
def test_a_channel_of_one_value_has_the_statistics_of_the_source(name, images):
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=10)
    settings = {"memo": {"views": 2}}.get(name, {})
    method = build_method(name, network, num_classes=10, **settings)
    method(images(4))
    assert method(images(1)).isfinite().all()
    assert method(images(4)).isfinite().all()


def test_of_one_value_the_source_normalises_bit_for_bit(tent):
    source = nn.Sequential(nn.Conv2d(3, 4, 32), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 10)).eval()
    nn.init.normal_(source[1].running_mean)
    image = torch.randn(1, 3, 32, 32)
    expected = source(image).detach()
    assert torch.equal(tent(source)(image), expected)


def test_every_batch_norm_is_trained_and_uses_the_batch_whatever_its_dimensions(tent, images):
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.norm, self.head = nn.Conv2d(3, 8, 8, stride=8), nn.BatchNorm1d(8), nn.Linear(8, 10)
            self.spread = nn.SyncBatchNorm(8)

        def forward(self, x):
            tokens = self.norm(self.spread(self.embed(x)).flatten(2))
            return self.head(tokens.mean(2))

    method = tent(Tokens())
    assert set(method.trainable_parameters()) == {"norm.weight", "norm.bias", "spread.weight", "spread.bias"}
    assert method.layer_counts == {"BatchNorm1d": LayerCount(1, 1), "SyncBatchNorm": LayerCount(1, 1)}
    assert all(m.running_mean is None for m in method.network.modules() if isinstance(m, _BatchNorm))
    assert method(images(4)).isfinite().all()


def test_layers_that_are_left_as_they_are_are_counted(tiny_vit):
    sar = build_method("sar", tiny_vit(depth=4), num_classes=10)
    assert sar.layer_counts == {"LayerNorm": LayerCount(9, 6)}
    assert sar.layer_counts["LayerNorm"].left == 3
    cotta = build_method("cotta", tiny_vit(depth=2), num_classes=10).layer_counts
    assert cotta["Linear"] == LayerCount(9, 9)
    assert build_method("source", tiny_vit(), num_classes=10).layer_counts == {"LayerNorm": LayerCount(7, 0)}


def test_moetta_refuses_norms_that_mix_samples(images):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(1, 4), nn.Flatten(2), nn.BatchNorm1d(4))
    with pytest.raises(InputError, match=r"moetta needs LayerNorm, GroupNorm or BatchNorm2d .* norm 1 .*BatchNorm1d"):
        build_method("moetta", network, num_classes=10)


def test_gradients_of_before_and_of_in_between_change_nothing(tent, tiny_vit, images):
    used = tiny_vit()
    used(images(4)).square().sum().backward()
    method, clean = tent(used), tent()
    for seed in range(2):
        assert torch.equal(method(images(4, seed)), clean(images(4, seed)))
        method.network(images(4)).square().sum().backward()
    method.reset()
    assert torch.equal(method(images(4)), tent()(images(4)))


def test_steps_under_inference_mode_are_the_same(tent, images):
    outside, inside = tent(), tent()
    with torch.inference_mode():
        assert torch.equal(inside(images(4)), outside(images(4)))
        inside.predict(images(2))
        inside.reset()
        again = inside(images(4))
        state = inside.state_dict()
    other = tent()
    other.load_state_dict(state)
    outside.reset()
    assert torch.equal(outside(images(4)), again)
    assert torch.equal(other(images(4, 1)), outside(images(4, 1)))


@pytest.mark.parametrize("norm", [nn.utils.weight_norm, parametrizations.weight_norm, parametrizations.spectral_norm])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_reparametrised_weights_become_weights_of_the_same_values(norm, tiny_vit, images):
    network = tiny_vit()
    norm(network.head)
    expected = network.eval()(images(4)).detach()
    method = build_method("cotta", network, num_classes=10)
    assert torch.allclose(method(images(4)), expected, atol=1e-6)
    assert "head.weight" in method.trainable_parameters()


@pytest.mark.filterwarnings("ignore:Complex modules:UserWarning")
def test_what_cannot_be_edited_or_trained_is_refused(tent, tiny_vit):
    compiled, in_place = torch.compile(tiny_vit(), backend="eager"), tiny_vit()
    in_place.blocks[0].compile(backend="eager")
    with torch.inference_mode():
        inferred = tiny_vit()
    lazy = nn.Sequential(nn.Flatten(), nn.LazyLinear(10))
    half_loaded = tiny_vit()
    half_loaded.head.to("meta")
    diverged = tiny_vit()
    nn.init.constant_(diverged.head.bias, float("nan"))
    pruned = tiny_vit()
    prune.random_unstructured(pruned.head, "weight", 0.5)
    for network, reason in (
        (compiled, r"went through torch.compile: methods edit the network"),
        (in_place, r"blocks.0 went through torch.compile"),
        (nn.DataParallel(tiny_vit()), "is a DataParallel: give the network in it"),
        (inferred, r"was made under torch.inference_mode"),
        (lazy, "1.weight has no values yet: load the weights first"),
        (half_loaded, "head.weight has no values yet: load the weights first"),
        (diverged, "head.bias has values that are infinite or not a number"),
        (pruned, r"head keeps the tensor 'weight', .*prune.remove"),
        (tiny_vit().to(torch.complex64), r"is of type torch.complex64"),
        (tiny_vit().half(), r"norm1.weight .* is in float16, .*give network.float\(\)"),
        (tiny_vit().bfloat16(), "is in bfloat16, in which steps of training are rounded away"),
    ):
        with pytest.raises(InputError, match=reason):
            tent(network)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["source", "lame", "t3a", "bn-adapt"])
def test_a_method_that_trains_nothing_takes_half_precision(name, kind, images):
    network, whole = (timm.create_model("test_resnet", num_classes=10) for _ in range(2))
    whole.load_state_dict(network.state_dict())
    halved, single = build_method(name, network.to(kind), num_classes=10), build_method(name, whole, num_classes=10)
    for size in (4, 1):
        assert torch.allclose(halved(images(size).to(kind)).float(), single(images(size)), atol=0.2)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_prompts_of_half_precision_are_refused(kind, tiny_vit, images):
    with pytest.raises(InputError, match="cls_token of this VisionTransformer is in"):
        build_method("foa", tiny_vit().to(kind), num_classes=10, source_images=[images(4).to(kind)])


def test_a_number_of_classes_that_the_network_contradicts_is_refused(tent, tiny_vit, tiny_convnet, images):
    with pytest.raises(InputError, match=r"num_classes = 1000, but VisionTransformer has 10 logits"):
        tent(num_classes=1000)
    for name in ("tent", "eta", "roid", "rotta", "cotta"):
        unsaid = build_method(name, tiny_convnet(), num_classes=7)
        with pytest.raises(InputError, match=r"num_classes = 7, but TinyConvNet has 10 logits"):
            unsaid(images(4))


def test_images_that_the_network_does_not_take_are_refused(tent, images):
    method = tent()
    for wrong, reason in (
        (images(2).double(), "images of type torch.float64, but the network computes in torch.float32"),
        ((images(2) * 9).to(torch.uint8), "images of type torch.uint8"),
        (images(2).to("meta"), "images on meta, but the network is on cpu"),
        (images(2)[0], r"images of shape \(3, 32, 32\)"),
        ([images(2)], "images of type list"),
    ):
        with pytest.raises(InputError, match=reason):
            method(wrong)


@pytest.mark.parametrize("name", ["eata", "foa", "imse"])
def test_of_pairs_the_images_are_taken(name, tiny_vit, images):
    plain = [images(4, seed) for seed in range(2)]
    pairs = [(batch, torch.zeros(4, dtype=torch.int64)) for batch in plain]
    one, other = (build_method(name, tiny_vit(), num_classes=10, source_images=given) for given in (plain, pairs))
    assert torch.equal(one(images(4)), other(images(4)))


def test_batches_beyond_the_stream_that_are_none_are_refused(tiny_vit, images):
    network, labels = tiny_vit(), torch.arange(4)
    used_up = iter([images(4)])
    next(used_up)
    for given, labelled, reason in (
        (images(4), False, "source is of type Tensor: give a list"),
        (3, False, "source is of type int"),
        ([], False, "source holds no batches"),
        (used_up, False, "source holds no batches, or no more of them"),
        (["a"], False, "source: batch 0: images of type str"),
        ([images(4)], True, r"source: batch 0 is of type Tensor: give pairs"),
        ([(images(4), labels.float())], True, "give labels as an int64 tensor"),
        ([(images(4), labels + 9)], True, "labels from 9 to 12, classes from 0 to 9"),
    ):
        with pytest.raises(InputError, match=reason):
            list(GivenBatches(given, "source", network, 10, labelled=labelled))


def test_plain_arguments_that_mean_nothing_are_refused(tent):
    for wrong, reason in (
        ({"num_classes": -1}, "num_classes = -1 is not allowed"),
        ({"num_classes": True}, "num_classes = True is not allowed: input should be a valid integer"),
        ({"seed": None}, "seed = None is not allowed"),
        ({"batch_size": 0}, "batch_size = 0 is not allowed"),
        ({"mean": 5}, "mean = 5 is not allowed"),
        ({"std": (0.5, 0.0, 0.5)}, "std.1 = 0.0 is not allowed"),
        ({"initial": 5}, "initial = 5: give tensors by name"),
        ({"artefact": {"fisher": 3}}, "artefact = {'fisher': 3}: give tensors by name"),
    ):
        with pytest.raises(InputError, match=re.escape(reason)):
            tent(**wrong)


def test_source_images_that_are_not_finite_are_refused(tiny_vit, images):
    with pytest.raises(InputError, match="source_images: batch 1: images have values that are infinite"):
        build_method("eata", tiny_vit(), num_classes=10, source_images=[images(4), images(4) * float("nan")])
