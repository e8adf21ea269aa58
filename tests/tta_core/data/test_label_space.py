"""Benchmarks of some classes and compositions, through whole runs: labels, logits, crops and counts by hand."""

import math

import numpy as np
import pytest
import timm
import torch
from torch import nn

import tta_core
from tta_core.backbones.classifier import keep_classes
from tta_core.backbones.networks import load_backbone
from tta_core.backbones.table import backbone_spec
from tta_core.data.benchmarks import BENCHMARKS, CLEAN
from tta_core.data.label_space import of_kept_classes
from tta_core.errors import InputError
from tta_core.methods.spec import HELD_OUT_IMAGES, LABELLED_SOURCE_IMAGES, SOURCE_IMAGES
from tta_core.run.cell import _build
from tta_core.run.config import RunConfig
from tta_core.run.images import load_domains, normalisation
from tta_core.run.supplies import HeldOutImages, LabelledSource, SourceImages


def values(**changes):
    return {"method": "source", "backbone": "colour-vit", "benchmark": "renditions", **changes}


def config(**changes):
    return RunConfig.from_values(values(**changes))


def source_logits(images):
    """Logits of the network of `colour-vit`, normalised by hand: uint8 (n, height, width, 3) -> (n, 3)."""
    spec = backbone_spec("colour-vit")
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (spec.mean, spec.std))
    with torch.no_grad():
        return load_backbone(spec)((pixels - mean) / std)


def entropy(logits):
    return -(logits.softmax(1) * logits.log_softmax(1)).sum(1)


def test_full_scores_all_logits_and_masked_those_of_the_benchmark(renditions, colour_vit):
    images = load_domains(config(), ["renditions"])[0]
    assert images.labels.tolist() == [0, 0, 2, 2, 2]
    logits = source_logits(images.images[:])
    for space, columns, classes in (("full", [0, 1, 2], [0, 0, 2, 2, 2]), ("masked", [0, 2], [0, 0, 1, 1, 1])):
        found = tta_core.run(values(label_space=space, stream="continual"), device="cpu").samples
        expected, index = logits[:, columns], found["index"]
        assert found["label"].tolist() == [classes[number] for number in index]
        assert found["prediction"].tolist() == expected.argmax(1)[index].tolist()
        assert np.allclose(found["entropy"], entropy(expected)[index], atol=1e-5)
        assert np.allclose(found["confidence"], expected.softmax(1).max(1).values[index], atol=1e-5)


def test_methods_see_a_network_of_the_benchmarks_classes(renditions, colour_vit):
    cpu = torch.device("cpu")
    for space, classes in (("full", 3), ("masked", 2)):
        made = config(method="eta", label_space=space, settings={"entropy_margin": 0.4})
        method, _ = _build(made, normalisation(made, cpu), cpu, load_domains(made, made.domains))
        assert method.num_classes == classes
        assert method.margin == pytest.approx(0.4 * math.log(classes))
        assert method.network.get_classifier().weight.shape[0] == classes


@pytest.mark.parametrize("method", ["tent", "eata", "moetta", "imse", "cotta", "t3a"])
def test_methods_run_on_masked_logits(method, renditions, colour_vit):
    found = tta_core.run(values(method=method, label_space="masked", batch_size=3), device="cpu").samples
    assert set(found["label"]) == {0, 1}
    assert set(found["prediction"]) <= {0, 1}


def test_clean_images_of_other_classes_are_left_out(renditions, colour_vit):
    (full,) = load_domains(config(), [CLEAN])
    (masked,) = load_domains(config(label_space="masked"), [CLEAN])
    assert full.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert masked.labels.tolist() == [0] * 4 + [1] * 4
    assert len(masked.images) == 8
    assert masked.images.shape == (8, 32, 32, 3)
    assert (masked.images[np.array([5, 0])] == full.images[np.array([9, 0])]).all()
    assert (masked.images[2:7] == full.images[np.array([2, 3, 8, 9, 10])]).all()


def test_the_forgetting_observer_takes_the_clean_images_of_the_other_row(renditions, colour_vit):
    for space in ("full", "masked"):
        run = tta_core.run(values(label_space=space, diagnostics=["forgetting"]), device="cpu")
        assert any(one.domain == CLEAN for one in run.measurements)


def test_what_methods_need_is_of_the_label_space(renditions, colour_vit, monkeypatch):
    photographs = BENCHMARKS["photos-c"].model_copy(update={"training_folder": "photos/val"})
    owners = dict.fromkeys((CLEAN, "snow"), photographs.name)
    changed = renditions.model_copy(update={"held_out_domains": ("snow",), "parts": owners})
    for row in (photographs, changed):
        monkeypatch.setitem(BENCHMARKS, row.name, row)
    monkeypatch.setattr(RunConfig, "needs", lambda self: (SOURCE_IMAGES, LABELLED_SOURCE_IMAGES, HELD_OUT_IMAGES))
    for space, images, labels in (("full", 12, {0, 1, 2}), ("masked", 8, {0, 1})):
        made = config(label_space=space)
        normalise = normalisation(made, torch.device("cpu"))
        assert sum(len(batch) for batch in SourceImages(made, normalise)) == images
        for supply in (LabelledSource(made, normalise), HeldOutImages(made, normalise)):
            found = torch.cat([batch_labels for _, batch_labels in supply])
            assert len(found) == images
            assert set(found.tolist()) == labels


@pytest.mark.parametrize("stream", ["mixed", "continual", "single"])
def test_a_composition_reads_each_domain_as_its_own_row_does(stream, mixture, colour_vit):
    result = tta_core.run(values(benchmark="mixture", stream=stream, severity=3, batch_size=8), device="cpu")
    found = result.samples
    counts = {name: int((found["domain"] == name).sum()) for name in mixture.domains}
    assert counts == {"fog": 12, "snow": 12, "renditions": 5}
    expected = {}
    for name, row in (("fog", "photos-c"), ("snow", "photos-c"), ("renditions", "renditions")):
        images = load_domains(config(benchmark=row, severity=3), [name])[0]
        logits = source_logits(images.images[:])
        expected |= {(name, n): (int(images.labels[n]), int(logits[n].argmax())) for n in range(len(images.labels))}
    rows = zip(found["domain"], found["index"], found["label"], found["prediction"], strict=True)
    assert {(str(d), int(i)): (int(label), int(p)) for d, i, label, p in rows} == expected
    assert set(result.domain_accuracy) == set(mixture.domains)


def test_crops_of_a_composition_are_those_of_its_parts(mixture, colour_vit):
    domains = load_domains(config(benchmark="mixture"), ["fog", "renditions", CLEAN])
    assert [one.images.crop for one in domains] == ["center", "resize-center", "resize-center"]
    domains = load_domains(config(benchmark="mixture", crop="resize-center"), ["fog", "renditions"])
    assert [one.images.crop for one in domains] == ["resize-center", "resize-center"]


def test_a_domain_has_the_same_images_in_a_composition_and_alone(mixture, colour_vit):
    for name, row in (("snow", "photos-c"), ("renditions", "renditions")):
        (alone,) = load_domains(config(benchmark=row), [name])
        (part,) = load_domains(config(benchmark="mixture"), [name])
        assert (alone.images[:] == part.images[:]).all()
        assert (alone.labels == part.labels).all()


def test_labels_are_places_among_the_kept_classes():
    numbers, labels = of_kept_classes(np.array([7, 3, 9, 3, 0]), (3, 9))
    assert numbers.tolist() == [1, 2, 3]
    assert labels.tolist() == [0, 1, 0]


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_convnext", "test_efficientnet"])
def test_the_classifier_is_cut_to_the_kept_rows(name):
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=7).eval()
    images = torch.rand(2, 3, 160, 160)
    with torch.no_grad():
        whole = network(images)
        cut = keep_classes(network, (6, 1, 4))(images)
    assert torch.allclose(cut, whole[:, [6, 1, 4]], atol=1e-6)
    assert network.num_classes == 3
    assert all(value.requires_grad for value in network.get_classifier().parameters())
    assert keep_classes(network, ()) is network


def test_networks_without_a_linear_classifier_are_refused():
    with pytest.raises(InputError, match="Sequential has NoneType in its place, no linear layer: give label_space"):
        keep_classes(nn.Sequential(nn.Linear(2, 3)), (0,))
    headless = timm.create_model("test_vit", num_classes=0)
    with pytest.raises(InputError, match="VisionTransformer has Identity in its place"):
        keep_classes(headless, (0,))
    with pytest.raises(InputError, match="keeps class 7, and VisionTransformer has 7"):
        keep_classes(timm.create_model("test_vit", num_classes=7), (0, 7))
