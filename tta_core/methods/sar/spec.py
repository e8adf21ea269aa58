"""Settings, presets and search ranges of SAR."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from tta_core.frozen import Frozen
from tta_core.methods.spec import MethodSpec, ScalarSpec, SearchRange


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


class SARSettings(ReliableSharpnessSettings):
    """Settings of SAR (mixed §2.4).

    Attributes:
        rho: as above; 0 leaves out the second pass, which would repeat the first.
        on_empty: as above; the released `foa` variant makes no update if the first pass selects nothing.
        variant: `original`, the second pass selects from what the first selected, and the logits of the first are
            scored; `foa`, as the FOA and MoETTA repositories have it, the second pass selects from the whole batch, and
            its logits, at perturbed weights, are scored.
    """

    variant: Literal["original", "foa"] = "original"


RELEASED: dict[str, Any] = {
    "norms": "legacy_names",
    "on_empty": "momentum_step",
    "reset_clears": "parameters",
}
"""How all repositories treat these, whatever their learning rate."""

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
    "lr": SearchRange(low=1e-5, high=0.3, log=True),
    "rho": SearchRange(low=0.0, high=0.5),
    "entropy_margin": SearchRange(low=0.1, high=1.0),
    "reset_threshold": SearchRange(low=0.0, high=1.0),
}

SPEC = MethodSpec(
    name="sar",
    title="sharpness-aware entropy minimisation on reliable samples, with recovery from collapse",
    paper="Niu et al., Towards Stable Test-Time Adaptation in Dynamic Wild World, ICLR 2023",
    changes="trains weight and bias of the normalisation layers before the last quarter of the network",
    implementation="SAR",
    settings=SARSettings,
    presets={
        # The default learning rate is the one of MoETTA's tables; these are SAR's own, for ViT-B and batches of 64.
        "official": RELEASED | {"lr": 1e-3},
        "paper": {"lr": 1e-3},
        # Its wild settings (mixed §5.6): lr is 1e-3 / 64 x batch for a ViT, and twice that for batches of one image.
        "official-bs1": RELEASED | {"lr": 2 * 1e-3 / 64},
        # 2.5e-4 for ResNets from batches of 32 on; else 2.5e-4 / 64 x 2 x batch, and twice that for one image.
        "official-resnet": RELEASED | {"lr": 2.5e-4},
        "official-resnet-bs1": RELEASED | {"lr": 2 * 2 * 2.5e-4 / 64},
        "foa": RELEASED | {"variant": "foa", "lr": 1e-3},
        "moetta": RELEASED | {"variant": "foa"},
        # Chosen on the held-out corruptions: tta_core.run with method sar, domains held-out, severity 4,
        # samples_per_domain 256, streams mixed, continual and single, seeds 0 to 2 (0 and 1 in a part), over lr 0.02 to
        # 0.3, rho 0.02 to 0.1, entropy_margin 0.4 and 0.6, norms, reset_threshold 0 to 0.2: with 0.2, sound networks
        # return to the source.
        "digits-c": {"lr": 0.1, "reset_threshold": 0.05},
    },
    search=RELIABLE_SEARCH,
    scalars=RELIABLE_SCALARS,
    scores=lambda settings: "perturbed" if settings.variant == "foa" and settings.rho > 0 else "pre-update",
    relative_cost=4.6,
    published_cost=4.63,
)
