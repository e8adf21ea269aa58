"""Settings, presets and search ranges of Tent."""

from __future__ import annotations

from pydantic import Field

from tta_core.methods.common.optimizer_settings import OptimizerSettings
from tta_core.methods.spec import MethodSpec, Real


class TentSettings(OptimizerSettings):
    """Settings of Tent: those of its optimizer, for batches of 64."""

    lr: float = Field(default=5e-4, gt=0)


SPEC = MethodSpec(
    name="tent",
    title="entropy minimisation on normalisation layers",
    paper="Wang et al., Tent: Fully Test-Time Adaptation by Entropy Minimization, ICLR 2021",
    changes="trains weight and bias of every normalisation layer; batch statistics in BatchNorm",
    implementation="Tent",
    traces=("mr-eggplant/SAR 20f6e24",),
    tables={
        "official": "the rows of Tent in MoETTA's and FOA's tables",
    },
    settings=TentSettings,
    presets={
        # The learning rate of the SAR and FOA repositories for ViT-B; the default is the one of MoETTA's tables.
        "official": {"lr": 1e-3},
        "paper": {},
        # The continual streams of the IMSE and ViDA tables (continual §4.2).
        "continual": {"lr": 1e-4, "nesterov": True},
        "continual-recurring": {"lr": 3e-4, "nesterov": True},
        "continual-resnet50": {"lr": 2.5e-4, "nesterov": True},
        "continual-cifar10": {"optimizer": "adam", "lr": 1e-3},
        "continual-cifar100": {"optimizer": "adam", "lr": 3e-4},
        # Chosen on the held-out corruptions: tta_core.run with method tent, domains held-out, severities 4 and 5, all
        # 899 images a domain, streams mixed and continual, seeds 0 to 2; lr of 0.01, 0.02, 0.03, 0.05 and 0.1.
        "digits-c": {"lr": 0.02},
    },
    search={"lr": Real(low=1e-5, high=0.3, log=True)},
    relative_cost=2.3,
    published_cost=2.29,
)
