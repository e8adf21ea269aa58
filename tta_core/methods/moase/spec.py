"""Settings, presets and search ranges of MoASE; the settings of its experts are MoASE++'s too."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from tta_core.frozen import Frozen
from tta_core.methods.common.optimizer_settings import Betas
from tta_core.methods.spec import Choice, MethodSpec, Real, ScalarSpec, SearchSpace


class ExpertSettings(Frozen):
    """What MoASE and MoASE++ share: experts, student and teacher (moase §2).

    Attributes:
        num_experts: experts in each block, an even number: the first half keeps low activations, the second high ones.
        bottleneck: hidden units of one expert; with `constant_total_rank` those of all experts of a block together.
        constant_total_rank: whether the hidden units are shared out among the experts, so that their number does not
            change the number of parameters.
        adapter_scale: fixed factor of what the experts add.
        sdd: whether experts keep only part of their activations (spatial differentiate dropout); without it, all.
        sdd_scope: what is selected among: the channels of one token; tokens and channels of one sample together, as in
            the paper; the tokens of one channel.
        high_select: what the second half of the experts keeps: the largest activations, or, as released, the smallest.
        low_select: what the first half keeps: the smallest of the activations above 0, or, as published, of all, which
            after ReLU are mostly zeros.
        dar: whether the router reads only half of its input (domain-aware router); without it, all.
        router_input: which half: the lowest values, as in the paper, or, as released, the highest.
        gate_strength: how much the sparsity gate adds to the share that an expert keeps; 0 turns the gate off.
        gate_scope: whether each sample has its own share or, as released, the whole batch one.
        asg_gradient: gradient of the sparsity gate, which otherwise stays as it was drawn, as released.
        adapter_init: experts that add nothing at first, or, as released, a truncated normal everywhere.
        train_scope: what is trained: every weight and bias (class token and position embedding have other names), the
            experts with routers and gates, or these and the normalisation layers.
        optimizer: Adam, or SGD with Nesterov momentum.
        lr: learning rate; it is not scaled with the batch size.
        betas: of Adam.
        momentum: of SGD.
        ema: share of itself that the teacher keeps at each step.
        restore_probability: with which each trained number of the student returns to its source value at each step.
    """

    num_experts: int = Field(default=4, ge=2)
    bottleneck: int = Field(default=48, ge=1)
    constant_total_rank: bool = False
    adapter_scale: float = Field(default=0.8, ge=0)
    sdd: bool = True
    sdd_scope: Literal["token_channel", "sample", "channel_token"] = "token_channel"
    high_select: Literal["largest", "smallest"] = "largest"
    low_select: Literal["smallest_active", "smallest_k"] = "smallest_active"
    dar: bool = True
    router_input: Literal["lowest", "highest"] = "lowest"
    gate_strength: float = Field(default=0.1, ge=0, le=0.5)
    gate_scope: Literal["sample", "batch"] = "sample"
    asg_gradient: Literal["none", "straight_through"] = "none"
    adapter_init: Literal["zero_up", "trunc_normal"] = "zero_up"
    train_scope: Literal["all", "adapters", "adapters+norm"] = "all"
    optimizer: Literal["adam", "sgd"] = "adam"
    lr: float = Field(default=1e-4, gt=0)
    betas: Betas = (0.9, 0.99)
    momentum: float = Field(default=0.9, gt=0, lt=1)
    ema: float = Field(default=0.999, ge=0, le=1)
    restore_probability: float = Field(default=0.01, ge=0, le=1)

    @field_validator("num_experts")
    @classmethod
    def _even(cls, given: int) -> int:
        if given % 2:
            raise ValueError(
                f"{given} experts cannot be halved into experts for low and for high activations: give an even number, "
                f"such as {given - 1} or {given + 1}"
            )
        return given

    @model_validator(mode="after")
    def _rank_for_each_expert(self) -> ExpertSettings:
        if self.constant_total_rank and self.bottleneck % self.num_experts:
            raise ValueError(
                f"bottleneck = {self.bottleneck} hidden units cannot be shared equally by num_experts = "
                f"{self.num_experts}: give a multiple of it, or constant_total_rank = false"
            )
        return self


class MoASESettings(ExpertSettings):
    """Settings of MoASE (moase §2.6).

    Attributes:
        hp_weight: weight of the homeostatic-proximal loss, the distance of the student's experts to the teacher's.
        hp_power: 2 for half the squared distance, as in the paper; 1 for half the distance, as released.
    """

    hp_weight: float = Field(default=1.0, ge=0)
    hp_power: Literal[1, 2] = 2


RELEASED_EXPERTS: dict[str, Any] = {
    "high_select": "smallest",
    "low_select": "smallest_k",
    "router_input": "highest",
    "gate_scope": "batch",
    "adapter_init": "trunc_normal",
}
"""The experts as the release has them, but for their width."""

PAPER_EXPERTS: dict[str, Any] = {"low_select": "smallest_k", "sdd_scope": "sample"}

EXPERT_SCALARS = {
    "teacher_loss": ScalarSpec(description="cross-entropy of the student to the teacher", unit="nat"),
    "restored": ScalarSpec(description="trained numbers that returned to their source values"),
}

EXPERT_SEARCH: dict[str, SearchSpace] = {
    "lr": Real(low=1e-6, high=1e-1, log=True),
    "ema": Real(low=0.9, high=1.0),
    "restore_probability": Real(low=0.0, high=0.1),
    "gate_strength": Real(low=0.0, high=0.5),
    "num_experts": Choice(values=(2, 4, 8, 16)),
    "bottleneck": Choice(values=(24, 48, 96, 192)),
}

SPEC = MethodSpec(
    name="moase",
    title="experts with activation sparsity and a mean teacher",
    paper="MoASE: Mixture-of-Activation-Sparsity-Experts for Continual Test-Time Adaptation, AAAI 2026",
    changes="adds experts, a router and a gate beside the MLP of every block; trains every weight and bias",
    implementation="MoASE",
    traces=("RoyZry98/MoASE-Pytorch 650464a",),
    tables={
        "official": "MoASE's own",
    },
    settings=MoASESettings,
    presets={
        # The width of the repository's head; its published CIFAR10-C numbers come from 48.
        "official": RELEASED_EXPERTS | {"bottleneck": 192, "hp_power": 1},
        "official-r48": RELEASED_EXPERTS | {"bottleneck": 48, "hp_power": 1},
        "paper": PAPER_EXPERTS,
        # Chosen by short runs on the held-out corruptions: tta_core.run with domains held-out, severity 4, continual.
        "digits-c": {"lr": 1e-3, "ema": 0.99},
    },
    search=EXPERT_SEARCH | {"hp_weight": Real(low=0.0, high=10.0)},
    scalars=EXPERT_SCALARS
    | {"proximal_loss": ScalarSpec(description="homeostatic-proximal loss with its weight, without unit")},
    network="transformer",
    relative_cost=8.8,
    published_cost=8.79,
    # The experts start from rounding noise alone, which Adam makes steps of.
    amplifies_rounding=10.0,
)
