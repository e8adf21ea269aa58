"""Settings, presets and search ranges of EATA."""

from __future__ import annotations

from pydantic import Field

from tta_core.methods.eta.spec import DIGITS, ETA_PRESETS, ETA_SCALARS, ETA_SEARCH, ETASettings
from tta_core.methods.spec import SOURCE_IMAGES, MethodSpec, PreparationSpec, Real, ScalarSpec


class EATASettings(ETASettings):
    """Settings of EATA (mixed §2.3): those of ETA, and its penalty.

    Attributes:
        fisher_alpha: weight of the penalty, in nat; 0 is ETA, and needs no source images.
        fisher_samples: source images that the Fisher information is measured on.
    """

    fisher_alpha: float = Field(default=2000.0, ge=0)
    fisher_samples: int = Field(default=2000, ge=1)


SPEC = MethodSpec(
    name="eata",
    title="ETA, with a penalty on moving what matters for the source",
    paper="Niu et al., Efficient Test-Time Model Adaptation without Forgetting, ICML 2022",
    changes="trains weight and bias of every normalisation layer; batch statistics in BatchNorm",
    not_for_pixels="its Fisher information is of images with one class each: take eta, which does without",
    implementation="EATA",
    traces=("mr-eggplant/SAR 20f6e24",),
    tables={
        "moetta": "MoETTA's main table",
    },
    settings=EATASettings,
    presets=ETA_PRESETS
    | {
        "cifar10": ETA_PRESETS["cifar10"] | {"fisher_alpha": 1.0},
        "digits-c": DIGITS,
    },
    search=ETA_SEARCH | {"fisher_alpha": Real(low=0.0, high=10_000.0)},
    scalars=ETA_SCALARS
    | {
        "penalty": ScalarSpec(
            description="penalty on the distance from the source's weights, part of the loss", unit="nat"
        )
    },
    needs=(SOURCE_IMAGES,),
    needs_with=lambda settings: (SOURCE_IMAGES,) if settings.fisher_alpha > 0 else (),
    preparation=PreparationSpec(
        artefact="diagonal Fisher information of the normalisation layers' weights and biases",
        settings=("fisher_samples",),
    ),
    waits=1,
    relative_cost=2.4,
    published_cost=2.36,
)
