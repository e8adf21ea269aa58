"""Settings, presets and search ranges of MoETTA."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from tta_core.spec import Frozen, MethodSpec, ScalarSpec, SearchRange


class MoETTASettings(Frozen):
    """Settings of MoETTA (spec 1.11).

    Attributes:
        num_experts: additive affine pairs in each adapted normalisation layer.
        top_k: experts that serve one sample.
        lambda_balance: weight of the load-balancing loss, in units of the running mean entropy. The entropy of few
            classes is small, so fewer classes need a larger value.
        lr: learning rate of SGD, for batches of 64; it is not scaled with the batch size.
        momentum: momentum of SGD, dense over the experts.
        entropy_margin: margin of the entropy weight, in units of ln(classes).
        threshold_mode: how the threshold of the sample filter follows the stream: `paper`, the mean of the batch
            entropies so far; `official`, the recursion of the release, which never forgets its first batches.
        disabled_norms: normalisation layers that stay as they are, by their number in the network from 0: a range
            `a-b`, a list `a,b,c`, empty for none; `auto` is the published choice for the architecture.
    """

    num_experts: int = Field(default=9, ge=1)
    top_k: int = Field(default=1, ge=1)
    lambda_balance: float = Field(default=0.2, ge=0)
    lr: float = Field(default=1e-3, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    entropy_margin: float = Field(default=0.4, gt=0)
    threshold_mode: Literal["paper", "official"] = "paper"
    disabled_norms: str = "auto"

    @field_validator("disabled_norms", mode="before")
    @classmethod
    def _readable(cls, given: object) -> str:
        # YAML reads a bare 0 as a number and [0, 1] as a list.
        text = ",".join(str(index) for index in given) if isinstance(given, list | tuple) else str(given)
        if text != "auto":
            parse_indices(text)
        return text

    @model_validator(mode="after")
    def _top_k_within_experts(self) -> MoETTASettings:
        if self.top_k > self.num_experts:
            raise ValueError(f"top_k = {self.top_k} is more than num_experts = {self.num_experts}: give at most that")
        return self


def parse_indices(text: str) -> tuple[int, ...]:
    """Reads `a-b` (inclusive) or `a,b,c`; empty text is no index.

    Raises:
        ValueError: if the text is neither.
    """
    try:
        if "-" in text:
            first, last = (int(part) for part in text.split("-"))
            return tuple(range(first, last + 1))
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise ValueError(f"{text!r} is neither auto, nor a range such as 0-3, nor a list such as 0,2,5") from None


SPEC = MethodSpec(
    name="moetta",
    title="mixture-of-experts LayerNorm with sample-wise routing",
    paper="MoETTA: Test-Time Adaptation Under Mixed Distribution Shifts with MoE-LayerNorm, AAAI 2026",
    changes="adds experts and a router to every LayerNorm but the first ones; everything pre-trained stays frozen",
    implementation="MoETTA",
    settings=MoETTASettings,
    presets={
        "official": {"threshold_mode": "official"},
        "paper": {},
        "digits-c": {"lr": 0.1, "lambda_balance": 1.0},
    },
    search={
        "lr": SearchRange(low=1e-5, high=0.3, log=True),
        "lambda_balance": SearchRange(low=0.0, high=2.0),
        "num_experts": SearchRange(low=2, high=16),
    },
    scalars={
        "threshold": ScalarSpec(description="largest entropy that is still selected", unit="nat"),
        "balance_coefficient": ScalarSpec(description="weight of the load-balancing loss in this step", unit="nat"),
        "balance_loss": ScalarSpec(description="load-balancing loss, mean over layers: 1 is balance"),
        "effective_experts": ScalarSpec(description="exp of the entropy of the batch's routing, mean over layers"),
    },
    relative_cost=2.7,
)
