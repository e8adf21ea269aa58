"""The contract of an observer: it watches a run and measures, and never changes what the run predicts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tta_core.data.opened import DomainImages
from tta_core.methods.base import Method
from tta_core.methods.stateful import Remembering
from tta_core.streams.batches import Normalise
from tta_core.streams.order import StreamOrder


@dataclass(frozen=True)
class Measurement:
    """One measured value.

    Attributes:
        quantity: what was measured, such as `expert_similarity_weight`.
        value: the value; one that is not finite was undefined and is dropped.
        step: number of the batch after which it was measured; None for the whole stream.
        layer: module that it was measured in; empty for the whole network.
        domain: domain that it belongs to; empty for all.
        against: the second domain of a matrix of domains; empty otherwise.
        item: number of the expert, bin, tolerance, ...; 0 where there is one value only.
    """

    quantity: str
    value: float
    step: int | None = None
    layer: str = ""
    domain: str = ""
    against: str = ""
    item: int = 0


@dataclass(frozen=True)
class Output:
    """One row of what is kept of the network's probabilities.

    Attributes:
        quantity: `mean`, `gram` or `probabilities`.
        item: number of the row of a matrix, or the sample's place in the stream.
        values: `(classes,)`.
    """

    quantity: str
    item: int
    values: NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Picture:
    """An image of a stream with what was predicted, side by side.

    Attributes:
        domain: its domain.
        index: its number there.
        png: the file.
    """

    domain: str
    index: int
    png: bytes


@dataclass(frozen=True)
class Segment:
    """One stretch of the stream between two borders that no batch crosses.

    Attributes:
        number: its number, from 0.
        start, stop: positions in the stream, stop exclusive.
        first_step, last_step: numbers of its first and its last batch.
        domain: its domain; empty if it holds several.
    """

    number: int
    start: int
    stop: int
    first_step: int
    last_step: int
    domain: str


def segments_of(order: StreamOrder, batch_size: int) -> list[Segment]:
    """The stretches of a stream, in order."""
    borders = [*order.segments, len(order)]
    starts = [batch.start for batch in order.batches(batch_size)]
    steps = np.searchsorted(starts, borders).tolist()
    found = []
    for number, (start, stop) in enumerate(pairwise(borders)):
        inside = np.unique(order.domain[start:stop])
        domain = order.domains[inside[0]] if len(inside) == 1 else ""
        found.append(Segment(number, start, stop, steps[number], steps[number + 1] - 1, domain))
    return found


@dataclass(frozen=True)
class Scene:
    """What an observer may know of the whole run; methods know none of it.

    Attributes:
        method: the method that is watched.
        order: order of the stream, with its true domains and borders.
        batch_size: images in a full batch.
        normalise: brings images to the device.
        open_domain: opens the images of a domain by name, `clean` included.
        open_source: builds the source network afresh, on the device.
        precision: precision that the stream runs in, see `tta_core.backbones.precision`.
        off_clock: what runs inside is not counted as the method's time; waits for the device.
        outcomes: what the task makes of logits and labels, of segmentation.
    """

    method: Method[Any]
    order: StreamOrder
    batch_size: int
    normalise: Normalise
    open_domain: Callable[[str], DomainImages]
    open_source: Callable[[], nn.Module]
    precision: str = "fp32"
    off_clock: Callable[[], AbstractContextManager[None]] = nullcontext
    outcomes: Callable[[Tensor, Tensor], dict[str, Tensor]] | None = None

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.normalise.mean.device

    @cached_property
    def segments(self) -> list[Segment]:
        """The stretches of the stream."""
        return segments_of(self.order, self.batch_size)

    @cached_property
    def domain(self) -> Tensor:
        """int64 `(samples,)` on the device: number of each sample's domain in `order.domains`."""
        return torch.from_numpy(self.order.domain).to(self.device, torch.int64)

    @cached_property
    def label(self) -> Tensor:
        """int64 `(samples,)` on the device: true class of each sample."""
        labels = np.empty(len(self.order), dtype=np.int64)
        for number, name in enumerate(self.order.domains):
            here = self.order.domain == number
            labels[here] = self.open_domain(name).labels[self.order.index[here]]
        return torch.from_numpy(labels).to(self.device)


@dataclass(frozen=True)
class Moment:
    """One step.

    Attributes:
        step: number of the batch, from 0.
        images: `(batch, channels, height, width)`, normalised, on the device.
        domain: `(batch,)`, number of each sample's domain in `order.domains`.
        positions: its samples' places in the stream: int64 `(batch,)` where damaged images between them were left out.
        measuring: whether this is a step to measure at; other steps should cost next to nothing.
    """

    step: int
    images: Tensor
    domain: NDArray[np.int16]
    positions: slice | Tensor
    measuring: bool


class Observer(Remembering, ABC):
    """Watches one run. It must not wait for the device in a step: keep tensors, read them in `measurements`.

    It `remembers` what the run fills, for checkpoints.

    What costs more than a few small operations a step runs in `scene.off_clock()`, so that the time of a cell stays
    that of its method.
    """

    memory_types: ClassVar[tuple[type, ...]] = ()
    """Record types in what it remembers, beside tensors, slices and plain values."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene

    @classmethod
    @abstractmethod
    def applies_to(cls, method: Method[Any]) -> bool:
        """Whether there is anything to measure in this method."""

    def before_step(self, moment: Moment) -> None:
        """Called before the method sees the batch."""

    def after_step(self, moment: Moment, logits: Tensor) -> None:
        """Called when the method has adapted to the batch; `logits` `(batch, classes)` are those that are scored."""

    def at_segment_end(self, segment: Segment) -> None:
        """Called after the last step of each segment, before any reset."""

    @abstractmethod
    def measurements(self) -> list[Measurement]:
        """Everything that was measured. Called once, when the stream has ended; may wait for the device."""

    def outputs(self) -> list[Output]:
        """What it kept of the probabilities. Called after `measurements`; nothing, for most."""
        return []

    def pictures(self) -> list[Picture]:
        """What it shows of samples. Called after `measurements`; nothing, for most."""
        return []
