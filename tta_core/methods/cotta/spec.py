"""Settings, presets and search ranges of CoTTA."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from tta_core.methods.common.optimizer_settings import OptimizerSettings
from tta_core.methods.spec import MethodSpec, Real, ScalarSpec


class CoTTASettings(OptimizerSettings):
    """Settings of CoTTA (mixed §2.6, continual §4.3); those of the optimizer are of `OptimizerSettings`.

    Attributes:
        train_scope: what is trained: every weight and bias (class token, position embedding and factors of layers have
            other names), or those of the normalisation layers.
        batch_statistics: whether BatchNorm normalises with the batch at hand, as released, in all three networks.
        views: random views of the batch whose logits the teacher averages where the source is unsure.
        anchor_threshold: the source is unsure of a batch where its largest probability, averaged over the samples, is
            below this. At 1 / classes or less it never is, above 1 always; neither asks the source.
        run_views: only for batches that need them, which takes one look at the device for each batch; or always, as
            released for CIFAR, which changes nothing but the time and the random numbers that are used up.
        views_of: what views are made of: pixels, for which the normalisation is undone and done again; or, as released
            where it is not part of the network, the normalised images themselves, whose dark pixels the clipping to
            [0, 1] destroys.
        loss: half the cross-entropy to the teacher and half that of the teacher to the student, as released for
            ImageNet; or the first alone and whole, as in the paper and as released for CIFAR.
        ema: share of itself that the teacher keeps at each step.
        restore_probability: with which each trained number of the student returns to its source value at each step.
    """

    train_scope: Literal["all", "norm"] = "all"
    batch_statistics: bool = True
    views: int = Field(default=32, ge=1)
    anchor_threshold: float = Field(default=0.1, ge=0)
    run_views: Literal["needed", "always"] = "needed"
    views_of: Literal["pixels", "inputs"] = "pixels"
    loss: Literal["symmetric", "one_directional"] = "symmetric"
    ema: float = Field(default=0.999, ge=0, le=1)
    restore_probability: float = Field(default=0.001, ge=0, le=1)


CIFAR: dict[str, Any] = {
    "optimizer": "adam",
    "lr": 1e-3,
    "anchor_threshold": 0.92,
    "run_views": "always",
    "loss": "one_directional",
    "restore_probability": 0.01,
}
"""As released for CIFAR10-C."""

SPEC = MethodSpec(
    name="cotta",
    title="mean teacher with random views, and stochastic return to the source",
    paper="Wang et al., Continual Test-Time Domain Adaptation, CVPR 2022",
    changes="trains every weight and bias towards a moving average of the network; batch statistics in BatchNorm",
    implementation="CoTTA",
    traces=("qinenergy/cotta c212a20",),
    tables={
        "official": "CoTTA's own on ImageNet-C",
        "foa": "FOA's table of single domains",
        "imse": "IMSE's table of continual adaptation",
        "imse-recurring": "IMSE's table of recurring domains",
        "moetta": "MoETTA's main table",
        "official-cifar": "CoTTA's own on CIFAR",
    },
    settings=CoTTASettings,
    presets={
        # ImageNet-C. The learning rate is for a ResNet-50; the normalisation is part of the network there.
        "official": {"lr": 1e-2, "nesterov": True},
        "official-cifar": CIFAR,
        "paper": {"lr": 1e-2, "nesterov": True, "loss": "one_directional", "restore_probability": 0.01},
        # The tables of MoETTA and FOA, for ViT-B. Both normalise outside of the network and clip nonetheless.
        "moetta": {"lr": 1e-3, "views_of": "inputs"},
        "foa": {"lr": 5e-3, "views_of": "inputs"},
        # The tables of IMSE, for ViT-B.
        "imse": {"lr": 1e-4, "nesterov": True},
        "imse-recurring": {"lr": 1e-5, "nesterov": True},
        # The tables of ViDA, in batches of 4 and of 50 images that are not normalised at all.
        "vida-cifar10": CIFAR,
        "vida-cifar100": CIFAR | {"lr": 3e-4},
        # Chosen on the held-out corruptions: tta_core.run with method cotta, domains held-out, severity 4,
        # samples_per_domain 256, streams mixed and continual, seeds 0-2 over lr (SGD 3e-3 to 3e-2, Adam 1e-4 to 2e-3)
        # and ema 0.8 to 0.999, seed 0 alone over anchor_threshold 0, 0.7, 0.85 and 1.01. Views of every batch cost a
        # third of the accuracy; at the published threshold ten classes get none.
        "digits-c": {"optimizer": "adam", "lr": 3e-4, "ema": 0.9, "anchor_threshold": 0.0},
    },
    search={
        "lr": Real(low=1e-6, high=0.3, log=True),
        "anchor_threshold": Real(low=0.0, high=1.1),
        "ema": Real(low=0.9, high=1.0),
        "restore_probability": Real(low=0.0, high=0.1),
    },
    scalars={
        "anchor_confidence": ScalarSpec(description="mean largest probability of the source, -1 if it was not asked"),
        "augmented": ScalarSpec(description="whether the teacher's logits are those of the random views"),
        "restored": ScalarSpec(description="trained numbers that returned to their source values"),
    },
    waits=lambda settings: int(0 < settings.anchor_threshold <= 1 and settings.run_views == "needed"),
    draws_on_device=lambda settings: settings.anchor_threshold > 0,
    relative_cost=5.2,
    published_cost=5.24,
    quick={"views": 2},
)
