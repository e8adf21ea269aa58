"""Settings and presets of the adaptation of BatchNorm statistics."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tta_core.frozen import Frozen
from tta_core.methods.spec import MethodSpec, Real, Scored


class BNAdaptSettings(Frozen):
    """Where the statistics of BatchNorm layers come from.

    Attributes:
        statistics: `blend`: of each batch and of the source, weighed, nothing kept from batch to batch. `running`: a
            running average that starts at the source's and takes in each batch before it is predicted. `ema`: the
            same, in two forwards: in the first all layers use the statistics of the batch and the average takes these
            in, in the second they use the average.
        source_weight: of `blend`, how many images N the source counts as, (N source + n batch) / (N + n); 0 takes the
            batch alone. A share alpha of the batch is N = n (1 - alpha) / alpha.
        momentum: of `running` and `ema`, the share by which the average moves towards each batch.
    """

    statistics: Literal["blend", "running", "ema"] = "blend"
    source_weight: float = Field(default=16.0, ge=0)
    momentum: float = Field(default=0.1, ge=0, le=1)


def _scored(settings: BNAdaptSettings) -> Scored:
    # Without an average nothing is learned from any batch. With one, what is learned from the batch is in its logits.
    return "pre-update" if settings.statistics == "blend" else "post-update"


SPEC = MethodSpec(
    name="bn-adapt",
    title="statistics of BatchNorm layers from the test batch",
    paper="Nado et al., Evaluating Prediction-Time Batch Normalization for Robustness under Covariate Shift, 2020; "
    "Schneider et al., Improving Robustness against Common Corruptions by Covariate Shift Adaptation, NeurIPS 2020",
    changes="the statistics of every BatchNorm layer; trains nothing",
    implementation="BNAdapt",
    version=2,
    traces=("bethgelab/robustness 0ef82b1", "mariodoebler/test-time-adaptation 8b2ed63"),
    tables={
        "nado": "Nado et al. 2020",
        "schneider": "Schneider et al., NeurIPS 2020",
        "ema": "mariodoebler's BN-EMA",
    },
    settings=BNAdaptSettings,
    presets={
        # The batch alone, for batches of 100 to 500 images.
        "nado": {"source_weight": 0.0},
        # For small batches; with large ones the source hardly counts.
        "schneider": {"source_weight": 16.0},
        # A single image: its statistics are noisy, so the source counts for much more.
        "single-image": {"source_weight": 256.0},
        "official": {},
        "paper": {},
        # mariodoebler/test-time-adaptation: the batch alone at batches of 64 and 200, alpha 0.1 at batches of one, and
        # its running average (BN-EMA).
        "alpha-single": {"source_weight": 9.0},
        "ema": {"statistics": "ema", "momentum": 0.1},
        # Nothing is trained: the default of PyTorch's own running average, as if the layers were in train mode.
        "running": {"statistics": "running", "momentum": 0.1},
        # The default, from the held-out corruptions: tta_core.run with method bn-adapt, backbone
        # digits-resnet-supervised, domains held-out, severity 4, samples_per_domain 256, streams mixed and continual,
        # seeds 0 to 2, over source_weight 0, 16 and 64: 0 and 16 are alike, 64 is about half a point worse.
        "digits-c": {},
    },
    search={
        "source_weight": Real(low=0.0, high=1024.0),
        "momentum": Real(low=0.001, high=1.0, log=True),
    },
    scores=_scored,
    network="batch-norm",
    relative_cost=1.3,
    trains=False,
    starts_at_source=False,
)
