"""What IMSE, ViDA and BECoTTA add to a SegFormer."""

import pytest
import torch

from tests.tta_core.methods.pixel_networks import tiny_network
from tests.tta_core.methods.test_pixel_methods import built, images
from tta_core.backbones.segformer import SegFormer, SegFormerShape, build_segformer
from tta_core.errors import InputError
from tta_core.methods.registry import build_method
from tta_core.methods.vida.layers import low_rank_layers

WIDE = SegFormerShape((64, 128, 320, 512), (1, 1, 1, 3), 16)
"""A SegFormer with the last stage of B5."""


def trained(method):
    return sum(parameter.numel() for parameter in method.trainable_parameters().values())


def test_imse_trains_the_singular_values_of_all_stages():
    method = build_method(
        *("imse", build_segformer("segformer-b0", 19)),
        num_classes=19,
        task="segmentation",
        retrieval="none",
        frozen_last_blocks=0,
    )
    assert trained(method) == 5_120
    assert len(method.layers) == 8 * 5


def test_without_a_learning_rate_nothing_but_the_source_is_predicted():
    source = built("source")
    for name, settings in (("imse", {"lr": 0.0}), ("vida", {"warm_up": False, "lr": 0.0, "backbone_lr": 0.0})):
        method = built(name, **settings)
        reference = built("source", views=method.settings.views) if name == "vida" else source
        if name == "vida":
            method = built(name, **settings, anchor_threshold=1.0)
        for step in range(3):
            assert torch.allclose(method(images(step)), reference(images(step)), atol=1e-4)


def test_imse_looks_for_a_change_once_in_a_window():
    method = built("imse", detection_window=3, shift_threshold=0.2, lr=1e-3)
    shifts, sizes = [], []
    for step in range(12):
        given = images(step) if step < 6 else 3 * images(step) + 2
        method(given)
        shifts.append(int(method.record["shift"]))
        sizes.append(int(method.record["bank_size"]))
    assert shifts == [0] * 8 + [1] + [0] * 3
    assert sizes == [1] * 8 + [2] * 4
    # A window that is not full is part of the state.
    assert built("imse", detection_window=3).state_dict()["parts"]["method"]["means"].shape == (0, 8)


def test_imse_goes_back_to_the_source_by_merging_nothing():
    method = built("imse")
    method(images(0))
    plain = method.merge()
    assert not any("sigma" in name for name, _ in plain.named_parameters())
    assert plain(images(1)).shape == (1, 5, 8, 12)


def test_the_uncertainty_of_vida_is_the_variance_of_logits_over_views():
    method = built("vida", uncertainty_threshold=0.0)
    with torch.no_grad():
        views = [view.logits for view in method.views_of(method.teacher, images(0), 6)]
    method(images(0))
    expected = method.settings.uncertainty_weight * torch.stack(views).var(dim=0).mean()
    assert float(method.record["uncertainty"]) == pytest.approx(float(expected), rel=1e-4)
    assert float(method.record["high_scale"]) == pytest.approx(1 + float(expected), rel=1e-4)


def test_the_warm_up_of_vida_fits_the_adapters_to_labelled_maps():
    cold, warm = built("vida", warm_up=False), built("vida", warm_up_steps=8, warm_up_epochs=8)
    assert all(not layer.up.any() for layer in low_rank_layers(cold.network).values())
    assert all(layer.up.any() for layer in low_rank_layers(warm.network).values())
    given, labels = next(iter(warm.context.labelled_source))
    losses = []
    for method in (cold, warm):
        with torch.no_grad():
            logits = torch.nn.functional.interpolate(method.network(given), size=labels.shape[-2:], mode="bilinear")
        losses.append(torch.nn.functional.cross_entropy(logits, labels.long(), ignore_index=255))
    assert losses[1] < losses[0]
    assert all(torch.equal(p, q) for p, q in zip(*(m.network.head.parameters() for m in (cold, warm)), strict=True))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.zeros(2, dtype=torch.int64), "give labels as a uint8 tensor"),
        (torch.full((2, 32, 48), 7, dtype=torch.uint8), "classes from 0 to 4, and 255 where there is none"),
    ],
)
def test_labels_that_are_no_maps_are_refused(labels, message):
    with pytest.raises(InputError, match=message):
        build_method(
            *("vida", tiny_network()),
            num_classes=5,
            task="segmentation",
            labelled_source=[(images(0, 2), labels)],
        )


def test_becotta_has_the_published_sizes():
    method = build_method("becotta", SegFormer(WIDE, 19), num_classes=19, task="segmentation", preset="official-s")
    assert trained(method) == 129_096
    one = build_method(
        "becotta", SegFormer(WIDE, 19), num_classes=19, task="segmentation", preset="official-s", num_domains=1
    )
    assert trained(one) == 129_096 - 3 * 3 * 2 * 4 * 512


def test_a_step_of_becotta_goes_through_one_gate():
    method = built("becotta", num_domains=4)
    seen = set()
    for step in range(6):
        method(images(step))
        seen.add(method.draws.domain)
        method.predict(images(step))
        assert {int(n) for a in method.adapters.values() for n in a.draws.domains(0, 3, 4, images(0).device)} <= seen
    assert len(seen) > 1
