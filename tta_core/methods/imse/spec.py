"""Settings, presets and search ranges of IMSE."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from tta_core.frozen import Frozen
from tta_core.methods.spec import SOURCE_IMAGES, Choice, MethodSpec, PreparationSpec, Real, ScalarSpec

Component = Literal["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"]
Distance = Literal["kl", "mean", "variance", "mean_variance"]

COMPONENTS: tuple[Component, ...] = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")


class IMSESettings(Frozen):
    """Settings of IMSE (imse §1.2 to §1.8).

    Attributes:
        lr: learning rate of Adam, for batches of 64; it is not scaled with the batch size.
        norm_lr: learning rate of weight and bias of the LayerNorms outside of the frozen blocks; 0 leaves them as they
            are. The bank holds codes alone.
        rho: length of the ascent of SAM, in units of singular values; 0 leaves out the second pass, which would repeat
            the first.
        entropy_margin: largest entropy of a reliable sample, in units of ln(classes).
        on_empty: what a step does without a reliable sample: follow the diversity alone, or leave the code as it is.
        components: linear layers of each block that are decomposed.
        decompose_qkv: decompose queries, keys and values each on their own, not as one matrix.
        frozen_last_blocks: how many of the last blocks keep their code; `auto` is a quarter of all, 3 of 12; `official`
            are blocks 9, 10 and 11, counted from 0, whatever the depth.
        lambda_diversity: weight of the diversity term, in nat.
        diversity_blocks: the last blocks whose layers the term is measured in.
        diversity_ratio: share of the experts that enter, those with the smallest spread first.
        diversity_exclude_max: the released selection: experts whose spread is strictly below that of number
            `ratio x experts`, which leaves out the largest even if the ratio is 1.
        diversity_norm: `sum` over layers, or `sum_per_block`, divided by `diversity_blocks`.
        norm_epsilon: added to the length of a token before it is normalised.
        retrieval: what follows a change of domain: `none` looks for none; `top1` takes the nearest code of the bank,
            `mix` weighs all by their distance, `mean` weighs all alike, `continual` goes on with the current one.
        temperature: of the weights of `mix`, in units of the distance.
        num_seen_domains: domains that the bank must hold, beside the source, before anything is retrieved.
        shift_threshold: distance of a batch from the current domain beyond which it belongs to another.
        shift_distance: the distance that finds changes of domain, and entries to merge.
        retrieval_distance: the distance that chooses in the bank.
        variance_epsilon: added to variances in the distance `kl`.
        descriptor_ema: share of the old in the running descriptor of a domain.
        tail_batch_detection: look for changes in batches of less than full size too.
        optimizer_state: Adam's memory after a retrieval: empty, that of the nearest entry, or the current one. Entries
            hold copies: the release stores the live tensors.
        bank_merge: store a domain in place of an entry within the threshold, if there is one.
        bank_cap: entries, beside the source, beyond which a domain is stored in place of the nearest; 0 for no limit.
        source_descriptor: `mean` over all source images; `ema`, the running one over their full batches.
        source_samples: source images that are looked at.
    """

    lr: float = Field(default=7e-3, ge=0)
    # Left out of what a cell is named by where it changes nothing.
    norm_lr: float = Field(default=0.0, ge=0, exclude_if=lambda value: value == 0)
    rho: float = Field(default=0.05, ge=0)
    entropy_margin: float = Field(default=0.4, gt=0)
    on_empty: Literal["diversity_only", "skip_step"] = "diversity_only"
    components: tuple[Component, ...] = Field(default=COMPONENTS, min_length=1)
    decompose_qkv: bool = False
    frozen_last_blocks: int | Literal["auto", "official"] = "auto"
    lambda_diversity: float = Field(default=50 / 3, ge=0)
    diversity_blocks: int = Field(default=3, ge=1)
    diversity_ratio: float = Field(default=1.0, gt=0, le=1)
    diversity_exclude_max: bool = False
    diversity_norm: Literal["sum", "sum_per_block"] = "sum"
    norm_epsilon: float = Field(default=1e-12, ge=0)
    retrieval: Literal["none", "top1", "mix", "mean", "continual"] = "top1"
    temperature: float = Field(default=1.0, gt=0)
    num_seen_domains: int = Field(default=1, ge=1)
    shift_threshold: float = Field(default=0.05, ge=0)
    shift_distance: Distance = "kl"
    retrieval_distance: Distance = "kl"
    variance_epsilon: float = Field(default=1e-8, ge=0)
    descriptor_ema: float = Field(default=0.8, ge=0, lt=1)
    tail_batch_detection: bool = False
    optimizer_state: Literal["reset", "load", "continue"] = "reset"
    bank_merge: bool = True
    bank_cap: int = Field(default=256, ge=0)
    source_descriptor: Literal["mean", "ema"] = "mean"
    source_samples: int = Field(default=2000, ge=1)

    @field_validator("components")
    @classmethod
    def _in_one_order(cls, given: tuple[Component, ...]) -> tuple[Component, ...]:
        # Equal sets of layers are equal settings, and so one cell.
        return tuple(component for component in COMPONENTS if component in given)

    @field_validator("frozen_last_blocks")
    @classmethod
    def _not_negative(cls, given: int | str) -> int | str:
        if isinstance(given, int) and given < 0:
            raise ValueError("a number of blocks is at least 0")
        return given


def waits(settings: IMSESettings) -> int:
    """Whether there is a shift is asked for, with what the stored code may be merged into."""
    return int(settings.retrieval != "none")


RELEASED: dict[str, Any] = {
    "lambda_diversity": 50.0,
    "diversity_exclude_max": True,
    "diversity_norm": "sum_per_block",
    "norm_epsilon": 0.0,
    "variance_epsilon": 0.0,
    "tail_batch_detection": True,
    "bank_merge": False,
    "bank_cap": 0,
    "source_descriptor": "ema",
}
"""Settings of the release."""

SPEC = MethodSpec(
    name="imse",
    title="singular values of linear layers as experts, with a bank of spectral codes",
    paper="IMSE: Intrinsic Mixture of Spectral Experts, ICLR 2026",
    changes="trains the singular values of attention and MLP layers but those of the last blocks; all else is frozen",
    implementation="IMSE",
    version=2,
    traces=("baek85/IMSE b8632d6",),
    tables={
        "official": "IMSE's own",
        "recurring": "IMSE's table of recurring domains",
    },
    settings=IMSESettings,
    presets={
        "official": RELEASED | {"frozen_last_blocks": "official"},
        "paper": {},
        "recurring": {"lr": 3e-3},
        # Chosen on the held-out corruptions: tta_core.run with method imse, domains held-out, severity 4,
        # samples_per_domain 256, streams single and continual, seeds 0 to 2, over lr 1e-3 to 0.05, lambda_diversity 0
        # to 16.67, rho 0 to 0.5, entropy_margin 0.2 to 0.8, frozen_last_blocks 0 to 2.
        "digits-c": {"lr": 0.02, "lambda_diversity": 4.0},
    },
    search={
        "lr": Real(low=1e-4, high=0.1, log=True),
        "lambda_diversity": Real(low=0.0, high=100.0),
        "shift_threshold": Real(low=0.01, high=1.0, log=True),
        "temperature": Real(low=0.05, high=2.0, log=True),
        "rho": Real(low=0.0, high=0.2),
        "entropy_margin": Real(low=0.1, high=1.0),
        "diversity_blocks": Choice(values=(1, 3, 6)),
        "optimizer_state": Choice(values=("reset", "load", "continue")),
    },
    scalars={
        "first_loss": ScalarSpec(description="loss before the ascent", unit="nat"),
        "reliable": ScalarSpec(description="samples below the entropy margin before the ascent"),
        "entropy": ScalarSpec(description="mean entropy of the selected samples, after the ascent", unit="nat"),
        "diversity": ScalarSpec(description="spread of the experts' alignments, after the ascent"),
        "shift": ScalarSpec(description="whether the batch was taken for the first of another domain"),
        "shift_distance": ScalarSpec(description="distance of the batch from the current domain"),
        "bank_size": ScalarSpec(description="entries of the bank after the step, the source among them"),
        "stored": ScalarSpec(description="entry that the code of the ended domain went into, -1 for none"),
        "retrieved": ScalarSpec(description="entry of the largest weight in the retrieved code, -1 for none"),
    },
    needs=(SOURCE_IMAGES,),
    needs_with=lambda settings: () if settings.retrieval == "none" else (SOURCE_IMAGES,),
    preparation=PreparationSpec(
        artefact="descriptor of the source's patch tokens, the bank's first entry",
        settings=("source_descriptor", "source_samples", "descriptor_ema"),
    ),
    network="transformer",
    waits=waits,
    relative_cost=7.2,
    published_cost=7.23,
    # A step may retrieve another code first.
    scores_as_it_stands={"retrieval": "none"},
)
