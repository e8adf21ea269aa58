"""The contract of an observer: it watches a run and measures, and never changes what the run predicts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tta_core.data.images import DomainImages, Normalise
from tta_core.data.streams import StreamOrder
from tta_core.method import Method


@dataclass(frozen=True)
class Measurement:
    """One measured value.

    Attributes:
        quantity: what was measured, such as `expert_similarity`.
        value: the value.
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
class Scene:
    """What an observer may know of the whole run; methods know none of it.

    Attributes:
        method: the method that is watched.
        order: order of the stream, with its true domains and borders.
        batch_size: images in a full batch.
        normalise: brings images to the device.
        open_domain: opens the images of a domain by name, `clean` included.
    """

    method: Method[Any]
    order: StreamOrder
    batch_size: int
    normalise: Normalise
    open_domain: Callable[[str], DomainImages]


@dataclass(frozen=True)
class Moment:
    """One step.

    Attributes:
        step: number of the batch, from 0.
        images: `(batch, channels, height, width)`, normalised, on the device.
        domain: `(batch,)`, number of each sample's domain in `order.domains`.
        start, stop: positions in the stream, stop exclusive.
        measuring: whether this is a step to measure at; other steps should cost next to nothing.
    """

    step: int
    images: Tensor
    domain: NDArray[np.int16]
    start: int
    stop: int
    measuring: bool


class Observer(ABC):
    """Watches one run. It must not wait for the device in a step: keep tensors, read them in `measurements`.

    Attributes:
        name: name in a cell's `diagnostics`.
        in_auto: whether `diagnostics: auto` includes it: only what costs next to nothing.
    """

    name: ClassVar[str]
    in_auto: ClassVar[bool] = False

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

    def at_segment_end(self, step: int) -> None:
        """Called after the last step of each segment, before any reset; `step` is the number of that last step."""

    @abstractmethod
    def measurements(self) -> list[Measurement]:
        """Everything that was measured. Called once, when the stream has ended; may wait for the device."""
