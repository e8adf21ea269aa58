"""Settings, scalars and search ranges of sharpness-aware minimisation on reliable samples. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tta_core.frozen import Frozen
from tta_core.methods.spec import Real, ScalarSpec


class ReliableSharpnessSettings(Frozen):
    """What SAR and DPAL share: entropy of reliable samples at perturbed weights, and the recovery from a collapse.

    Attributes:
        lr: learning rate of SGD, for batches of 64; it is not scaled with the batch size.
        momentum: of SGD.
        rho: length of the ascent of SAM, in units of the trained parameters.
        entropy_margin: entropy that a reliable sample stays below, in units of ln(classes).
        norms: which normalisation layers are trained: `all`; `not_last_quarter`, those before the last quarter of the
            blocks and the final norm; `legacy_names`, the released rule, which names blocks 9 to 11 whatever the depth.
        on_empty: what follows where no sample is reliable: `skip_step`, the update is left out; `momentum_step`, as
            released, the update is made with a gradient of zero, so that momentum moves the weights.
        reset_threshold: moving average of the loss, in nat, below which the network counts as collapsed and returns to
            the source; 0 for never.
        reset_clears: what that clears: `everything`, the moving average and the momentum too; `parameters`, as
            released, nothing else: the momentum goes on, and the low average may send the next steps back as well.
        reset_ema: share of the old in the moving average.
    """

    lr: float = Field(default=5e-4, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    rho: float = Field(default=0.05, ge=0)
    entropy_margin: float = Field(default=0.4, gt=0)
    norms: Literal["all", "not_last_quarter", "legacy_names"] = "not_last_quarter"
    on_empty: Literal["skip_step", "momentum_step"] = "skip_step"
    reset_threshold: float = Field(default=0.2, ge=0)
    reset_clears: Literal["everything", "parameters"] = "everything"
    reset_ema: float = Field(default=0.9, ge=0, lt=1)


RELIABLE_SCALARS = {
    "first_loss": ScalarSpec(description="loss before the ascent, 0 if no sample is reliable", unit="nat"),
    "reliable": ScalarSpec(description="samples below the entropy margin before the ascent"),
    "updated": ScalarSpec(description="whether the step changed weights; if not, a loss of 0 was recorded, or none"),
    "ema": ScalarSpec(
        description="moving average of the loss that the recovery went by, 0 before the first", unit="nat"
    ),
    "reset": ScalarSpec(description="whether the network returned to the source after the step"),
}

RELIABLE_SEARCH = {
    "lr": Real(low=1e-5, high=0.3, log=True),
    "rho": Real(low=0.0, high=0.5),
    "entropy_margin": Real(low=0.1, high=1.0),
    "reset_threshold": Real(low=0.0, high=1.0),
}
