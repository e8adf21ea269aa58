"""Settings, presets and search ranges of MGTTA."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from tta_core.frozen import Frozen
from tta_core.methods.common.optimizer_settings import Betas
from tta_core.methods.spec import (
    HELD_OUT_IMAGES,
    HELD_OUT_LABELS,
    SOURCE_IMAGES,
    MethodSpec,
    PreparationSpec,
    Real,
    ScalarSpec,
)


class MGTTASettings(Frozen):
    """Settings of MGTTA (mixed §2.8).

    Attributes:
        lr: how far a scalar moves at most in one step, for batches of 64; it is not scaled with the batch size.
        betas: of the running moments of the gradient.
        correction: exponent of the moments' bias correction at step t = 1, 2, ...: `t`, or, as released, `t+1`.
        lambda_discrepancy: weight of the distance from the source statistics, in nat.
        divisor: that distance is divided by it; as released 64, whatever the batch size.
        source_samples: source images that the statistics are made of.
        mgg_file: file with a ready learned optimizer, `.safetensors` or read by `torch.load(weights_only=True)`; null
            to train one on the held-out corruptions. A relative path starts at the folder that TTA_GRID_WEIGHTS names,
            or where the program runs.
        mgg_sha256: checksum that this file must have; null if any will do.
        training_images: held-out images that the learned optimizer is trained on, without their labels.
        training_batch: images in a step of the training.
        training_epochs: passes over these images, each from the source network.
        meta_lr: learning rate of the Adam that trains the learned optimizer.
        inner_lr: what `lr` is while it is trained.
        epoch_choice: which epoch's optimizer is kept: the one that predicted most further held-out images correctly
            while adapting to them, or the last.
        selection_images: number of these images; if there are no further ones, the training images serve.
        selection_batch: images in a batch of them.
        selection_lr: what `lr` is then.
    """

    lr: float = Field(default=3e-4, gt=0)
    betas: Betas = (0.9, 0.99)
    correction: Literal["t", "t+1"] = "t"
    lambda_discrepancy: float = Field(default=0.4, ge=0)
    divisor: float = Field(default=64.0, gt=0)
    source_samples: int = Field(default=2000, ge=2)
    mgg_file: str | None = Field(default=None, min_length=1)
    mgg_sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    training_images: int = Field(default=128, ge=2)
    training_batch: int = Field(default=2, ge=1)
    training_epochs: int = Field(default=40, ge=1)
    meta_lr: float = Field(default=1e-2, gt=0)
    inner_lr: float = Field(default=1e-4, gt=0)
    epoch_choice: Literal["accuracy", "last"] = "accuracy"
    selection_images: int = Field(default=256, ge=1)
    selection_batch: int = Field(default=64, ge=1)
    selection_lr: float = Field(default=1e-3, gt=0)

    @model_validator(mode="after")
    def _two_steps(self) -> MGTTASettings:
        if self.training_images <= self.training_batch:
            raise ValueError(
                f"training_images = {self.training_images} make a single step of training_batch = "
                f"{self.training_batch}, and an optimizer learns from the step that follows: give more images or "
                "smaller batches"
            )
        return self


TRAINING = (
    *("betas", "correction", "lambda_discrepancy", "divisor", "source_samples", "mgg_file"),
    *("training_images", "training_batch", "training_epochs", "meta_lr", "inner_lr"),
    *("epoch_choice", "selection_images", "selection_batch", "selection_lr"),
)
"""What the preparation depends on. A file of the user is read anew by each method: whether there is one is enough."""


def _needs(settings: MGTTASettings) -> tuple[str, ...]:
    if settings.mgg_file is not None:
        return (SOURCE_IMAGES,)
    labels = (HELD_OUT_LABELS,) if settings.epoch_choice == "accuracy" else ()
    return (SOURCE_IMAGES, HELD_OUT_IMAGES, *labels)


SPEC = MethodSpec(
    name="mgtta",
    title="a learned optimizer for normalisation layers, on entropy and distance to source statistics",
    paper="MGTTA: Learning to Generate Gradients for Test-Time Adaptation via Test-Time Training Layers, AAAI 2025",
    changes="trains weight and bias of every normalisation layer with an optimizer learned before the stream",
    not_for_pixels="its learned optimizer belongs to the norms of vision transformers",
    implementation="MGTTA",
    traces=("AnikiFan/MoETTA 7f36ccf",),
    tables={
        "moetta": "MoETTA's main table",
    },
    settings=MGTTASettings,
    presets={
        "official": {"lr": 1e-3, "correction": "t+1"},
        "imagenet-r": {"lr": 1e-3, "correction": "t+1", "lambda_discrepancy": 0.2},
        "paper": {"lr": 1e-3},
        "moetta": {"lr": 3e-4, "correction": "t+1"},
        # Chosen on the held-out corruptions: tta_core.run with method mgtta, domains held-out, severity 4,
        # samples_per_domain 256, streams mixed, continual and single, seeds 0 to 2, over lr 1e-3 to 0.03, inner_lr 1e-3
        # to 0.03, selection_lr 0.01 and 0.03. The optimizer is trained on the same corruptions, at severity 5. Fewer
        # epochs: ten take 6 seconds of one core, and the published learning rates are too small for this network.
        "digits-c": {"lr": 1e-2, "inner_lr": 1e-2, "selection_lr": 1e-2, "training_epochs": 10},
    },
    search={
        "lr": Real(low=1e-5, high=0.1, log=True),
        "lambda_discrepancy": Real(low=0.0, high=10.0),
    },
    scalars={
        "entropy": ScalarSpec(description="mean entropy of the batch", unit="nat"),
        "discrepancy": ScalarSpec(description="squared distance of the batch's feature statistics from the source's"),
    },
    needs=(SOURCE_IMAGES, HELD_OUT_IMAGES, HELD_OUT_LABELS),
    needs_with=_needs,
    preparation=PreparationSpec(
        artefact="statistics of the source's class-token features, and the learned optimizer", settings=TRAINING
    ),
    network="transformer",
    relative_cost=2.3,
    published_cost=2.32,
    quick={"training_epochs": 1, "training_images": 4},
)
