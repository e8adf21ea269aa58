"""Settings and presets of Tent for segmentation."""

from __future__ import annotations

from typing import Literal

from tta_core.methods.common.pixel_settings import PixelOptimizerSettings, Views, step_cost
from tta_core.methods.spec import Choice, MethodSpec, Real


class PixelTentSettings(PixelOptimizerSettings):
    """Settings of Tent; those of the optimizer and the views are shared.

    Attributes:
        views: views that are scored; it learns from one.
        loss: mean over pixels of the entropy, as in the paper; or the cross-entropy to the network's own hard classes,
            as released for Cityscapes to ACDC, which is no entropy minimisation.
        batch_statistics: whether BatchNorm normalises with the images at hand, as in classification.
    """

    views: Views = 1
    loss: Literal["entropy", "hard_labels"] = "entropy"
    batch_statistics: bool = False


PIXELS = MethodSpec(
    name="tent",
    title="entropy minimisation on normalisation layers",
    paper="Wang et al., Tent: Fully Test-Time Adaptation by Entropy Minimization, ICLR 2021",
    changes="trains weight and bias of every normalisation layer",
    task="segmentation",
    implementation="PixelTent",
    tables={"official": "CoTTA's log of Tent on Cityscapes to ACDC"},
    settings=PixelTentSettings,
    presets={
        "official": {"loss": "hard_labels", "optimizer_at_border": "new"},
        "paper": {},
        # Over lr 3e-5, 1e-4 and 3e-4.
        "digit-scenes": {"lr": 1e-4},
    },
    search={"lr": Real(low=1e-6, high=1e-3, log=True), "loss": Choice(values=("entropy", "hard_labels"))},
    network="segformer",
    relative_cost=2.7,
    cost_with=step_cost(2.7),
)
