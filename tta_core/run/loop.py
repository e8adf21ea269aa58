"""The online loop: predict, adapt, record each sample and each step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tta_core.backbones.precision import autocast
from tta_core.data.opened import DomainImages
from tta_core.device import upload
from tta_core.diagnostics.observer import Measurement, Moment, Observer, Output, Segment, segments_of
from tta_core.errors import InputError
from tta_core.methods.base import Diagnostics, Method
from tta_core.run.checkpoint import Checkpoints
from tta_core.run.cost import CostMeter
from tta_core.streams.batches import Batch, Normalise, gather, gather_readable
from tta_core.streams.order import StreamBatch, StreamOrder
from tta_core.streams.prefetch import ToDevice, prefetched, reading_threads
from tta_core.tasks.base import Task
from tta_core.tasks.classification import Classification

Columns = dict[str, NDArray[Any]]

CorruptImages = Literal["error", "skip"]
"""What happens to an image of the stream that cannot be decoded: it ends the run, or it is left out and counted."""


@dataclass(frozen=True)
class StreamRecord:
    """What a pass over a stream left behind.

    Attributes:
        samples: columns `(samples, ...)`: position, segment, domain, index and the outcomes of the task. A position
            whose image was skipped has no row.
        batches: columns `(batches,)`: step, samples_seen, selected, loss and the method's own scalars; a value that a
            step did not record is NaN.
        diagnostics: quantity -> layer -> values over the whole stream. Where the method was reset on the way, it is
            the mean of what it had seen before each reset and at the end, weighted by samples.
        measurements: what the observers measured; only finite values.
        skipped: the images that were left out because they cannot be decoded, in stream order.
        outputs: what an observer kept of the probabilities.
    """

    samples: Columns
    batches: Columns
    diagnostics: Diagnostics
    measurements: list[Measurement]
    skipped: tuple[str, ...] = ()
    outputs: tuple[Output, ...] = ()


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
    checkpoints: Checkpoints | None = None,
    meter: CostMeter | None = None,
    corrupt_images: CorruptImages = "error",
    task: Task | None = None,
) -> StreamRecord:
    """Feeds a stream to a method, one online step a batch, and records every outcome.

    The loop waits for no device: outcomes and scalars stay there until the stream ends. A method that has to wait says
    so. Batches are read ahead by other threads.

    Args:
        method: the method; reset where the stream says so.
        domains: images of the domains of `order`, in its order.
        order: which sample comes when.
        batch_size: images in a full batch.
        normalise: brings images to the device.
        precision: `fp32`, or `bf16` for autocast.
        observers: watch the run; they change nothing in it.
        measure_every: steps from one that they measure at to the next; the last step is one, too.
        checkpoints: where the run saves itself, and goes on from if something is there; None for nowhere.
        meter: measures the loop; what was measured before a checkpoint is part of it.
        corrupt_images: what happens to images that cannot be decoded. Skipped ones leave a gap in their batch: all
            others keep their positions and stay in their batches.
        task: what an outcome is; by default that of classification.

    Raises:
        InputError: if an image cannot be decoded, or all are skipped.
    """
    steps = _Steps(task or Classification())
    between_resets: list[tuple[int, Diagnostics]] = []
    last_reset = 0
    segments = segments_of(order, batch_size)
    last_of = {segment.last_step: segment for segment in segments}
    saved = None
    if checkpoints is not None:
        saved = checkpoints.load([kind for observer in observers for kind in observer.memory_types])
    if saved is not None:
        method.load_state_dict(saved["method"])
        steps.load_state_dict(saved["steps"])
        for observer, memory in zip(observers, saved["observers"], strict=True):
            observer.load_state_dict(memory)
        between_resets, last_reset = saved["between_resets"], saved["last_reset"]
        if meter is not None:
            meter.load_state_dict(saved["meter"])
    to_device = ToDevice(normalise.mean.device)

    def load(item: tuple[int, StreamBatch]) -> Batch:
        start, stop = item[1].start, item[1].stop
        if corrupt_images == "skip":
            return to_device.send(gather_readable(domains, order, start, stop))
        return to_device.send(Batch(*gather(domains, order, start, stop)))

    to_do = islice(enumerate(order.batches(batch_size)), steps.count, None)
    with prefetched(load, to_do, threads=reading_threads(domains)) as coming:
        for (step, batch), loaded in coming:
            if batch.reset:
                if batch.start > 0:
                    between_resets.append((batch.start - last_reset, method.diagnostics()))
                method.reset()
                last_reset = batch.start
            if len(loaded.labels):
                inputs = normalise(to_device.receive(loaded).images)
                measuring = step % measure_every == 0 or batch.stop == len(order)
                moment = _moment(step, batch, loaded, inputs, order, measuring)
                for observer in observers:
                    observer.before_step(moment)
                with autocast(inputs.device, precision):
                    logits = method(inputs)
                for observer in observers:
                    observer.after_step(moment, logits)
                steps.add(logits, loaded, method.record, batch)
            else:
                steps.add_none(loaded, batch, normalise.mean.device)
            if step in last_of and steps.any:
                for observer in observers:
                    observer.at_segment_end(last_of[step])
                method.at_border()
            if checkpoints is not None and checkpoints.due(step) and batch.stop < len(order) and steps.any:
                measured = {} if meter is None else meter.state_dict()
                with nullcontext() if meter is None else meter.paused():
                    checkpoints.save(
                        {
                            "method": method.state_dict(),
                            "steps": steps.state_dict(),
                            "observers": [observer.state_dict() for observer in observers],
                            "between_resets": between_resets,
                            "last_reset": last_reset,
                            "meter": measured,
                        }
                    )
    if not steps.any:
        raise InputError(
            f"all {len(order)} images of the stream are damaged, such as {steps.skipped[0]}: restore the files"
        )
    between_resets.append((len(order) - last_reset, method.diagnostics()))
    return StreamRecord(
        steps.samples(order, segments),
        steps.batches(),
        _weighted_mean(between_resets),
        _measurements(observers),
        tuple(steps.skipped),
        tuple(one for observer in observers for one in observer.outputs()),
    )


def _moment(
    step: int, batch: StreamBatch, loaded: Batch, inputs: Tensor, order: StreamOrder, measuring: bool
) -> Moment:
    """What observers see of a step."""
    if loaded.kept is None:
        whole = slice(batch.start, batch.stop)
        return Moment(step, inputs, order.domain[whole], whole, measuring)
    positions = batch.start + loaded.kept
    return Moment(step, inputs, order.domain[positions], torch.from_numpy(positions), measuring)


class _Steps:
    """What the steps left behind: on the device until the stream ends.

    Attributes:
        count: steps so far.
        skipped: images that were left out.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self.count = 0
        self.skipped: list[str] = []
        self._outcomes: list[dict[str, Tensor]] = []
        self._sizes: list[int] = []
        self._missing: list[Tensor] = []
        self._records: list[dict[str, Tensor]] = []

    @property
    def any(self) -> bool:
        """Whether there is the outcome of any sample."""
        return bool(self._outcomes)

    def add(self, logits: Tensor, given: Batch, record: Mapping[str, Tensor], batch: StreamBatch) -> None:
        """Takes what came of a batch."""
        labels = upload(torch.from_numpy(given.labels), logits.device)
        self._outcomes.append(self._task.outcomes(logits, labels))
        self._records.append(dict(record))
        self._count(given, batch)

    def add_none(self, given: Batch, batch: StreamBatch, device: torch.device) -> None:
        """Takes note of a batch whose images were all left out: a step that did nothing."""
        self._records.append({"selected": torch.zeros((), dtype=torch.int64, device=device)})
        self._count(given, batch)

    def _count(self, given: Batch, batch: StreamBatch) -> None:
        self.count += 1
        self._sizes.append(len(given.labels))
        self.skipped += given.skipped
        if given.kept is not None:
            missing = np.delete(np.arange(batch.start, batch.stop), given.kept)
            self._missing.append(torch.from_numpy(missing))

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs, in few tensors."""
        self._outcomes = [self._joined()]
        return {
            "outcomes": self._outcomes[0],
            "sizes": torch.tensor(self._sizes),
            "missing": self._missing,
            "skipped": self.skipped,
            "records": _columns(self._records),
            "recorded": {name: [name in record for record in self._records] for name in _names(self._records)},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        self._outcomes = [state["outcomes"]]
        self._sizes = state["sizes"].tolist()
        self._missing, self.skipped = list(state.get("missing", [])), list(state.get("skipped", []))
        self.count = len(self._sizes)
        self._records = [
            {name: values[step] for name, values in state["records"].items() if state["recorded"][name][step]}
            for step in range(self.count)
        ]

    def samples(self, order: StreamOrder, segments: Sequence[Segment]) -> Columns:
        """Columns `(samples,)`."""
        sizes = [segment.stop - segment.start for segment in segments]
        given: Columns = {
            "position": np.arange(len(order), dtype=np.int64),
            "segment": np.repeat(np.arange(len(segments), dtype=np.int32), sizes),
            "domain": np.asarray(order.domains)[order.domain],
            "index": order.index,
        }
        if self._missing:
            missing = torch.cat(self._missing).numpy()
            given = {name: np.delete(values, missing) for name, values in given.items()}
        return given | {name: values.cpu().numpy() for name, values in self._joined().items()}

    def batches(self) -> Columns:
        """Columns `(batches,)`."""
        given: Columns = {
            "step": np.arange(self.count, dtype=np.int32),
            "samples_seen": np.cumsum(self._sizes, dtype=np.int64),
        }
        return given | {name: values.cpu().numpy() for name, values in _columns(self._records).items()}

    def _joined(self) -> dict[str, Tensor]:
        return {name: torch.cat([each[name] for each in self._outcomes]) for name in self._outcomes[0]}


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


def _columns(records: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """One float64 tensor `(steps,)` for each scalar in any of the records, NaN where a record lacks it."""
    columns = {}
    for name in _names(records):
        steps = [step for step, record in enumerate(records) if name in record]
        values = torch.stack([records[step][name].double() for step in steps])
        columns[name] = torch.full((len(records),), math.nan, dtype=torch.float64, device=values.device)
        columns[name][steps] = values
    return columns


def _names(records: Sequence[Mapping[str, Tensor]]) -> list[str]:
    return sorted({name for record in records for name in record})
