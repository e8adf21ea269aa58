"""Settings, presets and search ranges of Tent."""

from __future__ import annotations

from pydantic import Field

from tta_core.spec import Frozen, MethodSpec, SearchRange


class TentSettings(Frozen):
    """Settings of Tent.

    Attributes:
        lr: learning rate of SGD, for batches of 64; it is not scaled with the batch size.
        momentum: momentum of SGD.
    """

    lr: float = Field(default=5e-4, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)


SPEC = MethodSpec(
    name="tent",
    title="entropy minimisation on normalisation layers",
    paper="Wang et al., Tent: Fully Test-Time Adaptation by Entropy Minimization, ICLR 2021",
    changes="trains weight and bias of every normalisation layer; batch statistics in BatchNorm",
    implementation="Tent",
    settings=TentSettings,
    presets={
        # The learning rate of the SAR and FOA repositories for ViT-B; the default is the one of MoETTA's tables.
        "official": {"lr": 1e-3},
        "paper": {},
        # From the prototype of the benchmark, on the reported corruptions.
        "digits-c": {"lr": 0.03},
    },
    search={"lr": SearchRange(low=1e-5, high=0.3, log=True)},
    relative_cost=2.3,
)
