"""Settings, presets and search ranges of SAR."""

from __future__ import annotations

from typing import Any, Literal

from tta_core.methods.common.reliable_sharpness import RELIABLE_SCALARS, RELIABLE_SEARCH, ReliableSharpnessSettings
from tta_core.methods.spec import MethodSpec


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

SPEC = MethodSpec(
    name="sar",
    title="sharpness-aware entropy minimisation on reliable samples, with recovery from collapse",
    paper="Niu et al., Towards Stable Test-Time Adaptation in Dynamic Wild World, ICLR 2023",
    changes="trains weight and bias of the normalisation layers before the last quarter of the network",
    implementation="SAR",
    recovers=True,
    traces=("mr-eggplant/SAR 20f6e24", "AnikiFan/MoETTA 7f36ccf"),
    tables={
        "official": "SAR's own on ViT-B",
        "foa": "FOA's table of single domains",
        "moetta": "MoETTA's main table",
    },
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
    waits=1,
    relative_cost=4.6,
    published_cost=4.63,
)
