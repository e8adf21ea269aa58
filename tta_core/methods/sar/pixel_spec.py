"""Settings of SAR for segmentation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tta_core.methods.common.pixel_settings import (
    SELECTED_PIXELS,
    PixelOptimizerSettings,
    SelectingSettings,
    Views,
)
from tta_core.methods.spec import MethodSpec, Real, ScalarSpec


class PixelSARSettings(SelectingSettings, PixelOptimizerSettings):
    """Settings of SAR; nothing is published for segmentation.

    Attributes:
        views: views that are scored; it learns from one.
        norms: which normalisation layers are trained; of blocks, all stages are counted in one row.
        rho: length of the ascent before the second pass; 0 leaves that out.
        reset_threshold: average loss in nat below which the network returns to the source; 0 for never, since most
            pixels are far surer than images.
        reset_ema: share of the old average in the new one.
    """

    views: Views = 1
    optimizer: Literal["sgd"] = "sgd"
    lr: float = Field(default=1e-4, gt=0)
    norms: Literal["all", "not_last_quarter"] = "not_last_quarter"
    rho: float = Field(default=0.05, ge=0)
    reset_threshold: float = Field(default=0.0, ge=0)
    reset_ema: float = Field(default=0.9, ge=0, lt=1)


PIXELS = MethodSpec(
    name="sar",
    title="sharpness-aware entropy minimisation on reliable pixels, with recovery from collapse",
    paper="Niu et al., Towards Stable Test-Time Adaptation in Dynamic Wild World, ICLR 2023",
    changes="trains weight and bias of the normalisation layers before the last quarter of the network",
    task="segmentation",
    implementation="PixelSAR",
    settings=PixelSARSettings,
    presets={"official": {"reset_threshold": 0.2}, "paper": {"reset_threshold": 0.2}, "digit-scenes": {"lr": 1e-3}},
    search={"lr": Real(low=1e-6, high=1e-1, log=True), "rho": Real(low=0.0, high=0.5)},
    scalars=SELECTED_PIXELS
    | {
        "ema": ScalarSpec(description="moving average of the loss that the recovery went by", unit="nat"),
        "reset": ScalarSpec(description="whether the network returned to the source after the step"),
    },
    network="segformer",
    waits=2,
    relative_cost=4.6,
)
