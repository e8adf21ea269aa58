"""Settings of `source` for segmentation: its views."""

from __future__ import annotations

from tta_core.methods.common.pixel_settings import Views, ViewSettings, step_cost
from tta_core.methods.spec import MethodSpec


class PixelSourceSettings(ViewSettings):
    """One view, as published. With more it is the control of every method whose teacher has them."""

    views: Views = 1


PIXELS = MethodSpec(
    name="source",
    title="the pre-trained network as it is, no adaptation",
    paper="the reference of every table",
    changes="nothing",
    task="segmentation",
    implementation="PixelSource",
    settings=PixelSourceSettings,
    presets={
        "official": {},
        "paper": {},
        "views": {"views": 14},
        "digit-scenes": {},
        "digit-scenes-views": {"views": 6},
    },
    network="segformer",
    relative_cost=1.0,
    cost_with=step_cost(0.0, sees_itself=False),
    trains=False,
)
