"""Settings and presets of ViDA for segmentation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tta_core.methods.common.pixel_settings import (
    DIGIT_SCENES,
    TEACHER_SCALARS,
    TEACHER_SEARCH,
    PixelTeacherSettings,
    Views,
)
from tta_core.methods.spec import LABELLED_SOURCE_IMAGES, MethodSpec, Real, ScalarSpec
from tta_core.methods.vida.spec import SPEC


class PixelViDASettings(PixelTeacherSettings):
    """Settings of ViDA; its code for Cityscapes to ACDC was not released.

    Attributes:
        lr: learning rate of the adapters.
        backbone_lr: of all else.
        rank_low: rank of the first adapter of a layer.
        rank_high: rank of the second.
        train_scope: what is trained: every parameter and the adapters, or the adapters alone.
        warm_up: train the adapters on labelled source images before the stream, with all else frozen. The paper's are;
            those of the group's port start with nothing to add.
        warm_up_epochs: passes over these images.
        warm_up_steps: batches at most, over all passes.
        warm_up_optimizer: of the warm-up; SGD has a Nesterov momentum of 0.9.
        warm_up_lr: its learning rate.
        allotment: whether the adapters are scaled by how much the views differ, as in the paper, or not at all, as in
            the group's port for another benchmark.
        uncertainty_weight: factor of the variance of the logits over views in the uncertainty.
        uncertainty_threshold: from which uncertainty on the adapter of high rank is the one that is enlarged.
    """

    views: Views = 14
    lr: float = Field(default=1e-7, ge=0)
    backbone_lr: float = Field(default=1e-6, ge=0)
    rank_low: int = Field(default=1, ge=1)
    rank_high: int = Field(default=128, ge=1)
    train_scope: Literal["all", "adapters"] = "all"
    warm_up: bool = True
    warm_up_epochs: int = Field(default=1, ge=1)
    warm_up_steps: int = Field(default=2000, ge=1)
    warm_up_optimizer: Literal["sgd", "adam"] = "adam"
    warm_up_lr: float = Field(default=1e-4, gt=0)
    allotment: bool = True
    uncertainty_weight: float = Field(default=0.1, ge=0)
    uncertainty_threshold: float = Field(default=0.2, ge=0)


PIXELS = MethodSpec(
    name="vida",
    title="adapters of low and high rank beside attention, weighed by how much views differ",
    paper="Liu et al., ViDA: Homeostatic Visual Domain Adapter for Continual Test Time Adaptation, ICLR 2024",
    changes="adds two adapters to the linear layers of attention; trains these and every weight towards a teacher",
    task="segmentation",
    implementation="PixelViDA",
    settings=PixelViDASettings,
    presets={
        # The group's port to SegFormer for the SHIFT challenge.
        "official": {"warm_up": False, "allotment": False, "views": 10, "optimizer_at_border": "new"},
        "paper": {},
        "digit-scenes": DIGIT_SCENES | {"lr": 1e-4, "backbone_lr": 1e-4, "rank_high": 16},
    },
    search=TEACHER_SEARCH | {"backbone_lr": Real(low=1e-7, high=1e-3, log=True)},
    scalars=TEACHER_SCALARS
    | {
        "uncertainty": ScalarSpec(description="variance of the logits over views, weighted"),
        "low_scale": ScalarSpec(description="factor of the adapters of low rank"),
        "high_scale": ScalarSpec(description="factor of the adapters of high rank"),
    },
    needs=(LABELLED_SOURCE_IMAGES,),
    needs_with=lambda settings: (LABELLED_SOURCE_IMAGES,) if settings.warm_up else (),
    preparation=SPEC.preparation,
    network="segformer",
    relative_cost=55.0,
    starts_at_source=False,
)
