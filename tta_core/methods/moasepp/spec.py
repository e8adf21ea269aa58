"""Settings, presets and search ranges of MoASE++."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tta_core.methods.moase.spec import EXPERT_SCALARS, EXPERT_SEARCH, PAPER_EXPERTS, RELEASED_EXPERTS, ExpertSettings
from tta_core.methods.spec import MethodSpec, Real, ScalarSpec


class MoASEppSettings(ExpertSettings):
    """Settings of MoASE++ (moase §3): those of MoASE's experts, teacher and optimizer, and what follows.

    Attributes:
        views: augmented views of each batch, each with strengths of its own; the release always takes one.
        opd_weight: weight of the distillation on the views, mean over them.
        opd_temperature: temperature of its softmax.
        policy_gradient: gradient of the policy that chooses the strengths: the score function, or, as released, the
            one of a sample that is not detached, in which the means cancel.
        policy_lr: learning rate of the policy's Adam.
        entropy_weight: weight of the policy's entropy in its loss.
        strength_penalty: weight of the mean squared strength, which lowers the reward.
        baseline_momentum: share of itself that the baseline of the reward keeps at each step.
    """

    views: int = Field(default=1, ge=1)
    opd_weight: float = Field(default=1.0, ge=0)
    opd_temperature: float = Field(default=2.0, gt=0)
    policy_gradient: Literal["score", "official"] = "score"
    policy_lr: float = Field(default=1e-4, gt=0)
    entropy_weight: float = Field(default=1e-3, ge=0)
    strength_penalty: float = Field(default=0.1, ge=0)
    baseline_momentum: float = Field(default=0.9, ge=0, lt=1)


SPEC = MethodSpec(
    name="moasepp",
    title="MoASE++: MoASE with on-policy distillation on augmented images",
    paper="MoASE++, arXiv 2605.17743, 2026",
    changes="adds experts, a router and a gate beside the MLP of every block; trains every weight and bias",
    not_for_pixels="its augmentation moves pixels, and no code for it was released",
    implementation="MoASEpp",
    traces=("RoyZry98/MoASE-Pytorch 650464a",),
    tables={
        "official": "MoASE++'s own",
    },
    settings=MoASEppSettings,
    presets={
        "official": RELEASED_EXPERTS | {"bottleneck": 192, "policy_gradient": "official"},
        "official-r48": RELEASED_EXPERTS | {"bottleneck": 48, "policy_gradient": "official"},
        "paper": PAPER_EXPERTS,
        # Those of MoASE.
        "digits-c": {"lr": 1e-3, "ema": 0.99},
    },
    search=EXPERT_SEARCH | {"opd_weight": Real(low=0.0, high=10.0), "opd_temperature": Real(low=0.5, high=8.0)},
    scalars=EXPERT_SCALARS
    | {
        "distillation_loss": ScalarSpec(
            description="reverse divergence from the teacher on augmented views", unit="nat"
        ),
        "policy_loss": ScalarSpec(description="loss of the policy, mean over views"),
        "policy_entropy": ScalarSpec(description="entropy of the policy before squashing", unit="nat"),
        "log_probability": ScalarSpec(description="log density of the strengths, mean over views", unit="nat"),
        "baseline": ScalarSpec(description="running mean of the reward"),
        "geometry_strength": ScalarSpec(description="strength of the geometric augmentation, mean over views"),
        "colour_strength": ScalarSpec(description="strength of the colour augmentation, mean over views"),
        "noise_strength": ScalarSpec(description="strength of the noise, mean over views"),
    },
    network="transformer",
    draws_on_device=True,
    relative_cost=17.8,
    published_cost=17.82,
    # The experts start from rounding noise alone, which Adam makes steps of.
    amplifies_rounding=10.0,
)
