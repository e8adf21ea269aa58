"""Settings, presets and search ranges of RoTTA."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tta_core.methods.common.optimizer_settings import OptimizerSettings
from tta_core.methods.spec import Integer, MethodSpec, Real, ScalarSpec


class RoTTASettings(OptimizerSettings):
    """Settings of RoTTA, with those of its optimizer.

    Attributes:
        norm_momentum: share by which the statistics of BatchNorm move towards those of each memory batch (alpha);
            without BatchNorm in the network it has no meaning.
        capacity: images that the memory holds.
        lambda_timeliness: weight of an image's age in the choice of which one leaves the memory.
        lambda_uncertainty: weight of its entropy in that.
        update_frequency: samples from one update to the next.
        teacher_update: share by which the teacher moves towards the student at each update (nu).
        timeliness_weighting: whether old images count for less in the loss; otherwise all count alike.
        strong_view: whether the student sees an augmented view of the memory; otherwise what the teacher sees.
        mean_over_classes: whether the cross-entropy is divided by the number of classes. Adam does not notice.
    """

    optimizer: Literal["sgd", "adam"] = "adam"
    norm_momentum: float = Field(default=0.05, ge=0, le=1)
    capacity: int = Field(default=64, ge=1)
    lambda_timeliness: float = Field(default=1.0, ge=0)
    lambda_uncertainty: float = Field(default=1.0, ge=0)
    update_frequency: int = Field(default=64, ge=1)
    teacher_update: float = Field(default=0.001, ge=0, le=1)
    timeliness_weighting: bool = True
    strong_view: bool = True
    mean_over_classes: bool = False


SPEC = MethodSpec(
    name="rotta",
    title="a category-balanced memory, robust batch statistics and a mean teacher",
    paper="Yuan, Xie and Li, Robust Test-Time Adaptation in Dynamic Scenarios, CVPR 2023",
    changes="trains weight and bias of BatchNorm layers, whose statistics follow the memory; without BatchNorm, of all "
    "normalisation layers, which have no such statistics",
    not_for_pixels="its memory is balanced by the class of an image",
    implementation="RoTTA",
    version=2,
    traces=("BIT-DA/RoTTA 67e34c9", "mariodoebler/test-time-adaptation 8b2ed63"),
    tables={
        "official": "RoTTA's tables",
    },
    settings=RoTTASettings,
    presets={
        "official": {},
        "paper": {"mean_over_classes": True},
        # Chosen on the held-out corruptions: tta_core.run with method rotta, domains held-out, severity 4,
        # samples_per_domain 256, streams mixed and continual, seed 0, over lr 1e-3 to 0.03, update_frequency 16 and 64,
        # teacher_update 0.001 to 0.1 on the vision transformer, norm_momentum 0.05 and 0.2 on the residual network.
        # With the published 64 and 0.001 the teacher hardly moves on a stream of some thousand images.
        "digits-c": {"update_frequency": 16, "teacher_update": 0.1, "norm_momentum": 0.2},
    },
    search={
        "lr": Real(low=1e-5, high=0.3, log=True),
        "norm_momentum": Real(low=0.001, high=1.0, log=True),
        "teacher_update": Real(low=1e-4, high=1.0, log=True),
        "update_frequency": Integer(low=1, high=256),
        "lambda_timeliness": Real(low=0.0, high=4.0),
        "lambda_uncertainty": Real(low=0.0, high=4.0),
    },
    scalars={
        "memory_size": ScalarSpec(description="images in the memory after the step"),
        "memory_classes": ScalarSpec(description="predicted classes among them"),
        "memory_age": ScalarSpec(description="mean age of the images in the memory", unit="samples"),
        "updates": ScalarSpec(description="updates in the step"),
    },
    waits=1,
    draws_on_device=lambda settings: settings.strong_view,
    # Estimated from our own measurements; none is published.
    relative_cost=4.6,
)
