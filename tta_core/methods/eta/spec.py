"""Settings, presets and search ranges of ETA, which EATA shares."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from tta_core.methods.common.optimizer_settings import OptimizerSettings
from tta_core.methods.spec import MethodSpec, Real, ScalarSpec


class ETASettings(OptimizerSettings):
    """Settings of ETA (mixed §2.3), for batches of 64.

    Attributes:
        lr: learning rate; it is not scaled with the batch size.
        entropy_margin: a sample is reliable if its entropy is below this, in units of ln(classes); its weight in the
            loss is exp(margin - entropy).
        redundancy_margin: a reliable sample is redundant unless the cosine between its probabilities and their running
            mean is below this. Few classes need more: 0.05 is made for 1000, 0.4 for 10.
        scale_redundancy: multiply that margin by ln(classes) / ln(1000), as the MGTTA repository does where logits are
            masked to 200 classes.
        average_momentum: share of itself that the running mean keeps at each step.
        filter_entropy: leave out the samples that are not reliable.
        filter_redundancy: leave out those that are redundant.
        weight_by_entropy: weigh the samples; otherwise all that are selected count alike.
    """

    lr: float = Field(default=6e-4, gt=0)
    entropy_margin: float = Field(default=0.4, gt=0)
    redundancy_margin: float = Field(default=0.05, gt=0)
    scale_redundancy: bool = False
    average_momentum: float = Field(default=0.9, ge=0, lt=1)
    filter_entropy: bool = True
    filter_redundancy: bool = True
    weight_by_entropy: bool = True


ETA_PRESETS: dict[str, dict[str, Any]] = {
    # The EATA repository and the paper: ResNet-50 on ImageNet-C.
    "official": {"lr": 2.5e-4},
    "paper": {"lr": 2.5e-4},
    # The learning rate of the SAR repository for ViT-B.
    "official-vit": {"lr": 1e-3},
    # The paper's setting of CIFAR-10-C, ResNet-26.
    "cifar10": {"lr": 5e-3, "redundancy_margin": 0.4},
    # MoETTA's tables, for all of its backbones; the same as the defaults.
    "moetta": {"lr": 6e-4},
}

DIGITS: dict[str, Any] = {"lr": 0.03, "redundancy_margin": 0.3}
"""Chosen on the held-out corruptions: tta_core.run with method eta, domains held-out, severity 4, samples_per_domain
256, streams mixed and continual, seeds 0 to 2, over lr 0.01 to 0.1, redundancy_margin 0.2 to 0.6, entropy_margin 0.4 to
0.6; eata has the same, and fisher_alpha from 1 to 2000 made no difference.
"""

ETA_SEARCH = {
    "lr": Real(low=1e-5, high=0.3, log=True),
    "entropy_margin": Real(low=0.1, high=1.0),
    "redundancy_margin": Real(low=0.01, high=1.0, log=True),
}

ETA_SCALARS = {
    "reliable": ScalarSpec(description="samples below the entropy margin"),
    "similarity": ScalarSpec(description="mean cosine of the reliable samples' probabilities and their running mean"),
}

SPEC = MethodSpec(
    name="eta",
    title="entropy minimisation on reliable, non-redundant samples",
    paper="Niu et al., Efficient Test-Time Model Adaptation without Forgetting, ICML 2022 (EATA without its penalty)",
    changes="trains weight and bias of every normalisation layer; batch statistics in BatchNorm",
    implementation="ETA",
    traces=("mr-eggplant/SAR 20f6e24",),
    tables={
        "moetta": "MoETTA's main table",
    },
    settings=ETASettings,
    presets=ETA_PRESETS | {"digits-c": DIGITS},
    search=ETA_SEARCH,
    scalars=ETA_SCALARS,
    waits=1,
    relative_cost=2.3,
    published_cost=2.36,
)
