"""Settings that methods of segmentation share. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from pydantic import Field

from tta_core.frozen import Frozen
from tta_core.methods.common.optimizer_settings import OptimizerSettings
from tta_core.methods.spec import Real, ScalarSpec, SearchSpace

RATIOS: dict[int, tuple[float, ...]] = {
    1: (1.0,),
    6: (0.75, 1.0, 1.25),
    8: (0.5, 1.0, 1.5, 2.0),
    10: (1.0, 1.25, 1.5, 1.75, 2.0),
    14: (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0),
}
"""Number of views -> their ratios. All but the one view are there twice, as they are and flipped."""

Views = Literal[1, 6, 8, 10, 14]


def view_cost(views: int) -> float:
    """Pixels of so many views, for each of one: what predicting costs in source forwards."""
    return 1.0 if views == 1 else 2 * sum(ratio**2 for ratio in RATIOS[views])


def step_cost(learning: float, *, sees_itself: bool = True) -> Callable[[ViewSettings], float]:
    """Cost of a step that predicts with views and learns, for `MethodSpec.cost_with`.

    Args:
        learning: cost of what is not predicting, in source forwards.
        sees_itself: whether one view is the forward that is learned from.
    """
    return lambda settings: learning + (0 if sees_itself and settings.views == 1 else view_cost(settings.views))


class ViewSettings(Frozen):
    """How a map of classes is predicted.

    Attributes:
        views: views whose probabilities are averaged, see `RATIOS`. 14 are those of CoTTA, 8 of BECoTTA, 10 of ViDA's
            port; 6 stay within the sizes that the network of `digit-scenes` was trained on.
        window: height and width in pixels of what the network predicts at once.
        stride: pixels from one window to the next, down and across.
    """

    views: Views = 14
    window: tuple[int, int] = (1024, 1024)
    stride: tuple[int, int] = (768, 768)


class PixelOptimizerSettings(OptimizerSettings, ViewSettings):
    """The views and the optimizer of a method of segmentation: Adam, unless a preset says otherwise.

    Attributes:
        optimizer_at_border: whether the optimizer is made anew at each border between domains, as all released code
            does, which tells the method where the domains end; or kept.
    """

    optimizer: Literal["sgd", "adam"] = "adam"
    lr: float = Field(default=7.5e-6, gt=0)
    optimizer_at_border: Literal["kept", "new"] = "kept"


class PixelTeacherSettings(PixelOptimizerSettings):
    """Settings of methods whose teacher looks at views.

    Attributes:
        anchor_threshold: where the source's largest probability is above this, a pixel's class is that of the teacher's
            one view; elsewhere that of its mean over all views. At 1 or more it always is the mean.
        ema: share of itself that the teacher keeps at each step.
        restore_probability: with which each trained number of the student returns to its source value at each step.
    """

    anchor_threshold: float = Field(default=0.69, ge=0)
    ema: float = Field(default=0.999, ge=0, le=1)
    restore_probability: float = Field(default=0.01, ge=0, le=1)


TEACHER_SCALARS = {
    "anchor_share": ScalarSpec(description="share of the pixels at which the source is sure"),
    "restored": ScalarSpec(description="trained numbers that returned to their source values"),
}
"""What every method with such a teacher records."""

TEACHER_SEARCH: dict[str, SearchSpace] = {
    "lr": Real(low=1e-6, high=1e-3, log=True),
    "anchor_threshold": Real(low=0.0, high=1.1),
    "ema": Real(low=0.9, high=1.0),
    "restore_probability": Real(low=0.0, high=0.1),
}

DIGIT_SCENES: dict[str, Any] = {"ema": 0.99, "views": 6}
"""What `digit-scenes` needs of every such method: views of sizes that its network knows, and a faster teacher.

All presets of that name were chosen on its held-out domains, whose scenes show training digits: tta_core.run with
domains held-out, severity 3, samples_per_domain 50, stream recurring-same, rounds 1 or 3, batch_size 1, seed 0.
"""


class SelectingSettings(Frozen):
    """Settings of methods that learn from some pixels only.

    Attributes:
        entropy_margin: entropy below which a pixel is reliable, in units of ln(classes).
        select: whether reliable pixels are learned from, or images whose mean entropy is below the margin.
    """

    entropy_margin: float = Field(default=0.4, gt=0)
    select: Literal["pixel", "image"] = "pixel"


SELECTED_PIXELS = {"selected_pixels": ScalarSpec(description="share of the pixels that entered the loss")}
"""What every such method records."""
