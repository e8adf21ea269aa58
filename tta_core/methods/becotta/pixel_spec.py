"""Settings and presets of BECoTTA for segmentation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from tta_core.methods.common.pixel_settings import SELECTED_PIXELS, PixelOptimizerSettings, Views
from tta_core.methods.spec import MethodSpec, Real, ScalarSpec


class PixelBECoTTASettings(PixelOptimizerSettings):
    """Settings of BECoTTA, and those of its optimizer and views.

    Attributes:
        views: views whose mean decides where one view is not sure.
        num_experts: adapters behind each block.
        ranks: hidden units of an adapter by stage; 0 leaves a stage without.
        top_k: adapters that serve one image.
        num_domains: gates of each block; every step draws one.
        noise_strength: factor of the noise in the gates' scores, in prediction too; 0 for none.
        noise_floor: least standard deviation of that noise, before the factor.
        init_std: standard deviation of the initial weights of adapters and gates.
        anchor_threshold: a pixel keeps the class of one view if its probability is above this, and not below the
            source's; else it gets that of the mean.
        learn_from: pixels that are learned from: those whose entropy is below `margin`, in units of ln(classes); or, as
            released, those whose loss is at least `margin` nat, which are the hard ones.
        margin: see `learn_from`.
        restore_probability: with which each trained number returns to its initial value at each step.
    """

    views: Views = 8
    lr: float = Field(default=6e-7, gt=0)
    num_experts: int = Field(default=6, ge=1)
    ranks: tuple[int, int, int, int] = (2, 4, 10, 16)
    top_k: int = Field(default=3, ge=1)
    num_domains: int = Field(default=1, ge=1)
    noise_strength: float = Field(default=1.0, ge=0)
    noise_floor: float = Field(default=0.01, ge=0)
    init_std: float = Field(default=0.02, gt=0)
    anchor_threshold: float = Field(default=0.69, ge=0)
    learn_from: Literal["reliable", "hard"] = "reliable"
    margin: float = Field(default=0.4, gt=0)
    restore_probability: float = Field(default=0.01, ge=0, le=1)

    @model_validator(mode="after")
    def _fits(self) -> PixelBECoTTASettings:
        if self.top_k > self.num_experts:
            raise ValueError(
                f"top_k = {self.top_k} adapters cannot be chosen among num_experts = {self.num_experts}: give at most "
                f"{self.num_experts}"
            )
        if min(self.ranks) < 0 or not any(self.ranks):
            raise ValueError(f"ranks = {list(self.ranks)}: give whole numbers from 0, and one above 0")
        return self


SMALL = {"num_experts": 4, "ranks": (0, 0, 0, 6)}
LARGE = {"ranks": (16, 32, 60, 80)}
RELEASED = {"num_domains": 4, "learn_from": "hard", "optimizer_at_border": "new"}

PIXELS = MethodSpec(
    name="becotta",
    title="adapters behind every block, chosen for each image by a noisy gate",
    paper="BECoTTA: Input-dependent Online Blending of Experts for Continual Test-time Adaptation, ICML 2024",
    changes="adds adapters and gates behind every block and trains these; no warm-up and no domain network",
    task="segmentation",
    implementation="PixelBECoTTA",
    settings=PixelBECoTTASettings,
    presets={
        "official": RELEASED,
        "official-s": SMALL | RELEASED,
        "official-l": LARGE | RELEASED,
        "paper": {},
        "digit-scenes": {"lr": 1e-4, "views": 6, "ranks": (2, 4, 8, 12)},
    },
    search={"lr": Real(low=1e-7, high=1e-2, log=True), "margin": Real(low=0.1, high=1.0)},
    scalars=SELECTED_PIXELS | {"restored": ScalarSpec(description="trained numbers that returned to initial values")},
    network="segformer",
    waits=1,
    relative_cost=30.0,
    starts_at_source=False,
)
