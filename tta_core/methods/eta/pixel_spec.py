"""Settings of ETA for segmentation."""

from __future__ import annotations

from pydantic import Field

from tta_core.methods.common.pixel_settings import (
    SELECTED_PIXELS,
    PixelOptimizerSettings,
    SelectingSettings,
    Views,
)
from tta_core.methods.spec import MethodSpec, Real


class PixelETASettings(SelectingSettings, PixelOptimizerSettings):
    """Settings of ETA; nothing is published for segmentation.

    Attributes:
        views: views that are scored; it learns from one.
        redundancy_margin: an image is left out if the cosine of its mean probabilities and their running mean is at
            least this in size. At 1 none is: images of streets, or of scenes, are all alike in what they hold.
        average_momentum: share of itself that the running mean keeps.
        weight_by_entropy: whether surer pixels count for more.
    """

    views: Views = 1
    redundancy_margin: float = Field(default=1.0, gt=0, le=1)
    average_momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_by_entropy: bool = True


PIXELS = MethodSpec(
    name="eta",
    title="entropy minimisation on reliable pixels of images that are not redundant",
    paper="Niu et al., Efficient Test-Time Model Adaptation without Forgetting, ICML 2022",
    changes="trains weight and bias of every normalisation layer",
    task="segmentation",
    implementation="PixelETA",
    settings=PixelETASettings,
    # Neither is published for segmentation: the redundancy of classification leaves nothing to learn from here.
    presets={
        "official": {"redundancy_margin": 0.05},
        "paper": {"redundancy_margin": 0.05},
        "digit-scenes": {"lr": 1e-4},
    },
    search={"lr": Real(low=1e-6, high=1e-3, log=True), "entropy_margin": Real(low=0.1, high=1.0)},
    scalars=SELECTED_PIXELS,
    network="segformer",
    waits=1,
    relative_cost=2.6,
)
