"""Every method with every preset on the stand-in: one device, the declared waits, the numbers of the CPU."""

import copy

import pytest
import timm
import torch

from tests.accelerator.device import DEVICE, waits
from tta_core import build_method
from tta_core.methods.common.teacher import TeacherStudent
from tta_core.methods.registry import methods
from tta_core.methods.tent.method import Tent

CLASSES = 20
"""With ten, the published threshold of CoTTA asks nobody."""

TOLERANCE = 1e-7
"""Of logits in float64. On the stand-in attention is computed in other steps than on the CPU."""

BATCHES = (4, 4, 4, 3)

EVERY_PRESET = [(name, preset) for name, spec in methods().items() for preset in spec.preset_names()]


def steps(name, network, device, batches=BATCHES, **given):
    """Yields the method, its logits and what the host waited for, step by step."""

    def images(count, seed):
        drawn = torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return drawn.to(device)

    labelled = [(images(4, 101), (torch.arange(4) % CLASSES).to(device))]
    beyond = {"source_images": [images(4, 100)], "labelled_source": labelled, "held_out": labelled}
    method = build_method(
        name, network.to(device, torch.float64), num_classes=CLASSES, batch_size=BATCHES[0], **beyond, **given
    )
    if isinstance(method, TeacherStudent):
        # Equal networks have a gradient of rounding alone, which Adam would make as large as any other.
        for parameter in method.teacher.parameters.values():
            parameter.mul_(0.9)
    for seed, count in enumerate(batches):
        batch = images(count, seed)
        with waits() as found:
            logits = method(batch)
        yield method, logits, found


def compared(name, network, *, batches=BATCHES, **given):
    """Runs a method on the stand-in beside the CPU; returns the most waits of a step."""
    spec = methods()[name]
    settings = spec.resolve(given.get("preset", "recommended"), {k: v for k, v in given.items() if k != "preset"})
    most = 0
    here = steps(name, copy.deepcopy(network), torch.device("cpu"), batches, **given)
    there = steps(name, network, DEVICE, batches, **given)
    for (_, expected, _), (method, logits, found) in zip(here, there, strict=True):
        assert {value.device for value in method.record.values()} == {DEVICE}
        if not spec.draws_on_device_with(settings):
            assert torch.allclose(logits.cpu(), expected, rtol=0, atol=TOLERANCE * spec.amplifies_rounding)
        assert len(found) <= spec.waits_of(settings), found
        most = max(most, len(found))
    return most


@pytest.fixture
def network_for(network_of, tiny_vit, tiny_convnet):
    def make(name):
        if methods()[name].network != "batch-norm":
            return tiny_vit(num_classes=CLASSES)
        network = tiny_convnet()
        network[-1] = torch.nn.Linear(32, CLASSES)
        return network

    return make


@pytest.mark.parametrize(("name", "preset"), EVERY_PRESET)
def test_every_preset_computes_what_the_cpu_does_and_waits_as_declared(name, preset, network_for):
    spec = methods()[name]
    compared(
        name, network_for(name), preset=preset, **spec.quick, **(spec.learns_from_noise if preset == "digits-c" else {})
    )


@pytest.mark.parametrize("name", list(methods()))
def test_the_declared_waits_occur(name, network_for):
    spec = methods()[name]
    # Where some samples are judged reliable, and a domain that is merged ends.
    changes = spec.quick | {"deyo": {"entropy_margin": 1.0}, "imse": {"shift_threshold": 1e-9}}.get(name, {})
    assert compared(name, network_for(name), **changes) == spec.waits_of(spec.resolve("recommended", changes))


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("convnext_atto", {}),
        ("test_resnet", {}),
        ("swin_tiny_patch4_window7_224", {"img_size": 32, "window_size": 2, "depths": (1, 1, 1, 1), "embed_dim": 24}),
    ],
)
@pytest.mark.parametrize("name", ["tent", "eata", "rotta", "memo"])
def test_other_networks_do_too(architecture, options, name):
    torch.manual_seed(0)
    network = timm.create_model(architecture, num_classes=CLASSES, **options)
    compared(name, network, batches=(3, 1), **methods()[name].quick)


def test_a_planted_read_is_found(network_for, monkeypatch):
    step = Tent.step

    def reading(self, images):
        logits = step(self, images)
        self.mean = logits.mean().item()
        return logits

    monkeypatch.setattr(Tent, "step", reading)
    with pytest.raises(AssertionError, match="_local_scalar_dense"):
        compared("tent", network_for("tent"))


def test_a_planted_tensor_of_the_cpu_is_found(network_for, monkeypatch):
    step = Tent.step
    monkeypatch.setattr(Tent, "step", lambda self, images: step(self, images) + torch.zeros(CLASSES))
    with pytest.raises(RuntimeError, match="same device"):
        compared("tent", network_for("tent"))


def test_a_planted_record_on_the_cpu_is_found(network_for, monkeypatch):
    step = Tent.step

    def recording(self, images):
        logits = step(self, images)
        self.record["selected"] = torch.tensor(len(images))
        return logits

    monkeypatch.setattr(Tent, "step", recording)
    with pytest.raises(AssertionError):
        compared("tent", network_for("tent"))
