"""Settings, presets and search ranges of FOA."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tta_core.methods.common.optimizer_settings import OptimizerSettings
from tta_core.methods.spec import SOURCE_IMAGES, Integer, MethodSpec, PreparationSpec, Real, ScalarSpec


class FOASettings(OptimizerSettings):
    """Settings of FOA (mixed §2.9). Those of the optimizer are for `bp` alone.

    Attributes:
        variant: `foa` looks for prompts with CMA-ES; `shift` has no prompts, it only shifts activations; `bp` trains
            the normalisation layers by back-propagation.
        num_prompts: tokens put in behind the class token.
        population_size: candidates that CMA-ES draws for each batch; the best of the last batch is tried beside them.
        sigma: step size that CMA-ES starts with; its mean starts at 0.
        cmaes_seed: seed of CMA-ES, 2020 as released; unless given, it follows from the seed of the cell.
        fitness_lambda: weight of the discrepancy between the features of a batch and of the source. In `foa` that is
            a sum over features in 64ths, against the entropy of one sample; in `bp` a mean over features.
        activation_shift: share of the way from the features' history to the source's mean by which the features that
            the classifier reads are moved; 0 turns shifting off.
        history_momentum: weight of a new batch in that history.
        source_samples: how many source images are looked at, at most; the release takes the whole validation set.
        lr: learning rate of `bp`.
    """

    variant: Literal["foa", "shift", "bp"] = "foa"
    num_prompts: int = Field(default=3, ge=1)
    population_size: int = Field(default=27, ge=4)
    sigma: float = Field(default=1.0, gt=0)
    cmaes_seed: int | None = Field(default=None, ge=0, lt=2**32)
    fitness_lambda: float = Field(default=0.4, ge=0)
    activation_shift: float = Field(default=1.0, ge=0)
    history_momentum: float = Field(default=0.1, gt=0, le=1)
    source_samples: int = Field(default=2000, ge=2)
    lr: float = Field(default=5e-3, gt=0)


def needs_source(settings: FOASettings) -> bool:
    """Whether anything is compared with the source."""
    return settings.activation_shift > 0 or (settings.variant != "shift" and settings.fitness_lambda > 0)


SPEC = MethodSpec(
    name="foa",
    title="prompts found by CMA-ES, without back-propagation, and activation shifting",
    paper="Niu et al., Test-Time Model Adaptation with Only Forward Passes, ICML 2024",
    changes="puts prompt tokens behind the class token and moves the features that the classifier reads; no weights",
    not_for_pixels="it adds prompts before the class token, which SegFormer has not",
    implementation="FOA",
    traces=("mr-eggplant/FOA 004b02d",),
    tables={
        "official": "FOA's own",
    },
    settings=FOASettings,
    presets={
        "official": {"cmaes_seed": 2020},
        "official-imagenet-r": {"cmaes_seed": 2020, "fitness_lambda": 0.2},
        "paper": {},
        "shift": {"variant": "shift"},
        "bp": {"variant": "bp", "fitness_lambda": 30.0},
        # Chosen on the held-out corruptions: tta_core.run with method foa, domains held-out, severity 4,
        # samples_per_domain 256, streams mixed and single, over fitness_lambda 0.05 to 1, sigma 0.5 to 2, num_prompts 1
        # to 8 and history_momentum 0.03 to 0.3 (seed 0), and 1 prompt against 3 (seeds 0 to 2).
        "digits-c": {"num_prompts": 1},
    },
    search={
        "fitness_lambda": Real(low=0.01, high=100.0, log=True),
        "sigma": Real(low=0.01, high=3.0, log=True),
        "num_prompts": Integer(low=1, high=16),
        "population_size": Integer(low=4, high=64),
        "activation_shift": Real(low=0.0, high=2.0),
        "history_momentum": Real(low=0.01, high=1.0, log=True),
        "lr": Real(low=1e-5, high=0.3, log=True),
    },
    scalars={
        "entropy": ScalarSpec(description="mean entropy of what is scored, before shifting", unit="nat"),
        "discrepancy": ScalarSpec(description="distance of the scored features' statistics from the source's"),
        "candidate": ScalarSpec(
            description="candidate that is scored; population_size stands for the last batch's, -1 for no prompts"
        ),
        "step_size": ScalarSpec(description="step size of CMA-ES after the step, 0 without CMA-ES"),
    },
    # The best candidate is chosen by the fitness of the very batch that is scored. The other variants score a batch
    # with weights and a shift that were settled before it.
    scores=lambda settings: "post-update" if settings.variant == "foa" else "pre-update",
    needs=(SOURCE_IMAGES,),
    needs_with=lambda settings: (SOURCE_IMAGES,) if needs_source(settings) else (),
    preparation=PreparationSpec(
        artefact="standard deviation and mean of the source's class-token features", settings=("source_samples",)
    ),
    network="transformer",
    waits=lambda settings: int(settings.variant == "foa"),
    relative_cost=28.3,
    published_cost=28.27,
    trains=False,
    starts_at_source=False,
    quick={"population_size": 4},
)
