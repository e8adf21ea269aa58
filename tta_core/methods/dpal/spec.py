"""Settings, presets and search ranges of DPAL."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tta_core.methods.common.reliable_sharpness import RELIABLE_SCALARS, RELIABLE_SEARCH, ReliableSharpnessSettings
from tta_core.methods.spec import MethodSpec, Real, ScalarSpec


class DPALSettings(ReliableSharpnessSettings):
    """Settings of DPAL (continual §4.5).

    Attributes:
        lr: learning rate of the update path, domain tokens and normalisation layers, which SAM trains.
        token_lr: that of the domain tokens, if it is another one.
        predictor_lr: learning rate of the noise predictors, which plain SGD trains.
        predictor_init: initial values of the predictors, none of which predicts any noise at first: `zero`, as
            published, all is zero, and then no gradient ever reaches anything but the last bias, so that the noise is
            the same for all images; `zero_output`, the first layer is random and the second zero.
        lambda_similarity: weight of the similarity of the images' noise, in nat.
        second_filter: which samples the second pass selects from: those of the first pass, as in SAR, or the whole
            batch, whose logits are at hand. The release selects within the first.
        reset_clears: `parameters` keeps the momentum of the update path and the low average, as released; that of the
            predictors is cleared with either.
    """

    lr: float = Field(default=0.01, gt=0)
    token_lr: float | None = Field(default=None, gt=0)
    predictor_lr: float = Field(default=0.01, gt=0)
    predictor_init: Literal["zero", "zero_output"] = "zero"
    lambda_similarity: float = Field(default=1.0, ge=0)
    second_filter: Literal["within_first", "whole_batch"] = "within_first"


SPEC = MethodSpec(
    name="dpal",
    title="domain tokens, and predictors that take their noise out of the class token",
    paper="Tang et al., Dual-Path Adversarial Lifting for Domain Shift Correction in Online Test-Time Adaptation, "
    "ECCV 2024",
    changes="adds a domain token and a noise predictor to every block; trains both and the norms of all blocks but the "
    "last quarter",
    not_for_pixels="it lifts the class token and prompts, which SegFormer has not",
    implementation="DPAL",
    version=2,
    traces=("yushuntang/DPAL 0f7b8ff",),
    tables={
        "official": "DPAL, ViT-B on ImageNet-C",
    },
    settings=DPALSettings,
    presets={
        "official": {"norms": "legacy_names", "on_empty": "momentum_step", "reset_clears": "parameters"},
        "paper": {},
        # Chosen on the held-out corruptions: tta_core.run with method dpal, domains held-out, severity 4,
        # samples_per_domain 256, streams mixed, continual and single, seeds 0 to 2 (0 and 1 in a part), over lr 1e-5 to
        # 0.2, predictor_lr 1e-5 to 1, predictor_init, entropy_margin 0.05 to 0.4, rho 0 to 0.5, norms. None reaches the
        # source: the drawn tokens alone cost this small network 7 points, and adaptation wins back 2 of them.
        "digits-c": {"lr": 0.1, "entropy_margin": 0.1, "reset_threshold": 0.0},
    },
    search=RELIABLE_SEARCH
    | {
        "predictor_lr": Real(low=1e-5, high=1.0, log=True),
        "lambda_similarity": Real(low=0.0, high=10.0),
    },
    scalars=RELIABLE_SCALARS
    | {"similarity": ScalarSpec(description="mean cosine similarity of the noise of two images, before the ascent")},
    scores="perturbed",
    network="transformer",
    relative_cost=4.8,
    starts_at_source=False,
    # The network is never as sure of noise as the preset asks for.
    learns_from_noise={"entropy_margin": 0.6},
)
