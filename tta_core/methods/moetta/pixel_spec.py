"""Settings of MoETTA for segmentation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tta_core.methods.common.pixel_settings import SELECTED_PIXELS, Views, ViewSettings, step_cost
from tta_core.methods.moetta.spec import SPEC, MoETTASettings
from tta_core.methods.spec import MethodSpec, Real


class PixelMoETTASettings(ViewSettings, MoETTASettings):
    """Settings of MoETTA (those of its experts are in `spec.py`); nothing is published for segmentation.

    Attributes:
        views: views that are scored; it learns from one.
        select: whether pixels are learned from whose entropy is at most the running mean, or images.
        frequency_memory: share of itself that the running frequency of each expert keeps. The load balance goes by it:
            of one image the frequency is one-hot, and would push the router away from whatever it chose.
    """

    views: Views = 1
    lr: float = Field(default=1e-4, gt=0)
    select: Literal["pixel", "image"] = "pixel"
    frequency_memory: float = Field(default=0.95, ge=0, lt=1)


PIXELS = MethodSpec(
    name="moetta",
    title="an expert of every LayerNorm for each image, chosen by a router",
    paper=SPEC.paper,
    changes="replaces LayerNorms by layers with experts and trains these; BatchNorm keeps its running statistics",
    task="segmentation",
    implementation="PixelMoETTA",
    settings=PixelMoETTASettings,
    presets={
        "official": {"threshold_mode": "official", "frequency_memory": 0.0, "select": "image"},
        "paper": {},
        # Over lr 1e-3 and 1e-2.
        "digit-scenes": {"lr": 1e-2},
    },
    search={"lr": Real(low=1e-6, high=1e-1, log=True), "lambda_balance": Real(low=0.0, high=10.0)},
    scalars=SPEC.scalars | SELECTED_PIXELS,
    network="segformer",
    relative_cost=5.1,
    cost_with=step_cost(5.1),
)
