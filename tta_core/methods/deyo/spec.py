"""Settings, presets and search ranges of DeYO."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from tta_core.methods.common.optimizer_settings import OptimizerSettings
from tta_core.methods.spec import MethodSpec, Real, ScalarSpec


class DeYOSettings(OptimizerSettings):
    """Settings of DeYO (mixed §2.5), for batches of 64.

    The difference is that of pseudo-label probability, PLPD: by how much the probability of the predicted class falls
    when the shapes in the image are destroyed.

    Attributes:
        lr: learning rate; it is not scaled with the batch size. The DeYO repository doubles it for single images.
        norms: which normalisation layers are trained: `all`; `not_last_quarter`, those before the last quarter of the
            network, without the final norm; `legacy_names`, the release's rule, which goes by names. See
            `tta_core.methods.common.layer_choice`.
        entropy_margin: a sample is reliable if its entropy is below this, in units of ln(classes).
        plpd_margin: a reliable sample is selected if its difference is above this.
        weight_margin: the entropy's part of a sample's weight is exp(margin - entropy), this in units of ln(classes).
        destruction: how shapes are destroyed: `patch` shuffles the tiles of each image; `pixel` its pixels, alike in
            all images of a batch; `occlusion` covers a window with the image's mean colour.
        patch_len: tiles in a row and in a column. Images of a size that it does not divide are resized before, and back
            afterwards.
        occlusion_size: height and width of the window in pixels of an image of 224.
        occlusion_row, occlusion_column: its top left corner, likewise.
        occlusion_scaled: scale the window with the image; otherwise its numbers are pixels of the images as they are.
        filter_entropy: leave out the samples that are not reliable.
        filter_plpd: leave out those with a small difference.
        weight_by_entropy: let the entropy into a sample's weight.
        weight_by_plpd: let the difference into it, as exp(difference), which is added. Without either all samples that
            are selected count alike.
    """

    lr: float = Field(default=5e-5, gt=0)
    norms: Literal["all", "not_last_quarter", "legacy_names"] = "not_last_quarter"
    entropy_margin: float = Field(default=0.5, gt=0)
    plpd_margin: float = Field(default=0.2, ge=-1, le=1)
    weight_margin: float = Field(default=0.4, gt=0)
    destruction: Literal["patch", "pixel", "occlusion"] = "patch"
    patch_len: int = Field(default=4, ge=1)
    occlusion_size: int = Field(default=112, ge=1)
    occlusion_row: int = Field(default=56, ge=0)
    occlusion_column: int = Field(default=56, ge=0)
    occlusion_scaled: bool = True
    filter_entropy: bool = True
    filter_plpd: bool = True
    weight_by_entropy: bool = True
    weight_by_plpd: bool = True


OFFICIAL: dict[str, Any] = {"lr": 1e-3, "norms": "legacy_names"}

SPEC = MethodSpec(
    name="deyo",
    title="entropy minimisation on samples whose prediction depends on shapes",
    paper="Lee et al., Entropy is not Enough for Test-Time Adaptation: From the Perspective of Disentangled Factors, "
    "ICLR 2024",
    changes="trains weight and bias of the normalisation layers before the last quarter; batch statistics in BatchNorm",
    not_for_pixels="it shuffles patches, and their layout is the label",
    implementation="DeYO",
    traces=("Jhyun17/DeYO 3d7d289", "AnikiFan/MoETTA 7f36ccf"),
    tables={
        "official": "DeYO's own",
        "moetta": "MoETTA's main table",
    },
    settings=DeYOSettings,
    presets={
        # The DeYO repository's wild settings, ViT-B.
        "official": OFFICIAL,
        # Its mild setting, ResNet-50 with BatchNorm.
        "official-mild": OFFICIAL | {"lr": 2.5e-4, "plpd_margin": 0.3},
        "paper": {"lr": 1e-3},
        # MoETTA's tables: the two margins change places, and all layers are trained.
        "moetta": {"norms": "all", "entropy_margin": 0.4, "weight_margin": 0.5, "plpd_margin": 0.5},
        # Chosen on the held-out corruptions: tta_core.run with method deyo, domains held-out, severity 4,
        # samples_per_domain 256, streams mixed and continual, seeds 0 to 2, over lr 0.01 to 0.1, plpd_margin -0.1 to
        # 0.3, entropy_margin 0.4 to 0.7, norms all and not_last_quarter.
        "digits-c": {"lr": 0.03},
    },
    search={
        "lr": Real(low=1e-5, high=0.3, log=True),
        "entropy_margin": Real(low=0.1, high=1.0),
        "plpd_margin": Real(low=-0.2, high=0.8),
        "weight_margin": Real(low=0.1, high=1.0),
    },
    scalars={
        "reliable": ScalarSpec(description="samples below the entropy margin"),
        "plpd": ScalarSpec(description="mean difference of pseudo-label probability of the reliable samples"),
    },
    waits=lambda settings: settings.filter_entropy + settings.filter_plpd,
    relative_cost=3.1,
    published_cost=3.15,
    # Noise has no shape whose loss could change a prediction.
    learns_from_noise={"plpd_margin": -0.1},
)
