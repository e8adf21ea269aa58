"""What a benchmark found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Spread:
    """The median of some values, and their quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Takes the 25, 50 and 75 % quantiles."""
        low, median, high = (float(value) for value in np.quantile(values, (0.25, 0.5, 0.75)))
        return cls(median, low, high)


@dataclass(frozen=True)
class Row:
    """One method. What was not measured is None; after a failure `error` says why.

    Attributes:
        method, preset, settings: the choice; `settings` holds only what differs from the preset.
        ratio, ratio_low, ratio_high: time of a step over the mean time of the two source forwards around it: median
            and quartiles over the repeats.
        ratio_to_tent: median over the rounds of this method's ratio over that of Tent in the same round.
        ms, wall_ms: median time of a step by the benchmark's clock and by the one on the wall.
        source_ms: median time of the source forwards around the steps, by the benchmark's clock.
        trainable_parameters: scalars that steps change.
        activated_parameters: those of them that take part in predicting one sample.
        layers: by kind how many layers were found, taken (trained or replaced) and left as they are.
        compiled: whether the step runs the compiled trunk; None where compiling was not asked for.
        graph_breaks: why the forward of its networks is not one graph -> how often; None where compiling was not asked.
        forward_share: images that reach a classifier in a step, over the images of the batch.
        backpropagated_share: images that enter the loss, over the images of the batch; mean of the timed steps.
        held_memory_mib: tensors that live as long as the method does: its networks, its state, its way back to the
            start, the state of its optimizer.
        peak_memory_mib: those and the most that a step holds beyond them.
        published_ratio: that of the released code, on other hardware; None if nobody measured it.
        cpu_difference: largest difference of a logit to the same steps on the CPU.
        error: why the method could not be measured.
    """

    method: str
    preset: str
    settings: dict[str, Any] = field(default_factory=dict)
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    ratio_to_tent: float | None = None
    ms: float | None = None
    wall_ms: float | None = None
    source_ms: float | None = None
    trainable_parameters: int | None = None
    activated_parameters: int | None = None
    layers: dict[str, dict[str, int]] = field(default_factory=dict)
    compiled: bool | None = None
    graph_breaks: dict[str, int] | None = None
    forward_share: float | None = None
    backpropagated_share: float | None = None
    held_memory_mib: float | None = None
    peak_memory_mib: float | None = None
    published_ratio: float | None = None
    cpu_difference: float | None = None
    error: str | None = None


@dataclass(frozen=True)
class Setting:
    """What was measured, on what, and how long the source forward took.

    Attributes:
        device, torch, threads: the hardware, the version, the threads of the CPU.
        clock: what is called time: CPU time of the process, or wall time.
        backbone, weights, parameters: the network.
        head_scale: see `tta_core.bench.subject.Subject`.
        source_ms, source_ms_low, source_ms_high: time of the source forward without gradient.
        source_peak_memory_mib: the network and the most that its forward holds beyond it.
    """

    device: str
    torch: str
    threads: int
    clock: str
    backbone: str
    weights: str
    head_scale: float | None
    parameters: int
    num_classes: int
    batch_size: int
    image_size: int
    precision: str
    float32_matmul_precision: str
    compiled: bool
    repeats: int
    warmup: int
    seed: int
    source_ms: float | None
    source_ms_low: float | None
    source_ms_high: float | None
    source_peak_memory_mib: float


@dataclass(frozen=True)
class BenchResult:
    """The setting and one row for each method, in the order that was asked for.

    Attributes:
        left_out: methods that were not asked for by name and do not take this network.
    """

    setting: Setting
    rows: list[Row]
    left_out: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)
