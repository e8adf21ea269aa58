"""The measured clean accuracy: of what, against what, and what is said where they disagree."""

import re

import numpy as np
import pytest
import torch

from tests.tta_core.opening import trial_images
from tta_core.backbones.networks import load_backbone
from tta_core.backbones.table import BACKBONES
from tta_core.errors import InputError
from tta_core.run.backbone_check import (
    OTHER_TRANSFORM,
    SAME_TRANSFORM,
    BackboneCheck,
    Expected,
    check_backbone,
    check_config,
    clean_benchmark,
    expected_accuracy,
    list_clean_images,
)

EMBEDDED = [
    name for name, row in BACKBONES.items() if row.source.startswith("embedded:") and row.task == "classification"
]


def made(correct, images, expected, tolerance=SAME_TRANSFORM, reordered=None, backbone="digits-vit-supervised"):
    return BackboneCheck(
        config=check_config(backbone),
        expected=None if expected is None else Expected(expected, "a paper", tolerance),
        correct=correct,
        images=images,
        classes=10,
        reordered=reordered,
        weights=("a file",),
        device="cpu",
        seconds=1.0,
    )


@pytest.mark.parametrize("name", EMBEDDED)
def test_a_shipped_backbone_has_the_accuracy_of_the_table(name):
    check = check_backbone(check_config(name), device="cpu")
    assert (check.images, check.agrees, check.causes()) == (899, True, [])
    assert check.measured == pytest.approx(BACKBONES[name].clean_accuracy, abs=1e-6)
    assert check.weights == ("shipped with tta-grid",)


def test_a_network_that_segments_is_refused():
    with pytest.raises(InputError, match="check-backbone counts images that are right, and segformer-scenes segments"):
        check_backbone(check_config("segformer-scenes"), device="cpu")


def test_the_interval_is_wilsons():
    # Newcombe, Statistics in Medicine 1998, table I: 81 of 263.
    low, high = made(81, 263, None).interval
    assert (low, high) == (pytest.approx(0.2553, abs=1e-4), pytest.approx(0.3662, abs=1e-4))


@pytest.mark.parametrize(
    ("correct", "expected", "tolerance", "agrees"),
    [
        (900, 0.90, 0.0, True),
        (900, 0.92, 0.0, False),
        (900, 0.92, 0.01, True),
        (900, 0.87, 0.0, False),
        (900, 0.87, 0.02, True),
        (900, None, 0.0, True),
    ],
)
def test_the_interval_is_widened_on_both_sides(correct, expected, tolerance, agrees):
    assert made(correct, 1000, expected, tolerance).agrees is agrees


def test_a_wrong_expectation_is_seen_and_explained(monkeypatch):
    row = BACKBONES["digits-vit-supervised"]
    monkeypatch.setitem(BACKBONES, row.name, row.model_copy(update={"clean_accuracy": 0.93}))
    text = check_backbone(check_config(row.name), device="cpu").text()
    assert "expected   93.00 %" in text
    assert "measured   97.55 % (95 % interval 96.3 to 98.4)" in text
    assert "DISAGREES: measured above what is expected" in text
    assert "the weights are those of another, better tag" in text


def test_a_wrong_normalisation_is_seen_and_explained(monkeypatch):
    row = BACKBONES["digits-vit-mae"]
    monkeypatch.setitem(BACKBONES, row.name, row.model_copy(update={"mean": (0, 0, 0), "std": (1, 1, 1)}))
    check = check_backbone(check_config(row.name), device="cpu")
    assert not check.agrees
    assert check.causes()[0].startswith("another normalisation than that of these weights: mean 0 0 0, std 1 1 1 was")


def test_labels_in_another_order_are_recognised(monkeypatch):
    row = BACKBONES["digits-vit-supervised"]

    def rolled(spec, own=None):
        network = load_backbone(spec, own)
        with torch.no_grad():
            for parameter in network.head.parameters():
                parameter.copy_(parameter.roll(3, dims=0))
        return network

    monkeypatch.setattr("tta_core.run.cell.load_backbone", rolled)
    check = check_backbone(check_config(row.name), device="cpu")
    assert check.measured < 0.1
    assert check.causes()[0].startswith("with the classes numbered otherwise, 97.6 % would be right: labels in another")
    # A network that predicts one class is no other order.
    assert not made(90, 899, 0.97, reordered=0.11).causes()[0].startswith("with the classes")


def test_the_order_of_labels_is_suspected_where_too_few_images_could_tell():
    assert made(95, 899, 0.97).causes()[0].startswith("labels in another order")
    assert not any(cause.startswith("labels") for cause in made(700, 899, 0.97).causes())


def test_what_an_architecture_was_built_with_is_named():
    zero_shot = made(100, 1000, 0.68, backbone="vit_base_patch16_clip_224.openai-zeroshot")
    assert "it was built with act_layer=quick_gelu and the text head ViT-B-16-quickgelu.openai" in zero_shot.causes()[1]


def test_images_are_a_seeded_random_part_of_all_classes():
    config = check_config("digits-vit-supervised", {"first_samples": 100})
    one, again = config.order(), check_config("digits-vit-mae", {"first_samples": 100}).order()
    assert np.array_equal(one.index, again.index)
    labels = trial_images(
        clean_benchmark(BACKBONES[config.backbone]), "clean", 0, data_seed=0, crop="none", image_size=32
    )[1]
    assert set(labels[one.index]) == set(range(10))
    assert check_backbone(config, device="cpu").images == 100


def test_clean_images_are_those_of_the_classes():
    wanted = {"digits": "digits-c", "imagenet-1k": "imagenet", "cifar-10": "cifar10-c", "cifar-100": "cifar100-c"}
    wanted |= {"digits and ground": "digit-scenes", "cityscapes": "cityscapes"}
    assert {row.classes: clean_benchmark(row).name for row in BACKBONES.values()} == wanted
    with pytest.raises(InputError, match="no benchmark has the classes 'birds' of digits-vit-mae: name one with"):
        clean_benchmark(BACKBONES["digits-vit-mae"].model_copy(update={"classes": "birds"}))


def test_the_number_nearest_to_the_transform_is_expected():
    augreg2, clip = "vit_base_patch16_224.augreg2_in21k_ft_in1k", "vit_base_patch16_clip_224.openai-zeroshot"
    protocol = expected_accuracy(check_config(augreg2))
    assert (protocol.accuracy, protocol.tolerance) == (0.851, SAME_TRANSFORM)
    other = expected_accuracy(check_config(clip))
    assert (other.accuracy, other.tolerance) == (0.6834, OTHER_TRANSFORM)
    assert other.source == "open_clip, docs/openclip_results.csv; under another transform"
    assert expected_accuracy(check_config(clip), 0.02).tolerance == 0.02
    own = expected_accuracy(check_config(clip, {"crop": "backbone"}))
    assert (own.accuracy, own.tolerance) == (0.6834, SAME_TRANSFORM)
    assert expected_accuracy(check_config("cifar10_vit_base_patch16_384")) is None


def test_class_folders_are_measured_and_nothing_need_be_expected(photographs, colour_vit, tmp_path, monkeypatch):
    row = colour_vit.model_copy(update={"clean_accuracy": None})
    monkeypatch.setitem(BACKBONES, row.name, row)
    check = check_backbone(check_config(row.name), device="cpu")
    assert (check.images, check.agrees) == (12, True)
    text = check.text()
    assert "images     12 of photos-c, clean" in text
    assert "nothing to compare with" in text
    assert f"weights    {tmp_path}/weights/colour_vit.safetensors" in text
    assert re.search(
        r"transform  resize 37 bilinear, centre crop 32; mean 0\.485 0\.456 0\.406, std 0\.229 0\.224 0\.225", text
    )
    opposite = 0.0 if check.measured > 0.5 else 1.0
    monkeypatch.setitem(BACKBONES, row.name, row.model_copy(update={"clean_accuracy": opposite}))
    assert not check_backbone(check_config(row.name), device="cpu").agrees


def test_missing_images_are_one_message(photographs, colour_vit, tmp_path):
    (tmp_path / "photos/val/n02/image_1.JPEG").unlink()
    with pytest.raises(InputError, match="has 11 images, not 12"):
        check_backbone(check_config(colour_vit.name), device="cpu")


def test_what_is_here_of_the_clean_images_can_be_taken(photographs, colour_vit, tmp_path):
    for name in ("n02/image_1", "n03/image_0", "n03/image_1", "n03/image_2", "n03/image_3"):
        (tmp_path / f"photos/val/{name}.JPEG").unlink()
    (tmp_path / "photos/val/n03").rmdir()
    listed = list_clean_images(photographs, tmp_path)
    check = check_backbone(check_config(colour_vit.name, {"subset_file": listed}), device="cpu")
    assert (check.images, check.classes) == (7, 2)
    assert "images     7 of photos-c, clean, of 2 of 3 classes" in check.text()
    some = check_backbone(check_config(colour_vit.name, {"subset_file": listed, "first_samples": 3}), device="cpu")
    assert some.images == 3
    assert list_clean_images(clean_benchmark(BACKBONES["digits-vit-mae"]), tmp_path) is None
