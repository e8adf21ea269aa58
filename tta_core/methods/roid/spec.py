"""Settings, presets and search ranges of ROID."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tta_core.methods.common.optimizer_settings import OptimizerSettings
from tta_core.methods.spec import MethodSpec, Real, ScalarSpec


class ROIDSettings(OptimizerSettings):
    """Settings of ROID: each of its parts can be turned off, and those of its optimizer, for batches of 64.

    Attributes:
        weighting: whether samples are weighted by certainty and diversity, and those less diverse than the mean left
            out; otherwise all count alike.
        temperature: of the weights; smaller ones differ more.
        prediction_momentum: share of itself that the running mean of the predictions, which diversity is measured
            from, keeps at each step.
        largest_probability: probabilities are cut off here in the likelihood ratio; beyond, a sample has no gradient.
        likelihood_epsilon: added to the likelihood ratio before its logarithm.
        consistency: whether the predictions of an augmented view are drawn to those of the image.
        weight_ensembling: whether the trained parameters are averaged with the source's after each step.
        source_momentum: share of themselves that they keep in it.
        prior_correction: what the scored predictions are multiplied with the batch's class prior in: the
            probabilities, as the paper derives it, the logits, or nothing.
    """

    lr: float = Field(default=2.5e-4, gt=0)
    nesterov: bool = True
    weighting: bool = True
    temperature: float = Field(default=1 / 3, gt=0)
    prediction_momentum: float = Field(default=0.9, ge=0, le=1)
    largest_probability: float = Field(default=0.99, gt=0.5, lt=1)
    likelihood_epsilon: float = Field(default=1e-5, gt=0)
    consistency: bool = True
    weight_ensembling: bool = True
    source_momentum: float = Field(default=0.99, ge=0, le=1)
    prior_correction: Literal["none", "probabilities", "logits"] = "probabilities"


_RELEASED = {"prior_correction": "logits"}

SPEC = MethodSpec(
    name="roid",
    title="weighted likelihood ratios, weights averaged with the source's, prior correction",
    paper="Marsden, Doebler and Yang, Universal Test-time Adaptation through Weight Ensembling, Diversity Weighting, "
    "and Prior Correction, WACV 2024",
    changes="trains weight and bias of every normalisation layer; batch statistics in BatchNorm",
    not_for_pixels="its prior correction and its views are for one class an image",
    implementation="ROID",
    version=2,
    traces=("mariodoebler/test-time-adaptation 8b2ed63",),
    tables={
        "official": "ImageNet-C and CCC of ROID",
        "imagenet": "the same",
        "cifar": "CIFAR10-C and CIFAR100-C of ROID",
        "reservoir": "ReservoirTTA, ViT-B on ImageNet-C",
    },
    settings=ROIDSettings,
    presets={
        # ImageNet-C and CCC: the same for ResNet-50, Swin and ViT.
        "official": _RELEASED,
        "imagenet": _RELEASED,
        "paper": {},
        # At batches of 200.
        "cifar": _RELEASED | {"optimizer": "adam", "lr": 1e-3},
        # ReservoirTTA's tables of ImageNet-C on ViT-B.
        "reservoir": {"prior_correction": "none", "consistency": False},
        # Chosen on the held-out corruptions: tta_core.run with method roid, domains held-out, severity 4,
        # samples_per_domain 256, streams mixed and continual, over lr 1e-5 to 0.01 and each part turned off (two or
        # three seeds on the vision transformer, one on the residual network). The correction costs half a point here,
        # where classes come in equal shares, the consistency several: a mirrored digit is another one or none.
        "digits-c": {"lr": 3e-3, "prior_correction": "none", "consistency": False},
    },
    search={
        "lr": Real(low=1e-5, high=0.3, log=True),
        "temperature": Real(low=0.1, high=2.0, log=True),
        "source_momentum": Real(low=0.9, high=1.0),
        "prediction_momentum": Real(low=0.5, high=1.0),
    },
    scalars={
        "likelihood_loss": ScalarSpec(description="soft likelihood ratio, weighted, summed, divided by a full batch"),
        "consistency_loss": ScalarSpec(description="symmetric cross-entropy to the view, likewise", unit="nat"),
        "mean_weight": ScalarSpec(description="mean weight of all samples of the batch, 0 for those left out"),
        "largest_prior": ScalarSpec(description="largest entry of the batch's mean prediction"),
    },
    # The prior is that of the batch itself; the parameters have not learned from it.
    scores="pre-update",
    waits=1,
    # Estimated from our own measurements; none is published.
    relative_cost=3.5,
    starts_at_source=False,
)
