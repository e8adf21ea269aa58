"""Settings, presets and search ranges of BECoTTA."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from tta_core.methods.common.optimizer_settings import OptimizerSettings
from tta_core.methods.spec import MethodSpec, Real, ScalarSpec


class BECoTTASettings(OptimizerSettings):
    """Settings of BECoTTA (mixed §2.7), and those of its optimizer, for batches of 64.

    Attributes:
        num_experts: adapters behind each block.
        rank: hidden units of one adapter.
        top_k: adapters that serve one sample. With 1, as published, its weight is always 1 and the gates never learn.
        num_domains: gates of each block; every sample draws one of them at random.
        noise_strength: factor of the noise in the gates' scores, in prediction too; 0 for none.
        noise_floor: least standard deviation of that noise, before the factor.
        init_std: standard deviation of the initial weights of adapters and gates.
        entropy_margin: entropy below which a sample enters the loss, in units of ln(margin_classes).
        margin_classes: classes that the margin is measured by; null for the network's own. 1000, as released, lets
            every sample pass where there are few classes.
        on_empty: what a step without such a sample does: nothing, or let Adam move on its moments, as released.
        restore_probability: with which each trained number returns to its initial value at each step.
    """

    optimizer: Literal["sgd", "adam"] = "adam"
    lr: float = Field(default=1e-5, gt=0)
    num_experts: int = Field(default=6, ge=1)
    rank: int = Field(default=1, ge=1)
    top_k: int = Field(default=1, ge=1)
    num_domains: int = Field(default=1, ge=1)
    noise_strength: float = Field(default=1.0, ge=0)
    noise_floor: float = Field(default=0.01, ge=0)
    init_std: float = Field(default=0.02, gt=0)
    entropy_margin: float = Field(default=0.4, gt=0)
    margin_classes: int | None = Field(default=None, ge=2)
    on_empty: Literal["skip", "moments"] = "skip"
    restore_probability: float = Field(default=0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _enough_experts(self) -> BECoTTASettings:
        if self.top_k > self.num_experts:
            raise ValueError(
                f"top_k = {self.top_k} adapters cannot be chosen among num_experts = {self.num_experts}: give at most "
                f"{self.num_experts}"
            )
        return self


RELEASED: dict[str, Any] = {"margin_classes": 1000, "on_empty": "moments"}
"""What the release does where ours does better."""

SPEC = MethodSpec(
    name="becotta",
    title="adapters behind every block, chosen for each sample by a noisy gate",
    paper="BECoTTA: Input-dependent Online Blending of Experts for Continual Test-time Adaptation, ICML 2024",
    changes="adds adapters and gates behind every block and trains these",
    implementation="BECoTTA",
    traces=("AnikiFan/MoETTA 7f36ccf",),
    tables={
        "moetta": "MoETTA's main table",
    },
    settings=BECoTTASettings,
    presets={
        # The port to classification in the MoETTA repository: the method's own repository does segmentation. These are
        # also the settings of MoETTA's tables.
        "official": RELEASED,
        "moetta": RELEASED,
        # An earlier configuration in the MoETTA repository.
        "moetta-early": RELEASED | {"lr": 1e-3, "rank": 2, "top_k": 6},
        # What of the paper has a meaning here. Its pseudo-labels, warm-up and domain discriminator have none.
        "paper": {"top_k": 3, "num_domains": 4, "lr": 6e-7, "restore_probability": 0.01},
        # Chosen on the held-out corruptions: tta_core.run with method becotta, domains held-out, severity 4,
        # samples_per_domain 256, streams mixed, continual and single, seeds 0 to 2, over lr 1e-3 to 0.03, rank 1 to 4,
        # top_k 1 to 6, entropy_margin 0.2 to 0.8.
        "digits-c": {"lr": 1e-2, "rank": 4, "top_k": 3},
    },
    search={
        "lr": Real(low=1e-7, high=0.1, log=True),
        "entropy_margin": Real(low=0.1, high=1.0),
    },
    scalars={"restored": ScalarSpec(description="trained numbers that returned to their initial values")},
    waits=1,
    not_one_graph="each gate draws its noise on the CPU, so that all devices get the same, and a graph draws none",
    relative_cost=2.7,
    published_cost=2.69,
    starts_at_source=False,
)
