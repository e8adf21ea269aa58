"""What every method of segmentation keeps, whatever it does."""

import copy

import pytest
import torch

from tests.tta_core.methods.pixel_networks import tiny_network
from tta_core.errors import InputError
from tta_core.methods.registry import build_method, method_spec, methods

PIXELS = methods("segmentation")
EXPECTED = ("becotta", "bn-adapt", "cotta", "eta", "imse", "moase", "moetta", "sar", "source", "tent", "vida")
TEACHERS = ("cotta", "moase", "vida")
SMALL = {
    "becotta": {"ranks": (2, 2, 2, 2)},
    "vida": {"rank_high": 4, "warm_up_steps": 2, "warm_up_lr": 0.01},
    "imse": {"frozen_last_blocks": 1, "detection_window": 2},
}


def built(name, preset="digit-scenes", **settings):
    """A method around a tiny network, with two images of the source."""
    return build_method(
        name,
        tiny_network(),
        num_classes=5,
        task="segmentation",
        preset=preset,
        source_images=[images(100, 2)],
        labelled_source=[(images(100, 2), LABELS)],
        **(SMALL.get(name, {}) | settings),
    )


def images(seed, count=1):
    return torch.randn(count, 3, 32, 48, generator=torch.Generator().manual_seed(seed))


LABELS = torch.randint(5, (2, 32, 48), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
LABELS[:, :3] = 255


def test_the_methods():
    assert tuple(PIXELS) == EXPECTED


@pytest.mark.parametrize("name", sorted(set(methods()) - set(EXPECTED)))
def test_others_are_refused_with_a_reason(name):
    assert method_spec(name).not_for_pixels
    with pytest.raises(InputError, match=rf"{name} does not do segmentation: .*Methods that do: becotta, bn-adapt"):
        method_spec(name, "segmentation")


@pytest.mark.parametrize(("name", "preset"), [(n, p) for n, s in PIXELS.items() for p in s.preset_names()])
def test_a_step_of_every_preset(name, preset):
    if preset.startswith("official-") and name == "becotta":
        pytest.skip("its ranks are for four widths")
    method = built(name, preset, views=1 if name not in ("vida",) else 6)
    spec = PIXELS[name]
    for step in range(2):
        logits = method(images(step))
        assert logits.shape == (1, 5, 32, 48)
        assert torch.isfinite(logits).all()
        assert {"selected"} <= method.record.keys() <= {"selected", "loss", *spec.scalars}
        assert all(value.ndim == 0 for value in method.record.values())
        method.at_border()


@pytest.mark.parametrize("name", EXPECTED)
def test_reset_and_state(name):
    method = built(name)
    first = [method(images(step)) for step in range(3)]
    method.reset()
    assert torch.equal(method(images(0)), first[0])
    other = built(name)
    state = copy.deepcopy(method.state_dict())
    other.load_state_dict(state)
    for step in (1, 2):
        assert torch.equal(other(images(step)), first[step])


@pytest.mark.parametrize("name", EXPECTED)
def test_predict_leaves_nothing_behind(name):
    one, other = built(name), built(name)
    one.predict(images(9))
    for step in range(2):
        assert torch.equal(one(images(step)), other(images(step)))


@pytest.mark.parametrize("name", [name for name in EXPECTED if PIXELS[name].starts_at_source])
def test_the_first_prediction_is_that_of_source_with_the_same_views(name):
    views = built(name).settings.views
    source = built("source", views=views)(images(0))
    first = built(name)(images(0))
    if name in TEACHERS:
        # One view stands where the source is sure.
        first = built(name, anchor_threshold=1.0)(images(0))
    assert torch.allclose(first, source, atol=1e-4)


def test_batch_norm_keeps_its_statistics_unless_it_is_told():
    kept, adapted = built("tent"), built("tent", batch_statistics=True)
    before = kept.network.head.bn.running_mean.clone()
    for step in range(3):
        kept(images(step))
    assert torch.equal(kept.network.head.bn.running_mean, before)
    assert adapted.network.head.bn.running_mean is None
    assert not torch.allclose(kept(images(9)), adapted(images(9)))


@pytest.mark.parametrize("name", ["eta", "sar", "becotta"])
def test_without_a_pixel_there_is_no_step(name):
    margin = {"margin" if name == "becotta" else "entropy_margin": 1e-9}
    method = built(name, **margin)
    before = {n: p.clone() for n, p in method.trainable_parameters().items()}
    method(images(0))
    assert "loss" not in method.record
    assert all(torch.equal(p, before[n]) for n, p in method.trainable_parameters().items())


def test_an_optimizer_that_is_new_at_borders_has_no_moments():
    kept, new = built("tent"), built("tent", optimizer_at_border="new")
    for method in (kept, new):
        method(images(0))
        method.at_border()
    assert len(kept.optimizer.state) > 0
    assert len(new.optimizer.state) == 0


def test_the_target_of_a_pixel_is_the_source_s_to_decide():
    method = built("cotta", anchor_threshold=0.5)
    source = built("source", views=1)(images(0)).softmax(dim=1)
    many = built("source", views=6)(images(0)).softmax(dim=1)
    sure = source.amax(dim=1, keepdim=True) > 0.5
    assert 0 < sure.float().mean() < 1
    assert torch.allclose(method(images(0)).softmax(dim=1), torch.where(sure, source, many), atol=1e-4)


def test_experts_of_moase_have_the_rank_of_their_stage():
    method = built("moase")
    ranks = [adapter.down_weight.shape[1] for adapter in method.adapters.values()]
    assert ranks == [2, 3, 4, 6]
