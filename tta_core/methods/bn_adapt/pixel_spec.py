"""Settings of BN-Adapt for segmentation."""

from __future__ import annotations

from pydantic import Field

from tta_core.methods.common.pixel_settings import Views, ViewSettings, step_cost
from tta_core.methods.spec import MethodSpec, Real


class PixelBNAdaptSettings(ViewSettings):
    """Where the statistics of the head's BatchNorm come from.

    Attributes:
        views: views that are scored.
        source_weight: how many images the source's statistics count as beside the image; 0 takes the image alone.
    """

    views: Views = 1
    source_weight: float = Field(default=0.0, ge=0)


PIXELS = MethodSpec(
    name="bn-adapt",
    title="statistics of BatchNorm layers from the image at hand",
    paper="Schneider et al., Improving Robustness against Common Corruptions by Covariate Shift Adaptation, NeurIPS "
    "2020",
    changes="the statistics of every BatchNorm layer; trains nothing",
    task="segmentation",
    implementation="PixelBNAdapt",
    settings=PixelBNAdaptSettings,
    # No code was released for it: the published row took the image alone, in train mode.
    presets={"official": {}, "paper": {}, "digit-scenes": {}},
    search={"source_weight": Real(low=0.0, high=1024.0)},
    network="segformer",
    relative_cost=1.1,
    cost_with=step_cost(0.1, sees_itself=False),
    trains=False,
    starts_at_source=False,
)
