"""Settings, presets and search ranges of MoETTA."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from tta_core.frozen import Frozen
from tta_core.methods.spec import Integer, MethodSpec, Real, ScalarSpec


class MoETTASettings(Frozen):
    """Settings of MoETTA (moetta §1.11, §1.12).

    The rows of the paper's ablation table (moetta §6.3) are the full method with

    - w/o sample selection: `select_samples=False`
    - w/o entropy re-weight: `weight_by_entropy=False`
    - w/o load-balancing loss: `lambda_balance=0`
    - w/o gradient to router: `detach_coefficients=True`
    - w/o sample-wise router: `samplewise_routing=False`
    - w/o MoE-LayerNorm: `normal_norms="rest"`
    - w/o layer-wise router: `router="global"`

    Norms are named by their number in the network, from 0 in the order of its modules; `LayerNorm2d` takes no number
    (moetta §1.2). A range `a-b` includes both ends; a list is `a,b,c`; empty is none.

    Attributes:
        num_experts: additive affine pairs in each adapted normalisation layer.
        top_k: experts that serve one sample.
        lambda_balance: weight of the load-balancing loss, in units of the running mean entropy. The entropy of few
            classes is small, so fewer classes need a larger value.
        lr: learning rate of SGD, for batches of 64; it is not scaled with the batch size.
        momentum: momentum of SGD, dense over the experts.
        entropy_margin: margin of the entropy weight, in units of ln(classes).
        weight_by_entropy: weigh each selected sample by exp(margin - entropy); otherwise all count alike.
        select_samples: let only samples at or below the entropy threshold into the loss; otherwise all of them.
        threshold_mode: how the running mean entropy, which is the threshold, follows the stream: `paper`, the mean of
            the batch entropies so far; `official`, the recursion of the release, which never forgets its first batches.
        dynamic_threshold: the threshold is the running mean entropy; otherwise `fixed_threshold`.
        fixed_threshold: threshold in units of ln(classes), for `dynamic_threshold=False`; none selects all samples.
        dynamic_balance: the load-balancing loss has weight lambda_balance times the running mean entropy; otherwise
            lambda_balance nat.
        disabled_norms: norms that stay as they are; `auto` is the published choice for the architecture.
        normal_norms: norms that get no experts, their own affine pair is trained; `rest` is all that are not disabled.
        router: a router in each layer, or one for all of them (`global`).
        global_router_norm: the norm whose input the global router reads; norms before it stay as they are.
        samplewise_routing: each sample is routed for itself; otherwise the mean router logits of the batch choose the
            experts of all its samples.
        balance_batch_routing: balance the load where routing is by batch, too. The release does not: there its loss is
            the constant 1, without gradient.
        weight_by_probability: the coefficients of a sample's experts are convex; otherwise its experts are added up.
        detach_coefficients: stop the gradient from the coefficients to the router.
        train_shared_expert: train the pre-trained affine pairs of the layers with experts, too.
        expert_init_ratio: initial length of each expert over that of the pre-trained vector; 0 starts as the source.
        route_penalty: what each sample takes, in later batches, off the score of the expert that it was sent to. The
            penalty is in the coefficients, too, as released.
        route_penalty_decay: the penalty of batch t, from 0, is divided by 1 + decay t.
    """

    num_experts: int = Field(default=9, ge=1)
    top_k: int = Field(default=1, ge=1)
    lambda_balance: float = Field(default=0.2, ge=0)
    lr: float = Field(default=1e-3, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    entropy_margin: float = Field(default=0.4, gt=0)
    weight_by_entropy: bool = True
    select_samples: bool = True
    threshold_mode: Literal["paper", "official"] = "paper"
    dynamic_threshold: bool = True
    fixed_threshold: float | None = Field(default=None, gt=0)
    dynamic_balance: bool = True
    disabled_norms: str = "auto"
    normal_norms: str = ""
    router: Literal["layer", "global"] = "layer"
    global_router_norm: int = Field(default=0, ge=0)
    samplewise_routing: bool = True
    balance_batch_routing: bool = False
    weight_by_probability: bool = True
    detach_coefficients: bool = False
    train_shared_expert: bool = False
    expert_init_ratio: float = Field(default=0.0, ge=0)
    route_penalty: float = Field(default=0.0, ge=0)
    route_penalty_decay: float = Field(default=0.0, ge=0)

    @field_validator("disabled_norms", "normal_norms", mode="before")
    @classmethod
    def _readable(cls, given: object) -> str:
        # YAML reads a bare 0 as a number and [0, 1] as a list.
        return ",".join(str(index) for index in given) if isinstance(given, list | tuple) else str(given)

    @field_validator("disabled_norms")
    @classmethod
    def _disabled(cls, text: str) -> str:
        parse_indices(text, keyword="auto")
        return text

    @field_validator("normal_norms")
    @classmethod
    def _normal(cls, text: str) -> str:
        parse_indices(text, keyword="rest")
        return text

    @model_validator(mode="after")
    def _consistent(self) -> MoETTASettings:
        if self.top_k > self.num_experts:
            raise ValueError(f"top_k = {self.top_k} is more than num_experts = {self.num_experts}: give at most that")
        if self.fixed_threshold is not None and (self.dynamic_threshold or not self.select_samples):
            raise ValueError(
                f"fixed_threshold = {self.fixed_threshold} would not be used: give dynamic_threshold: false and "
                "select_samples: true with it, or leave it out"
            )
        if self.global_router_norm > 0 and self.router != "global":
            raise ValueError(
                f"global_router_norm = {self.global_router_norm} would not be used: give router: global with it, or "
                "leave it out"
            )
        return self


def parse_indices(text: str, *, keyword: str = "") -> tuple[int, ...]:
    """Reads `a-b` (inclusive) or `a,b,c`; empty text and `keyword` are no index.

    Raises:
        ValueError: if the text is none of these.
    """
    if text == keyword:
        return ()
    try:
        if "-" in text:
            first, last = (int(part) for part in text.split("-"))
            return tuple(range(first, last + 1))
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        allowed = f"{keyword}, nor a range" if keyword else "a range"
        raise ValueError(f"{text!r} is neither {allowed} such as 0-3, nor a list such as 0,2,5") from None


SPEC = MethodSpec(
    name="moetta",
    title="mixture-of-experts LayerNorm with sample-wise routing",
    paper="MoETTA: Test-Time Adaptation Under Mixed Distribution Shifts with MoE-LayerNorm, AAAI 2026",
    changes="adds experts and a router to every LayerNorm but the first ones; everything pre-trained stays frozen",
    implementation="MoETTA",
    traces=("AnikiFan/MoETTA 7f36ccf",),
    tables={
        "official": "MoETTA's own",
    },
    settings=MoETTASettings,
    presets={
        "official": {"threshold_mode": "official"},
        "paper": {},
        # Chosen on the held-out corruptions: tta_core.run with method moetta, domains held-out, severities 4 and 5, all
        # 899 images a domain, streams mixed and continual, seeds 0 to 2; lr of 0.03, 0.05 and 0.1, lambda_balance of 0
        # to 1, and 16 experts.
        "digits-c": {"lr": 0.05, "lambda_balance": 0.1},
        # What a summary of the paper gives for its potpourri stream; neither release nor poster has it (moetta §1.11).
        "potpourri-unverified": {"num_experts": 11, "lambda_balance": 0.5},
    },
    search={
        "lr": Real(low=1e-5, high=0.3, log=True),
        "lambda_balance": Real(low=0.0, high=2.0),
        "num_experts": Integer(low=2, high=16),
    },
    scalars={
        "threshold": ScalarSpec(description="largest entropy that is still selected", unit="nat"),
        "balance_coefficient": ScalarSpec(description="weight of the load-balancing loss in this step", unit="nat"),
        "balance_loss": ScalarSpec(description="load-balancing loss, mean over layers: 1 is balance"),
        "effective_experts": ScalarSpec(description="exp of the entropy of the batch's routing, mean over layers"),
    },
    relative_cost=2.7,
    published_cost=2.66,
)
