"""The online loop: predict, adapt, record each sample and each step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tta_core.data.images import DomainImages, Normalise, gather
from tta_core.data.streams import StreamOrder
from tta_core.diagnostics.observer import Measurement, Moment, Observer, Segment, segments_of
from tta_core.method import Diagnostics, Method
from tta_core.metrics import sample_outcomes
from tta_core.precision import autocast

Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class StreamRecord:
    """What a pass over a stream left behind.

    Attributes:
        samples: columns `(samples,)`: position, segment, domain, index, label, prediction, confidence, entropy,
            in_top5.
        batches: columns `(batches,)`: step, samples_seen, selected, loss and the method's own scalars; a value that a
            step did not record is NaN.
        diagnostics: quantity -> layer -> values over the whole stream. Where the method was reset on the way, it is
            the mean of what it had seen before each reset and at the end, weighted by samples.
        measurements: what the observers measured; only finite values.
    """

    samples: Columns
    batches: Columns
    diagnostics: Diagnostics
    measurements: list[Measurement]


def run_stream(
    method: Method[Any],
    domains: Sequence[DomainImages],
    order: StreamOrder,
    *,
    batch_size: int,
    normalise: Normalise,
    precision: str = "fp32",
    observers: Sequence[Observer] = (),
    measure_every: int = 1,
) -> StreamRecord:
    """Feeds a stream to a method, one online step a batch, and records every outcome.

    The loop waits for no device: outcomes and scalars stay there until the stream ends. A method that has to wait says
    so.

    Args:
        method: the method; reset where the stream says so.
        domains: images of the domains of `order`, in its order.
        order: which sample comes when.
        batch_size: images in a full batch.
        normalise: brings images to the device.
        precision: `fp32`, or `bf16` for autocast.
        observers: watch the run; they change nothing in it.
        measure_every: steps from one that they measure at to the next; the last step is one, too.
    """
    steps = _Steps()
    between_resets: list[tuple[int, Diagnostics]] = []
    last_reset = 0
    segments = segments_of(order, batch_size)
    last_of = {segment.last_step: segment for segment in segments}
    for step, batch in enumerate(order.batches(batch_size)):
        if batch.reset:
            if batch.start > 0:
                between_resets.append((batch.start - last_reset, method.diagnostics()))
            method.reset()
            last_reset = batch.start
        images, labels = gather(domains, order, batch.start, batch.stop)
        inputs = normalise(images)
        positions = slice(batch.start, batch.stop)
        measuring = step % measure_every == 0 or batch.stop == len(order)
        moment = Moment(step, inputs, order.domain[positions], positions, measuring)
        for observer in observers:
            observer.before_step(moment)
        with autocast(inputs.device, precision):
            logits = method(inputs)
        for observer in observers:
            observer.after_step(moment, logits)
        steps.add(logits, labels, method.record)
        if step in last_of:
            for observer in observers:
                observer.at_segment_end(last_of[step])
    between_resets.append((len(order) - last_reset, method.diagnostics()))
    return StreamRecord(
        steps.samples(order, segments), steps.batches(), _weighted_mean(between_resets), _measurements(observers)
    )


class _Steps:
    """What the steps left behind: on the device until the stream ends."""

    def __init__(self) -> None:
        self._outcomes: list[dict[str, Tensor]] = []
        self._records: list[dict[str, Tensor]] = []
        self._labels: list[NDArray[np.int64]] = []

    def add(self, logits: Tensor, labels: NDArray[np.int64], record: Mapping[str, Tensor]) -> None:
        self._outcomes.append(sample_outcomes(logits, torch.from_numpy(labels).to(logits.device)))
        self._records.append(dict(record))
        self._labels.append(labels)

    def samples(self, order: StreamOrder, segments: Sequence[Segment]) -> Columns:
        """Columns `(samples,)`."""
        sizes = [segment.stop - segment.start for segment in segments]
        given: Columns = {
            "position": np.arange(len(order), dtype=np.int64),
            "segment": np.repeat(np.arange(len(segments), dtype=np.int32), sizes),
            "domain": np.asarray(order.domains)[order.domain],
            "index": order.index,
            "label": np.concatenate(self._labels),
        }
        names = self._outcomes[0]
        return given | {name: torch.cat([each[name] for each in self._outcomes]).cpu().numpy() for name in names}

    def batches(self) -> Columns:
        """Columns `(batches,)`."""
        given: Columns = {
            "step": np.arange(len(self._labels), dtype=np.int32),
            "samples_seen": np.cumsum([len(labels) for labels in self._labels], dtype=np.int64),
        }
        return given | _columns(self._records)


def _measurements(observers: Sequence[Observer]) -> list[Measurement]:
    found: list[Measurement] = []
    for observer in observers:
        with observer.scene.off_clock():
            found += [one for one in observer.measurements() if math.isfinite(one.value)]
    return found


def _weighted_mean(parts: Sequence[tuple[int, Diagnostics]]) -> Diagnostics:
    """Mean of diagnostics of one form, weighted by the number of samples that each has seen."""
    total = sum(samples for samples, _ in parts)
    merged: Diagnostics = {}
    for samples, diagnostics in parts:
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
