"""Whether every preset computes on the accelerator what it computes on the CPU, and waits as it declares."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from tta_core.bench.agreement import differences_to_cpu, waits_of_steps
from tta_core.bench.gpu.section import Asked, Section, Unit
from tta_core.bench.request import BenchRequest, MethodChoice
from tta_core.bench.subject import Subject, make_subject

NETWORKS = {"batch-norm": "resnet18"}
NETWORK = "vit_tiny_patch16_224"
"""Kind of network that a method asks for -> the architecture it is checked on, else this. Random weights; small, for
the CPU has to compute the same."""

IMAGE_SIZE = 48
BATCH_SIZE = 4

TOLERANCE = 1e-6
"""Of a logit in float64, times the method's `amplifies_rounding`. In float32 a sample can fall on the other side of a
threshold, which shows as a jump and is no mistake."""


def units(asked: Asked) -> list[Unit]:
    """One for each preset: of all methods, or of those that were named."""
    subject = cache(lambda backbone: make_subject(_request(asked, backbone), asked.device))

    def unit(choice: MethodChoice) -> Unit:
        backbone = NETWORKS.get(choice.spec.network, NETWORK)
        return Unit(
            {"method": choice.name, "preset": choice.preset},
            lambda: _checked(subject(backbone), choice, asked.request.seed),
        )

    return [unit(choice) for choice in _presets(asked.request.methods)]


def _presets(choices: Sequence[MethodChoice]) -> list[MethodChoice]:
    """The choices that were named, else all presets of the methods."""
    if any(choice.named for choice in choices):
        return list(choices)
    return [choice.model_copy(update={"preset": preset}) for choice in choices for preset in choice.spec.preset_names()]


def _request(asked: Asked, backbone: str) -> BenchRequest:
    changes = {"backbone": backbone, "batch_size": BATCH_SIZE, "image_size": IMAGE_SIZE}
    return asked.request.model_copy(update=changes)


def _checked(subject: Subject, choice: MethodChoice, seed: int) -> dict[str, Any]:
    spec, settings = choice.spec, choice.resolve()
    single = differences_to_cpu(subject, choice, seed)
    double = max(differences_to_cpu(subject.double(), choice, seed))
    waits = max(waits_of_steps(subject, choice, seed))
    drawn = spec.draws_on_device_with(settings)
    return {
        "float32": single,
        "float64": double,
        "agrees": None if drawn else double <= TOLERANCE * spec.amplifies_rounding,
        "waits": waits,
        "declared": spec.waits_of(settings),
        "waits_as_declared": waits <= spec.waits_of(settings),
    }


SECTION = Section(
    name="agreement",
    title="agreement with the CPU",
    meaning=(
        "float32: largest difference of a logit to the CPU, step by step; float64: the same in double precision, over "
        f"all steps; agrees: float64 is at most {TOLERANCE:g} (of some methods tenfold), empty where random numbers "
        "are drawn on the device, which are others than on the CPU; waits: of the host for the device in a step, at "
        f"most as declared. Networks: {NETWORK}, for batch norm {NETWORKS['batch-norm']}, on {BATCH_SIZE} images of "
        f"{IMAGE_SIZE} pixels"
    ),
    units=units,
    shown=("method", "preset", "float32", "float64", "agrees", "waits", "declared"),
    share=25,
    most=0.1,
)
