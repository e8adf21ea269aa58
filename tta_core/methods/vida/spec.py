"""Settings, presets and search ranges of ViDA."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from tta_core.methods.common.optimizer_settings import OptimizerSettings
from tta_core.methods.spec import LABELLED_SOURCE_IMAGES, MethodSpec, PreparationSpec, Real, ScalarSpec


class ViDASettings(OptimizerSettings):
    """Settings of ViDA (continual §4.4); those of the optimizer are of `OptimizerSettings`.

    Attributes:
        optimizer: SGD or Adam.
        lr: learning rate of the adapters.
        backbone_lr: learning rate of all other parameters; without effect where only adapters are trained.
        nesterov: whether the momentum of SGD is Nesterov's.
        rank_low: rank of the first adapter of a layer, for domain-shared knowledge.
        rank_high: rank of the second, for domain-specific knowledge.
        train_scope: what is trained: every parameter of the backbone and the adapters, or, as in IMSE's port, the
            adapters alone.
        warm_up: train the adapters on labelled source images before the stream, with the backbone frozen. The release
            starts from adapters that were made so; without it they start with nothing to add.
        warm_up_epochs: passes over these images.
        warm_up_steps: batches at most, over all passes; 64 images each.
        warm_up_optimizer: of the warm-up; SGD has a Nesterov momentum of 0.9.
        warm_up_lr: its learning rate.
        views: augmented passes of the teacher whose logits give the uncertainty.
        uncertainty_weight: factor of the variance of these logits in the uncertainty.
        uncertainty_threshold: from which uncertainty on the adapter of high rank is the one that is enlarged.
        scaled: which adapters are scaled by the uncertainty u: both, as in the paper, one by 1 + u and the other by
            1 - u; or, as released, that of low rank alone.
        loss: half the cross-entropy to the teacher and half that of the teacher to the student, as released for
            ImageNet; or the first alone and whole, as released for CIFAR.
        ema: share of itself that the teacher keeps at each step, of the backbone.
        adapter_ema: likewise, of the adapters.
        restore_probability: with which each trained number of the student returns to its source value at each step.
    """

    lr: float = Field(default=2e-7, gt=0)
    backbone_lr: float = Field(default=5e-7, ge=0)
    nesterov: bool = True
    rank_low: int = Field(default=1, ge=1)
    rank_high: int = Field(default=128, ge=1)
    train_scope: Literal["all", "adapters"] = "all"
    warm_up: bool = True
    warm_up_epochs: int = Field(default=5, ge=1)
    warm_up_steps: int = Field(default=2000, ge=1)
    warm_up_optimizer: Literal["sgd", "adam"] = "adam"
    warm_up_lr: float = Field(default=1e-4, gt=0)
    views: int = Field(default=10, ge=2)
    uncertainty_weight: float = Field(default=0.1, ge=0)
    uncertainty_threshold: float = Field(default=0.2, ge=0)
    scaled: Literal["both", "low"] = "both"
    loss: Literal["symmetric", "one_directional"] = "symmetric"
    ema: float = Field(default=0.999, ge=0, le=1)
    adapter_ema: float = Field(default=0.8, ge=0, le=1)
    restore_probability: float = Field(default=0.0, ge=0, le=1)


RELEASED: dict[str, Any] = {"scaled": "low"}
"""What all released versions have in common beside the defaults."""

CIFAR: dict[str, Any] = RELEASED | {
    "optimizer": "adam",
    "nesterov": False,
    "loss": "one_directional",
    "adapter_ema": 0.999,
    "uncertainty_threshold": 0.05,
    # The constructor's default: the configured 0.01 never reaches it.
    "restore_probability": 0.1,
}

SPEC = MethodSpec(
    name="vida",
    title="adapters of low and high rank, scaled by the uncertainty of a mean teacher",
    paper="ViDA: Homeostatic Visual Domain Adapter for Continual Test Time Adaptation, ICLR 2024",
    changes="adds two low-rank adapters to every linear layer of attention; trains them and every other parameter",
    implementation="ViDA",
    traces=("Yangsenqiao/vida c26b0db", "baek85/IMSE b8632d6"),
    tables={
        "official": "ViDA's own on ImageNet-C",
        "imse": "IMSE's table of continual adaptation",
        "imse-recurring": "IMSE's table of recurring domains",
    },
    settings=ViDASettings,
    presets={
        # ImageNet-C, batches of 50.
        "official": RELEASED,
        # Batches of 40 and of 50.
        "official-cifar10": CIFAR | {"lr": 1e-5, "backbone_lr": 1e-4},
        "official-cifar100": CIFAR | {"lr": 1e-6, "backbone_lr": 3e-4},
        "paper": {},
        # IMSE's port, batches of 64.
        "imse": RELEASED | {"train_scope": "adapters"},
        "imse-recurring": RELEASED | {"train_scope": "adapters", "backbone_lr": 6.25e-8},
        # Chosen on the held-out corruptions: tta_core.run with method vida, domains held-out, severity 4, streams mixed
        # and continual, over lr 1e-3 to 0.1, backbone_lr 1e-3 to 0.02, ema 0.9 to 0.999, uncertainty_threshold 0.2 to
        # 1, both optimizers and train_scopes with samples_per_domain 256 and seed 0, the best with seeds 0 to 2 or with
        # samples_per_domain 899. Learning rates of 0.01 and 3e-3 gain more on mixed streams and lose on continual ones.
        "digits-c": {"lr": 3e-3, "backbone_lr": 2e-3, "ema": 0.9},
    },
    search={
        "lr": Real(low=1e-8, high=0.1, log=True),
        "backbone_lr": Real(low=1e-8, high=0.1, log=True),
        "adapter_ema": Real(low=0.5, high=1.0),
        "ema": Real(low=0.9, high=1.0),
        "uncertainty_threshold": Real(low=0.01, high=1.0, log=True),
        "restore_probability": Real(low=0.0, high=0.1),
    },
    scalars={
        "uncertainty": ScalarSpec(description="variance of the logits over the teacher's views, with its weight"),
        "low_scale": ScalarSpec(description="factor of the adapters of low rank in this step"),
        "high_scale": ScalarSpec(description="factor of the adapters of high rank in this step"),
        "restored": ScalarSpec(description="trained numbers that returned to their source values"),
    },
    needs=(LABELLED_SOURCE_IMAGES,),
    needs_with=lambda settings: (LABELLED_SOURCE_IMAGES,) if settings.warm_up else (),
    preparation=PreparationSpec(
        artefact="adapters trained on labelled source images, the backbone frozen",
        settings=(
            "rank_low",
            "rank_high",
            "warm_up",
            "warm_up_epochs",
            "warm_up_steps",
            "warm_up_optimizer",
            "warm_up_lr",
        ),
    ),
    network="transformer",
    draws_on_device=True,
    relative_cost=31.4,
    published_cost=31.41,
    starts_at_source=False,
    # A step scales the adapters by its own uncertainty first.
    scores_as_it_stands={"uncertainty_weight": 0.0},
    quick={"views": 2, "warm_up_epochs": 1},
)
