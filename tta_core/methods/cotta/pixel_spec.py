"""Settings, presets and search ranges of CoTTA for segmentation."""

from __future__ import annotations

from typing import Literal

from tta_core.methods.common.pixel_settings import (
    DIGIT_SCENES,
    TEACHER_SCALARS,
    TEACHER_SEARCH,
    PixelTeacherSettings,
    step_cost,
)
from tta_core.methods.spec import MethodSpec


class PixelCoTTASettings(PixelTeacherSettings):
    """Settings of CoTTA.

    Attributes:
        train_scope: what is trained: every weight and bias, or those of the normalisation layers.
    """

    train_scope: Literal["all", "norm"] = "all"


PIXELS = MethodSpec(
    name="cotta",
    title="mean teacher with views of several sizes, and stochastic return to the source",
    paper="Wang et al., Continual Test-Time Domain Adaptation, CVPR 2022",
    changes="trains every weight and bias towards a moving average of the network",
    task="segmentation",
    implementation="PixelCoTTA",
    traces=("Waybaba/DAT f18977f, a fork of CoTTA's archive for Cityscapes to ACDC",),
    tables={
        "official": "CoTTA's own on Cityscapes to ACDC",
        "official-lr3e-4": "its step at later rates",
    },
    settings=PixelCoTTASettings,
    presets={
        "official": {"optimizer_at_border": "new"},
        "official-lr3e-4": {"optimizer_at_border": "new", "lr": 3e-4},
        "paper": {},
        # Over lr 3e-5 to 3e-4 and anchor_threshold 0.69, 0.9 and 1.
        "digit-scenes": DIGIT_SCENES | {"lr": 3e-5, "anchor_threshold": 0.9},
        # As published but for what is about the benchmark.
        "digit-scenes-published": DIGIT_SCENES | {"lr": 1e-4},
    },
    search=TEACHER_SEARCH,
    scalars=TEACHER_SCALARS,
    network="segformer",
    relative_cost=52.0,
    cost_with=step_cost(5.0, sees_itself=False),
)
