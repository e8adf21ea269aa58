"""The online loop: predict, adapt, record each sample and each step."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tta_core.data.images import DomainImages, Normalise, gather
from tta_core.data.streams import StreamOrder
from tta_core.method import Diagnostics, Method
from tta_core.metrics import sample_outcomes

Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class StreamRecord:
    """What a pass over a stream left behind.

    Attributes:
        samples: columns `(samples,)`: position, domain, index, label, prediction, confidence, entropy, in_top5.
        batches: columns `(batches,)`: step, samples_seen, selected, loss and the method's own scalars; a value that a
            step did not record is NaN.
        diagnostics: quantity -> layer -> values over the whole stream. Where the method was reset on the way, it is
            the mean of what it had seen before each reset and at the end, weighted by samples.
    """

    samples: Columns
    batches: Columns
    diagnostics: Diagnostics


def run_stream(
    method: Method[Any],
    domains: Sequence[DomainImages],
    order: StreamOrder,
    *,
    batch_size: int,
    normalise: Normalise,
    precision: str = "fp32",
) -> StreamRecord:
    """Feeds a stream to a method, one online step a batch, and records every outcome.

    No step waits for the device: outcomes and scalars stay there until the stream ends.

    Args:
        method: the method; reset where the stream says so.
        domains: images of the domains of `order`, in its order.
        order: which sample comes when.
        batch_size: images in a full batch.
        normalise: brings images to the device.
        precision: `fp32`, or `bf16` for autocast.
    """
    outcomes: list[dict[str, Tensor]] = []
    records: list[dict[str, Tensor]] = []
    labels: list[NDArray[np.int64]] = []
    ends: list[int] = []
    segments: list[tuple[int, Diagnostics]] = []
    last_reset = 0
    for batch in order.batches(batch_size):
        if batch.reset:
            if batch.start > 0:
                segments.append((batch.start - last_reset, method.diagnostics()))
            method.reset()
            last_reset = batch.start
        images, batch_labels = gather(domains, order, batch.start, batch.stop)
        inputs = normalise(images)
        with _autocast(inputs.device, precision):
            logits = method(inputs)
        outcomes.append(sample_outcomes(logits, torch.from_numpy(batch_labels).to(logits.device)))
        records.append(dict(method.record))
        labels.append(batch_labels)
        ends.append(batch.stop)
    samples: Columns = {
        "position": np.arange(len(order), dtype=np.int64),
        "domain": np.asarray(order.domains)[order.domain],
        "index": order.index,
        "label": np.concatenate(labels),
    }
    samples |= {name: torch.cat([o[name] for o in outcomes]).cpu().numpy() for name in outcomes[0]}
    batches: Columns = {
        "step": np.arange(len(ends), dtype=np.int32),
        "samples_seen": np.asarray(ends, dtype=np.int64),
    }
    segments.append((len(order) - last_reset, method.diagnostics()))
    return StreamRecord(samples, batches | _columns(records), _weighted_mean(segments))


def _autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def _weighted_mean(segments: Sequence[tuple[int, Diagnostics]]) -> Diagnostics:
    """Mean of diagnostics of one form, weighted by the number of samples that each has seen."""
    total = sum(samples for samples, _ in segments)
    merged: Diagnostics = {}
    for samples, diagnostics in segments:
        for quantity, layers in diagnostics.items():
            for layer, values in layers.items():
                sums = merged.setdefault(quantity, {}).setdefault(layer, [0.0] * len(values))
                merged[quantity][layer] = [s + v * samples / total for s, v in zip(sums, values, strict=True)]
    return merged


def _columns(records: Sequence[dict[str, Tensor]]) -> Columns:
    """One float64 column for each scalar in any of the records, NaN where a record lacks it."""
    columns: Columns = {}
    for name in sorted({name for record in records for name in record}):
        steps = [step for step, record in enumerate(records) if name in record]
        values = torch.stack([records[step][name].double() for step in steps]).cpu().numpy()
        columns[name] = np.full(len(records), np.nan)
        columns[name][steps] = values
    return columns
