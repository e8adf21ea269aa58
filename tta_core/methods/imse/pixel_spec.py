"""Settings, presets and search ranges of IMSE for segmentation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from tta_core.methods.common.pixel_settings import SELECTED_PIXELS, Views, ViewSettings, step_cost
from tta_core.methods.imse.spec import RELEASED, SPEC, IMSESettings, waits
from tta_core.methods.spec import MethodSpec, Real

Component = Literal["attn.q", "attn.kv", "attn.proj", "mlp.fc1", "mlp.fc2"]

COMPONENTS: tuple[Component, ...] = ("attn.q", "attn.kv", "attn.proj", "mlp.fc1", "mlp.fc2")


class PixelIMSESettings(ViewSettings, IMSESettings):
    """Settings of IMSE (the others are in `spec.py`); nothing is published for segmentation.

    Attributes:
        views: views that are scored; it learns from one.
        lr: learning rate of Adam, of one image a step.
        components: linear layers of each block that are decomposed. Keys and values are one.
        decompose_qkv: there is no such layer.
        frozen_last_blocks: how many of the last blocks keep their code, of all stages counted in one row.
        select: whether reliable pixels are learned from, or images whose mean entropy is below the margin.
        detection_window: batches that are described together before a change is looked for: one image tells little.
    """

    views: Views = 1
    lr: float = Field(default=1e-3, ge=0)
    components: tuple[Component, ...] = Field(default=COMPONENTS, min_length=1)  # type: ignore[assignment]
    decompose_qkv: Literal[False] = False
    frozen_last_blocks: int | Literal["auto"] = 3
    select: Literal["pixel", "image"] = "pixel"
    detection_window: int = Field(default=8, ge=1)

    @field_validator("components")
    @classmethod
    def _in_one_order(cls, given: tuple[Component, ...]) -> tuple[Component, ...]:  # type: ignore[override]
        return tuple(component for component in COMPONENTS if component in given)


PIXELS = MethodSpec(
    name="imse",
    title="singular values of linear layers as experts, with a bank of spectral codes",
    paper=SPEC.paper,
    changes="trains the singular values of attention and MLP layers but those of the last blocks; all else is frozen",
    task="segmentation",
    implementation="PixelIMSE",
    settings=PixelIMSESettings,
    presets={
        # What was released for classification; one image a step is a window of its own there.
        "official": RELEASED | {"lr": 7e-3, "detection_window": 1, "select": "image"},
        "paper": {"lr": 7e-3},
        # Over lr 1e-3 to 0.02 and lambda_diversity 0 to 4: the entropy of a pixel is small beside the diversity.
        "digit-scenes": {"frozen_last_blocks": 1, "lr": 3e-3, "lambda_diversity": 0.3},
    },
    search={
        "lr": Real(low=1e-5, high=0.1, log=True),
        "lambda_diversity": Real(low=0.0, high=100.0),
        "shift_threshold": Real(low=0.01, high=1.0, log=True),
        "rho": Real(low=0.0, high=0.2),
    },
    scalars=SPEC.scalars | SELECTED_PIXELS,
    needs=SPEC.needs,
    needs_with=SPEC.needs_with,
    preparation=SPEC.preparation,
    network="segformer",
    waits=waits,
    relative_cost=8.0,
    cost_with=step_cost(8.0),
)
