"""Settings, presets and search ranges of MoASE for segmentation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tta_core.methods.common.optimizer_settings import Betas
from tta_core.methods.common.pixel_settings import (
    DIGIT_SCENES,
    TEACHER_SCALARS,
    TEACHER_SEARCH,
    PixelTeacherSettings,
    step_cost,
)
from tta_core.methods.moase.spec import PAPER_EXPERTS, RELEASED_EXPERTS, MoASESettings
from tta_core.methods.spec import MethodSpec, Real, ScalarSpec


class PixelMoASESettings(PixelTeacherSettings, MoASESettings):
    """Settings of MoASE: those of its experts, of the teacher and of the views. No code for segmentation was released.

    Attributes:
        rank_rule: hidden units of an expert: a quarter of the stage's width, a sixteenth but at least 8, or
            `bottleneck` in all stages. The paper states none.
    """

    optimizer: Literal["sgd", "adam"] = "adam"
    lr: float = Field(default=2e-4, gt=0)
    momentum: float = Field(default=0.9, gt=0, lt=1)
    betas: Betas = (0.9, 0.99)
    ema: float = Field(default=0.999, ge=0, le=1)
    restore_probability: float = Field(default=0.01, ge=0, le=1)
    rank_rule: Literal["quarter", "sixteenth", "fixed"] = "quarter"

    def rank(self, width: int) -> int:
        """Hidden units of one expert in a stage of a width."""
        ranks = {"quarter": width // 4, "sixteenth": max(8, width // 16), "fixed": self.bottleneck}
        return max(1, ranks[self.rank_rule])


PIXELS = MethodSpec(
    name="moase",
    title="experts with activation sparsity and a mean teacher with views of several sizes",
    paper="MoASE: Mixture-of-Activation-Sparsity-Experts for Continual Test-Time Adaptation, AAAI 2026",
    changes="adds experts, a router and a gate beside the MLP of every block; trains every weight and bias",
    task="segmentation",
    implementation="PixelMoASE",
    settings=PixelMoASESettings,
    presets={
        # What was released for classification, in CoTTA's released step: an assumption, like all of it.
        "official": RELEASED_EXPERTS | {"optimizer_at_border": "new", "hp_power": 1},
        "paper": PAPER_EXPERTS,
        # Over lr 1e-4, 3e-4 and 1e-3.
        "digit-scenes": DIGIT_SCENES | {"lr": 1e-3},
    },
    search=TEACHER_SEARCH | {"hp_weight": Real(low=0.0, high=10.0)},
    scalars=TEACHER_SCALARS
    | {"proximal_loss": ScalarSpec(description="homeostatic-proximal loss with its weight, without unit")},
    network="segformer",
    relative_cost=63.0,
    cost_with=step_cost(15.5, sees_itself=False),
    amplifies_rounding=10.0,
)
